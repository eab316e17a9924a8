//! Golden plans: their differences are differences of behaviour. `MAYFLY_BLESS=1` writes them anew.

use std::path::Path;

use super::hands::{Hands, impermanence};
use super::{dataset, id, mount, name, path, restart, run, start, stop};
use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::documents::{Desired, Impermanence, Request};
use crate::plan::{Plan, Undo};
use crate::run::RunEnd;
use crate::template::RootKind;

fn render(plan: &Plan) -> String {
    let mut text = String::new();
    for planned in &plan.steps {
        text += &format!("{}\n", planned.step);
        text += &match &planned.undo {
            Undo::Step(step) => format!("    undo: {step}\n"),
            Undo::None { why } => format!("    no undo: {why}\n"),
            Undo::Housekeeping => "    housekeeping: its failure fails nothing\n".to_owned(),
        };
    }
    if text.is_empty() {
        "nothing to do\n".to_owned()
    } else {
        text
    }
}

#[track_caller]
fn golden(file: &str, plan: &Plan) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata/plans")
        .join(format!("{file}.txt"));
    let got = render(plan);
    if std::env::var_os("MAYFLY_BLESS").is_some() {
        std::fs::write(&file, &got).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        got,
        want,
        "{} differs; look, then MAYFLY_BLESS=1",
        file.display()
    );
}

/// A host with one VPS, 11327, of that template; it runs as run 1.
fn running(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(11327), template, Some(run(1)));
    hands
}

fn stopped(template: &str) -> Hands {
    let mut hands = running(template);
    hands.ask(id(11327), &stop()).unwrap();
    hands
}

#[track_caller]
pub(super) fn check(file: &str, hands: &mut Hands, request: &Request) {
    let plan = hands.ask(id(11327), request).unwrap();
    golden(file, &plan);
    hands.assert_sound();
}

#[test]
fn create_debian_persistent() {
    golden(
        "create-debian",
        &Hands::new().create(id(11327), "debian-12", None),
    );
}

#[test]
fn create_debian_impermanent_and_start_it() {
    let mut hands = Hands::new();
    golden(
        "create-debian-impermanence-start",
        &hands.create(id(11327), "debian-12-impermanence", Some(run(1))),
    );
    hands.assert_sound();
}

/// The platform's files of the network in `/etc` of Debian; of NixOS only the plug.
#[test]
fn create_on_a_node_with_a_network() {
    for (file, template) in [
        ("create-debian-network", "debian-12"),
        (
            "create-debian-impermanence-network-start",
            "debian-12-impermanence",
        ),
        ("create-nixos-network-start", "nixos-shaped"),
    ] {
        let mut hands = Hands::new();
        hands.network = Some(crate::network::NodeNetwork {
            bridge: "mayfly0".parse().unwrap(),
            subnet: "10.77.0.0/16".parse().unwrap(),
            prefix: "fd4d:6179:666c:7900::/64".parse().unwrap(),
        });
        let start = (template != "debian-12").then(|| run(1));
        golden(file, &hands.create(id(11327), template, start));
        let forward = "8080:80".parse().unwrap();
        let plan = hands.ask(id(11327), &Request::PortAdd { forward });
        golden("port-add", &plan.unwrap());
        hands.assert_sound();
    }
}

#[test]
fn create_nixos_takes_the_store_out_of_the_disk_space() {
    let mut hands = Hands::new();
    golden(
        "create-nixos",
        &hands.create(id(11327), "nixos-shaped", None),
    );
    let quotas: Vec<_> = hands
        .doc(id(11327))
        .datasets
        .iter()
        .map(|d| (d.name.as_str(), d.quota_bytes))
        .collect();
    assert_eq!(quotas, [("", Bytes::gib(100)), ("nix", Bytes::gib(20))]);
}

#[test]
fn start_gives_up_the_last_root_when_the_new_init_lives() {
    check(
        "start-debian-impermanence",
        &mut stopped("debian-12-impermanence"),
        &start(2),
    );
    check("start-nixos", &mut stopped("nixos-shaped"), &start(2));
}

#[test]
fn start_of_a_persistent_root() {
    check("start-debian", &mut stopped("debian-12"), &start(2));
}

