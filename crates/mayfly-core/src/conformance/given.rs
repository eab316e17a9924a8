//! Datasets, proofs and refusals as the cases, and the implementations' own tests, need them.

use crate::bytes::Bytes;
use crate::error::Code;
use crate::ids::{Digest, Incarnation, NodeId, OperationId, RunId, VpsId};
use crate::names::{DatasetName, GuestPath, PoolPath, TemplatePart};
use crate::observed::{Mark, MarkSeen, Role};
use crate::ports::{HostError, HostResult, NewDataset, Origin, Storage};
use crate::proof::{Burial, Condemned, ConfirmedDestroy, EphemeralRoot, Exchange};

/// The VPS of that number.
pub fn vps(n: u32) -> VpsId {
    n.try_into().unwrap()
}

/// One of several lives of a VPS.
pub fn life(n: u8) -> Incarnation {
    Incarnation::from_random([n; 16])
}

/// One of several operations.
pub fn operation(n: u8) -> OperationId {
    OperationId::at(n.into(), [n; 4])
}

/// One of several digests.
pub fn digest(n: u8) -> Digest {
    Digest::from_random([n; 32])
}

/// A path of a guest.
pub fn at(path: &str) -> GuestPath {
    path.parse().unwrap()
}

/// What is read from a pool.
pub fn in_pool(path: &str) -> PoolPath {
    PoolPath::from_pool(path).unwrap()
}

/// A part of a template that is a dataset.
pub fn part(name: &str) -> TemplatePart {
    TemplatePart::Dataset(name.parse().unwrap())
}

/// A persistent dataset of the first life: `11327` or `11327/nix`.
pub fn persistent(node: &NodeId, id: u32, name: &str, quota: Bytes) -> NewDataset {
    let name: DatasetName = name.parse().unwrap();
    let name = PoolPath::dataset(vps(id), &name);
    let mark = Mark {
        node: node.clone(),
        owner: Some((vps(id), life(1))),
        role: Role::Persistent,
        run: None,
        made_as: name.clone(),
        condemned_by: None,
        unharvested: false,
        contents: None,
    };
    NewDataset {
        name,
        mark,
        quota: Some(quota),
        origin: Origin::Empty,
    }
}

/// The temporary root of a run of the first life, with a quota of 64 MiB.
pub fn root(node: &NodeId, id: u32, run: u8, origin: Origin) -> NewDataset {
    let run = RunId::from_random([run; 3]);
    let name = PoolPath::temporary_root(vps(id), &run);
    let mark = Mark {
        node: node.clone(),
        owner: Some((vps(id), life(1))),
        role: Role::Temporary,
        run: Some(run),
        made_as: name.clone(),
        condemned_by: None,
        unharvested: false,
        contents: None,
    };
    NewDataset {
        name,
        mark,
        quota: Some(Bytes::mib(64)),
        origin,
    }
}

/// The code of a refusal.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: HostResult<T>) -> Code {
    match result {
        Err(HostError::Refused(refusal)) => refusal.code,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}

/// The mark of a dataset that is there.
#[track_caller]
pub fn mark_of(storage: &dyn Storage, name: &PoolPath) -> MarkSeen {
    match storage.look(name) {
        Ok(Some(seen)) => seen.mark,
        other => panic!("{name} is not there: {other:?}"),
    }
}

/// The proven burial of a temporary root.
#[track_caller]
pub fn burial_of_root(storage: &dyn Storage, node: &NodeId, root: &NewDataset, by: u8) -> Burial {
    let (id, life) = root.mark.owner.clone().unwrap();
    let mark = mark_of(storage, &root.name);
    let proof = EphemeralRoot::prove(&root.name, &mark, node, (id, &life), &[]).unwrap();
    Burial::of_root(proof, operation(by))
}

/// The proven burial of persistent data.
#[track_caller]
pub fn burial_of_data(storage: &dyn Storage, node: &NodeId, data: &NewDataset, by: u8) -> Burial {
    let (id, life) = data.mark.owner.clone().unwrap();
    let mark = mark_of(storage, &data.name);
    let proof = ConfirmedDestroy::prove(&data.name, &mark, node, (id, &life), &[]).unwrap();
    Burial::of_data(proof, operation(by))
}

/// The proven burial of a template.
#[track_caller]
pub fn burial_of_template(
    storage: &dyn Storage,
    node: &NodeId,
    template: &PoolPath,
    by: u8,
) -> Burial {
    let mark = mark_of(storage, template);
    let proof = ConfirmedDestroy::prove_template(template, &mark, node).unwrap();
    Burial::of_data(proof, operation(by))
}

/// The proof that a grave may be emptied.
#[track_caller]
pub fn condemned(storage: &dyn Storage, node: &NodeId, grave: &PoolPath) -> Condemned {
    Condemned::prove(grave, &mark_of(storage, grave), node).unwrap()
}

/// What a reinstall puts in the place of a dataset's contents, while it lies aside; with a quota of 64 MiB.
pub fn put_aside(node: &NodeId, id: u32, name: &str, by: u8, origin: Origin) -> NewDataset {
    let dataset: DatasetName = name.parse().unwrap();
    let aside = PoolPath::replaced(vps(id), &operation(by), &dataset);
    let mut new = persistent(node, id, name, Bytes::mib(64));
    new.mark.role = Role::Replaced;
    new.mark.made_as = aside.clone();
    new.mark.contents = Some(operation(by));
    NewDataset {
        name: aside,
        origin,
        ..new
    }
}

/// The proven exchange of a dataset of the first life and what lies aside, after which the dataset has the contents that
/// came with this operation, or the first ones.
pub fn exchange(id: u32, name: &str, aside: &PoolPath, contents: Option<u8>) -> Exchange {
    let dataset = PoolPath::dataset(vps(id), &name.parse().unwrap());
    let contents = contents.map(operation);
    Exchange::prove(&dataset, aside, (vps(id), &life(1)), contents.as_ref(), &[]).unwrap()
}

/// The base that a conversion makes of a VPS's own system, still empty; with a quota of 64 MiB.
pub fn own_base(node: &NodeId, id: u32, by: u8) -> NewDataset {
    let name = PoolPath::own_base(vps(id), &operation(by));
    let mut new = persistent(node, id, "", Bytes::mib(64));
    new.mark.role = Role::Base;
    new.mark.made_as = name.clone();
    NewDataset { name, ..new }
}
