//! What a daemon starts after the host was booted, and in which order.

use mayfly_core::change::{SetAutostart, VpsChange};
use mayfly_core::documents::AutostartWhen::{self, Last, Off, On};
use mayfly_core::ids::VpsId;
use mayfly_core::plan::CreateInput;
use mayfly_engine::{Engine, Intent};

use crate::world::{Death, World, settle};

fn make(engine: &Engine, id: u32, start: bool, when: AutostartWhen, priority: i16) {
    let input = CreateInput {
        id: Some(id.try_into().unwrap()),
        hostname: None,
        disk: Some("1G".parse().unwrap()),
        memory: None,
        cpu_percent: None,
        impermanence: false,
        features: [].into(),
        ssh_keys: None,
    };
    let create = Intent::Create {
        input,
        template: "debian-12-impermanence".parse().unwrap(),
        start,
    };
    engine.submit(None, create, "test").unwrap();
    let change = VpsChange {
        autostart: Some(SetAutostart {
            when,
            priority: Some(priority),
        }),
        ..VpsChange::default()
    };
    let vps = Some(VpsId::try_from(id).unwrap());
    engine.submit(vps, Intent::Set { change }, "test").unwrap();
}

/// The VPSes that were launched since, in order.
fn launched(world: &World, since: usize) -> Vec<String> {
    let calls = world.host.calls();
    let of = |call: &String| {
        call.strip_prefix("launch ")?
            .rsplit(' ')
            .next()
            .map(str::to_owned)
    };
    calls[since..].iter().filter_map(of).collect()
}

fn scene() -> World {
    let world = World::new(&Default::default());
    let engine = world.engine(Death::Never);
    engine.recover().unwrap();
    make(&engine, 100, true, Last, 0);
    make(&engine, 101, false, Last, 50);
    make(&engine, 102, false, On, -1);
    make(&engine, 103, true, Off, 99);
    make(&engine, 104, true, On, 10);
    make(&engine, 105, true, Last, 10);
    make(&engine, 106, false, On, 20);
    settle(&engine);
    world
}

#[test]
fn after_a_boot_of_the_host_what_is_called_for_starts_in_order() {
    let mut world = scene();
    let since = world.host.calls().len();
    world.host = world.host.reboot();
    let engine = world.recover();
    assert_eq!(launched(&world, since), ["106", "104", "105", "100", "102"]);
    world.assert_sound("after the host was booted");
    // What is stopped by hand stays so until the next boot, whatever happens to the daemon.
    let stop = Intent::Stop {
        timeout_ms: 1000,
        force: true,
        discard: false,
    };
    let vps = Some(VpsId::try_from(104).unwrap());
    engine.submit(vps, stop, "test").unwrap();
    settle(&engine);
    let since = world.host.calls().len();
    world.host = world.host.restart_daemon();
    world.recover();
    assert_eq!(launched(&world, since), [""; 0]);
    world.assert_sound("after a restart of the daemon");
}

#[test]
fn a_daemon_that_dies_while_it_starts_them_leaves_the_rest_to_the_next() {
    for cut in 1.. {
        let mut world = scene();
        world.host = world.host.reboot();
        let engine = world.engine(Death::Point(cut));
        let lived = world.live(&engine, |engine| drop(engine.recover()));
        world.host = world.host.restart_daemon();
        world.recover();
        assert_eq!(world.host.running(), 5, "cut off at point {cut}");
        world.assert_sound("after a daemon that died while it started VPSes");
        if lived {
            assert!(cut > 30, "it went through {cut} points");
            break;
        }
    }
}
