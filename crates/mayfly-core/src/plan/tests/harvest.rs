//! When copies are taken back, and what waits for it.

use super::hands::Hands;
use super::{id, mount, path, restart, start, stop};
use crate::documents::{Mount, Request};
use crate::error::Code;
use crate::fake::COPIED;
use crate::names::PoolPath;
use crate::plan::Step;

const VPS: u32 = 11327;

fn lives() -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), "debian-12-impermanence", Some(super::run(1)));
    hands.host.guest_write(id(VPS), COPIED, "new").unwrap();
    hands
}

fn discard(force: bool) -> Request {
    Request::Stop {
        timeout_ms: 60_000,
        force,
        discard: true,
    }
}

fn stored(hands: &Hands) -> Option<String> {
    hands
        .host
        .read(&PoolPath::from_pool("11327").unwrap(), COPIED)
}

/// Ends the run in a way that takes nothing back, as with a disk that is full at that moment.
fn ends_unharvested(hands: &mut Hands) {
    hands.host.pool_full(true);
    let plan = hands.plan(id(VPS), &stop()).unwrap();
    for planned in &plan.steps {
        let done = hands.perform(&planned.step);
        assert_eq!(done.is_err(), matches!(planned.step, Step::Harvest { .. }));
    }
    hands.host.pool_full(false);
    assert_eq!(stored(hands), None);
}

#[test]
fn every_way_to_end_a_run_takes_copies_back() {
    for request in [stop(), restart(2), discard(false), discard(true)] {
        let mut hands = lives();
        hands.ask(id(VPS), &request).unwrap();
        assert_eq!(stored(&hands).as_deref(), Some("new"), "{request:?}");
        hands.assert_sound();
    }
}

#[test]
fn a_start_insists_on_what_a_stop_could_not_take() {
    let mut hands = lives();
    ends_unharvested(&mut hands);
    let root = hands.doc(id(VPS)).last_root.clone().unwrap();
    // Nothing gives it up meanwhile.
    hands.clean_up();
    assert!(hands.host.datasets().contains(&root));
    hands.ask(id(VPS), &start(2)).unwrap();
    assert_eq!(stored(&hands).as_deref(), Some("new"));
    assert_eq!(
        hands.host.guest_read(id(VPS), COPIED).as_deref(),
        Some("new")
    );
    hands.assert_sound();
}

#[test]
fn without_its_storage_a_start_is_refused_and_only_force_gives_up() {
    let mut hands = lives();
    ends_unharvested(&mut hands);
    let unmount = Request::MountRemove {
        path: path("/persistent"),
    };
    hands.ask(id(VPS), &unmount).unwrap();
    for request in [start(2), restart(2), discard(false)] {
        let refusal = hands.ask(id(VPS), &request).unwrap_err();
        assert_eq!(refusal.code, Code::HarvestFailed, "{request:?}");
        assert!(refusal.hint.contains("--discard --force"), "{refusal:?}");
    }
    let read_only = Mount {
        read_only: true,
        ..mount("", "/persistent")
    };
    hands
        .ask(id(VPS), &Request::MountAdd { mount: read_only })
        .unwrap();
    assert_eq!(
        hands.ask(id(VPS), &start(2)).unwrap_err().code,
        Code::HarvestFailed
    );
    hands.ask(id(VPS), &discard(true)).unwrap();
    assert_eq!(hands.doc(id(VPS)).last_root, None);
    // The start that follows owes nothing: nothing can be placed either.
    hands.ask(id(VPS), &start(2)).unwrap();
    assert_eq!(stored(&hands), None);
}

#[test]
fn without_a_storage_nothing_is_owed() {
    let mut hands = Hands::new();
    hands.create(id(VPS), "debian-12", None);
    hands.ask(id(VPS), &start(1)).unwrap();
    let plan = hands.plan(id(VPS), &restart(2)).unwrap();
    let harvests = |step: &Step| matches!(step, Step::Harvest { .. });
    assert!(!plan.steps.iter().any(|planned| harvests(&planned.step)));
}

#[test]
fn a_destroy_asks_for_nothing() {
    let mut hands = lives();
    ends_unharvested(&mut hands);
    hands.ask(id(VPS), &Request::Destroy { now: true }).unwrap();
    assert!(
        hands
            .host
            .datasets()
            .iter()
            .all(|name| !name.as_str().starts_with("11327"))
    );
}
