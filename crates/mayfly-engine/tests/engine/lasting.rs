//! Lasting goals, and what happens when the host does not go along.

use std::time::Duration;

use mayfly_core::documents::{Desired, Lifecycle, OperationState};
use mayfly_core::error::Code;
use mayfly_core::fake::StartFault;
use mayfly_core::ids::NodeId;
use mayfly_core::names::{DatasetName, PoolPath};
use mayfly_core::observed::{Mark, MarkSeen, Role};
use mayfly_core::plan::MAX_CRASHES;
use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, ask, create, doc, settle, vps};

fn running() -> (World, Engine) {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    assert!(world.host.is_running(vps()));
    world
        .host
        .guest_write(vps(), "/persistent/kept", "dear data")
        .unwrap();
    (world, engine)
}

fn last_error(engine: &Engine) -> (Code, String) {
    let error = engine
        .operations()
        .unwrap()
        .into_iter()
        .filter_map(|op| op.error)
        .next_back()
        .unwrap();
    (error.code, error.message)
}

#[test]
fn a_guest_that_crashes_is_started_again_three_times_in_five_minutes() {
    let (world, engine) = running();
    let mut roots = vec![world.host.root_of(vps()).unwrap()];
    for _ in 0..3 {
        world.host.guest_crash(vps());
        settle(&engine);
        roots.push(world.host.root_of(vps()).expect("it was started again"));
    }
    roots.dedup();
    assert_eq!(roots.len(), 4, "every start gave a new root");
    world.host.guest_crash(vps());
    settle(&engine);
    assert!(!world.host.is_running(vps()));
    assert_eq!(doc(&engine).desired, Desired::Stopped);
    world.assert_sound("after the fourth crash");
}

#[test]
fn a_guest_that_powers_itself_off_at_once_is_neither_a_failed_start_nor_a_crash() {
    let (world, engine) = running();
    world.host.fail_start(vps(), StartFault::PowersOff);
    world.host.guest_crash(vps());
    settle(&engine);
    assert!(!world.host.is_running(vps()));
    let stopped = doc(&engine);
    assert_eq!(
        (stopped.desired, stopped.crashes.len()),
        (Desired::Stopped, 1)
    );
    world.host.fail_start(vps(), StartFault::PowersOff);
    let start = engine.submit(Some(vps()), Intent::Start, "test").unwrap();
    settle(&engine);
    let start = engine.operation(start.id.as_str()).unwrap();
    assert_eq!(start.state, OperationState::Done, "{start:#?}");
    assert_ne!(
        doc(&engine).last_root,
        stopped.last_root,
        "it had a root of its own"
    );
    world.assert_sound("after a poweroff at once");
}

#[test]
fn crashes_that_are_long_ago_do_not_count() {
    let (world, engine) = running();
    for _ in 0..6 {
        world.host.guest_crash(vps());
        settle(&engine);
        world.host.advance(Duration::from_secs(301));
    }
    assert!(world.host.is_running(vps()));
}

#[test]
fn a_start_that_nobody_waits_for_is_not_tried_for_ever() {
    let (world, engine) = running();
    world.host.pool_full(true);
    world.host.guest_reboot(vps());
    settle(&engine);
    assert!(!world.host.is_running(vps()));
    assert_eq!(doc(&engine).desired, Desired::Stopped);
    let starts = engine
        .operations()
        .unwrap()
        .iter()
        .filter(|op| op.request.verb() == "start")
        .count();
    assert_eq!(starts, MAX_CRASHES + 1);
    world.host.pool_full(false);
    world.assert_sound("after starts that failed");
}

#[test]
fn a_restart_that_fails_is_made_good_by_another_start() {
    let (world, engine) = running();
    world.host.fail_start(vps(), StartFault::InitDies);
    ask(
        &engine,
        Intent::Restart {
            timeout_ms: 1000,
            force: true,
        },
    );
    settle(&engine);
    assert!(world.host.is_running(vps()));
    world.assert_sound("after a restart that failed");
}

