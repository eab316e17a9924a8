//! Conversion and revert: what each makes of a VPS, that its data stays the same all the while, and that a failure leaves what
//! was before.

use std::collections::BTreeSet;

use super::hands::Hands;
use super::{id, mount, path, run, stop};
use crate::bytes::Bytes;
use crate::documents::{ConvertWant, Impermanence, Request};
use crate::error::Code;
use crate::health::Health;
use crate::names::{GuestPath, PoolPath};
use crate::observed::Role;
use crate::plan::{Step, Undo};
use crate::template::RootKind;

const VPS: u32 = 11327;
const PROFILE: &str = "/nix/var/nix/profiles/system";

pub(super) fn want() -> ConvertWant {
    ConvertWant {
        on: Impermanence {
            root_quota_bytes: Bytes::gib(10),
            root_kind: RootKind::Template,
        },
        kind_is_asked: false,
        storage: path("/persistent"),
        nix_quota: None,
        keep: Vec::new(),
    }
}

pub(super) fn convert(want: ConvertWant, n: u8) -> Request {
    Request::Convert {
        want: Box::new(want),
        run: run(n),
    }
}

fn revert(n: u8) -> Request {
    Request::Revert { run: run(n) }
}

/// A persistent VPS that runs, with something dear in it; NixOS-shaped or not.
pub(super) fn lives(is_nixos: bool) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), "debian-12", Some(run(1)));
    let write = |path: &str| hands.host.guest_write(id(VPS), path, "dear").unwrap();
    for path in ["/home/me", "/srv/data", "/var/lib/app/data"] {
        write(path);
    }
    if is_nixos {
        let init = "/nix/store/system/init";
        hands.host.guest_install(id(VPS), init).unwrap();
        hands
            .host
            .guest_link(id(VPS), PROFILE, "/nix/store/system")
            .unwrap();
    }
    hands
}

fn pool(name: &str) -> PoolPath {
    PoolPath::from_pool(name).unwrap()
}

fn read(hands: &Hands, name: &str, path: &str) -> Option<String> {
    hands.host.read(&pool(name), path)
}

fn own_base(hands: &Hands) -> PoolPath {
    hands.doc(id(VPS)).base.own.clone().unwrap()
}

