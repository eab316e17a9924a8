//! What reinstalls have put aside: bounded, given up when asked for or by age, and never with what others keep in it.

use super::hands::Hands;
use super::reinstall::{VPS, entry, lives_on, reinstall, undo};
use super::{id, run};
use crate::bytes::Bytes;
use crate::documents::{Replaced, Request};
use crate::error::Code;
use crate::fake::{Backend, FakeHost};
use crate::names::PoolPath;
use crate::observed::{Mark, Role};
use crate::ports::{NewDataset, Origin, Storage as _};

/// On ZFS, where snapshots are part of what they are of.
fn lives() -> Hands {
    let host = FakeHost::with(Backend::Zfs, Bytes::gib(1024));
    lives_on(Hands::on(host), "debian-12")
}

fn reinstalled(times: u8) -> Hands {
    let mut hands = lives();
    for n in 0..times {
        hands
            .ask(id(VPS), &reinstall("debian-12", None, 2 + n))
            .unwrap();
    }
    hands
}

fn forget(hands: &Hands, nth: usize, force: bool) -> Request {
    let by = hands.doc(id(VPS)).replaced[nth].by.clone();
    Request::ReinstallForget { by, force }
}

fn asides(hands: &Hands) -> Vec<PoolPath> {
    let all = hands.doc(id(VPS)).replaced.iter();
    all.flat_map(|one| &one.datasets)
        .map(|put| put.aside.clone())
        .collect()
}

fn are_there(hands: &Hands, names: &[PoolPath]) -> Vec<bool> {
    let all = hands.host.datasets();
    names.iter().map(|name| all.contains(name)).collect()
}

#[test]
fn no_more_reinstalls_are_kept_than_the_bound() {
    let mut hands = reinstalled(3);
    assert_eq!(Replaced::AT_MOST, 3);
    let before = hands.picture();
    let refusal = hands
        .ask(id(VPS), &reinstall("debian-12", None, 9))
        .unwrap_err();
    assert_eq!(refusal.code, Code::ReinstallsKept);
    for way in ["--forget", "--undo"] {
        assert!(refusal.hint.contains(way), "{refusal:?}");
    }
    assert_eq!(hands.picture(), before);
    hands.ask(id(VPS), &undo(&hands, 10)).unwrap();
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 11))
        .unwrap();
    hands.assert_sound();
}

#[test]
fn what_is_meant_is_given_up_and_no_more() {
    for twice in [false, true] {
        let mut hands = reinstalled(3);
        hands.twice = twice;
        let all = asides(&hands);
        // The one that came last is not meant by who has not seen it.
        let request = forget(&hands, 1, false);
        let plan = hands.ask(id(VPS), &request).unwrap();
        assert!(
            plan.lines()[0].contains("2 reinstalls"),
            "{:?}",
            plan.lines()
        );
        assert_eq!(are_there(&hands, &all), [false, false, true]);
        hands.assert_sound();
        assert!(hands.host.is_running(id(VPS)));
        let again = hands.ask(id(VPS), &request).unwrap_err();
        assert_eq!(again.code, Code::Invalid);
        hands.ask(id(VPS), &undo(&hands, 9)).unwrap();
        hands.assert_sound();
    }
}

