//! What every implementation of `Storage` does, whatever lies below it. Uses nothing but the port.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![allow(dead_code, reason = "each suite uses its part")]

use mayfly_core::bytes::Bytes;
use mayfly_core::error::Code;
use mayfly_core::ids::{Incarnation, NodeId, OperationId, RunId, VpsId};
use mayfly_core::names::{DatasetName, GuestPath, PoolPath};
use mayfly_core::observed::{InitSeen, Mark, MarkSeen, Role};
use mayfly_core::ports::{
    Assembly, HostError, HostResult, NewDataset, Origin, Outcome, Storage, TreePlan,
};
use mayfly_core::proof::{Burial, Condemned, ConfirmedDestroy, EphemeralRoot};

pub(crate) fn vps(n: u32) -> VpsId {
    n.try_into().unwrap()
}

pub(crate) fn life(n: u8) -> Incarnation {
    Incarnation::from_random([n; 16])
}

pub(crate) fn operation(n: u8) -> OperationId {
    OperationId::at(n.into(), [n; 4])
}

pub(crate) fn at(path: &str) -> GuestPath {
    path.parse().unwrap()
}

/// A persistent dataset: `11327` or `11327/nix`.
pub(crate) fn persistent(node: &NodeId, id: u32, name: &str, quota: Bytes) -> NewDataset {
    let name: DatasetName = name.parse().unwrap();
    let name = PoolPath::dataset(vps(id), &name);
    let mark = Mark {
        node: node.clone(),
        owner: Some((vps(id), life(1))),
        role: Role::Persistent,
        run: None,
        made_as: name.clone(),
        condemned_by: None,
    };
    NewDataset {
        name,
        mark,
        quota: Some(quota),
        origin: Origin::Empty,
    }
}

/// The temporary root of a run.
pub(crate) fn root(node: &NodeId, id: u32, run: u8, origin: Origin) -> NewDataset {
    let run = RunId::from_random([run; 3]);
    let name = PoolPath::temporary_root(vps(id), &run);
    let mark = Mark {
        node: node.clone(),
        owner: Some((vps(id), life(1))),
        role: Role::Temporary,
        run: Some(run),
        made_as: name.clone(),
        condemned_by: None,
    };
    NewDataset {
        name,
        mark,
        quota: Some(Bytes::mib(64)),
        origin,
    }
}

