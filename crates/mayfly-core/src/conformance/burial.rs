//! Moving datasets to the graveyard.

use super::given::{burial_of_data, burial_of_root, code, in_pool, life, operation, root, vps};
use super::rig::{Can, Planted, Thing};
use super::scene::Scene;
use crate::error::Code;
use crate::names::PoolPath;
use crate::observed::{Mark, MarkSeen, Role};
use crate::ports::{HostError, NewDataset, Origin, Outcome, Storage};

pub(super) fn burying_moves_and_condemns(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let root = scene.root(131, 1);
    scene.put(&root.name, "/file", &Thing::Text("last words".into()))?;
    let burial = burial_of_root(&storage, &scene.node(), &root, 6);
    let grave = PoolPath::grave("a-grave");
    assert_eq!(storage.bury(&burial, &grave), Ok(Outcome::Changed));
    assert_eq!(storage.bury(&burial, &grave), Ok(Outcome::Unchanged));
    scene.is_absent(&root.name);
    let seen = scene.seen(&grave);
    let MarkSeen::Local(mark) = seen.mark else {
        panic!("the grave has no mark: {seen:?}")
    };
    let mut want = root.mark.clone();
    want.condemned_by = Some(operation(6));
    assert_eq!((mark, seen.quota), (want, root.quota));
    assert_eq!(
        scene.rig.read(&grave, "/file").as_deref(),
        Some("last words")
    );
    let proof = scene.condemned(&grave);
    assert_eq!(storage.reap(&proof), Ok(Outcome::Changed));
    assert_eq!(storage.reap(&proof), Ok(Outcome::Unchanged));
    scene.is_absent(&grave);
    // Nobody has buried what is simply not there.
    assert_eq!(code(storage.bury(&burial, &grave)), Code::DatasetNotFound);
    Ok(())
}

/// A VPS's datasets: `ID`, `ID/nix`, `ID/nix/deep`, `ID/srv`.
fn family(scene: &Scene<'_>, id: u32) -> Vec<NewDataset> {
    ["", "nix", "nix/deep", "srv"]
        .map(|name| scene.data(id, name))
        .to_vec()
}

#[track_caller]
fn is_untouched(scene: &Scene<'_>, datasets: &[NewDataset]) {
    for one in datasets {
        assert_eq!(
            scene.seen(&one.name).mark,
            MarkSeen::Local(one.mark.clone()),
            "{}",
            one.name
        );
    }
}

pub(super) fn burying_takes_all_below_along(scene: &Scene<'_>) -> Can<()> {
    let all = family(scene, 132);
    let grave = scene.bury_data(&all[0], 2);
    for one in &all {
        scene.is_absent(&one.name);
        let moved = one.name.moved(&all[0].name, &grave).unwrap();
        let mut want = one.mark.clone();
        want.condemned_by = Some(operation(2));
        assert_eq!(scene.seen(&moved).mark, MarkSeen::Local(want), "{moved}");
    }
    // One below alone goes as well.
    let all = family(scene, 133);
    let grave = scene.bury_data(&all[1], 3);
    scene.condemned(&grave);
    is_untouched(scene, &[all[0].clone(), all[3].clone()]);
    Ok(())
}

pub(super) fn a_burial_is_into_the_graveyard(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let root = scene.root(134, 1);
    let burial = burial_of_root(&storage, &scene.node(), &root, 1);
    for elsewhere in ["elsewhere", "templates/x", "trash", ".mayfly/staging/x"] {
        assert_eq!(
            code(storage.bury(&burial, &in_pool(elsewhere))),
            Code::NotOurs,
            "{elsewhere}"
        );
    }
    is_untouched(scene, &[root]);
    Ok(())
}

pub(super) fn a_grave_is_not_used_twice(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let new = scene.root(135, 1);
    let grave = scene.bury_root(&new, 1);
    scene.create(&new);
    let burial = burial_of_root(&storage, &scene.node(), &new, 2);
    assert_eq!(code(storage.bury(&burial, &grave)), Code::DatasetExists);
    assert!(
        matches!(scene.seen(&grave).mark, MarkSeen::Local(m) if m.condemned_by == Some(operation(1)))
    );
    // With a grave of its own it goes, whatever the refusal left in its mark.
    assert_eq!(
        storage.bury(&burial, &PoolPath::grave("case-2")),
        Ok(Outcome::Changed)
    );
    Ok(())
}

/// Something below a VPS's dataset that does not belong there: nothing is moved and nothing condemned.
fn stopped_by(scene: &Scene<'_>, id: u32, planted: &dyn Fn(&PoolPath) -> Planted) -> Can<()> {
    let storage = scene.storage();
    let all = family(scene, id);
    let stranger = in_pool(&format!("{id}/nix/stranger"));
    scene.rig.plant(&stranger, &planted(&stranger))?;
    let grave = PoolPath::grave("case");
    for (top, by) in [(&all[0], 1), (&all[1], 2)] {
        let burial = burial_of_data(&storage, &scene.node(), top, by);
        match (storage.bury(&burial, &grave), planted(&stranger)) {
            (Err(HostError::Look(_)), Planted::Unreadable) => {}
            (other, Planted::Unreadable) => panic!("a failed look was expected, not {other:?}"),
            (other, _) => assert_eq!(code(other), Code::NotOurs),
        }
        scene.is_absent(&grave);
        is_untouched(scene, &all);
        scene.seen(&stranger);
    }
    scene.rig.uproot(&stranger);
    Ok(())
}

