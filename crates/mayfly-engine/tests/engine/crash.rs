//! Every operation is cut off at every point: between any two steps, before, within and after every changing call. A new
//! engine then recovers from what is in the store and on the host. Persistent data must be intact, nothing may be
//! orphaned, and a second recovery must change nothing.
//!
//! A point after a step and before its journal entry makes the next engine do that step again, so this is also the test
//! that every step can be done twice.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mayfly_core::plan::StepKind;

use crate::scenarios::{self, Scenario};
use crate::world::{Death, World};

/// Runs a scenario with one death; true when the daemon lived through it.
fn cut(
    scenario: &Scenario,
    death: Death,
    power: bool,
    passed: &Arc<Mutex<BTreeSet<String>>>,
) -> bool {
    let mut world = World::new(passed);
    let first = world.engine(Death::Never);
    (scenario.before)(&world, &first);
    drop(first);
    world.host = world.host.restart_daemon();
    world.recover();
    let engine = world.engine(death);
    let lived = world.live(&engine, |engine| {
        // What was begun by an earlier daemon is watched by this one.
        if engine.recover().is_ok() {
            (scenario.act)(&world, engine);
        }
    });
    world.host = if power {
        world.host.reboot()
    } else {
        world.host.restart_daemon()
    };
    world.recover();
    let what = format!(
        "{}, {death:?}, {}",
        scenario.name,
        if power {
            "host rebooted"
        } else {
            "daemon restarted"
        }
    );
    world.assert_sound(&what);
    let before = world.host.calls().len();
    world.host = world.host.restart_daemon();
    world.recover();
    assert_sound_and_quiet(&world, before, &what);
    // What a process of the host held is gone once it has let go.
    world.host.end_leaks();
    world.recover();
    world.assert_sound(&what);
    lived
}

fn assert_sound_and_quiet(world: &World, before: usize, what: &str) {
    let mut calls = world.host.calls().split_off(before);
    // Looking into an empty staging area is how every daemon starts.
    calls.retain(|call| call != "clear the staging area");
    assert_eq!(
        calls,
        [] as [String; 0],
        "{what}: a second recovery changed something"
    );
    world.assert_sound(what);
}

fn cut_everywhere(scenario: &Scenario, passed: &Arc<Mutex<BTreeSet<String>>>) {
    for make in [
        Death::Point as fn(usize) -> Death,
        Death::Before,
        Death::HalfWay,
        Death::After,
    ] {
        for power in [false, true] {
            for n in 1.. {
                assert!(n < 200, "{} does not come to an end", scenario.name);
                if cut(scenario, make(n), power, passed) {
                    break;
                }
            }
        }
    }
}

#[test]
fn every_operation_survives_a_crash_at_every_point() {
    let passed = Arc::default();
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    // Every scenario is gone through, so that one failure does not hide another.
    let work = || {
        while let Some(scenario) = scenarios::all().nth(next.fetch_add(1, Ordering::Relaxed)) {
            if catch_unwind(AssertUnwindSafe(|| cut_everywhere(scenario, &passed))).is_err() {
                failed.lock().unwrap().push(scenario.name);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(work);
        }
    });
    assert_eq!(*failed.lock().unwrap(), [] as [&str; 0]);
    // No kind of step is left out: each was cut before it and after it.
    let passed = passed.lock().unwrap();
    for kind in StepKind::ALL {
        let point = kind.crash_point();
        assert!(passed.contains(point), "no scenario has a step {point}");
        assert!(
            passed.contains(&format!("{point}.done")),
            "no scenario has a step {point} that is done"
        );
    }
}