pub(crate) fn code<T: std::fmt::Debug>(result: HostResult<T>) -> Code {
    match result {
        Err(HostError::Refused(refusal)) => refusal.code,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

fn mark_of(storage: &dyn Storage, name: &PoolPath) -> MarkSeen {
    storage
        .look(name)
        .unwrap()
        .unwrap_or_else(|| panic!("{name} is not there"))
        .mark
}

pub(crate) fn burial_of_root(
    storage: &dyn Storage,
    node: &NodeId,
    root: &NewDataset,
    by: u8,
) -> Burial {
    let (id, life) = root.mark.owner.clone().unwrap();
    let proof = EphemeralRoot::prove(
        &root.name,
        &mark_of(storage, &root.name),
        node,
        (id, &life),
        &[],
    )
    .unwrap();
    Burial::of_root(proof, operation(by))
}

pub(crate) fn burial_of_data(
    storage: &dyn Storage,
    node: &NodeId,
    data: &NewDataset,
    by: u8,
) -> Burial {
    let (id, life) = data.mark.owner.clone().unwrap();
    let proof = ConfirmedDestroy::prove(
        &data.name,
        &mark_of(storage, &data.name),
        node,
        (id, &life),
        &[],
    )
    .unwrap();
    Burial::of_data(proof, operation(by))
}

pub(crate) fn condemned(storage: &dyn Storage, node: &NodeId, grave: &PoolPath) -> Condemned {
    Condemned::prove(grave, &mark_of(storage, grave), node).unwrap()
}

/// All of it, on an empty pool of `node`; leaves the pool empty.
pub(crate) fn check(storage: &dyn Storage, node: &NodeId) {
    creating_is_idempotent_and_particular_about_the_owner(storage, node);
    quotas_are_changed_but_not_below_use(storage, node);
    trees_are_prepared_once(storage, node);
    clones_have_the_contents_and_their_own_mark(storage, node);
    only_what_belongs_together_is_buried(storage, node);
    an_init_is_found_in_the_assembled_datasets(storage, node);
    for grave in storage
        .observe()
        .unwrap()
        .datasets
        .keys()
        .filter(|name| name.is_grave())
    {
        if grave.as_str().matches('/').count() == 1 {
            storage.reap(&condemned(storage, node, grave)).unwrap();
        }
    }
    assert_eq!(storage.observe().unwrap().datasets.len(), 0);
    assert_eq!(storage.clear_staging().unwrap(), Vec::<String>::new());
}

fn drop_data(storage: &dyn Storage, node: &NodeId, data: &NewDataset, by: u8) {
    let grave = PoolPath::grave(&format!("{by}"));
    assert_eq!(
        storage.bury(&burial_of_data(storage, node, data, by), &grave),
        Ok(Outcome::Changed)
    );
}

fn creating_is_idempotent_and_particular_about_the_owner(storage: &dyn Storage, node: &NodeId) {
    let new = persistent(node, 101, "", Bytes::mib(64));
    assert_eq!(storage.look(&new.name), Ok(None));
    assert_eq!(storage.create_dataset(&new), Ok(Outcome::Changed));
    assert_eq!(storage.create_dataset(&new), Ok(Outcome::Unchanged));
    let seen = storage.look(&new.name).unwrap().unwrap();
    assert_eq!(
        (&seen.mark, seen.quota),
        (&MarkSeen::Local(new.mark.clone()), new.quota)
    );
    assert!(seen.used.unwrap() < Bytes::mib(1));

    let mut other = new.clone();
    other.mark.owner = Some((vps(101), life(2)));
    assert_eq!(code(storage.create_dataset(&other)), Code::DatasetExists);
    let orphan = persistent(node, 101, "a/b", Bytes::mib(64));
    assert_eq!(code(storage.create_dataset(&orphan)), Code::DatasetNotFound);
    let mut stranger = persistent(node, 101, "nix", Bytes::mib(64));
    stranger.mark.owner = Some((vps(101), life(2)));
    assert_eq!(code(storage.create_dataset(&stranger)), Code::NotOurs);

    let lower = persistent(node, 101, "nix", Bytes::mib(32));
    assert_eq!(storage.create_dataset(&lower), Ok(Outcome::Changed));
    let pool = storage.observe().unwrap();
    let names: Vec<&str> = pool.datasets.keys().map(PoolPath::as_str).collect();
    assert_eq!(names, ["101", "101/nix"]);
    assert_eq!(pool.datasets[&lower.name].quota, Some(Bytes::mib(32)));
    assert!(pool.free > Bytes::mib(1) && pool.free <= pool.capacity);
    drop_data(storage, node, &new, 1);
    assert_eq!(storage.look(&lower.name), Ok(None));
}

fn quotas_are_changed_but_not_below_use(storage: &dyn Storage, node: &NodeId) {
    let new = persistent(node, 102, "", Bytes::mib(64));
    storage.create_dataset(&new).unwrap();
    let text = "x".repeat(3 << 20);
    let tree = TreePlan {
        files: vec![(at("/three-mib"), text)],
        ..TreePlan::default()
    };
    storage.prepare_tree(&new.name, &tree).unwrap();
    assert_eq!(
        storage.set_quota(&new.name, Bytes::mib(64)),
        Ok(Outcome::Unchanged)
    );
    assert_eq!(
        storage.set_quota(&new.name, Bytes::mib(32)),
        Ok(Outcome::Changed)
    );
    assert_eq!(
        code(storage.set_quota(&new.name, Bytes::mib(1))),
        Code::QuotaBelowUse
    );
    let seen = storage.look(&new.name).unwrap().unwrap();
    assert_eq!(seen.quota, Some(Bytes::mib(32)));
    assert!(seen.used.unwrap() >= Bytes::mib(3));
    let absent = PoolPath::dataset(vps(999), &DatasetName::root());
    assert_eq!(
        code(storage.set_quota(&absent, Bytes::mib(1))),
        Code::DatasetNotFound
    );
    drop_data(storage, node, &new, 2);
}

fn trees_are_prepared_once(storage: &dyn Storage, node: &NodeId) {
    let new = persistent(node, 103, "", Bytes::mib(64));
    storage.create_dataset(&new).unwrap();
    let mut tree = TreePlan {
        directories: vec![at("/etc"), at("/srv/data/deep")],
        links: vec![(at("/etc/link"), "/nowhere".to_owned())],
        files: vec![(at("/etc/hostname"), "web\n".to_owned())],
    };
    assert_eq!(storage.prepare_tree(&new.name, &tree), Ok(Outcome::Changed));
    assert_eq!(
        storage.prepare_tree(&new.name, &tree),
        Ok(Outcome::Unchanged)
    );
    tree.files[0].1 = "mail\n".to_owned();
    assert_eq!(storage.prepare_tree(&new.name, &tree), Ok(Outcome::Changed));
    // A link is made only where nothing is; a directory is refused where a link or a file is.
    let link = TreePlan {
        links: vec![(at("/etc/hostname"), "x".to_owned())],
        ..TreePlan::default()
    };
    assert_eq!(
        storage.prepare_tree(&new.name, &link),
        Ok(Outcome::Unchanged)
    );
    for inside in [
        "/etc/link",
        "/etc/link/below",
        "/etc/hostname",
        "/etc/hostname/below",
    ] {
        let bad = TreePlan {
            directories: vec![at(inside)],
            ..TreePlan::default()
        };
        assert_eq!(
            code(storage.prepare_tree(&new.name, &bad)),
            Code::MountPointRefused,
            "{inside}"
        );
    }
    drop_data(storage, node, &new, 3);
}

fn clones_have_the_contents_and_their_own_mark(storage: &dyn Storage, node: &NodeId) {
    let base = persistent(node, 104, "", Bytes::mib(64));
    storage.create_dataset(&base).unwrap();
    storage
        .create_dataset(&persistent(node, 104, "nix", Bytes::mib(64)))
        .unwrap();
    let text = "x".repeat(8 << 20);
    let files = vec![(at("/eight-mib"), text.clone())];
    let tree = TreePlan {
        files,
        ..TreePlan::default()
    };
    storage.prepare_tree(&base.name, &tree).unwrap();
    let mut clone = root(node, 104, 4, Origin::Clone(base.name.clone()));
    clone.quota = Some(Bytes::mib(4));
    assert_eq!(storage.create_dataset(&clone), Ok(Outcome::Changed));
    let seen = storage.look(&clone.name).unwrap().unwrap();
    assert_eq!(seen.mark, MarkSeen::Local(clone.mark.clone()));
    assert!(
        seen.used.unwrap() < Bytes::mib(1),
        "the bytes of the base are charged: {:?}",
        seen.used
    );
    assert_eq!(
        storage.prepare_tree(&clone.name, &tree),
        Ok(Outcome::Unchanged),
        "the contents are not there"
    );
    assert_eq!(
        storage.look(&PoolPath::from_pool(&format!("{}/nix", clone.name)).unwrap()),
        Ok(None)
    );

    let absent = root(
        node,
        104,
        5,
        Origin::Clone(PoolPath::dataset(vps(999), &DatasetName::root())),
    );
    assert_eq!(code(storage.create_dataset(&absent)), Code::DatasetNotFound);
    assert_eq!(storage.look(&absent.name), Ok(None));
    let burial = burial_of_root(storage, node, &clone, 4);
    assert_eq!(
        storage.bury(&burial, &PoolPath::grave("4r")),
        Ok(Outcome::Changed)
    );
    drop_data(storage, node, &base, 4);
}

fn only_what_belongs_together_is_buried(storage: &dyn Storage, node: &NodeId) {
    let root = root(node, 105, 6, Origin::Empty);
    storage.create_dataset(&root).unwrap();
    let grave = PoolPath::grave("6");
    let burial = burial_of_root(storage, node, &root, 6);
    assert_eq!(
        code(storage.bury(&burial, &PoolPath::from_pool("elsewhere").unwrap())),
        Code::NotOurs
    );
    assert_eq!(storage.bury(&burial, &grave), Ok(Outcome::Changed));
    assert_eq!(storage.bury(&burial, &grave), Ok(Outcome::Unchanged));
    assert_eq!(storage.look(&root.name), Ok(None));
    let MarkSeen::Local(mark) = mark_of(storage, &grave) else {
        panic!("the grave has no mark")
    };
    assert_eq!(
        (mark.condemned_by, mark.made_as),
        (Some(operation(6)), root.name.clone())
    );
    let proof = condemned(storage, node, &grave);
    assert_eq!(storage.reap(&proof), Ok(Outcome::Changed));
    assert_eq!(storage.reap(&proof), Ok(Outcome::Unchanged));
    assert_eq!(storage.look(&grave), Ok(None));

    // Another root gets the same grave's name only when it is free.
    storage.create_dataset(&root).unwrap();
    storage
        .bury(&burial_of_root(storage, node, &root, 7), &grave)
        .unwrap();
    storage.create_dataset(&root).unwrap();
    assert_eq!(
        code(storage.bury(&burial_of_root(storage, node, &root, 8), &grave)),
        Code::DatasetExists
    );
    storage
        .bury(
            &burial_of_root(storage, node, &root, 8),
            &PoolPath::grave("8"),
        )
        .unwrap();
}

fn an_init_is_found_in_the_assembled_datasets(storage: &dyn Storage, node: &NodeId) {
    let nix = persistent(node, 106, "", Bytes::mib(64));
    storage.create_dataset(&nix).unwrap();
    let assembly = Assembly {
        root: None,
        mounts: vec![(nix.name.clone(), at("/nix"))],
    };
    let probe = |init: &str| storage.probe_init(&assembly, &at(init)).unwrap();
    let profile = "/nix/var/nix/profiles/system/init";
    assert_eq!(
        probe("/sbin/init"),
        InitSeen::Missing {
            path: "/nix/var".to_owned()
        }
    );
    let tree = TreePlan {
        directories: vec![at("/var/nix/profiles"), at("/store/x")],
        links: vec![(at("/var/nix/profiles/system"), "/nix/store/x".to_owned())],
        files: vec![(at("/store/x/init"), "#!/bin/sh\n".to_owned())],
    };
    storage.prepare_tree(&nix.name, &tree).unwrap();
    // Mode 0644: there, and nothing to execute.
    assert!(matches!(
        probe("/sbin/init"),
        InitSeen::NotExecutable { .. }
    ));
    assert!(matches!(probe(profile), InitSeen::NotExecutable { .. }));
    assert!(matches!(probe("/nix"), InitSeen::NotExecutable { .. }));
    assert_eq!(
        probe("/bin/init"),
        InitSeen::Missing {
            path: "/bin".to_owned()
        }
    );
    drop_data(storage, node, &nix, 9);
}