#[test]
fn snapshots_of_others_are_given_up_by_force_only() {
    let mut hands = reinstalled(1);
    let aside = asides(&hands)[0].clone();
    hands.host.snapshot_by_hand(&aside, "daily");
    hands.host.snapshot_by_hand(&aside, "weekly");
    let refusal = hands.ask(id(VPS), &forget(&hands, 0, false)).unwrap_err();
    assert_eq!(refusal.code, Code::DatasetInUse);
    assert!(refusal.message.contains("daily"), "{refusal:?}");

    // They come back with what they are of, and go with it.
    hands.ask(id(VPS), &undo(&hands, 3)).unwrap();
    let root = PoolPath::from_pool("11327").unwrap();
    let snapshots = |hands: &Hands, name: &PoolPath| {
        let pool = hands.host.observe().unwrap();
        pool.datasets[name].snapshots.clone()
    };
    assert_eq!(snapshots(&hands, &root), ["daily", "weekly"]);
    hands
        .ask(id(VPS), &reinstall("debian-12", None, 4))
        .unwrap();
    let aside = asides(&hands)[0].clone();
    assert_eq!(snapshots(&hands, &aside), ["daily", "weekly"]);
    assert!(snapshots(&hands, &root).is_empty());
    hands.ask(id(VPS), &forget(&hands, 0, true)).unwrap();
    assert_eq!(are_there(&hands, &[aside]), [false]);
    hands.assert_sound();
}

#[test]
fn an_undo_takes_snapshots_of_what_gives_way_by_force_only() {
    let mut hands = reinstalled(1);
    let root = PoolPath::from_pool("11327").unwrap();
    hands.host.snapshot_by_hand(&root, "since");
    let before = hands.picture();
    let refusal = hands.ask(id(VPS), &undo(&hands, 3)).unwrap_err();
    assert_eq!(refusal.code, Code::DatasetInUse);
    assert!(refusal.message.contains("since") && refusal.hint.contains("--force"));
    assert_eq!(hands.picture(), before);
    let Request::ReinstallUndo { by, run, .. } = undo(&hands, 3) else {
        unreachable!()
    };
    let force = true;
    hands
        .ask(id(VPS), &Request::ReinstallUndo { by, force, run })
        .unwrap();
    hands.assert_sound();
}

#[test]
fn age_gives_up_no_snapshots_and_says_so_once_a_day() {
    let mut hands = reinstalled(1);
    let aside = asides(&hands)[0].clone();
    hands.host.snapshot_by_hand(&aside, "daily");
    let age = |boot_ms| Request::ReplacedAge { boot_ms };
    let over = 1000 + Replaced::KEPT_MS;
    for day in 1..=7 {
        hands
            .ask(id(VPS), &age(1000 + day * Replaced::DAY_MS))
            .unwrap();
    }
    let one = entry(&hands);
    assert!(one.held_by.as_deref().unwrap().contains("daily"));
    assert_eq!(are_there(&hands, std::slice::from_ref(&aside)), [true]);
    let boot = one.counted_boot_id.clone();
    assert!(!one.is_due(&boot, over + 1) && one.is_due(&boot, over + Replaced::DAY_MS));
    hands.assert_sound();

    hands.host.remove_snapshot_by_hand(&aside, "daily");
    hands.ask(id(VPS), &age(over + Replaced::DAY_MS)).unwrap();
    assert!(hands.doc(id(VPS)).replaced.is_empty());
    assert_eq!(are_there(&hands, &[aside]), [false]);
    hands.assert_sound();
}

#[test]
fn what_is_not_the_vpss_own_is_seen_before_anything_is_done() {
    let mut hands = lives();
    let stranger = |hands: &Hands, name: &str| {
        let name = PoolPath::from_pool(name).unwrap();
        let new = NewDataset {
            mark: Mark {
                node: hands.host.node(),
                owner: Some((id(VPS), hands.doc(id(VPS)).incarnation.clone())),
                role: Role::Persistent,
                run: None,
                made_as: name.clone(),
                condemned_by: None,
                unharvested: false,
                contents: None,
            },
            name,
            quota: None,
            origin: Origin::Empty,
        };
        hands.host.create_dataset(&new).unwrap();
    };
    stranger(&hands, "11327/theirs");
    let refusal = hands
        .ask(id(VPS), &reinstall("debian-12", None, 2))
        .unwrap_err();
    assert_eq!(refusal.code, Code::NotOurs);
    assert!(refusal.message.contains("11327/theirs"), "{refusal:?}");
    assert_eq!(hands.doc(id(VPS)).run.as_ref().unwrap().run, run(1));
}
