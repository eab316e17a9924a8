//! Tests of the planner: golden plans, refusals, and properties of plans that are carried out on a fake host.

#![cfg(feature = "fake")]

mod bases;
mod convert;
mod features;
mod giving_up;
mod golden;
mod hands;
mod harvest;
mod history;
mod leftovers;
mod live;
mod properties;
mod refusals;
mod reinstall;
mod reinstall_kept;
mod rescue;
mod review;
mod stays;

use crate::bytes::Bytes;
use crate::documents::{Mount, Request};
use crate::ids::{RunId, VpsId};
use crate::names::{DatasetName, GuestPath};

fn id(n: u32) -> VpsId {
    n.try_into().unwrap()
}

fn run(n: u8) -> RunId {
    RunId::from_random([0xc5, 0xa8, n])
}

fn path(text: &str) -> GuestPath {
    text.parse().unwrap()
}

fn name(text: &str) -> DatasetName {
    text.parse().unwrap()
}

fn mount(dataset: &str, at: &str) -> Mount {
    Mount {
        dataset: name(dataset),
        path: path(at),
        read_only: false,
    }
}

fn start(n: u8) -> Request {
    Request::Start { run: run(n) }
}

fn stop() -> Request {
    Request::Stop {
        timeout_ms: 60_000,
        force: false,
        discard: false,
    }
}

fn restart(n: u8) -> Request {
    Request::Restart {
        run: run(n),
        timeout_ms: 60_000,
        force: false,
    }
}

fn dataset(of: &str, gib: u64, at: Option<&str>) -> Request {
    Request::DatasetCreate {
        name: name(of),
        quota_bytes: Bytes::gib(gib),
        mount: at.map(path),
    }
}
