//! Marks that prove nothing: told apart, and left alone.

use super::given::{burial_of_root, code, condemned, life, mark_of, operation, root, vps};
use super::rig::{Can, Planted};
use super::scene::Scene;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::ids::NodeId;
use crate::names::PoolPath;
use crate::observed::MarkSeen;
use crate::ports::{HostError, HostResult, NewDataset, Origin, Outcome, Storage, TreePlan};
use crate::proof::{Condemned, ConfirmedDestroy, EphemeralRoot};

/// What a mark that is not readable, or not ours, is refused with.
#[track_caller]
fn is_refused<T: std::fmt::Debug>(result: HostResult<T>, seen: &MarkSeen, ours: Code) {
    match (result, seen) {
        (Err(HostError::Look(_)), MarkSeen::Unreadable(_)) => {}
        (other, MarkSeen::Unreadable(_)) => panic!("a failed look was expected, not {other:?}"),
        (Err(HostError::Refused(refusal)), _) if refusal.code == ours => {}
        (other, _) => panic!("{seen:?}: {other:?}"),
    }
}

/// Under the name of a temporary root and in a grave: nothing of the platform changes, moves or destroys it, not even
/// with a proof that was good for what was there before.
fn is_left_alone(
    scene: &Scene<'_>,
    planted: &dyn Fn(&NewDataset) -> Planted,
    is_so: fn(&MarkSeen) -> bool,
) -> Can<()> {
    let (storage, node) = (scene.storage(), scene.node());
    let new = root(&node, 161, 1, Origin::Empty);
    scene.create(&new);
    let stale_burial = burial_of_root(&storage, &node, &new, 1);
    let grave = scene.bury(&stale_burial, 1);
    let stale_condemned = condemned(&storage, &node, &grave);
    scene.reap(&grave);

    scene.rig.plant(&new.name, &planted(&new))?;
    scene.rig.plant(&grave, &planted(&new))?;
    for name in [&new.name, &grave] {
        let seen = mark_of(&storage, name);
        assert!(is_so(&seen), "{name}: {seen:?}");
        assert_eq!(storage.observe().unwrap().datasets[name].mark, seen);
    }
    let seen = mark_of(&storage, &new.name);
    let owner = (vps(161), &life(1));
    let no_proof = [
        EphemeralRoot::prove(&new.name, &seen, &node, owner, &[]).map(drop),
        ConfirmedDestroy::prove(&new.name, &seen, &node, owner, &[]).map(drop),
        ConfirmedDestroy::prove_template(&new.name, &seen, &node).map(drop),
        Condemned::prove(&grave, &mark_of(&storage, &grave), &node).map(drop),
    ];
    for refused in no_proof {
        let code = match seen {
            MarkSeen::Unreadable(_) => Code::CouldNotLook,
            _ => Code::NotOurs,
        };
        assert_eq!(refused.unwrap_err().code, code);
    }
    is_refused(storage.create_dataset(&new), &seen, Code::DatasetExists);
    is_refused(
        storage.set_quota(&new.name, Bytes::mib(5)),
        &seen,
        Code::NotOurs,
    );
    is_refused(
        storage.prepare_tree(&new.name, &TreePlan::default()),
        &seen,
        Code::NotOurs,
    );
    let clone = root(&node, 161, 2, Origin::Clone(new.name.clone()));
    is_refused(storage.create_dataset(&clone), &seen, Code::NotOurs);
    let elsewhere = PoolPath::grave("elsewhere");
    is_refused(
        storage.bury(&stale_burial, &elsewhere),
        &seen,
        Code::NotOurs,
    );
    is_refused(storage.reap(&stale_condemned), &seen, Code::NotOurs);

    scene.is_absent(&elsewhere);
    scene.is_absent(&clone.name);
    for name in [&new.name, &grave] {
        let now = mark_of(&storage, name);
        assert!(is_so(&now), "{name}: {now:?}");
        scene.rig.uproot(name);
    }
    Ok(())
}

pub(super) fn a_dataset_without_a_mark_is_left_alone(scene: &Scene<'_>) -> Can<()> {
    is_left_alone(scene, &|_| Planted::Unmarked, |seen| {
        *seen == MarkSeen::Unset
    })
}

