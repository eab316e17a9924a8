//! Looks at the pool, and at what is no part of it yet.

use super::given::{condemned, in_pool, persistent, root};
use super::rig::{Can, Planted, Thing};
use super::scene::Scene;
use crate::bytes::Bytes;
use crate::ports::{Origin, Outcome, Storage};

pub(super) fn a_look_sees_what_an_observation_sees(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let base = scene.template(vec![("/file", Thing::Filled(Bytes::mib(2)))]);
    for name in ["", "nix", "nix/deep"] {
        let data = scene.data(171, name);
        scene.put(&data.name, "/file", &Thing::Filled(Bytes::mib(1)))?;
    }
    let new = root(&scene.node(), 171, 1, Origin::Clone(base));
    scene.create(&new);
    scene.put(&new.name, "/own", &Thing::Filled(Bytes::mib(3)))?;
    let dropped = scene.root(171, 2);
    scene.bury_root(&dropped, 2);
    let by_hand = in_pool("by-hand");
    scene.rig.plant(&by_hand, &Planted::Unmarked)?;
    scene.rig.settle();
    let all = storage.observe().unwrap().datasets;
    assert_eq!(all.len(), 7, "{:?}", all.keys());
    for (name, seen) in all {
        assert_eq!(storage.look(&name), Ok(Some(seen)), "{name}");
    }
    scene.rig.uproot(&by_hand);
    Ok(())
}

pub(super) fn what_is_absent_is_certainly_absent(scene: &Scene<'_>) -> Can<()> {
    scene.data(172, "");
    for absent in [
        "999",
        "172/nix",
        "172/nix/deep",
        "172/private",
        "172.impermanence-010101",
        "trash",
        "trash/x",
        "templates",
        "templates/x",
        ".mayfly",
        ".mayfly/staging",
        "a name with spaces",
        "172@snapshot",
        "17",
    ] {
        scene.is_absent(&in_pool(absent));
    }
    Ok(())
}

pub(super) fn what_is_cut_off_stays_in_the_staging_area(scene: &Scene<'_>) -> Can<()> {
    let new = persistent(&scene.node(), 173, "", Bytes::mib(64));
    for clear in [true, false] {
        scene.rig.cut(&|storage| {
            drop(storage.create_dataset(&new));
        })?;
        scene.is_absent(&new.name);
        let storage = scene.storage();
        assert!(storage.observe().unwrap().datasets.is_empty());
        if clear {
            assert_eq!(storage.clear_staging(), Ok(Vec::new()));
        }
        assert_eq!(storage.create_dataset(&new), Ok(Outcome::Changed));
        assert_eq!(storage.clear_staging(), Ok(Vec::new()));
        let grave = scene.bury_data(&new, 1);
        let proof = condemned(&storage, &scene.node(), &grave);
        assert_eq!(storage.reap(&proof), Ok(Outcome::Changed));
    }
    Ok(())
}

pub(super) fn what_no_record_speaks_of_is_told_and_left(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    scene.rig.litter("by-hand");
    for _ in 0..2 {
        assert_eq!(storage.staging(), Ok(vec!["by-hand".to_owned()]));
        let told = storage.clear_staging().unwrap();
        assert!(told.len() == 1 && told[0].contains("by-hand"), "{told:?}");
    }
    assert!(storage.observe().unwrap().datasets.is_empty());
    scene.rig.clean("by-hand");
    assert_eq!(storage.staging(), Ok(Vec::new()));
    Ok(())
}