#[test]
fn start_with_mounts_in_mounts() {
    let mut hands = stopped("nixos-shaped");
    let vps = id(11327);
    for request in [
        dataset("srv", 5, Some("/srv")),
        dataset("srv/data", 5, Some("/srv/data/one")),
        dataset("deep", 5, Some("/srv/data/one/a/b")),
        dataset("kept", 5, Some("/persistent/kept")),
        Request::MountAdd {
            mount: mount("kept", "/var/lib/kept"),
        },
    ] {
        // The root dataset has all of the disk space that is left.
        let less = hands.doc(vps).datasets[0]
            .quota_bytes
            .saturating_sub(Bytes::gib(5));
        hands
            .ask(
                vps,
                &Request::DatasetSet {
                    name: name(""),
                    quota_bytes: less,
                },
            )
            .unwrap();
        hands.ask(vps, &request).unwrap();
    }
    check("start-nested-mounts", &mut hands, &start(2));
    assert_eq!(
        hands
            .host
            .guest_write(vps, "/srv/data/one/a/b/file", "deep"),
        Ok(())
    );
    let deep = hands.doc(vps).pool_path(&name("deep"));
    assert_eq!(hands.host.read(&deep, "/file").as_deref(), Some("deep"));
}

#[test]
fn start_after_a_crash_of_the_host() {
    let mut hands = running("debian-12-impermanence");
    hands.host = hands.host.reboot();
    check("start-after-dead-run", &mut hands, &start(2));
}

#[test]
fn start_with_an_orphan_alive() {
    let mut hands = running("debian-12-impermanence");
    hands.host.orphan(id(11327));
    hands.vpses.get_mut(&id(11327)).unwrap().run = None;
    check("start-with-orphan", &mut hands, &start(2));
}

#[test]
fn restart_running() {
    check(
        "restart",
        &mut running("debian-12-impermanence"),
        &restart(2),
    );
    check("restart-persistent", &mut running("debian-12"), &restart(2));
}

#[test]
fn stop_in_all_ways() {
    check("stop", &mut running("debian-12-impermanence"), &stop());
    let discard = Request::Stop {
        timeout_ms: 60_000,
        force: true,
        discard: true,
    };
    check(
        "stop-force-discard",
        &mut running("debian-12-impermanence"),
        &discard,
    );
    check(
        "stop-discard-stopped",
        &mut stopped("debian-12-impermanence"),
        &discard,
    );
    let mut dead = running("debian-12-impermanence");
    dead.host.guest_crash(id(11327));
    check("stop-dead-run", &mut dead, &stop());
}

#[test]
fn destroy_running_and_stopped() {
    let mut hands = running("nixos-shaped");
    check(
        "destroy-running-now",
        &mut hands,
        &Request::Destroy { now: true },
    );
    assert!(hands.vpses.is_empty());
    let mut hands = stopped("debian-12-impermanence");
    check(
        "destroy-with-last-root",
        &mut hands,
        &Request::Destroy { now: false },
    );
    assert_eq!(hands.host.given_up().len(), 1);
}

#[test]
fn datasets_and_mounts() {
    let mut hands = stopped("nixos-shaped");
    let shrink = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(80),
    };
    check("dataset-set", &mut hands, &shrink);
    check(
        "dataset-create-mounted",
        &mut hands,
        &dataset("srv", 10, Some("/srv")),
    );
    check(
        "mount-remove",
        &mut hands,
        &Request::MountRemove { path: path("/srv") },
    );
    check(
        "mount-add",
        &mut hands,
        &Request::MountAdd {
            mount: mount("srv", "/data"),
        },
    );
    check(
        "dataset-destroy-forced",
        &mut hands,
        &Request::DatasetDestroy {
            name: name("srv"),
            force: true,
        },
    );
}

#[test]
fn limits_of_a_vps_that_runs_and_of_one_that_does_not() {
    let set = |change| Request::Set { change };
    let memory = |gib| VpsChange {
        memory_bytes: Some(Bytes::gib(gib)),
        ..VpsChange::default()
    };
    let all = VpsChange {
        memory_bytes: Some(Bytes::gib(4)),
        swap_bytes: Some(Bytes::gib(1)),
        cpu_percent: Some(Some(150)),
        processes: Some(500),
        ..VpsChange::default()
    };
    let mut hands = running("debian-12-impermanence");
    check("set-running", &mut hands, &set(all.clone()));
    let held = hands.host.limits_of(id(11327)).unwrap();
    assert_eq!(held, all.limits(&held), "the run that goes on has them");
    check("set-again", &mut hands, &set(all));
    hands.ask(id(11327), &stop()).unwrap();
    let free = VpsChange {
        cpu_percent: Some(None),
        ..VpsChange::default()
    };
    check("set-stopped", &mut hands, &set(free));
    hands.ask(id(11327), &start(2)).unwrap();
    let held = hands.host.limits_of(id(11327)).unwrap();
    assert_eq!(
        (held.memory_bytes, held.cpu_percent),
        (Some(Bytes::gib(4)), None),
        "the next run has them all"
    );
    hands.host.guest_crash(id(11327));
    check("set-dead-run", &mut hands, &set(memory(3)));
}

