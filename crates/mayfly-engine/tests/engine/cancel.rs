//! Giving operations up: every operation is cancelled at every point, with and without a daemon that dies right after it; a
//! forced stop makes others give way; a step that hangs is told of and keeps others from waiting behind it.

use std::panic::resume_unwind;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mayfly_core::documents::{AutostartWhen, Desired, OperationDoc, OperationState, Request};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::fake::StartFault;
use mayfly_core::ids::OperationId;
use mayfly_engine::{Engine, IfBusy, Intent};

use crate::scenarios::{self, Scenario, restart, stop, there};
use crate::world::{Death, Died, World, ask, create, doc, settle, vps};

/// What became of a wish to cancel.
type Wish = Arc<Mutex<Option<(OperationId, Result<OperationDoc, Refusal>)>>>;

/// An engine that cancels what was asked for at the n-th point that it passes, and dies at the next where it shall.
fn engine_that_cancels(world: &World, nth: usize, dies: bool) -> (Engine, Wish) {
    let wish = Wish::default();
    let own: Arc<OnceLock<Engine>> = Arc::default();
    let (host, told, engine) = (world.host.clone(), Arc::clone(&wish), Arc::clone(&own));
    let passed = Mutex::new(0);
    let made = world.engine_with(move |_| {
        let at = {
            let mut passed = passed.lock().unwrap();
            *passed += 1;
            *passed
        };
        if at == nth {
            let engine = engine.get().unwrap();
            let all = engine.operations().unwrap();
            if let Some(op) = all.iter().find(|op| op.by == "test" && !op.state.is_over()) {
                let answer = engine.cancel(op.id.as_str(), "a test");
                *told.lock().unwrap() = Some((op.id.clone(), answer));
            }
        }
        if at > nth && dies {
            host.kill_daemon();
        }
        if host.crashed() {
            resume_unwind(Box::new(Died));
        }
    });
    assert!(own.set(made.clone()).is_ok());
    (made, wish)
}

/// One scenario, cancelled at one point. False when there are no more points.
fn one(scenario: &Scenario, nth: usize, dies: bool, counts: &mut [usize; 2]) -> bool {
    let mut world = World::new(&Arc::default());
    (scenario.before)(&world, &world.engine(Death::Never));
    let (before, runs): (Vec<_>, Vec<_>) = {
        let engine = world.engine(Death::Never);
        settle(&engine);
        let all = engine.vpses().unwrap();
        let runs = all.iter().filter_map(|d| Some(d.run.as_ref()?.run.clone()));
        (all.iter().map(|d| d.lasting()).collect(), runs.collect())
    };
    let (engine, wish) = engine_that_cancels(&world, nth, dies);
    let lived = world.live(&engine, |e| (scenario.act)(&world, e));
    let what = format!("{} cancelled at point {nth}, lived: {lived}", scenario.name);
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    world.assert_sound(&what);
    let Some((id, answer)) = wish.lock().unwrap().take() else {
        // Past the last point, or what is under way was asked for by nobody.
        return false;
    };
    let op = engine.operation(id.as_str()).unwrap();
    match answer {
        Ok(_) => {
            counts[0] += 1;
            assert_eq!(op.state, OperationState::Cancelled, "{what}: {op:#?}");
            assert_eq!(op.error.as_ref().unwrap().code, Code::OperationCancelled);
            let first = engine
                .operations()
                .unwrap()
                .iter()
                .filter(|op| op.by == "test")
                .count()
                == 1;
            if op.request.is_a_start() {
                let doc = doc(&engine);
                // The daemon of the recovery takes it for one that is to be started with the host.
                let boots = doc.autostart.when == AutostartWhen::On;
                let went_on = doc.run.as_ref().is_some_and(|run| runs.contains(&run.run));
                assert!(
                    boots || went_on || doc.desired == Desired::Stopped,
                    "{what}"
                );
            } else if first || matches!(op.request, Request::Create { .. }) {
                let after: Vec<_> = engine
                    .vpses()
                    .unwrap()
                    .iter()
                    .map(|d| d.lasting())
                    .collect();
                // What was made, and may have run before the daemon was there again, is not taken away any more.
                let stays = dies && before.is_empty() && !world.host.is_running(vps());
                let same = stays
                    || before.len() == after.len()
                        && before.iter().zip(&after).all(|(a, b)| a == b);
                assert!(same, "{what}: {before:#?} became {after:#?}");
            }
        }
        Err(refusal) => {
            counts[1] += 1;
            assert_eq!(refusal.code, Code::OperationTooLate, "{what}");
            assert_ne!(op.state, OperationState::Cancelled, "{what}");
        }
    }
    true
}

