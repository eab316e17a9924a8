//! Datasets that cannot be made, destroyed or named.

use super::*;
use crate::fake::{Backend, FakeHost};

#[test]
fn datasets_that_cannot_be_made_or_destroyed() {
    let mut hands = scene("nixos-shaped");
    hands
        .ask(
            id(VPS),
            &Request::DatasetSet {
                name: name(""),
                quota_bytes: Bytes::gib(50),
            },
        )
        .unwrap();
    hands.ask(id(VPS), &dataset("srv", 5, None)).unwrap();
    hands.ask(id(VPS), &dataset("srv/data", 5, None)).unwrap();
    refused(&mut hands, &dataset("srv", 5, None), Code::DatasetExists);
    refused(&mut hands, &dataset("a/b", 5, None), Code::DatasetNotFound);
    let destroy = |of: &str, force| Request::DatasetDestroy {
        name: name(of),
        force,
    };
    let refusal = refused(&mut hands, &destroy("srv", true), Code::DatasetInUse);
    assert_eq!(
        refusal.hint,
        "destroy that first: mayfly dataset destroy 11327/srv/data"
    );
    let refusal = refused(&mut hands, &destroy("nix", false), Code::DatasetInUse);
    assert_eq!(refusal.hint, "mayfly mount remove 11327 /nix, or --force");
    refused(&mut hands, &destroy("", true), Code::DatasetInUse);
    refused(&mut hands, &destroy("none", true), Code::DatasetNotFound);
    hands
        .host
        .make_by_hand(&PoolPath::from_pool("11327/hand").unwrap());
    refused(&mut hands, &dataset("hand", 5, None), Code::NotOurs);
    hands
        .host
        .make_by_hand(&PoolPath::from_pool("11327/srv/data/hand").unwrap());
    refused(&mut hands, &destroy("srv/data", true), Code::NotOurs);
    hands.ask(id(VPS), &start(1)).unwrap();
    refused(&mut hands, &destroy("nix", true), Code::VpsRunning);
}

#[test]
fn a_dataset_with_snapshots_is_destroyed_only_when_forced() {
    let mut hands = Hands::on(FakeHost::with(Backend::Zfs, Bytes::gib(1024)));
    hands.create(id(VPS), "debian-12", None);
    let smaller = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(50),
    };
    hands.ask(id(VPS), &smaller).unwrap();
    hands.ask(id(VPS), &dataset("srv", 5, None)).unwrap();
    let srv = hands.doc(id(VPS)).pool_path(&name("srv"));
    let destroy = |force| Request::DatasetDestroy {
        name: name("srv"),
        force,
    };
    for snapshot in ["zfs-auto-snap_daily-2026-11-22", "before"] {
        hands.host.snapshot_by_hand(&srv, snapshot);
    }
    let refusal = refused(&mut hands, &destroy(false), Code::DatasetInUse);
    assert_eq!(
        refusal.message,
        "dataset 11327/srv has 2 snapshots that would go with it, such as zfs-auto-snap_daily-2026-11-22"
    );
    assert!(refusal.hint.ends_with("or --force"), "{refusal:?}");
    hands.ask(id(VPS), &destroy(true)).unwrap();
    assert_eq!(hands.host.mark(&srv), None);
    // Those of another dataset are no matter.
    hands.ask(id(VPS), &dataset("srv", 5, None)).unwrap();
    let top = hands.doc(id(VPS)).pool_path(&name(""));
    hands.host.snapshot_by_hand(&top, "before");
    hands.ask(id(VPS), &destroy(false)).unwrap();
}

#[test]
fn reserved_dataset_names_cannot_be_said() {
    for bad in [
        "private",
        "trash",
        "a/private",
        "x.impermanence-c5a8b7",
        "x.rescue-c5a8b7",
        "../11328",
        "",
    ] {
        let taken = bad.parse::<crate::names::DatasetName>();
        assert!(taken.is_err() || taken.unwrap().is_root(), "{bad}");
    }
    refused(
        &mut scene("debian-12"),
        &dataset("", 5, None),
        Code::DatasetExists,
    );
}

#[test]
fn disk_space_is_never_below_what_the_datasets_have_of_it() {
    let vps = id(VPS);
    let disk = |disk_bytes| Request::Set {
        change: VpsChange {
            disk_bytes: Some(disk_bytes),
            processes: Some(300),
            ..VpsChange::default()
        },
    };
    for mut hands in [scene("debian-12"), running("debian-12")] {
        let had = hands.doc(vps).disk_bytes;
        let before = hands.picture();
        let refusal = hands
            .ask(vps, &disk(had.saturating_sub(Bytes::gib(1))))
            .unwrap_err();
        assert_eq!(refusal.code, Code::DiskSpace);
        let least = had.saturating_sub(Bytes::gib(1));
        assert_eq!(
            refusal.hint,
            format!("shrink one first: mayfly dataset set {VPS} quota={least}")
        );
        assert!(refusal.message.contains("0B of the"), "{refusal}");
        refused(&mut hands, &disk(Bytes::gib(1 << 30)), Code::PoolFull);
        assert_eq!(hands.picture(), before, "what is refused changes nothing");
        hands
            .ask(vps, &disk(had.saturating_add(Bytes::gib(5))))
            .unwrap();
        assert_eq!(
            crate::space::unassigned(hands.doc(vps)),
            Bytes::gib(5),
            "nobody has the new space yet"
        );
        // What no dataset has can be taken away again.
        hands.ask(vps, &disk(had)).unwrap();
        hands.assert_sound();
    }
}