#[test]
fn features_on_and_off() {
    let on = |root_kind| {
        let want = Impermanence {
            root_quota_bytes: Bytes::gib(5),
            root_kind,
        };
        impermanence(Some(want), run(2))
    };
    let off = |n| impermanence(None, run(n));
    let mut hands = running("debian-12");
    check("feature-on-running", &mut hands, &on(RootKind::Template));
    check("feature-on-again", &mut hands, &on(RootKind::Template));
    check("feature-off-running", &mut hands, &off(3));
    let mut hands = stopped("debian-12");
    check("feature-on-stopped", &mut hands, &on(RootKind::Template));
    hands.ask(id(11327), &start(3)).unwrap();
    hands.ask(id(11327), &stop()).unwrap();
    check("feature-off-stopped", &mut hands, &off(4));
    assert!(
        hands.doc(id(11327)).last_root.is_some(),
        "switching off is no start: the last root stays (R7)"
    );
    check("start-after-feature-off", &mut hands, &start(5));
    assert_eq!(hands.doc(id(11327)).last_root, None);
}

#[test]
fn ends_of_runs() {
    let ended = |n: u8, end: RunEnd| Request::RunEnded {
        run: run(n),
        end,
        next: run(n + 1),
        boot_ms: 1000 * u64::from(n),
    };
    let crashed = || RunEnd::Crashed {
        detail: "init died".into(),
    };
    let mut hands = running("debian-12-impermanence");
    hands.host.guest_poweroff(id(11327));
    check("ended-poweroff", &mut hands, &ended(1, RunEnd::PowerOff));
    assert_eq!(hands.doc(id(11327)).desired, Desired::Stopped);
    check(
        "ended-settled-already",
        &mut hands,
        &ended(1, RunEnd::PowerOff),
    );
    let mut hands = running("debian-12-impermanence");
    hands.host.guest_reboot(id(11327));
    check("ended-reboot", &mut hands, &ended(1, RunEnd::Reboot));
    for n in 2..=5 {
        hands.ask(id(11327), &start(n)).unwrap();
        hands.host.kill_supervisor(id(11327));
        let file = if n < 5 {
            format!("ended-crashed-{n}")
        } else {
            "ended-crashed-too-often".to_owned()
        };
        check(&file, &mut hands, &ended(n, crashed()));
        assert_eq!(
            crate::plan::should_start(hands.doc(id(11327))),
            n < 5,
            "the fourth crash is the last"
        );
    }
}

#[test]
fn templates_come_and_go() {
    let mut hands = Hands::new();
    let remove = |of: &str| Request::TemplateRemove {
        name: of.parse().unwrap(),
    };
    check("template-remove-shared", &mut hands, &remove("debian-12"));
    check(
        "template-remove",
        &mut hands,
        &remove("debian-12-impermanence"),
    );
    assert_eq!(
        hands.host.datasets().len(),
        3,
        "only the parts of the other template are left"
    );
    let build = Request::TemplateBuild {
        recipe: "debian-12".into(),
        name: "debian-12".parse().unwrap(),
        mirror: None,
        replace: false,
    };
    check("template-build", &mut hands, &build);
    assert_eq!(hands.host.datasets().len(), 4);
}

#[test]
fn convert_and_revert() {
    for (file, is_nixos) in [("debian", false), ("nixos", true)] {
        let mut hands = super::convert::lives(is_nixos);
        let request = super::convert::convert(super::convert::want(), 2);
        check(&format!("convert-{file}"), &mut hands, &request);
        check(
            &format!("convert-{file}-rest"),
            &mut hands,
            &Request::ConvertRest {},
        );
        check(
            &format!("revert-{file}"),
            &mut hands,
            &Request::Revert { run: run(3) },
        );
    }
}
