//! A process of the host that holds a copy of a run's mount namespace delays the destruction of what it holds, and nothing
//! else. A process that may be the guest's stops everything.

use std::time::Duration;

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::OperationState;
use mayfly_core::error::Code;
use mayfly_core::fake::{Backend, FakeHost};
use mayfly_core::names::{DatasetName, PoolPath};
use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, ask, create, doc, settle, vps};

fn running(backend: Backend) -> (World, Engine) {
    let world = World::on(
        FakeHost::with(backend, Bytes::gib(1024)),
        &Default::default(),
    );
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

fn stop(discard: bool) -> Intent {
    Intent::Stop {
        timeout_ms: 1000,
        force: true,
        discard,
    }
}

/// Asks, and answers with what became of it.
fn done(engine: &Engine, intent: Intent) -> Result<(), (Code, String)> {
    let id = engine
        .submit(Some(vps()), intent, "test")
        .map_err(|refusal| (refusal.code, refusal.message))?
        .id;
    settle(engine);
    let op = engine.operation(id.as_str()).unwrap();
    match op.error {
        None => {
            assert_eq!(op.state, OperationState::Done);
            Ok(())
        }
        Some(error) => Err((error.code, error.message)),
    }
}

fn graves(world: &World) -> Vec<PoolPath> {
    let mut all = world.host.datasets();
    all.retain(PoolPath::is_grave);
    all
}

#[test]
fn a_leaked_namespace_delays_the_destroy_and_nothing_else() {
    for backend in [Backend::Btrfs, Backend::Zfs] {
        let (world, engine) = running(backend);
        let pid = world.host.leak_namespace(vps());
        let old = world.host.root_of(vps()).unwrap();
        done(&engine, stop(false)).unwrap();
        let refused = done(&engine, stop(false)).unwrap_err();
        assert_eq!(refused.0, Code::VpsNotRunning, "a holder is no remains");
        done(&engine, Intent::Start).unwrap();
        assert_ne!(world.host.root_of(vps()).unwrap(), old);
        assert!(!world.host.datasets().contains(&old), "it was buried");
        let restart = Intent::Restart {
            timeout_ms: 1000,
            force: false,
        };
        done(&engine, restart).unwrap();
        done(&engine, stop(true)).unwrap();
        // Of three roots that were given up, only the one that is held is there still.
        assert_eq!(graves(&world).len(), 1);
        let reports = engine.pool().unwrap().reports.join("\n");
        assert!(
            reports.contains(&format!("process {pid} of the host (`sleep 1000`)")),
            "{reports}"
        );
        done(&engine, Intent::Destroy { now: false }).unwrap();
        assert_eq!(graves(&world).len(), 2, "its data is held as well");
        world.assert_sound("while a namespace is held");
        world.host.end_leaks();
        engine.reap_once().unwrap();
        assert_eq!(graves(&world), []);
        assert_eq!(engine.pool().unwrap().reports, [] as [String; 0]);
        world.assert_sound("after it was let go");
    }
}

#[test]
fn a_process_that_may_be_the_guests_stops_everything() {
    let (world, engine) = running(Backend::Btrfs);
    done(&engine, stop(false)).unwrap();
    let root = doc(&engine).last_root.unwrap();
    world.host.stray_mount(vps(), &root);
    for intent in [
        Intent::Start,
        stop(true),
        Intent::Destroy { now: false },
        Intent::Destroy { now: true },
    ] {
        assert!(done(&engine, intent).is_err());
        assert!(world.host.datasets().contains(&root));
        let data = PoolPath::dataset(vps(), &DatasetName::root());
        assert_eq!(
            world.host.read(&data, "/kept").as_deref(),
            Some("dear data")
        );
    }
    world.host.drop_strays();
    done(&engine, Intent::Destroy { now: true }).unwrap();
    world.assert_sound("after the stray process ended");
}

#[test]
fn a_process_of_the_guests_on_a_buried_root_stops_the_next_start() {
    let (world, engine) = running(Backend::Btrfs);
    world.host.leak_namespace(vps());
    let restart = Intent::Restart {
        timeout_ms: 1000,
        force: true,
    };
    done(&engine, restart).unwrap();
    done(&engine, stop(false)).unwrap();
    let [grave] = &graves(&world)[..] else {
        panic!("{:?}", graves(&world))
    };
    world.host.stray_mount(vps(), grave);
    assert!(done(&engine, Intent::Start).is_err());
    assert!(!world.host.is_running(vps()));
    world.host.drop_strays();
    done(&engine, Intent::Start).unwrap();
    world.assert_sound("after the stray process ended");
}

#[test]
fn a_destroy_that_waits_goes_on_when_the_holder_ends() {
    let (world, engine) = running(Backend::Btrfs);
    world.host.leak_namespace(vps());
    let host = world.host.clone();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        host.end_leaks();
    });
    done(&engine, Intent::Destroy { now: true }).unwrap();
    holder.join().unwrap();
    assert_eq!(graves(&world), []);
    world.assert_sound("after a destroy that waited");
}

