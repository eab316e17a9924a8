//! The OpenZFS driver, in a scratch zpool.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/guest.rs"]
mod guest;
#[path = "common/zfs_pool.rs"]
mod rig;

use mayfly_core::conformance::{Passes, check_one, check_part};
use rig::{SKIPPED, ZfsRig, with_dataset};

const PARTS: usize = 2;

/// Two tests, so that they can run beside each other.
fn keeps_the_contract(test: &str, part: usize) {
    with_dataset(test, |dir, dataset| {
        let rig = ZfsRig::new(dir, dataset);
        // Some cases alone, for whoever hunts something down.
        if let Ok(cases) = std::env::var("MAYFLY_TEST_CASES") {
            for case in cases.split(' ').skip(part).step_by(PARTS) {
                eprint!("{}", check_one(&rig, case));
            }
            return;
        }
        // Where every command is emulated, the other half takes as long as all other suites.
        let passes = match std::env::var_os("MAYFLY_SHORT_TESTS") {
            Some(_) => Passes::Repeated,
            None => Passes::Both,
        };
        let report = check_part(&rig, part, PARTS, passes);
        eprint!("{report}");
        report.assert_skipped(&SKIPPED);
    });
}

#[test]
fn it_keeps_the_contract_of_storage() {
    keeps_the_contract("it_keeps_the_contract_of_storage", 0);
}

#[test]
fn it_keeps_the_other_half_of_the_contract() {
    keeps_the_contract("it_keeps_the_other_half_of_the_contract", 1);
}
