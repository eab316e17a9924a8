//! Things that went wrong once, or that a reviewer would ask about.

use super::hands::{Hands, impermanence};
use super::{dataset, id, mount, name, restart, run, start, stop};
use crate::bytes::Bytes;
use crate::documents::{Desired, Impermanence, Request};
use crate::error::Code;
use crate::fake::{FakeHost, StartFault};
use crate::ids::VpsId;
use crate::plan::{Plan, should_start};
use crate::run::RunEnd;
use crate::template::RootKind;

fn vps() -> VpsId {
    id(11327)
}

fn running(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(vps(), template, Some(run(1)));
    hands
}

fn stopped(template: &str) -> Hands {
    let mut hands = running(template);
    hands
        .host
        .guest_write(
            vps(),
            "/var/log/unsaved",
            "a mistyped poweroff loses nothing yet",
        )
        .unwrap();
    hands.ask(vps(), &stop()).unwrap();
    hands
}

const FAULTS: [StartFault; 4] = [
    StartFault::LaunchFails,
    StartFault::EndsBeforeInit,
    StartFault::Hangs,
    StartFault::InitDies,
];

#[test]
fn a_start_that_fails_leaves_the_last_root_where_it_was() {
    for fault in FAULTS {
        for request in [start(2), restart(2)] {
            let mut hands = stopped("debian-12-impermanence");
            let before = hands.doc(vps()).clone();
            let last = before.last_root.clone().unwrap();
            hands.host.fail_start(vps(), fault);
            hands.ask(vps(), &request).unwrap_err();
            assert_eq!(*hands.doc(vps()), before);
            assert!(
                hands.host.read(&last, "/var/log/unsaved").is_some(),
                "{fault:?}"
            );
            hands.assert_sound();
            assert!(
                hands.host.read(&last, "/var/log/unsaved").is_some(),
                "the reaper leaves it alone as well"
            );
        }
    }
}

#[test]
fn a_restart_whose_start_fails_keeps_the_root_that_it_stopped() {
    for fault in FAULTS {
        let mut hands = running("debian-12-impermanence");
        let root = hands.host.root_of(vps()).unwrap();
        hands.host.fail_start(vps(), fault);
        hands.ask(vps(), &restart(2)).unwrap_err();
        let doc = hands.doc(vps());
        assert_eq!(
            (doc.run.as_ref(), doc.last_root.as_ref()),
            (None, Some(&root))
        );
        assert!(should_start(doc), "it ought to run, so it is tried again");
        hands.assert_sound();
    }
}

#[test]
fn a_feature_change_whose_start_fails_is_taken_back() {
    for fault in FAULTS {
        let mut hands = running("debian-12");
        hands
            .host
            .guest_write(vps(), "/root/work", "precious")
            .unwrap();
        hands.host.fail_start(vps(), fault);
        let want = Impermanence {
            root_quota_bytes: Bytes::gib(1),
            root_kind: RootKind::Template,
        };
        hands
            .ask(vps(), &impermanence(Some(want), run(2)))
            .unwrap_err();
        assert_eq!(hands.doc(vps()).impermanence, None);
        hands.assert_sound();
        hands.ask(vps(), &start(3)).unwrap();
        assert_eq!(
            hands.host.guest_read(vps(), "/root/work").as_deref(),
            Some("precious")
        );
    }
}

#[test]
fn a_create_whose_start_fails_leaves_nothing() {
    for fault in FAULTS {
        let mut hands = Hands::new();
        hands.host.fail_start(vps(), fault);
        let new = Box::new(hands.resolve(&Hands::input(vps()), "nixos-shaped").unwrap());
        hands
            .ask(
                vps(),
                &Request::Create {
                    new,
                    start: Some(run(1)),
                },
            )
            .unwrap_err();
        assert!(hands.vpses.is_empty());
        hands.assert_sound();
        assert!(
            hands
                .host
                .datasets()
                .iter()
                .all(|d| d.as_str().starts_with("templates/"))
        );
    }
}