#[test]
fn every_operation_is_cancelled_at_every_point() {
    for dies in [false, true] {
        let mut all = [0, 0];
        for scenario in scenarios::all() {
            let mut nth = 1;
            while one(scenario, nth, dies, &mut all) {
                nth += 1;
                assert!(nth < 200, "{} has no end", scenario.name);
            }
        }
        println!("{} cancelled, {} too late", all[0], all[1]);
        assert!(all[0] > 100 && all[1] > 50, "this proves little: {all:?}");
    }
}

#[test]
fn what_waits_for_its_turn_is_cancelled_at_once() {
    let world = World::new(&Arc::default());
    let engine = world.engine(Death::Never);
    there(&world, &engine, "debian-12-impermanence", true);
    let stop = engine
        .submit(Some(vps()), stop(false, false), "test")
        .unwrap();
    let start = engine.submit(Some(vps()), Intent::Start, "test").unwrap();
    let given_up = engine.cancel(start.id.as_str(), "uid 7").unwrap();
    assert_eq!(given_up.state, OperationState::Cancelled);
    assert!(
        given_up
            .error
            .unwrap()
            .message
            .contains("cancelled by uid 7")
    );
    settle(&engine);
    assert_eq!(
        engine.operation(stop.id.as_str()).unwrap().state,
        OperationState::Done
    );
    assert_eq!(
        engine.operation(start.id.as_str()).unwrap().state,
        OperationState::Cancelled
    );
    for over in [stop.id, start.id] {
        assert_eq!(
            engine.cancel(over.as_str(), "x").unwrap_err().code,
            Code::OperationTooLate
        );
    }
    let nobody = engine.cancel("00000000000000000000", "x").unwrap_err();
    assert_eq!(nobody.code, Code::OperationNotFound);
    // A create that has not had its turn leaves no reservation.
    ask(&engine, Intent::Destroy { now: false });
    settle(&engine);
    let made = engine
        .submit(None, create("debian-12", true), "test")
        .unwrap();
    engine.cancel(made.id.as_str(), "x").unwrap();
    settle(&engine);
    assert!(engine.vpses().unwrap().is_empty());
    world.assert_sound("cancelled in the queue");
}

#[test]
fn a_stop_that_was_cancelled_in_the_queue_keeps_nothing_from_being_started_again() {
    let world = World::new(&Arc::default());
    let engine = world.engine(Death::Never);
    for cancelled in [false, true] {
        there(&world, &engine, "debian-12-impermanence", true);
        world.host.guest_crash(vps());
        assert!(engine.settle_ends(Duration::ZERO));
        let waits = engine
            .submit(Some(vps()), stop(false, false), "test")
            .unwrap();
        if cancelled {
            engine.cancel(waits.id.as_str(), "uid 7").unwrap();
        }
        settle(&engine);
        assert_eq!(world.host.is_running(vps()), cancelled);
        ask(&engine, Intent::Destroy { now: true });
        settle(&engine);
    }
    world.assert_sound("a stop that waited");
}

#[test]
fn what_is_busy_is_refused_where_that_was_asked_for() {
    let world = World::new(&Arc::default());
    let engine = world.engine(Death::Never);
    there(&world, &engine, "debian-12-impermanence", true);
    let first = engine.submit(Some(vps()), restart(), "uid 7").unwrap();
    let refused = engine
        .submit_when(Some(vps()), stop(false, false), "test", IfBusy::Refuse)
        .unwrap_err();
    assert_eq!(refused.code, Code::VpsBusy);
    for word in [first.id.as_str(), "restart", "uid 7"] {
        assert!(refused.message.contains(word), "{refused}");
    }
    settle(&engine);
    engine
        .submit_when(Some(vps()), stop(false, false), "test", IfBusy::Refuse)
        .unwrap();
    settle(&engine);
    world.assert_sound("busy");
}

/// An engine with threads whose lane stops at a point until it is let go.
fn engine_that_stops_at(
    world: &World,
    stops_at: &'static str,
) -> (Engine, Sender<()>, Arc<OnceLock<()>>) {
    let (go_on, wait) = channel::<()>();
    let (wait, is_there) = (Mutex::new(wait), Arc::new(OnceLock::new()));
    let there = Arc::clone(&is_there);
    let engine = world.engine_with(move |point| {
        if point == stops_at && there.set(()).is_ok() {
            wait.lock()
                .unwrap()
                .recv_timeout(Duration::from_secs(60))
                .ok();
        }
    });
    (engine, go_on, is_there)
}

