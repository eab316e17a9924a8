//! What is remembered of runs, through crashes of the daemon at every point.

use mayfly_core::documents::OnCrash;
use mayfly_core::fake::COPIED;
use mayfly_core::history::{Happened, HistoryDoc, HowEnded};
use mayfly_core::ids::RunId;
use mayfly_engine::store::TypedStore as _;
use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, ask, create, doc, settle, vps};

fn restart() -> Intent {
    Intent::Restart {
        timeout_ms: 1000,
        force: false,
    }
}

fn told(engine: &Engine) -> Vec<HistoryDoc> {
    engine.history(&doc(engine)).unwrap().entries
}

/// Every start, and every end, in their order.
fn runs(engine: &Engine) -> (Vec<RunId>, Vec<(RunId, HowEnded)>) {
    let (mut begun, mut over) = (Vec::new(), Vec::new());
    for entry in told(engine) {
        match entry.what {
            Happened::Started { run, .. } => begun.push(run),
            Happened::Ended { run, how, .. } => over.push((run, how)),
            Happened::Failed { .. } | Happened::Copies { .. } => {}
        }
    }
    (begun, over)
}

#[test]
fn each_start_and_each_end_is_told_once_whatever_dies_when() {
    for n in 1.. {
        let world = World::new(&Default::default());
        let engine = world.engine(Death::Never);
        ask(&engine, create("debian-12-impermanence", true));
        settle(&engine);
        let first = doc(&engine).run.unwrap().run;
        let engine = world.engine(Death::Point(n));
        let lived = world.live(&engine, |engine| ask(engine, restart()));
        let host = world.host.restart_daemon();
        let world = World { host, ..world };
        let engine = world.recover();
        let (begun, over) = runs(&engine);
        let now = doc(&engine).run.map(|run| run.run);
        assert_eq!(
            begun.last(),
            now.as_ref(),
            "cut at {n}: {:?}",
            told(&engine)
        );
        assert_eq!(begun.first(), Some(&first), "cut at {n}");
        let ended: Vec<_> = over.iter().map(|(run, _)| run.clone()).collect();
        // All that were begun are over but the present one, each once.
        assert_eq!(
            ended,
            begun[..begun.len() - 1],
            "cut at {n}: {:?}",
            told(&engine)
        );
        if lived {
            assert_eq!(over, [(first, HowEnded::Stopped)]);
            assert!(n > 10, "only {n} points were passed");
            break;
        }
    }
}

#[test]
fn a_start_that_fails_and_what_is_refused_are_told_with_their_codes() {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    ask(&engine, Intent::Start);
    settle(&engine);
    let last = told(&engine).pop().unwrap();
    assert_eq!((last.verb.as_str(), last.by.as_str()), ("start", "test"));
    let running = |what: &Happened| matches!(what, Happened::Failed { error, run: None } if error.code.as_str() == "vps.running");
    assert!(running(&last.what), "{last:?}");

    // Nobody waits for this start: it is tried three times, and told as often as it was.
    world.host.pool_full(true);
    world.host.guest_reboot(vps());
    settle(&engine);
    let (_, over) = runs(&engine);
    let how: Vec<_> = over.into_iter().map(|(_, how)| how).collect();
    assert_eq!(
        how,
        [&[HowEnded::Reboot][..], &[HowEnded::FailedToStart; 4]].concat()
    );
    let last = told(&engine).pop().unwrap().what;
    assert!(
        matches!(
            last,
            Happened::Ended {
                crash: Some(4),
                starts_again: false,
                ..
            }
        ),
        "{last:?}"
    );
}

#[test]
fn on_crash_stop_says_that_it_stays_stopped() {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    let change = mayfly_core::change::VpsChange {
        on_crash: Some(OnCrash::Stop),
        ..Default::default()
    };
    ask(&engine, Intent::Set { change });
    settle(&engine);
    world.host.guest_crash(vps());
    settle(&engine);
    let last = told(&engine).pop().unwrap().what;
    assert!(
        matches!(
            last,
            Happened::Ended {
                how: HowEnded::Crashed,
                starts_again: false,
                crash: Some(1),
                ..
            }
        ),
        "{last:?}"
    );
}

#[test]
fn it_goes_with_its_vps_and_a_new_one_of_that_number_sees_nothing_of_it() {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    for _ in 0..100 {
        ask(&engine, restart());
        settle(&engine);
    }
    assert_eq!(told(&engine).len(), mayfly_core::history::KEEP);
    let first = doc(&engine);
    ask(&engine, Intent::Destroy { now: false });
    settle(&engine);
    assert_eq!(world.store.range("/history/").unwrap().entries, []);
    ask(&engine, create("debian-12-impermanence", false));
    settle(&engine);
    assert_eq!(told(&engine), []);
    assert_eq!(engine.history(&first).unwrap().entries, []);
    let found = world
        .store
        .get_doc::<mayfly_core::documents::VpsDoc>("/vps/11327")
        .unwrap();
    assert_eq!(
        engine.came_to_be(&doc(&engine)).unwrap(),
        found.map(|f| f.create_revision.0)
    );
    assert_eq!(engine.came_to_be(&first).unwrap(), None);
}

#[test]
fn what_was_taken_back_is_told_and_what_could_not_be_too() {
    let mut world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    ask(&engine, create("debian-12-impermanence", true));
    settle(&engine);
    let run = doc(&engine).run.unwrap().run;
    let copies = |engine: &Engine| {
        let all = told(engine).into_iter().map(|entry| entry.what);
        let of = |what| match what {
            Happened::Copies { run, taken, failed } => Some((run, taken.files, failed.is_some())),
            _ => None,
        };
        all.filter_map(of).collect::<Vec<_>>()
    };
    world.host.guest_write(vps(), COPIED, "changed").unwrap();
    world.host.pool_full(true);
    ask(&engine, stop());
    settle(&engine);
    assert_eq!(copies(&engine), [(run.clone(), vec![], true)]);
    // A start that cannot either is refused, and says nothing new.
    ask(&engine, Intent::Start);
    settle(&engine);
    assert!(!world.host.is_running(vps()));
    assert_eq!(copies(&engine).len(), 1);
    world.host.pool_full(false);
    ask(&engine, Intent::Start);
    settle(&engine);
    assert_eq!(
        copies(&engine)[1..],
        [(run, vec![COPIED.to_owned()], false)]
    );
    assert_eq!(
        world.host.guest_read(vps(), COPIED).as_deref(),
        Some("changed")
    );
    world.host = world.host.restart_daemon();
    world.assert_sound("after a harvest that failed at first");
}

fn stop() -> Intent {
    Intent::Stop {
        timeout_ms: 1000,
        force: false,
        discard: false,
    }
}