#[test]
fn a_dataset_that_cannot_be_made_on_a_running_vps_is_taken_back() {
    let mut hands = running("debian-12");
    hands
        .ask(
            vps(),
            &Request::DatasetSet {
                name: name(""),
                quota_bytes: Bytes::gib(50),
            },
        )
        .unwrap();
    let before = hands.doc(vps()).clone();
    hands.host.pool_full(true);
    assert_eq!(
        hands.ask(vps(), &dataset("srv", 5, None)).unwrap_err().code,
        Code::PoolFull
    );
    assert_eq!(*hands.doc(vps()), before);
    assert!(hands.host.is_running(vps()));
}

#[test]
fn whatever_is_alive_keeps_datasets_from_being_destroyed() {
    let mut hands = running("nixos-shaped");
    hands.host.orphan(vps());
    hands.vpses.get_mut(&vps()).unwrap().run = None;
    let destroy = Request::DatasetDestroy {
        name: name("nix"),
        force: true,
    };
    assert_eq!(
        hands.ask(vps(), &destroy).unwrap_err().code,
        Code::VpsRunning
    );
    assert_eq!(
        hands
            .ask(
                vps(),
                &Request::MountAdd {
                    mount: mount("", "/x")
                }
            )
            .unwrap_err()
            .code,
        Code::VpsRunning
    );
    hands.ask(vps(), &stop()).unwrap();
    hands.ask(vps(), &destroy).unwrap();
    hands.assert_sound();
}

#[test]
fn a_stray_mount_keeps_a_destroy_from_going_on() {
    let mut hands = stopped("nixos-shaped");
    let nix = hands.doc(vps()).pool_path(&name("nix"));
    hands.host.stray_mount(vps(), &nix);
    assert!(hands.ask(vps(), &Request::Destroy { now: true }).is_err());
    assert!(hands.host.given_up().is_empty());
    hands.host.drop_strays();
    hands.ask(vps(), &Request::Destroy { now: true }).unwrap();
    hands.assert_sound();
}

#[test]
fn the_end_of_a_run_that_someone_settled_is_nothing() {
    let ended = |end| Request::RunEnded {
        run: run(1),
        end,
        next: run(2),
        boot_ms: 1,
    };
    let failed = || RunEnd::FailedToStart {
        detail: String::new(),
    };
    let crashed = || RunEnd::Crashed {
        detail: String::new(),
    };
    for end in [
        RunEnd::PowerOff,
        RunEnd::Reboot,
        RunEnd::Killed,
        RunEnd::HostDown,
        crashed(),
        failed(),
    ] {
        let hands = stopped("debian-12");
        assert_eq!(
            hands.plan(vps(), &ended(end.clone())).unwrap(),
            Plan::default(),
            "{end:?} after a stop"
        );
        let mut hands = running("debian-12");
        hands.ask(vps(), &restart(2)).unwrap();
        assert_eq!(
            hands.plan(vps(), &ended(end.clone())).unwrap(),
            Plan::default(),
            "{end:?} after a restart"
        );
    }
    // It counts where the VPS ought to run: it would be started again for ever.
    let mut hands = stopped("debian-12");
    hands.vpses.get_mut(&vps()).unwrap().desired = Desired::Running;
    hands.ask(vps(), &ended(failed())).unwrap();
    assert_eq!(hands.doc(vps()).crashes.len(), 1);
    // However often it is heard of, it counts once.
    assert_eq!(
        hands.plan(vps(), &ended(failed())).unwrap(),
        Plan::default()
    );
}

#[test]
fn a_dead_run_that_nobody_settled_does_not_confuse_a_feature_change() {
    let mut hands = running("debian-12-impermanence");
    let root = hands.host.root_of(vps()).unwrap();
    hands.host = hands.host.reboot();
    let want = Impermanence {
        root_quota_bytes: Bytes::gib(1),
        root_kind: RootKind::Template,
    };
    hands.ask(vps(), &impermanence(Some(want), run(2))).unwrap();
    let ended = Request::RunEnded {
        run: run(1),
        end: RunEnd::HostDown,
        next: run(2),
        boot_ms: 1,
    };
    hands.ask(vps(), &ended).unwrap();
    assert_eq!(hands.doc(vps()).last_root, Some(root));
    assert!(should_start(hands.doc(vps())));
    hands.assert_sound();
}