fn wait_for(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_forced_stop_makes_a_start_and_what_waits_give_way() {
    let world = World::new(&Arc::default());
    {
        let engine = world.engine(Death::Never);
        there(&world, &engine, "debian-12-impermanence", true);
        ask(&engine, stop(false, false));
        settle(&engine);
        world.host.fail_start(vps(), StartFault::Hangs);
    }
    let (engine, go_on, is_there) = engine_that_stops_at(&world, "await_init");
    engine.start_threads().unwrap();
    let start = engine.submit(Some(vps()), Intent::Start, "test").unwrap();
    wait_for("it starts", || is_there.get().is_some());
    let waits = engine.submit(Some(vps()), restart(), "test").unwrap();
    let stop = engine
        .submit(Some(vps()), stop(true, false), "test")
        .unwrap();
    let state = |op: &OperationDoc| engine.operation(op.id.as_str()).unwrap().state;
    wait_for("what waits is given up", || {
        state(&waits) == OperationState::Cancelled
    });
    go_on.send(()).unwrap();
    for op in [&start, &stop] {
        engine.wait(&op.id, Duration::from_secs(20)).unwrap();
    }
    assert_eq!(state(&start), OperationState::Cancelled);
    let told = engine
        .operation(start.id.as_str())
        .unwrap()
        .error
        .unwrap()
        .message;
    assert!(told.contains(stop.id.as_str()), "{told}");
    // Whoever asked for it is not told that it did not run.
    let stopped = engine.operation(stop.id.as_str()).unwrap();
    assert_eq!(stopped.state, OperationState::Done, "{stopped:#?}");
    engine.stop_threads();
    assert!(!world.host.is_running(vps()));
    world.recover();
    world.assert_sound("a forced stop");
}

#[test]
fn a_forced_stop_ends_a_polite_one_that_takes_long() {
    let world = World::new(&Arc::default());
    {
        let engine = world.engine(Death::Never);
        there(&world, &engine, "debian-12-impermanence", true);
    }
    for polite in [stop(false, false), restart()] {
        let (engine, go_on, is_there) = engine_that_stops_at(&world, "end_run");
        engine.start_threads().unwrap();
        let first = engine.submit(Some(vps()), polite, "test").unwrap();
        wait_for("it halts", || is_there.get().is_some());
        let forced = engine
            .submit(Some(vps()), stop(true, false), "test")
            .unwrap();
        wait_for("the run is ended", || !world.host.is_running(vps()));
        go_on.send(()).unwrap();
        engine.wait(&forced.id, Duration::from_secs(20)).unwrap();
        assert_eq!(
            engine.operation(first.id.as_str()).unwrap().state,
            OperationState::Cancelled
        );
        let forced = engine.operation(forced.id.as_str()).unwrap();
        assert_eq!(forced.state, OperationState::Done, "{forced:#?}");
        wait_for("the end is settled", || doc(&engine).run.is_none());
        engine.stop_threads();
        let engine = world.recover();
        world.assert_sound("a polite stop");
        ask(&engine, Intent::Start);
        settle(&engine);
    }
}

#[test]
fn a_step_that_hangs_is_told_and_nothing_waits_behind_it() {
    let world = World::new(&Arc::default());
    {
        let engine = world.engine(Death::Never);
        there(&world, &engine, "debian-12-impermanence", false);
    }
    let (engine, go_on, is_there) = engine_that_stops_at(&world, "create_dataset");
    engine.start_threads().unwrap();
    let start = engine.submit(Some(vps()), Intent::Start, "test").unwrap();
    wait_for("it hangs", || is_there.get().is_some());
    let waits = engine.submit(Some(vps()), restart(), "test").unwrap();
    world.host.advance(Duration::from_secs(119));
    engine.submit(Some(vps()), Intent::Start, "test").unwrap();
    world.host.advance(Duration::from_secs(2));
    let refused = engine
        .submit(Some(vps()), Intent::Start, "test")
        .unwrap_err();
    assert_eq!(refused.code, Code::OperationOverdue);
    assert!(refused.message.contains(start.id.as_str()), "{refused}");
    assert!(refused.message.contains("make dataset"), "{refused}");
    wait_for("it is told", || {
        engine
            .operation(start.id.as_str())
            .unwrap()
            .progress
            .contains("not done after 121 s")
    });
    // It is none of the others' business.
    engine
        .submit(
            None,
            Intent::TemplateRemove {
                name: "nixos-shaped".parse().unwrap(),
            },
            "test",
        )
        .unwrap();
    go_on.send(()).unwrap();
    engine.wait(&waits.id, Duration::from_secs(20)).unwrap();
    let over = engine.operation(start.id.as_str()).unwrap();
    assert_eq!(
        over.state,
        OperationState::Done,
        "late is not never: {over:#?}"
    );
    assert!(
        over.steps_ms.iter().any(|ms| *ms >= 121_000),
        "{:?}",
        over.steps_ms
    );
    wait_for("the lane is free", || {
        let again = engine.submit_when(Some(vps()), Intent::Start, "test", IfBusy::Refuse);
        again.is_ok_and(|op| {
            let over = engine.wait(&op.id, Duration::from_secs(20)).unwrap();
            over.error.unwrap().code == Code::VpsRunning
        })
    });
    engine.stop_threads();
}
