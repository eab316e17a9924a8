//! Emptying the graveyard.

use super::given::{code, in_pool, life, operation, vps};
use super::rig::{Can, Planted, Thing};
use super::scene::Scene;
use crate::error::Code;
use crate::ids::NodeId;
use crate::names::PoolPath;
use crate::observed::{Mark, Role};
use crate::ports::{HostError, Outcome, Storage};

/// A grave of four datasets, and their names, the grave first.
fn grave(scene: &Scene<'_>, id: u32) -> (PoolPath, Vec<PoolPath>) {
    let names = ["", "nix", "nix/deep", "srv"];
    let all = names.map(|name| scene.data(id, name));
    for one in &all {
        scene
            .put(&one.name, "/file", &Thing::Text("data".into()))
            .unwrap();
    }
    let grave = scene.bury_data(&all[0], 1);
    let moved = all
        .iter()
        .map(|one| one.name.moved(&all[0].name, &grave).unwrap())
        .collect();
    (grave, moved)
}

#[track_caller]
fn is_whole(scene: &Scene<'_>, all: &[PoolPath]) {
    for one in all {
        scene.condemned(one);
        assert_eq!(
            scene.rig.read(one, "/file").as_deref(),
            Some("data"),
            "{one}"
        );
    }
}

pub(super) fn a_grave_goes_with_all_below_it(scene: &Scene<'_>) -> Can<()> {
    let (grave, all) = grave(scene, 151);
    let bystander = scene.data(152, "");
    let proof = scene.condemned(&grave);
    assert_eq!(scene.storage().reap(&proof), Ok(Outcome::Changed));
    assert_eq!(scene.storage().reap(&proof), Ok(Outcome::Unchanged));
    all.iter().for_each(|one| scene.is_absent(one));
    scene.storage().hurry_space().unwrap();
    scene.seen(&bystander.name);
    Ok(())
}

/// Something in the grave that keeps all of it.
fn stopped_by(scene: &Scene<'_>, planted: &dyn Fn(&PoolPath) -> Planted) -> Can<()> {
    let (grave, all) = grave(scene, 153);
    let proof = scene.condemned(&grave);
    // Beside children and below one, so that the order in which they are destroyed is no luck.
    for place in ["late", "nix/deep/late", "a"] {
        let late = in_pool(&format!("{grave}/{place}"));
        scene.rig.plant(&late, &planted(&late))?;
        match (scene.storage().reap(&proof), planted(&late)) {
            (Err(HostError::Look(_)), Planted::Unreadable) => {}
            (other, Planted::Unreadable) => panic!("a failed look was expected, not {other:?}"),
            (other, _) => assert_eq!(code(other), Code::NotOurs, "{place}"),
        }
        scene.seen(&late);
        is_whole(scene, &all);
        scene.rig.uproot(&late);
    }
    scene.reap(&grave);
    Ok(())
}

fn mark(node: NodeId, name: &PoolPath) -> Mark {
    Mark {
        node,
        owner: Some((vps(153), life(1))),
        role: Role::Persistent,
        run: None,
        made_as: name.clone(),
        condemned_by: None,
        unharvested: false,
        contents: None,
    }
}

pub(super) fn what_nobody_condemned_stops_the_reaper(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, &|name| Planted::Local(mark(scene.node(), name)))
}

pub(super) fn what_has_no_mark_stops_the_reaper(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, &|_| Planted::Unmarked)
}

pub(super) fn an_unreadable_mark_stops_the_reaper(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, &|_| Planted::Unreadable)
}

pub(super) fn the_mark_of_another_node_stops_the_reaper(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, &|name| {
        let mut mark = mark(NodeId::from_random([0xee; 8]), name);
        mark.condemned_by = Some(operation(1));
        Planted::Local(mark)
    })
}

pub(super) fn what_is_in_use_is_busy_and_stays_provable(scene: &Scene<'_>) -> Can<()> {
    scene.rig.refuses_what_is_in_use()?;
    let root = scene.root(154, 1);
    scene.put(&root.name, "/file", &Thing::Text("data".into()))?;
    let held = scene.rig.hold(&root.name)?;
    let grave = scene.bury_root(&root, 1);
    let refused = scene.storage().reap(&scene.condemned(&grave));
    assert!(
        matches!(refused, Err(HostError::Busy { .. })),
        "{refused:?}"
    );
    is_whole(scene, std::slice::from_ref(&grave));
    drop(held);
    scene.reap(&grave);

    // The highest of several.
    let above = self::grave(scene, 155);
    let held = scene.rig.hold(&above.0)?;
    let refused = scene.storage().reap(&scene.condemned(&above.0));
    assert!(
        matches!(refused, Err(HostError::Busy { .. })),
        "{refused:?}"
    );
    is_whole(scene, std::slice::from_ref(&above.0));
    drop(held);
    scene.reap(&above.0);
    assert_eq!(
        code(
            scene
                .storage()
                .set_quota(&above.0, crate::bytes::Bytes::mib(1))
        ),
        Code::DatasetNotFound
    );
    Ok(())
}

pub(super) fn something_in_use_below_keeps_the_whole_grave(scene: &Scene<'_>) -> Can<()> {
    scene.rig.refuses_what_is_in_use()?;
    let (grave, all) = grave(scene, 156);
    let held = scene.rig.hold(&all[2])?;
    let refused = scene.storage().reap(&scene.condemned(&grave));
    assert!(
        matches!(refused, Err(HostError::Busy { .. })),
        "{refused:?}"
    );
    // Children go first, and this one is the child of a child: what is above it is there with its proofs.
    is_whole(scene, &all[..3]);
    drop(held);
    scene.reap(&grave);
    all.iter().for_each(|one| scene.is_absent(one));
    Ok(())
}

pub(super) fn a_reaping_that_is_cut_off_is_finished(scene: &Scene<'_>) -> Can<()> {
    let (grave, all) = grave(scene, 157);
    let proof = scene.condemned(&grave);
    scene.rig.cut(&|storage| drop(storage.reap(&proof)))?;
    // Whatever is left of it is a grave with its proof.
    scene.reap(&grave);
    all.iter().for_each(|one| scene.is_absent(one));
    Ok(())
}