#[test]
fn what_comes_back_with_the_host_is_what_autostart_says() {
    use crate::change::{SetAutostart, VpsChange};
    use crate::documents::AutostartWhen::{Last, Off, On};
    for (when, ran, comes) in [(Last, true, true), (On, true, true), (Off, true, false)] {
        let mut hands = Hands::new();
        hands.create(vps(), "debian-12-impermanence", Some(run(1)));
        let change = VpsChange {
            autostart: Some(SetAutostart {
                when,
                priority: None,
            }),
            ..VpsChange::default()
        };
        hands.ask(vps(), &Request::Set { change }).unwrap();
        assert_eq!(hands.host.is_running(vps()), ran);
        hands.host = hands.host.reboot();
        let ended = Request::RunEnded {
            run: run(1),
            end: RunEnd::HostDown,
            next: run(9),
            boot_ms: 5_000,
        };
        hands.ask(vps(), &ended).unwrap();
        assert_eq!(should_start(hands.doc(vps())), comes, "autostart {when}");
        hands.assert_sound();
    }
}

fn everything(hands: &mut Hands) {
    let steps: [Request; 11] = [
        start(1),
        dataset("srv", 5, None),
        stop(),
        Request::DatasetSet {
            name: name(""),
            quota_bytes: Bytes::gib(50),
        },
        dataset("srv", 5, Some("/srv")),
        start(2),
        restart(3),
        Request::Stop {
            timeout_ms: 1,
            force: true,
            discard: true,
        },
        Request::DatasetDestroy {
            name: name("srv"),
            force: true,
        },
        start(4),
        Request::Destroy { now: true },
    ];
    hands.create(vps(), "nixos-shaped", None);
    for (at, request) in steps.iter().enumerate() {
        drop(hands.ask(vps(), request));
        if hands.host.is_running(vps()) {
            hands
                .host
                .guest_write(vps(), &format!("/persistent/{at}"), "precious")
                .unwrap();
        }
    }
}

#[test]
fn a_daemon_that_dies_anywhere_is_finished_by_the_next() {
    let mut whole = Hands::new();
    everything(&mut whole);
    let kinds: [fn(&FakeHost, usize) -> FakeHost; 3] = [
        FakeHost::crash_before,
        FakeHost::crash_half_way,
        FakeHost::crash_after,
    ];
    for crash in kinds {
        for cut in 1..=whole.host.calls().len() {
            let mut hands = Hands::new();
            crash(&hands.host, cut);
            everything(&mut hands);
            assert_eq!(
                hands.picture(),
                whole.picture(),
                "cut at {cut}: {:?}",
                hands.host.calls().get(cut - 1)
            );
            hands.assert_sound();
        }
    }
}

#[test]
fn a_host_that_goes_down_anywhere_loses_no_data() {
    let mut whole = Hands::new();
    everything(&mut whole);
    for cut in 1..=whole.host.calls().len() {
        let mut hands = Hands::new();
        hands.reboots = true;
        hands.host.crash_half_way(cut);
        hands.create(vps(), "nixos-shaped", None);
        for request in [
            start(1),
            stop(),
            dataset("srv", 5, Some("/srv")),
            start(2),
            restart(3),
            stop(),
        ] {
            drop(hands.ask(vps(), &request));
            let _ = hands
                .host
                .guest_write(vps(), "/persistent/file", "precious");
            if !hands.host.is_running(vps()) && hands.doc(vps()).run.is_some() {
                drop(hands.ask(vps(), &stop()));
            }
        }
        hands.host.no_crash();
        hands.assert_sound();
    }
}
