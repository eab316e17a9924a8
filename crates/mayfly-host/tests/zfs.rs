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

use mayfly_core::conformance::{check, check_one, check_twice};
use rig::{SKIPPED, ZfsRig, with_dataset};

#[test]
fn it_keeps_the_contract_of_storage() {
    with_dataset("it_keeps_the_contract_of_storage", |dir, dataset| {
        let rig = ZfsRig::new(dir, dataset);
        // Some cases alone, for whoever hunts something down.
        if let Ok(cases) = std::env::var("MAYFLY_TEST_CASES") {
            for case in cases.split(' ') {
                eprint!("{}", check_one(&rig, case));
            }
            return;
        }
        // Where every command is emulated, the second half takes as long as all other suites.
        let report = if std::env::var_os("MAYFLY_SHORT_TESTS").is_some() {
            check_twice(&rig)
        } else {
            check(&rig)
        };
        eprint!("{report}");
        report.assert_skipped(&SKIPPED);
    });
}
