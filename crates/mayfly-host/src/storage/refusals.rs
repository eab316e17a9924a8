//! Refusals that every driver words alike.

use std::fmt;

use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::PoolPath;
use mayfly_core::ports::HostError;
use rustix::io::Errno;

/// The error of a change: a full pool has a code of its own.
pub(super) fn failed(action: impl Into<String>, errno: Errno) -> HostError {
    match errno {
        Errno::NOSPC => pool_full(&action.into()),
        errno => HostError::failed(action, errno),
    }
}

pub(super) fn pool_full(action: &str) -> HostError {
    HostError::Refused(Refusal::new(
        Code::PoolFull,
        format!("{action}: the pool has no room left"),
        "make room first: `mayfly pool show` says what takes it; dropped roots free theirs within a minute",
    ))
}

pub(super) fn not_ours(name: impl fmt::Display, why: &str) -> HostError {
    HostError::Refused(Refusal::new(
        Code::NotOurs,
        format!("{name} is left alone: {why}"),
        "what is yours, move out of the pool or remove by hand",
    ))
}

pub(super) fn taken(name: &PoolPath) -> Refusal {
    Refusal::new(
        Code::DatasetExists,
        format!("there is something else under the name {name}"),
        "`mayfly pool show` tells what it is",
    )
}
