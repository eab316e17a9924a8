//! How often the journal is written: each time costs a sync of the disk, and a guest waits for those before its launch.

use std::sync::{Arc, Mutex};

use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, ask, create, doc, settle};

fn revision(world: &World) -> u64 {
    world.store.range("/").unwrap().revision.0
}

/// The store's revisions at each point that an engine passes while it carries out `intent`, less the one before.
fn passed(world: &World, intent: Intent) -> Vec<(String, u64)> {
    let before = revision(world);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let engine = world.engine_with({
        let (world, seen) = (world.clone(), Arc::clone(&seen));
        move |point| {
            seen.lock()
                .unwrap()
                .push((point.to_owned(), revision(&world) - before))
        }
    });
    ask(&engine, intent);
    settle(&engine);
    let seen = seen.lock().unwrap();
    seen.clone()
}

fn stopped_vps(world: &World) -> Engine {
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", false));
    settle(&engine);
    engine
}

#[test]
fn a_launch_waits_for_three_writes_of_the_journal() {
    let world = World::new(&Arc::default());
    stopped_vps(&world);
    let points = passed(&world, Intent::Start);
    let at = |name: &str| points.iter().find(|(point, _)| point == name).unwrap().1;
    // The request, the plan, and the run in the document of its VPS together with the steps before it.
    assert_eq!(at("end_run"), 2);
    assert_eq!(at("record"), 2);
    assert_eq!(at("launch"), 3);
    assert!(doc(&world.engine(Death::Never)).run.is_some());
}

#[test]
fn a_run_is_recorded_and_journalled_before_it_is_launched() {
    let world = World::new(&Arc::default());
    stopped_vps(&world);
    let engine = world.engine_that_dies_at("launch");
    assert!(!world.live(&engine, |engine| ask(engine, Intent::Start)));
    let engine = world.engine(Death::Never);
    let op = engine
        .operations()
        .unwrap()
        .into_iter()
        .find(|op| !op.state.is_over())
        .unwrap();
    let run = doc(&engine).run.unwrap().run;
    let plan = op.plan.unwrap();
    let next = &plan.steps[op.steps_done].step;
    // Whatever ends runs lies behind: done again, it would end this one.
    assert_eq!(next.kind().crash_point(), "launch", "{next}");
    assert!(next.to_string().contains(run.as_str()));
}