#[test]
fn a_start_that_fails_leaves_the_last_root() {
    let (world, engine) = running();
    world
        .host
        .guest_write(vps(), "/scratch", "unsaved")
        .unwrap();
    let old = world.host.root_of(vps()).unwrap();
    ask(
        &engine,
        Intent::Stop {
            timeout_ms: 1000,
            force: true,
            discard: false,
        },
    );
    settle(&engine);
    for fault in [
        StartFault::LaunchFails,
        StartFault::EndsBeforeInit,
        StartFault::Hangs,
        StartFault::InitDies,
    ] {
        world.host.fail_start(vps(), fault);
        ask(&engine, Intent::Start);
        settle(&engine);
        assert_eq!(
            doc(&engine).last_root.as_ref(),
            Some(&old),
            "after {fault:?}"
        );
        assert_eq!(
            world.host.read(&old, "/scratch").as_deref(),
            Some("unsaved")
        );
        world.assert_sound("after a start that failed");
    }
}

#[test]
fn an_old_root_that_cannot_be_buried_does_not_take_the_new_guest_down() {
    let (world, engine) = running();
    let old = world.host.root_of(vps()).unwrap();
    ask(
        &engine,
        Intent::Stop {
            timeout_ms: 1000,
            force: true,
            discard: false,
        },
    );
    settle(&engine);
    world.host.hold(&old, true);
    ask(&engine, Intent::Start);
    settle(&engine);
    assert!(world.host.is_running(vps()));
    world.host.hold(&old, false);
    engine.reap_once().unwrap();
    world.assert_sound("after the old root was let go");
}

#[test]
fn what_was_written_while_the_daemon_was_dead_survives_a_create_whose_start_then_fails() {
    let mut world = World::new(&Default::default());
    let engine = world.engine_that_dies_at("launch.done");
    assert!(!world.live(&engine, |engine| ask(
        engine,
        create("debian-12-impermanence", true)
    )));
    world
        .host
        .guest_write(vps(), "/persistent/kept", "dear data")
        .unwrap();
    world.host = world.host.reboot();
    let engine = world.recover();
    let data = doc(&engine).pool_path(&DatasetName::root());
    assert_eq!(
        world.host.read(&data, "/kept").as_deref(),
        Some("dear data")
    );
    world.assert_sound("after a create whose start was lost with the host");
}

#[test]
fn a_look_that_fails_stops_the_operation_before_its_first_step() {
    let (world, engine) = running();
    ask(
        &engine,
        Intent::Stop {
            timeout_ms: 1000,
            force: true,
            discard: false,
        },
    );
    settle(&engine);
    let before = world.host.calls().len();
    for blind in ["pool", "evidence"] {
        world.host.fail_looks(blind);
        ask(&engine, Intent::Start);
        engine.drain();
        assert_eq!(
            last_error(&engine).0,
            Code::CouldNotLook,
            "blind for {blind}"
        );
        ask(&engine, Intent::Destroy { now: true });
        engine.drain();
        assert_eq!(
            last_error(&engine).0,
            Code::CouldNotLook,
            "blind for {blind}"
        );
        world.host.heal_looks();
    }
    assert_eq!(world.host.calls()[before..], [] as [String; 0]);
}

#[test]
fn an_undo_that_cannot_finish_asks_for_an_operator_and_is_tried_again_by_the_next_daemon() {
    let (mut world, engine) = running();
    ask(
        &engine,
        Intent::Stop {
            timeout_ms: 1000,
            force: true,
            discard: false,
        },
    );
    settle(&engine);
    world.host.fail_start(vps(), StartFault::Hangs);
    let host = world.host.clone();
    let engine = world.engine_with(move |point| {
        if point == "await_init.failed" {
            host.fail_looks("evidence");
        }
    });
    ask(&engine, Intent::Start);
    engine.drain();
    let Lifecycle::NeedsOperator { why } = doc(&engine).lifecycle else {
        panic!("{:?}", doc(&engine).lifecycle)
    };
    assert!(why.contains("could not be put back"), "{why}");
    world.host.heal_looks();
    ask(&engine, Intent::Destroy { now: false });
    engine.drain();
    assert_eq!(last_error(&engine).0, Code::VpsNeedsOperator);
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    assert!(
        engine
            .operations()
            .unwrap()
            .iter()
            .all(|op| op.state != OperationState::Undoing)
    );
    world.assert_sound("after the undo was finished");
}

