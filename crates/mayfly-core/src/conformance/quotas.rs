//! Quotas: they hold for guests, and only for the dataset that they belong to.

use super::given::{at, code, in_pool};
use super::rig::{Can, PutError, Thing};
use super::scene::Scene;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::ports::{Outcome, Storage, TreePlan};

fn filled(mib: u64) -> Thing {
    Thing::Filled(Bytes::mib(mib))
}

pub(super) fn a_quota_holds_and_harms_nobody_else(scene: &Scene<'_>) -> Can<()> {
    let mut small = super::given::persistent(&scene.node(), 121, "", Bytes::mib(16));
    scene.create(&small);
    let other = scene.data(122, "");
    let hog = scene.rig.put(&small.name, "/hog", &filled(40));
    assert_eq!(hog, Err(PutError::Quota));
    scene.rig.settle();
    let used = scene.seen(&small.name).used.unwrap();
    assert!(
        used > Bytes::mib(10) && used <= Bytes::mib(18),
        "{used} of 16M"
    );
    // Neighbours write, new datasets are made, and the owner of the full one makes room himself.
    scene.put(&other.name, "/file", &filled(20))?;
    scene.root(122, 1);
    assert_eq!(scene.rig.remove(&small.name, "/hog"), Ok(()));
    scene.rig.settle();
    scene.put(&small.name, "/again", &filled(4))?;
    // A quota of the dataset above does not count what lies below.
    small = super::given::persistent(&scene.node(), 121, "nix", Bytes::mib(64));
    scene.create(&small);
    scene.put(&small.name, "/store", &filled(24))?;
    Ok(())
}

pub(super) fn a_quota_goes_up_and_down_but_not_below_use(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = scene.data(123, "");
    scene.put(&new.name, "/file", &filled(12))?;
    scene.rig.settle();
    let quota = |mib| storage.set_quota(&new.name, Bytes::mib(mib));
    let now = || scene.seen(&new.name).quota;
    assert_eq!(quota(64), Ok(Outcome::Unchanged));
    assert_eq!(quota(32), Ok(Outcome::Changed));
    assert_eq!(code(quota(4)), Code::QuotaBelowUse);
    assert_eq!(now(), Some(Bytes::mib(32)));
    let refused = scene.rig.put(&new.name, "/more", &filled(32));
    assert_eq!(refused, Err(PutError::Quota));
    assert_eq!(quota(80), Ok(Outcome::Changed));
    assert_eq!(now(), Some(Bytes::mib(80)));
    scene.put(&new.name, "/more", &filled(32))?;
    scene.rig.settle();
    let used = scene.seen(&new.name).used.unwrap();
    assert!(used >= Bytes::mib(44) && used < Bytes::mib(48), "{used}");
    Ok(())
}

pub(super) fn files_of_the_platform_obey_the_quota(scene: &Scene<'_>) -> Can<()> {
    let new = super::given::persistent(&scene.node(), 124, "", Bytes::mib(8));
    scene.create(&new);
    let hog = scene.rig.put(&new.name, "/hog", &filled(16));
    assert_eq!(hog, Err(PutError::Quota));
    scene.rig.settle();
    // No two characters in a row alike, so that compression does not make it fit.
    let mut seed = 1_u64;
    let text = (0..(4 << 20))
        .map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b' ' + ((seed >> 58) as u8))
        })
        .collect();
    let tree = TreePlan {
        files: vec![(at("/more"), text)],
        ..TreePlan::default()
    };
    let refused = scene.storage().prepare_tree(&new.name, &tree);
    assert_eq!(code(refused), Code::DiskSpace);
    assert_eq!(scene.rig.read(&new.name, "/more"), None);
    Ok(())
}

pub(super) fn there_is_no_quota_of_nothing(scene: &Scene<'_>) -> Can<()> {
    let refused = scene.storage().set_quota(&in_pool("999"), Bytes::mib(1));
    assert_eq!(code(refused), Code::DatasetNotFound);
    Ok(())
}