#[test]
fn a_grave_that_waits_is_tried_less_and_less_often() {
    let (world, engine) = running(Backend::Zfs);
    // Held in a way that is seen nowhere: the kernel alone says that it is busy.
    done(&engine, stop(false)).unwrap();
    let root = doc(&engine).last_root.unwrap();
    done(&engine, Intent::Start).unwrap();
    done(&engine, stop(true)).unwrap();
    assert!(!world.host.datasets().contains(&root));
    done(&engine, Intent::Start).unwrap();
    world.host.leak_namespace(vps());
    world.host.hide_leaks();
    done(&engine, stop(true)).unwrap();
    let [grave] = &graves(&world)[..] else {
        panic!("{:?}", graves(&world))
    };
    let tries = |world: &World| {
        let reap = format!("reap {grave}");
        world.host.calls().iter().filter(|c| **c == reap).count()
    };
    let before = tries(&world);
    for _ in 0..3600 {
        world.host.advance(Duration::from_secs(1));
        engine.reap_due().unwrap();
    }
    let in_an_hour = tries(&world) - before;
    assert!((10..=25).contains(&in_an_hour), "{in_an_hour} tries");
    world.host.end_leaks();
    for _ in 0..300 {
        world.host.advance(Duration::from_secs(1));
        engine.reap_due().unwrap();
    }
    assert_eq!(graves(&world), []);
    world.assert_sound("after the grave was let go");
}

#[test]
fn nothing_is_destroyed_where_nobody_can_look() {
    let (world, engine) = running(Backend::Btrfs);
    world.host.fail_looks("holders");
    done(&engine, stop(true)).unwrap();
    assert_eq!(graves(&world).len(), 1);
    assert_eq!(engine.reap_once().unwrap_err().code, Code::CouldNotLook);
    assert_eq!(graves(&world).len(), 1);
    let refused = done(&engine, Intent::Destroy { now: true }).unwrap_err();
    assert_eq!(refused.0, Code::CouldNotLook);
    world.host.heal_looks();
    engine.reap_once().unwrap();
    world.assert_sound("after the look was healed");
}

#[test]
fn a_leftover_that_cannot_be_buried_is_tried_less_and_less_often_and_told() {
    let (world, engine) = running(Backend::Btrfs);
    done(&engine, stop(false)).unwrap();
    let root = doc(&engine).last_root.unwrap();
    let foreign = PoolPath::from_pool(&format!("{root}/foreign")).unwrap();
    world.host.make_by_hand(&foreign);
    // The burial is housekeeping: the start goes on, and the root is left over.
    done(&engine, Intent::Start).unwrap();
    assert!(world.host.datasets().contains(&root));
    let tries = |world: &World| {
        let bury = format!("bury {root}");
        world.host.calls().iter().filter(|c| **c == bury).count()
    };
    let before = tries(&world);
    for _ in 0..3600 {
        world.host.advance(Duration::from_secs(1));
        engine.reap_due().unwrap();
    }
    let in_an_hour = tries(&world) - before;
    assert!((10..=25).contains(&in_an_hour), "{in_an_hour} tries");
    let assert_told = || {
        let reports = engine.pool().unwrap().reports.join("\n");
        let told = format!("{root}: it is not destroyed");
        assert!(reports.contains(&told), "{reports}");
    };
    assert_told();
    // What waits for its turn may be about to change it: it is passed over then, and not forgotten.
    engine.submit(Some(vps()), Intent::Start, "test").unwrap();
    world.host.advance(Duration::from_secs(300));
    let before = tries(&world);
    engine.reap_due().unwrap();
    assert_eq!(tries(&world), before);
    assert_told();
    engine.drain();
    world.host.destroy_by_hand(&foreign);
    for _ in 0..300 {
        world.host.advance(Duration::from_secs(1));
        engine.reap_due().unwrap();
    }
    assert!(!world.host.datasets().contains(&root));
    assert_eq!(engine.pool().unwrap().reports, [] as [String; 0]);
    world.assert_sound("after what was foreign is gone");
}
