//! A clock that jumps: nothing is forgotten for its age, and what is a matter of time goes by the boot clock.

use std::time::Duration;

use mayfly_core::documents::{Desired, OperationState};
use mayfly_engine::store::{Txn, Write};

use crate::held::running;
use crate::world::{World, doc, settle, vps};

/// The wall clock jumps by so many days.
fn jump(world: &World, days: i64) {
    use mayfly_core::ports::Clock as _;
    let now = world.host.unix_ms();
    world
        .host
        .set_unix_ms(now.saturating_add_signed(days * 86_400_000));
}

#[test]
fn nothing_is_pruned_for_its_age_when_the_clock_jumps() {
    let (mut world, engine) = running();
    let one = engine.operations().unwrap().remove(0);
    // A year ahead, then two years back: the ids go up and down, the order of the store does not.
    let mut ids = Vec::new();
    for n in 0..1100_u64 {
        let day = if n < 50 { 20_000 + n } else { 100 + n };
        let mut op = one.clone();
        op.id = mayfly_core::ids::OperationId::at(day * 86_400_000, [7; 4]);
        let write = Write::put_doc(format!("/operations/{}", op.id), &op).unwrap();
        world
            .store
            .txn(Txn {
                conditions: vec![],
                writes: vec![write],
            })
            .unwrap();
        ids.push(op.id);
    }
    world.host = world.host.restart_daemon();
    let engine = world.recover();
    let kept = engine.operations().unwrap();
    assert_eq!(kept.len(), 1000, "by count, whatever the clock says");
    let is_kept = |n: usize| kept.iter().any(|op| op.id == ids[n]);
    assert!((100..1100).all(is_kept), "the newest of the store");
    assert!(
        !(0..99).any(is_kept),
        "the oldest go first, although their ids are the highest"
    );
    assert_eq!(one.state, OperationState::Done);
    // Few are all kept, however old the clock makes them look.
    jump(&world, 5000);
    world.host = world.host.restart_daemon();
    assert_eq!(world.recover().operations().unwrap().len(), 1000);
}

#[test]
fn crashes_are_counted_by_boot_time_whatever_the_clock_says() {
    let (world, engine) = running();
    for _ in 0..4 {
        // Days apart for the clock, seconds for the host.
        jump(&world, 3);
        world.host.advance(Duration::from_secs(10));
        world.host.guest_crash(vps());
        settle(&engine);
    }
    assert!(
        !world.host.is_running(vps()),
        "four crashes in forty seconds are too many"
    );
    assert_eq!(doc(&engine).desired, Desired::Stopped);
}