fn units(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn what_is_no_nixos_gets_a_base_of_its_own() {
    for twice in [false, true] {
        let mut hands = lives(false);
        hands.twice = twice;
        let before = hands.doc(id(VPS)).lasting();
        let kept = vec![path("/var/lib/app")];
        hands
            .ask(
                id(VPS),
                &convert(
                    ConvertWant {
                        keep: kept,
                        ..want()
                    },
                    2,
                ),
            )
            .unwrap();
        hands.assert_sound();

        let doc = hands.doc(id(VPS)).clone();
        let base = own_base(&hands);
        assert_eq!(
            hands.host.root_of(id(VPS)).unwrap(),
            doc.run.as_ref().unwrap().root
        );
        assert!(
            doc.run
                .as_ref()
                .unwrap()
                .root
                .named_temporary_root()
                .is_some()
        );
        assert_eq!(doc.mounts, [mount("", "/persistent")]);
        assert_eq!(doc.run.as_ref().unwrap().base, None, "no template's");
        // All is where it was, below the storage; the base has the system, and nothing of what stays anyway.
        for path in [
            "/home/me",
            "/srv/data",
            "/var/lib/app/data",
            "/usr/sbin/init",
        ] {
            let is_system = path == "/usr/sbin/init";
            assert!(hands.host.paths(&pool("11327")).contains(&path.to_owned()));
            assert_eq!(
                hands.host.paths(&base).contains(&path.to_owned()),
                is_system,
                "{path}"
            );
        }
        let declared = &doc.manifest.layout.persistence["/persistent"];
        assert_eq!(
            declared["directories"],
            serde_json::json!(["/home", "/root", "/srv", "/var/lib/app"])
        );

        // It starts again and again from that.
        hands.host.guest_write(id(VPS), "/dirt", "x").unwrap();
        let again = Request::Restart {
            run: run(3),
            timeout_ms: 60_000,
            force: false,
        };
        hands.ask(id(VPS), &again).unwrap();
        hands.assert_sound();
        assert_eq!(hands.host.guest_read(id(VPS), "/dirt"), None);

        hands.ask(id(VPS), &revert(4)).unwrap();
        hands.assert_sound();
        assert_eq!(hands.doc(id(VPS)).lasting(), before);
        assert_eq!(hands.host.root_of(id(VPS)), Some(pool("11327")));
        assert_eq!(
            hands.host.guest_read(id(VPS), "/home/me").as_deref(),
            Some("dear")
        );
        assert!(
            !hands.host.datasets().contains(&base),
            "{:?}",
            hands.host.datasets()
        );
    }
}

#[test]
fn a_nixos_gets_a_dataset_for_its_store() {
    for twice in [false, true] {
        let mut hands = lives(true);
        hands.twice = twice;
        hands.ask(id(VPS), &convert(want(), 2)).unwrap();
        hands.assert_sound();
        let doc = hands.doc(id(VPS)).clone();
        let on = doc.impermanence.as_ref().unwrap();
        assert_eq!(
            (on.root_kind, doc.base.own.clone()),
            (RootKind::Empty, None)
        );
        assert_eq!(doc.mounts, [mount("nix", "/nix"), mount("", "/persistent")]);
        let quotas: Vec<_> = doc
            .datasets
            .iter()
            .map(|d| (d.name.as_str(), d.quota_bytes))
            .collect();
        assert_eq!(quotas, [("", Bytes::gib(100)), ("nix", Bytes::gib(20))]);
        let init = "/store/system/init";
        assert!(
            hands
                .host
                .paths(&pool("11327/nix"))
                .contains(&init.to_owned())
        );
        // The store is out of the guest's reach at its old place, and gone when the rest is done.
        assert_eq!(read(&hands, "11327", "/nix/store/system/init"), None);
        assert!(doc.converted.as_ref().unwrap().taken_out.is_some());
        hands.ask(id(VPS), &Request::ConvertRest {}).unwrap();
        hands.assert_sound();
        assert_eq!(
            hands.doc(id(VPS)).converted.as_ref().unwrap().taken_out,
            None
        );
        assert_eq!(
            hands.plan(id(VPS), &Request::ConvertRest {}).unwrap().steps,
            []
        );
        assert_eq!(
            hands
                .host
                .guest_read(id(VPS), "/persistent/home/me")
                .as_deref(),
            Some("dear")
        );

        hands.ask(id(VPS), &revert(4)).unwrap();
        hands.assert_sound();
        let back = hands.doc(id(VPS)).clone();
        // The middle of the page's steps: a persistent system, with its store in a dataset and its storage beside it.
        assert_eq!(
            (back.impermanence, back.converted, back.storage),
            (None, None, None)
        );
        assert_eq!(back.mounts, doc.mounts);
        assert_eq!(hands.host.root_of(id(VPS)), Some(pool("11327")));
        for path in ["/home/me", "/persistent/home/me"] {
            assert_eq!(
                hands.host.guest_read(id(VPS), path).as_deref(),
                Some("dear")
            );
        }
    }
}

#[test]
fn the_rest_of_a_conversion_may_be_left_to_its_revert() {
    let mut hands = lives(true);
    hands.ask(id(VPS), &convert(want(), 2)).unwrap();
    hands.ask(id(VPS), &revert(3)).unwrap();
    hands.assert_sound();
    assert_eq!(hands.doc(id(VPS)).converted, None);
}

#[test]
fn one_that_is_stopped_is_reverted_where_it_is() {
    let mut hands = lives(false);
    let before = hands.doc(id(VPS)).lasting();
    hands.ask(id(VPS), &convert(want(), 2)).unwrap();
    hands.ask(id(VPS), &stop()).unwrap();
    hands.ask(id(VPS), &revert(3)).unwrap();
    hands.assert_sound();
    assert_eq!(hands.doc(id(VPS)).lasting(), before);
    assert!(!hands.host.is_running(id(VPS)));
}

/// As it is where nobody asked for anything but a stop.
fn at_rest(hands: &mut Hands) -> String {
    if hands.host.is_running(id(VPS)) {
        hands.ask(id(VPS), &stop()).unwrap();
    } else if let Some(doc) = hands.vpses.get_mut(&id(VPS)) {
        doc.desired = crate::documents::Desired::Stopped;
    }
    hands.assert_sound();
    let doc = hands.vpses[&id(VPS)].lasting();
    hands.vpses.insert(id(VPS), doc);
    hands.assert_sound();
    // Mount points stay, and so do the helper's records of a run that was tried; they mean nothing to another one.
    let stays = [
        "/nix",
        "/persistent",
        "/var/lib/mayfly",
        "/var/lib/mayfly/placed",
    ];
    let picture = hands.picture();
    let stays = stays.map(|one| format!(", {one:?}"));
    stays
        .iter()
        .fold(picture, |text, one| text.replace(one, ""))
}

#[test]
fn a_failure_of_any_step_leaves_what_was_there() {
    for (is_nixos, reverts) in [(false, false), (true, false), (false, true), (true, true)] {
        let made = || {
            let mut hands = lives(is_nixos);
            if reverts {
                hands.ask(id(VPS), &convert(want(), 2)).unwrap();
                hands.ask(id(VPS), &Request::ConvertRest {}).unwrap();
            }
            hands.assert_sound();
            hands
        };
        let before = at_rest(&mut made());
        let request = match reverts {
            true => revert(3),
            false => convert(want(), 3),
        };
        for at in 0.. {
            let mut hands = made();
            let plan = hands.plan(id(VPS), &request).unwrap();
            let Some(step) = plan.steps.get(at) else {
                break;
            };
            if step.undo == Undo::Housekeeping {
                continue;
            }
            hands.fails_at = Some(at);
            hands.ask(id(VPS), &request).unwrap_err();
            hands.fails_at = None;
            hands.assert_sound();
            assert_eq!(at_rest(&mut hands), before, "after {}", step.step);
        }
    }
}

#[test]
fn a_guest_that_is_worse_than_before_is_put_back() {
    let mut hands = lives(false);
    let ill = |failed: &[&str]| Health {
        failed: units(failed),
        queued: units(&[]),
    };
    hands.host.set_health(id(VPS), ill(&["old.service"]));
    let plan = hands.plan(id(VPS), &convert(want(), 2)).unwrap();
    let before = plan.steps.iter().find_map(|p| match &p.step {
        Step::AwaitHealth { before, .. } => Some(before.clone()),
        _ => None,
    });
    assert_eq!(before, Some(units(&["old.service"])));
    // What had failed before may fail again.
    hands.ask(id(VPS), &convert(want(), 2)).unwrap();
    hands.assert_sound();
    // A revert that makes it worse leaves it converted.
    let plan = hands.plan(id(VPS), &revert(3)).unwrap();
    let at = plan
        .steps
        .iter()
        .position(|p| matches!(p.step, Step::AwaitHealth { .. }));
    hands.fails_at = at;
    hands.ask(id(VPS), &revert(3)).unwrap_err();
    hands.fails_at = None;
    hands.assert_sound();
    assert!(hands.doc(id(VPS)).converted.is_some());
    // One whose health nobody knows is reverted without being asked for it.
    let start = Request::Start { run: run(4) };
    hands.ask(id(VPS), &start).unwrap();
    hands.host.fail_looks("health");
    hands.ask(id(VPS), &revert(5)).unwrap();
    hands.assert_sound();
}

#[test]
fn all_reasons_are_told_at_once() {
    let mut hands = lives(true);
    hands.ask(id(VPS), &stop()).unwrap();
    let doc = hands.vpses.get_mut(&id(VPS)).unwrap();
    doc.storage = Some(path("/data"));
    let bad = ConvertWant {
        on: Impermanence {
            root_quota_bytes: Bytes::mib(1),
            root_kind: RootKind::Template,
        },
        nix_quota: Some(Bytes::gib(1000)),
        keep: vec![path("/proc/x"), path("/persistent/x"), GuestPath::top()],
        ..want()
    };
    let refusal = hands.plan(id(VPS), &convert(bad, 2)).unwrap_err();
    assert_eq!(refusal.code, Code::NotConvertible);
    for why in [
        "does not run",
        "root quota of 1M",
        "storage is /data",
        "/proc/x cannot stay",
        "/persistent/x stays anyway",
        "/ cannot stay",
        "store may need",
    ] {
        assert!(refusal.message.contains(why), "{why}: {}", refusal.message);
    }
    assert!(refusal.hint.contains("mayfly start"), "{}", refusal.hint);
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let refused = |hands: &Hands, want: ConvertWant, why: &str| {
        let refusal = hands.plan(id(VPS), &convert(want, 2)).unwrap_err();
        assert!(refusal.message.contains(why), "{why}: {}", refusal.message);
    };
    let hands = lives(false);
    let asks_for_empty = ConvertWant {
        on: Impermanence {
            root_quota_bytes: Bytes::gib(10),
            root_kind: RootKind::Empty,
        },
        kind_is_asked: true,
        ..want()
    };
    refused(&hands, asks_for_empty, "no system at");
    hands.host.set_health(
        id(VPS),
        Health {
            queued: units(&["slow.service"]),
            ..Health::default()
        },
    );
    refused(&hands, want(), "slow.service is queued");
    hands.host.fail_looks("health");
    refused(&hands, want(), "nobody can tell how it is");

    // A store that is in a dataset already is left there.
    let mut hands = lives(true);
    hands.ask(id(VPS), &convert(want(), 2)).unwrap();
    refused(&hands, want(), "impermanent already");
    hands.ask(id(VPS), &revert(3)).unwrap();
    let plan = hands.plan(id(VPS), &convert(want(), 4)).unwrap();
    let copies = plan
        .steps
        .iter()
        .any(|p| matches!(p.step, Step::CopyTree { .. }));
    assert!(!copies, "{plan:?}");

    let refusal = hands.plan(id(VPS), &revert(4)).unwrap_err();
    assert!(refusal.message.contains("persistent"), "{refusal:?}");
    let mut hands = Hands::new();
    hands.create(id(VPS), "debian-12-impermanence", Some(run(1)));
    let refusal = hands.plan(id(VPS), &revert(2)).unwrap_err();
    assert!(refusal.message.contains("was not converted"), "{refusal:?}");
}

#[test]
fn what_has_a_base_of_its_own_takes_no_templates() {
    let mut hands = lives(false);
    hands.ask(id(VPS), &convert(want(), 2)).unwrap();
    let change = crate::change::VpsChange {
        base: Some("debian-12-impermanence".parse().unwrap()),
        ..Default::default()
    };
    let rebase = Request::Set { change };
    let reinstall = Request::Reinstall {
        template: "debian-12-impermanence".parse().unwrap(),
        scope: Some(crate::documents::ReinstallScope::Os),
        run: run(3),
        boot_ms: 1,
    };
    for request in [rebase, reinstall] {
        let refusal = hands.plan(id(VPS), &request).unwrap_err();
        assert!(refusal.hint.contains("impermanence revert"), "{refusal:?}");
    }
    // It goes with the VPS.
    let base = own_base(&hands);
    assert!(
        matches!(hands.host.mark(&base), Some(crate::observed::MarkSeen::Local(m)) if m.role == Role::Base)
    );
    hands
        .ask(id(VPS), &Request::Destroy { now: false })
        .unwrap();
    hands.assert_sound();
    assert_eq!(
        hands
            .host
            .datasets()
            .iter()
            .find(|d| !d.is_grave() && d.as_str().starts_with("11327")),
        None
    );
}

#[test]
fn a_dataset_for_the_store_finds_its_place_in_the_disk_space() {
    let hands = lives(true);
    let plan = hands.plan(id(VPS), &convert(want(), 2)).unwrap();
    let made: Vec<String> = plan.lines().into_iter().take(2).collect();
    assert_eq!(
        made,
        [
            "set the quota of 11327 to 100G",
            "make dataset 11327/nix, quota 20G"
        ]
    );
    let asked = ConvertWant {
        nix_quota: Some(Bytes::gib(50)),
        ..want()
    };
    let plan = hands.plan(id(VPS), &convert(asked, 2)).unwrap();
    assert_eq!(plan.lines()[1], "make dataset 11327/nix, quota 50G");
}

#[test]
fn a_conversion_goes_with_features_and_back_as_a_whole() {
    let mut hands = lives(true);
    let features = crate::features::FeaturesChange {
        switches: [(crate::features::Feature::Tun, true)].into(),
        ..Default::default()
    };
    let with_tun = Request::SetFeatures {
        change: features,
        run: run(2),
    };
    hands.ask(id(VPS), &with_tun).unwrap();
    hands.ask(id(VPS), &convert(want(), 3)).unwrap();
    hands.assert_sound();
    let off = crate::features::FeaturesChange {
        impermanence: Some(None),
        ..Default::default()
    };
    let off = Request::SetFeatures {
        change: off,
        run: run(4),
    };
    let refusal = hands.plan(id(VPS), &off).unwrap_err();
    assert!(refusal.hint.contains("impermanence revert"), "{refusal:?}");
    // What lies beside the root dataset's contents is destroyed before those are put aside.
    let reinstall = Request::Reinstall {
        template: "nixos-shaped".parse().unwrap(),
        scope: Some(crate::documents::ReinstallScope::Data),
        run: run(4),
        boot_ms: 1,
    };
    let refusal = hands.plan(id(VPS), &reinstall).unwrap_err();
    assert_eq!(refusal.code, Code::VpsBusy, "{refusal:?}");
    hands.ask(id(VPS), &revert(5)).unwrap();
    hands.assert_sound();
}

#[test]
fn what_stays_neither_holds_the_storage_nor_lies_in_the_store() {
    let refused = |is_nixos: bool, want: ConvertWant, why: &str| {
        let refusal = lives(is_nixos)
            .plan(id(VPS), &convert(want, 2))
            .unwrap_err();
        assert!(refusal.message.contains(why), "{why}: {}", refusal.message);
    };
    let inside = ConvertWant {
        storage: path("/srv/keep"),
        ..want()
    };
    refused(false, inside, "/srv/keep lies in /srv");
    let stored = ConvertWant {
        keep: vec![path("/nix/var/x")],
        ..want()
    };
    refused(true, stored, "/nix/var/x stays anyway");
}
