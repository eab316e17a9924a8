//! What no undo of a reinstall may take: what a guest wrote while the daemon was dead, and what nobody meant.

use std::sync::Arc;

use mayfly_core::error::Code;
use mayfly_core::names::DatasetName;
use mayfly_engine::Intent;

use crate::scenarios::reinstall::undo;
use crate::world::{World, ask, create, doc, settle, vps};

fn reinstall() -> Intent {
    Intent::Reinstall {
        template: "debian-12".parse().unwrap(),
        scope: None,
    }
}

fn lives(template: &str) -> World {
    let world = World::new(&Arc::default());
    let engine = world.recover();
    ask(&engine, create(template, true));
    settle(&engine);
    world
}

#[test]
fn what_a_guest_wrote_into_new_contents_survives_a_start_that_then_fails() {
    // Nothing of it is journalled after the record of the run, so each of these is done again, and fails.
    for (dies, reboots) in [
        ("launch.done", false),
        ("launch.done", true),
        ("await_init.done", false),
        ("forget_runs.done", false),
    ] {
        let mut world = lives("debian-12");
        world.host.guest_write(vps(), "/srv/old", "dear").unwrap();
        let engine = world.engine_that_dies_at(dies);
        engine.recover().unwrap();
        assert!(!world.live(&engine, |e| ask(e, reinstall())), "{dies}");
        world.host.guest_write(vps(), "/srv/new", "dearer").unwrap();
        match reboots {
            true => world.host = world.host.reboot(),
            false => {
                world.host = world.host.restart_daemon();
                world.host.guest_poweroff(vps());
            }
        }
        let engine = world.recover();
        let root = doc(&engine).pool_path(&DatasetName::root());
        let read = |path: &str| world.host.read(&root, path);
        assert_eq!(read("/srv/new").as_deref(), Some("dearer"), "{dies}");
        assert_eq!(doc(&engine).replaced.len(), 1, "{dies}");
        world.assert_sound(dies);
        // And what was there before is not lost either.
        ask(&engine, undo(&engine));
        settle(&engine);
        assert_eq!(read("/srv/old").as_deref(), Some("dear"), "{dies}");
        world.assert_sound("after the undo");
    }
}

#[test]
fn an_undo_that_is_asked_for_twice_is_done_once() {
    let world = lives("debian-12");
    let engine = world.recover();
    world.host.guest_write(vps(), "/srv/first", "dear").unwrap();
    for _ in 0..2 {
        ask(&engine, reinstall());
        settle(&engine);
        world.host.guest_write(vps(), "/srv/kept", "dear").unwrap();
    }
    let meant = undo(&engine);
    ask(&engine, meant.clone());
    settle(&engine);
    let refusal = engine.submit(Some(vps()), meant, "uid 0");
    settle(&engine);
    if let Ok(operation) = refusal {
        let ended = engine.operation(operation.id.as_str()).unwrap();
        assert_eq!(ended.error.map(|e| e.code), Some(Code::Invalid));
    }
    assert_eq!(doc(&engine).replaced.len(), 1);
    let root = doc(&engine).pool_path(&DatasetName::root());
    assert!(world.host.read(&root, "/srv/kept").is_some());
}