#[test]
fn what_nobody_proved_to_be_ours_is_left_alone_and_reported() {
    let (world, engine) = running();
    let run = "abcdef".parse().unwrap();
    let by_hand = PoolPath::temporary_root(vps(), &run);
    world.host.make_by_hand(&by_hand);
    let report = |engine: &Engine| engine.pool().unwrap().reports.join("\n");
    assert!(report(&engine).contains("no mark"), "{}", report(&engine));
    let foreign = |change: &dyn Fn(&mut Mark)| {
        let mut mark = Mark {
            node: world.host.node(),
            owner: Some((vps(), doc(&engine).incarnation)),
            role: Role::Temporary,
            run: Some(run.clone()),
            made_as: by_hand.clone(),
            condemned_by: None,
            unharvested: false,
            contents: None,
        };
        change(&mut mark);
        MarkSeen::Local(mark)
    };
    let marks = [
        MarkSeen::Unset,
        MarkSeen::NotLocal,
        MarkSeen::Unreadable("EIO".into()),
        foreign(&|m| m.node = NodeId::from_random([9; 8])),
        foreign(&|m| m.owner = Some((vps(), "0123456789abcdef0123456789abcdef".parse().unwrap()))),
        foreign(&|m| m.made_as = PoolPath::grave("elsewhere")),
    ];
    for mark in marks {
        world.host.set_mark(&by_hand, mark.clone());
        ask(
            &engine,
            Intent::Restart {
                timeout_ms: 1000,
                force: true,
            },
        );
        settle(&engine);
        let next = world.engine(Death::Never);
        next.recover().unwrap();
        settle(&next);
        assert!(
            world.host.datasets().contains(&by_hand),
            "destroyed with mark {mark:?}"
        );
        assert!(
            report(&engine).contains("abcdef"),
            "{mark:?} is not reported: {}",
            report(&engine)
        );
    }
    ask(&engine, Intent::Destroy { now: true });
    settle(&engine);
    assert!(world.host.datasets().contains(&by_hand));
    assert!(
        !world
            .host
            .datasets()
            .contains(&PoolPath::dataset(vps(), &DatasetName::root()))
    );
}

#[test]
fn a_second_init_is_never_started_on_a_root() {
    let (mut world, engine) = running();
    // The daemon dies, and what it knew of the run with it; the guest lives on without a supervisor.
    world.host.orphan(vps());
    world.host = world.host.restart_daemon();
    drop(engine);
    let engine = world.recover();
    ask(
        &engine,
        Intent::Restart {
            timeout_ms: 1000,
            force: false,
        },
    );
    settle(&engine);
    world.assert_sound("after an orphan");
}

#[test]
fn a_stop_that_waits_behind_a_crash_is_not_undone_by_the_start_after_it() {
    let (world, engine) = running();
    world.host.guest_crash(vps());
    assert!(engine.settle_ends(Duration::ZERO), "its end is waiting");
    ask(
        &engine,
        Intent::Stop {
            timeout_ms: 60_000,
            force: true,
            discard: false,
        },
    );
    settle(&engine);
    assert!(!world.host.is_running(vps()), "somebody asked for a stop");
    // Without a stop in between it comes back.
    ask(&engine, Intent::Start);
    settle(&engine);
    world.host.guest_crash(vps());
    settle(&engine);
    assert!(world.host.is_running(vps()));
}