pub(super) fn a_mark_that_came_with_the_data_proves_nothing(scene: &Scene<'_>) -> Can<()> {
    is_left_alone(
        scene,
        &|new| {
            let mut mark = new.mark.clone();
            mark.condemned_by = Some(operation(1));
            Planted::CameWithData(mark)
        },
        |seen| *seen == MarkSeen::NotLocal,
    )
}

pub(super) fn a_mark_that_cannot_be_read_is_not_the_same_as_none(scene: &Scene<'_>) -> Can<()> {
    is_left_alone(scene, &|_| Planted::Unreadable, |seen| {
        matches!(seen, MarkSeen::Unreadable(_))
    })
}

pub(super) fn a_mark_of_another_node_is_left_alone(scene: &Scene<'_>) -> Can<()> {
    is_left_alone(
        scene,
        &|new| {
            let mut mark = new.mark.clone();
            mark.node = NodeId::from_random([0xee; 8]);
            mark.condemned_by = Some(operation(1));
            Planted::Local(mark)
        },
        |seen| matches!(seen, MarkSeen::Local(mark) if mark.node == NodeId::from_random([0xee; 8])),
    )
}

pub(super) fn an_older_proof_does_not_outlive_its_mark(scene: &Scene<'_>) -> Can<()> {
    let (storage, node) = (scene.storage(), scene.node());
    let new = scene.root(162, 1);
    let seen = mark_of(&storage, &new.name);
    let prove = |n| EphemeralRoot::prove(&new.name, &seen, &node, (vps(162), &life(n)), &[]);
    assert!(prove(1).is_ok());
    assert_eq!(
        prove(2).unwrap_err().code,
        Code::NotOurs,
        "of an earlier life"
    );

    // What lies in a grave now was condemned by nobody: the proof was for what lay there before.
    let grave = scene.bury_root(&new, 1);
    let stale = scene.condemned(&grave);
    scene.reap(&grave);
    scene.rig.plant(&grave, &Planted::Local(new.mark.clone()))?;
    assert_eq!(code(storage.reap(&stale)), Code::NotOurs);
    scene.seen(&grave);
    scene.rig.uproot(&grave);
    assert_eq!(storage.reap(&stale), Ok(Outcome::Unchanged));
    Ok(())
}

pub(super) fn a_root_is_kept_until_it_was_harvested(scene: &Scene<'_>) -> Can<()> {
    let (storage, node) = (scene.storage(), scene.node());
    let mut new = root(&node, 163, 1, Origin::Empty);
    new.mark.unharvested = true;
    scene.create(&new);
    let seen = || mark_of(&storage, &new.name);
    assert_eq!(seen(), MarkSeen::Local(new.mark.clone()));
    let prove = || EphemeralRoot::prove(&new.name, &seen(), &node, (vps(163), &life(1)), &[]);
    assert_eq!(prove().unwrap_err().code, Code::HarvestFailed);
    assert!(
        EphemeralRoot::prove_given_up(&new.name, &seen(), &node, (vps(163), &life(1)), &[]).is_ok()
    );

    assert_eq!(storage.mark_harvested(&new.name), Ok(Outcome::Changed));
    assert_eq!(storage.mark_harvested(&new.name), Ok(Outcome::Unchanged));
    new.mark.unharvested = false;
    assert_eq!(seen(), MarkSeen::Local(new.mark.clone()));
    assert!(prove().is_ok());
    scene.bury_root(&new, 1);
    let gone = code(storage.mark_harvested(&new.name));
    assert_eq!(gone, Code::DatasetNotFound);

    let mut foreign = new.clone();
    foreign.mark.node = NodeId::from_random([0xee; 8]);
    foreign.mark.unharvested = true;
    scene
        .rig
        .plant(&foreign.name, &Planted::Local(foreign.mark.clone()))?;
    let refused = code(storage.mark_harvested(&foreign.name));
    assert_eq!(refused, Code::NotOurs);
    assert_eq!(seen(), MarkSeen::Local(foreign.mark));
    scene.rig.uproot(&foreign.name);
    Ok(())
}