fn mark(scene: &Scene<'_>, id: u32, made_as: &PoolPath) -> Mark {
    Mark {
        node: scene.node(),
        owner: Some((vps(id), life(1))),
        role: Role::Persistent,
        run: None,
        made_as: made_as.clone(),
        condemned_by: None,
        unharvested: false,
        contents: None,
    }
}

pub(super) fn an_unknown_dataset_below_stops_the_burial(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, 136, &|_| Planted::Unmarked)
}

pub(super) fn a_dataset_below_of_another_owner_stops_the_burial(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, 137, &|name| {
        let mut mark = mark(scene, 137, name);
        mark.owner = Some((vps(137), life(2)));
        Planted::Local(mark)
    })?;
    stopped_by(scene, 138, &|name| Planted::Local(mark(scene, 999, name)))
}

pub(super) fn a_dataset_below_of_another_role_stops_the_burial(scene: &Scene<'_>) -> Can<()> {
    let storage = scene.storage();
    let above = scene.root(139, 1);
    let below = in_pool(&format!("{}/nix", above.name));
    let new = NewDataset {
        name: below.clone(),
        mark: mark(scene, 139, &below),
        quota: None,
        origin: Origin::Empty,
    };
    scene.create(&new);
    let burial = burial_of_root(&storage, &scene.node(), &above, 1);
    let grave = PoolPath::grave("case");
    assert_eq!(code(storage.bury(&burial, &grave)), Code::NotOurs);
    is_untouched(scene, &[above, new.clone()]);
    // Persistent data goes by its own proof.
    scene.bury_data(&new, 2);
    Ok(())
}

pub(super) fn an_unreadable_mark_below_stops_the_burial(scene: &Scene<'_>) -> Can<()> {
    stopped_by(scene, 140, &|_| Planted::Unreadable)
}

pub(super) fn burying_while_it_is_in_use_works(scene: &Scene<'_>) -> Can<()> {
    let root = scene.root(141, 1);
    let all = family(scene, 142);
    scene.put(&root.name, "/file", &Thing::Text("in use".into()))?;
    let _held = [scene.rig.hold(&root.name)?, scene.rig.hold(&all[1].name)?];
    let grave = scene.bury_root(&root, 1);
    scene.is_absent(&root.name);
    assert_eq!(scene.rig.read(&grave, "/file").as_deref(), Some("in use"));
    let grave = scene.bury_data(&all[0], 2);
    scene.condemned(&in_pool(&format!("{grave}/nix/deep")));
    // The name is free for the next root at once.
    scene.create(&root);
    Ok(())
}

pub(super) fn foreign_snapshots_do_not_keep_a_root(scene: &Scene<'_>) -> Can<()> {
    let made = root(&scene.node(), 143, 1, Origin::Empty);
    scene.create(&made);
    scene
        .rig
        .foreign_snapshot(&made.name, "daily.2024:01_01-x")?;
    scene.rig.foreign_snapshot(&made.name, "hourly")?;
    let mut seen = scene.seen(&made.name).snapshots;
    seen.sort_unstable();
    assert_eq!(seen, ["daily.2024:01_01-x", "hourly"]);
    assert_eq!(
        scene.storage().observe().unwrap().datasets[&made.name]
            .snapshots
            .len(),
        2
    );
    let grave = scene.bury_root(&made, 1);
    assert_eq!(scene.seen(&grave).snapshots.len(), 2);
    scene.reap(&grave);
    // They are told for persistent data, too; what is done with it is the planner's decision.
    let data = scene.data(143, "");
    scene.rig.foreign_snapshot(&data.name, "daily")?;
    assert_eq!(scene.seen(&data.name).snapshots, ["daily"]);
    Ok(())
}

pub(super) fn a_burial_that_is_cut_off_is_finished(scene: &Scene<'_>) -> Can<()> {
    let all = family(scene, 144);
    let burial = burial_of_data(&scene.storage(), &scene.node(), &all[0], 1);
    let grave = PoolPath::grave("case");
    scene
        .rig
        .cut(&|storage| drop(storage.bury(&burial, &grave)))?;
    // Condemned in all marks, and in its place.
    for one in &all {
        let seen = scene.seen(&one.name).mark;
        assert!(
            matches!(&seen, MarkSeen::Local(m) if m.condemned_by == Some(operation(1))),
            "{}: {seen:?}",
            one.name
        );
    }
    assert_eq!(scene.storage().bury(&burial, &grave), Ok(Outcome::Changed));
    Ok(())
}
