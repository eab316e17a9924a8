//! Names in the staging area, each in the hands of one call at a time.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mayfly_core::ports::{HostError, HostResult};

/// The names that calls of this process are working on.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<BTreeSet<String>>);

/// A name in the staging area that belongs to one call.
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    pub(super) staged: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.claims.0).remove(&self.staged);
    }
}

impl Claims {
    pub(super) fn claim(&self, staged: &str) -> HostResult<Claim<'_>> {
        if lock(&self.0).insert(staged.to_owned()) {
            return Ok(Claim {
                claims: self,
                staged: staged.to_owned(),
            });
        }
        Err(HostError::Busy {
            object: staged.to_owned(),
            why: "another call is making it".to_owned(),
        })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole between any two statements, so a panic elsewhere has not spoiled it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
