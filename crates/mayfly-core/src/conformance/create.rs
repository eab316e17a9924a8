//! Making datasets.

use super::given::{at, code, life, persistent, root, vps};
use super::rig::{Can, Rights};
use super::scene::Scene;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::ids::NodeId;
use crate::names::PoolPath;
use crate::observed::{MarkSeen, Role};
use crate::ports::{Origin, Outcome, Storage, TreePlan};

pub(super) fn a_dataset_is_made_once_with_mark_and_quota(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = persistent(&scene.node(), 101, "", Bytes::mib(64));
    scene.is_absent(&new.name);
    assert_eq!(storage.create_dataset(&new), Ok(Outcome::Changed));
    assert_eq!(storage.create_dataset(&new), Ok(Outcome::Unchanged));
    let seen = scene.seen(&new.name);
    assert_eq!(
        (&seen.mark, seen.quota),
        (&MarkSeen::Local(new.mark.clone()), new.quota)
    );
    assert!(seen.used.unwrap() < Bytes::mib(1), "{seen:?}");
    assert_eq!(seen.snapshots, Vec::<String>::new());

    let lower = persistent(&scene.node(), 101, "nix", Bytes::mib(32));
    assert_eq!(storage.create_dataset(&lower), Ok(Outcome::Changed));
    let mut endless = root(&scene.node(), 101, 1, Origin::Empty);
    endless.quota = None;
    assert_eq!(storage.create_dataset(&endless), Ok(Outcome::Changed));
    let pool = storage.observe().unwrap();
    let names: Vec<&str> = pool.datasets.keys().map(PoolPath::as_str).collect();
    assert_eq!(names, ["101", "101.impermanence-010101", "101/nix"]);
    assert_eq!(pool.datasets[&lower.name].quota, Some(Bytes::mib(32)));
    assert_eq!(pool.datasets[&endless.name].quota, None);
    assert!(pool.free > Bytes::mib(1) && pool.free <= pool.capacity);
    Ok(())
}

pub(super) fn another_mark_under_the_name_is_a_refusal(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = scene.data(101, "");
    let mut other = new.clone();
    other.mark.owner = Some((vps(101), life(2)));
    assert_eq!(code(storage.create_dataset(&other)), Code::DatasetExists);
    let mut other = new.clone();
    other.mark.role = Role::Temporary;
    assert_eq!(code(storage.create_dataset(&other)), Code::DatasetExists);
    assert_eq!(
        scene.seen(&new.name).mark,
        MarkSeen::Local(new.mark.clone())
    );
    Ok(())
}

pub(super) fn a_mark_that_does_not_fit_is_a_refusal(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let good = persistent(&scene.node(), 101, "", Bytes::mib(64));
    let mut foreign = good.clone();
    foreign.mark.node = NodeId::from_random([0xee; 8]);
    assert_eq!(code(storage.create_dataset(&foreign)), Code::NotOurs);
    let mut renamed = good.clone();
    renamed.mark.made_as = super::given::in_pool("102");
    assert_eq!(code(storage.create_dataset(&renamed)), Code::NotOurs);
    let mut dead = good.clone();
    dead.mark.condemned_by = Some(super::given::operation(1));
    assert_eq!(code(storage.create_dataset(&dead)), Code::NotOurs);
    for reserved in [
        "trash/101",
        "trash",
        "templates",
        ".mayfly",
        ".mayfly/x",
        "101/private",
    ] {
        let mut reserved_name = good.clone();
        reserved_name.name = super::given::in_pool(reserved);
        reserved_name.mark.made_as = reserved_name.name.clone();
        let refused = code(storage.create_dataset(&reserved_name));
        assert!(
            matches!(refused, Code::Invalid | Code::NotOurs),
            "{reserved}: {refused}"
        );
    }
    assert!(storage.observe().unwrap().datasets.is_empty());
    Ok(())
}

pub(super) fn a_dataset_lies_in_one_of_the_same_owner(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    scene.data(101, "");
    let orphan = persistent(&scene.node(), 101, "a/b", Bytes::mib(64));
    assert_eq!(code(storage.create_dataset(&orphan)), Code::DatasetNotFound);
    let mut stranger = persistent(&scene.node(), 101, "nix", Bytes::mib(64));
    stranger.mark.owner = Some((vps(101), life(2)));
    assert_eq!(code(storage.create_dataset(&stranger)), Code::NotOurs);
    scene.is_absent(&stranger.name);
    scene.data(101, "a");
    scene.data(101, "a/b");
    Ok(())
}

pub(super) fn what_is_made_belongs_to_the_guests_root(scene: &Scene<'_>) -> Can<()> {
    let new = scene.data(101, "");
    let tree = TreePlan {
        directories: vec![at("/a/b")],
        links: Vec::new(),
        files: vec![(at("/a/b/file"), "text".to_owned())],
        edits: Vec::new(),
    };
    let made = scene.storage().prepare_tree(&new.name, &tree);
    assert_eq!(made, Ok(Outcome::Changed));
    let root = |mode| Rights {
        uid: 0,
        gid: 0,
        mode,
    };
    assert_eq!(scene.rig.rights(&new.name, "/")?, root(0o755));
    assert_eq!(scene.rig.rights(&new.name, "/a")?, root(0o755));
    assert_eq!(scene.rig.rights(&new.name, "/a/b")?, root(0o755));
    assert_eq!(scene.rig.rights(&new.name, "/a/b/file")?, root(0o644));
    Ok(())
}

pub(super) fn a_name_is_free_again_after_the_burial(scene: &Scene<'_>) -> Can<()> {
    let mut new = scene.data(101, "");
    let first = scene.bury_data(&new, 1);
    new.mark.owner = Some((vps(101), life(2)));
    scene.create(&new);
    assert_eq!(
        scene.seen(&new.name).mark,
        MarkSeen::Local(new.mark.clone())
    );
    scene.reap(&first);
    assert_eq!(scene.seen(&new.name).mark, MarkSeen::Local(new.mark));
    Ok(())
}
