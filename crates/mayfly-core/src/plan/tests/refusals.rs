//! Every refusal of the planner: its code, and a hint that can be followed.

use super::hands::{Hands, impermanence};
use super::{dataset, id, mount, name, path, restart, run, start, stop};
use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::documents::{Impermanence, Lifecycle, Request};
use crate::error::{Code, Refusal};
use crate::names::PoolPath;
use crate::observed::MarkSeen;
use crate::plan::{plan_create, plan_vps};
use crate::run::{IdRange, RunEnd};
use crate::template::RootKind;

mod datasets;

const VPS: u32 = 11327;

fn scene(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), template, None);
    hands
}

fn running(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), template, Some(run(1)));
    hands
}

/// The refusal of a request, which must not have changed anything.
#[track_caller]
fn refused(hands: &mut Hands, request: &Request, code: Code) -> Refusal {
    let (before, calls) = (hands.picture(), hands.host.calls().len());
    let refusal = hands.ask(id(VPS), request).unwrap_err();
    assert_eq!(refusal.code, code, "{refusal:?}");
    assert!(!refusal.hint.is_empty());
    assert_eq!(
        (hands.picture(), hands.host.calls().len()),
        (before, calls),
        "a refusal changed something"
    );
    refusal
}

fn on(root_kind: RootKind) -> Request {
    let want = Some(Impermanence {
        root_quota_bytes: Bytes::gib(10),
        root_kind,
    });
    impermanence(want, run(9))
}

#[test]
fn an_empty_root_without_nix_is_refused_with_the_cure() {
    let mut hands = scene("nixos-shaped");
    hands
        .ask(id(VPS), &Request::MountRemove { path: path("/nix") })
        .unwrap();
    for request in [start(1), restart(1)] {
        let refusal = refused(&mut hands, &request, Code::VpsWouldNotBoot);
        assert!(
            refusal.message.ends_with("nothing is mounted at /nix"),
            "{refusal:?}"
        );
        assert!(
            refusal
                .hint
                .contains("mayfly dataset create 11327/nix --quota 20G --mount /nix"),
            "{refusal:?}"
        );
    }
}

#[test]
fn a_profile_that_is_missing_or_dangling_is_refused_with_the_cure() {
    let mut hands = scene("nixos-shaped");
    let nix = hands.doc(id(VPS)).pool_path(&name("nix"));
    hands
        .host
        .plant_link(&nix, "/var/nix/profiles/system", "system-2-link");
    let refusal = refused(&mut hands, &start(1), Code::VpsWouldNotBoot);
    assert!(
        refusal
            .message
            .contains("leads to /nix/var/nix/profiles/system-2-link, which is not there"),
        "{refusal:?}"
    );
    hands
        .host
        .plant_link(&nix, "/var/nix/profiles/system", "/nix/store/gone");
    let refusal = refused(&mut hands, &start(1), Code::VpsWouldNotBoot);
    assert!(
        refusal
            .message
            .contains("leads to /nix/store/gone, which is not there"),
        "{refusal:?}"
    );
    hands
        .host
        .plant_link(&nix, "/var/nix/profiles/system", "/nix/store/plain");
    hands.host.plant(&nix, "/store/plain/init", "no program");
    let refusal = refused(&mut hands, &start(1), Code::VpsWouldNotBoot);
    assert!(refusal.message.contains("not executable"), "{refusal:?}");
    assert!(
        refusal.hint.contains("impermanence=off") && refusal.hint.contains("deploy a system"),
        "{refusal:?}"
    );
}

#[test]
fn a_link_that_points_to_itself_is_no_init() {
    let mut hands = scene("nixos-shaped");
    let nix = hands.doc(id(VPS)).pool_path(&name("nix"));
    hands
        .host
        .plant_link(&nix, "/var/nix/profiles/system", "system");
    refused(&mut hands, &start(1), Code::VpsWouldNotBoot);
}

#[test]
fn a_feature_change_is_refused_unless_the_result_would_boot() {
    let mut hands = running("debian-12");
    let refusal = refused(&mut hands, &on(RootKind::Empty), Code::VpsWouldNotBoot);
    assert!(
        refusal.hint.contains("mayfly impermanence convert"),
        "{refusal:?}"
    );
    let mut hands = scene("nixos-shaped");
    let refusal = refused(
        &mut hands,
        &impermanence(None, run(9)),
        Code::VpsWouldNotBoot,
    );
    assert!(
        refusal.message.contains("/sbin is not there") && refusal.hint.contains("holds data"),
        "{refusal:?}"
    );
    let small = Impermanence {
        root_quota_bytes: Bytes::mib(1),
        root_kind: RootKind::Empty,
    };
    refused(
        &mut hands,
        &impermanence(Some(small), run(9)),
        Code::Invalid,
    );
}

#[test]
fn a_base_that_is_not_in_the_pool_is_refused_before_anything_is_done() {
    let mut hands = scene("debian-12");
    let new = hands
        .resolve(&Hands::input(id(200)), "debian-12-impermanence")
        .unwrap();
    hands
        .host
        .destroy_by_hand(&PoolPath::from_pool("templates/dededededededede").unwrap());
    refused(&mut hands, &on(RootKind::Template), Code::TemplateNotFound);
    refused(
        &mut hands,
        &Request::Create {
            new: Box::new(new),
            start: None,
        },
        Code::TemplateNotFound,
    );
}

#[test]
fn too_much_disk_space_says_how_much_is_free_and_what_to_shrink() {
    let mut hands = scene("nixos-shaped");
    let refusal = refused(&mut hands, &dataset("srv", 5, None), Code::DiskSpace);
    assert!(
        refusal
            .message
            .contains("wants 5G, and 0B of its disk space of 120G are free"),
        "{refusal:?}"
    );
    assert_eq!(
        refusal.hint,
        "shrink another dataset first: mayfly dataset set 11327 quota=95G"
    );
    let grow = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(110),
    };
    let refusal = refused(&mut hands, &grow, Code::DiskSpace);
    assert_eq!(
        refusal.hint,
        "shrink another dataset first: mayfly dataset set 11327/nix quota=10G"
    );
}

#[test]
fn a_quota_below_use_is_refused_with_a_number_that_can_be_typed() {
    let mut hands = running("debian-12");
    hands
        .host
        .guest_fill(id(VPS), "/var/big", Bytes((3 << 30) + 1))
        .unwrap();
    let shrink = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(2),
    };
    let refusal = refused(&mut hands, &shrink, Code::QuotaBelowUse);
    let typed = refusal
        .hint
        .split(' ')
        .find_map(|word| word.parse::<Bytes>().ok())
        .expect("a size in the hint");
    hands
        .ask(
            id(VPS),
            &Request::DatasetSet {
                name: name(""),
                quota_bytes: typed,
            },
        )
        .unwrap();
    refused(
        &mut hands,
        &Request::DatasetSet {
            name: name("x"),
            quota_bytes: typed,
        },
        Code::DatasetNotFound,
    );
    refused(
        &mut hands,
        &Request::DatasetSet {
            name: name(""),
            quota_bytes: Bytes(1),
        },
        Code::Invalid,
    );
}

#[test]
fn the_pool_is_not_promised_more_than_twice() {
    let mut hands = scene("debian-12");
    let mut input = Hands::input(id(200));
    input.disk = Some(Bytes::gib(2048 - 120 + 1));
    let new = Box::new(hands.resolve(&input, "debian-12").unwrap());
    let refusal = refused(
        &mut hands,
        &Request::Create { new, start: None },
        Code::PoolFull,
    );
    assert!(refusal.message.contains("200 %"), "{refusal:?}");
    input.disk = Some(Bytes::gib(2048 - 120));
    let new = Box::new(hands.resolve(&input, "debian-12").unwrap());
    hands
        .ask(id(200), &Request::Create { new, start: None })
        .unwrap();
    let shrink = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(100),
    };
    hands.ask(id(VPS), &shrink).unwrap();
    hands.ask(id(VPS), &dataset("srv", 20, None)).unwrap();
}

#[test]
fn mounts_that_cannot_be() {
    let mut hands = scene("nixos-shaped");
    let add = |of: &str, at: &str| Request::MountAdd {
        mount: mount(of, at),
    };
    refused(&mut hands, &add("", "/nix"), Code::MountExists);
    refused(&mut hands, &add("none", "/x"), Code::DatasetNotFound);
    for taken in [
        "/",
        "/dev",
        "/dev/shm",
        "/proc",
        "/sys/fs",
        "/run",
        "/run/mayfly",
        "/sbin/init",
    ] {
        refused(&mut hands, &add("nix", taken), Code::MountPointRefused);
    }
    refused(
        &mut hands,
        &Request::MountRemove { path: path("/x") },
        Code::MountNotFound,
    );
    // The root dataset may be mounted while it is also `/`, and any dataset at two paths.
    let mut debian = scene("debian-12");
    debian.ask(id(VPS), &add("", "/persistent")).unwrap();
    debian.ask(id(VPS), &add("", "/devices")).unwrap();
    refused(
        &mut debian,
        &add("", "/etc/hostname"),
        Code::MountPointRefused,
    );
    debian.ask(id(VPS), &start(1)).unwrap();
    // While it runs, none that would hide another, or take it along.
    debian.ask(id(VPS), &add("", "/persistent/x")).unwrap();
    let remove = |at: &str| Request::MountRemove { path: path(at) };
    refused(&mut debian, &remove("/persistent"), Code::MountPointRefused);
    debian.ask(id(VPS), &add("", "/srv/x")).unwrap();
    refused(&mut debian, &add("", "/srv"), Code::MountPointRefused);
    // Nor one that the record of what was placed in a temporary root is found by.
    hands.ask(id(VPS), &start(1)).unwrap();
    for at in ["/persistent/var", "/persistent/etc/x"] {
        refused(&mut hands, &add("nix", at), Code::VpsRunning);
    }
    refused(&mut hands, &remove("/persistent"), Code::VpsRunning);
}

fn memory(of: Bytes) -> VpsChange {
    VpsChange {
        memory_bytes: Some(of),
        ..VpsChange::default()
    }
}

#[test]
fn limits_that_no_guest_can_live_with() {
    let cpus = |percent| VpsChange {
        cpu_percent: Some(Some(percent)),
        ..VpsChange::default()
    };
    let processes = |n| VpsChange {
        processes: Some(n),
        ..VpsChange::default()
    };
    for change in [
        VpsChange::default(),
        memory(Bytes::mib(16).saturating_sub(Bytes(1))),
        cpus(0),
        processes(15),
        processes(4_194_305),
    ] {
        for mut hands in [scene("debian-12"), running("debian-12")] {
            refused(
                &mut hands,
                &Request::Set {
                    change: change.clone(),
                },
                Code::Invalid,
            );
        }
    }
    let hands = scene("debian-12");
    let mut input = Hands::input(id(200));
    input.memory = Some(Bytes(1));
    let refusal = hands.resolve(&input, "debian-12").unwrap_err();
    assert_eq!(refusal.code, Code::Invalid);
}

#[test]
fn limits_that_the_host_does_not_take_change_nothing() {
    let vps = id(VPS);
    let set = |change| Request::Set { change };
    let mut hands = running("debian-12");
    let before = hands.picture();
    hands.host.use_memory(vps, Bytes::gib(1));
    let both = VpsChange {
        processes: Some(500),
        ..memory(Bytes::mib(512))
    };
    let refusal = hands.ask(vps, &set(both.clone())).unwrap_err();
    assert_eq!(refusal.code, Code::LimitBelowUse);
    assert!(refusal.hint.contains("1024M"), "{refusal:?}");
    assert_eq!(hands.picture(), before, "one that is refused changes none");
    hands.host.refuse_limits(vps, true);
    let refusal = hands.ask(vps, &set(memory(Bytes::gib(4)))).unwrap_err();
    assert_eq!(refusal.code, Code::HostFailed);
    assert_eq!(hands.picture(), before);
    // What a run holds is gone with it, and the next one has what was asked for.
    hands.host.refuse_limits(vps, false);
    hands.ask(vps, &stop()).unwrap();
    hands.ask(vps, &set(both.clone())).unwrap();
    hands.ask(vps, &start(2)).unwrap();
    let held = hands.host.limits_of(vps).unwrap();
    assert_eq!(held, both.limits(&held));
    hands.assert_sound();
}

#[test]
fn ids_and_names_that_are_taken() {
    let hands = scene("debian-12");
    let resolve = |input| hands.resolve(&input, "debian-12").unwrap_err().code;
    assert_eq!(resolve(Hands::input(id(VPS))), Code::VpsIdTaken);
    let mut input = Hands::input(id(200));
    input.hostname = Some("vps11327".parse().unwrap());
    assert_eq!(resolve(input.clone()), Code::VpsNameTaken);
    input.hostname = None;
    input.disk = Some(Bytes::mib(1));
    assert_eq!(resolve(input.clone()), Code::DiskSpace);
    input.disk = Some(Bytes(Bytes::gib(20).0 + 1));
    assert_eq!(
        hands.resolve(&input, "nixos-shaped").unwrap_err().code,
        Code::DiskSpace,
        "one byte is no root dataset"
    );
    input.id = None;
    input.disk = None;
    let new = hands.resolve(&input, "debian-12").unwrap();
    assert_eq!((new.doc.id, new.doc.hostname.as_str()), (id(100), "vps100"));
}

#[test]
fn a_dataset_of_that_name_is_not_taken_over() {
    let hands = Hands::new();
    hands
        .host
        .make_by_hand(&PoolPath::from_pool("11327").unwrap());
    let new = hands.resolve(&Hands::input(id(VPS)), "debian-12").unwrap();
    let request = Request::Create {
        new: Box::new(new.clone()),
        start: None,
    };
    let seen = hands.observe(&request, &new.doc).unwrap();
    assert_eq!(
        plan_create(&new, None, &seen, &hands.context())
            .unwrap_err()
            .code,
        Code::NotOurs
    );
}

#[test]
fn a_root_of_the_same_name_is_not_used_again() {
    let mut hands = running("debian-12-impermanence");
    hands.ask(id(VPS), &stop()).unwrap();
    // The last root bears the very mark that a new root of this run would bear.
    refused(&mut hands, &start(1), Code::DatasetExists);
}

#[test]
fn a_template_in_use_stays() {
    let mut hands = scene("debian-12");
    let remove = |of: &str| Request::TemplateRemove {
        name: of.parse().unwrap(),
    };
    // The other name has the same contents, so this one may go.
    hands.ask(id(VPS), &remove("debian-12")).unwrap();
    let refusal = refused(
        &mut hands,
        &remove("debian-12-impermanence"),
        Code::TemplateInUse,
    );
    assert!(refusal.message.contains("11327 (vps11327)"), "{refusal:?}");
    refused(&mut hands, &remove("none"), Code::TemplateNotFound);
    let build = |of: &str| Request::TemplateBuild {
        recipe: of.into(),
        name: "nixos-shaped".parse().unwrap(),
        mirror: None,
        replace: false,
    };
    refused(&mut hands, &build("debian-12"), Code::TemplateExists);
}

#[test]
fn each_lifecycle_takes_only_what_it_can() {
    let hands = running("debian-12");
    let mut doc = hands.doc(id(VPS)).clone();
    let ended = Request::RunEnded {
        run: run(1),
        end: RunEnd::PowerOff,
        next: run(2),
        boot_ms: 0,
    };
    let mut code = |lifecycle, request: &Request| {
        doc.lifecycle = lifecycle;
        let seen = hands.observe(request, &doc).unwrap();
        plan_vps(request, &doc, &seen, &hands.context())
            .err()
            .map(|refusal| refusal.code)
    };
    let needs = || Lifecycle::NeedsOperator {
        why: "an undo failed".into(),
    };
    let destroy = Request::Destroy { now: false };
    assert_eq!(code(Lifecycle::Ready, &start(2)), Some(Code::VpsRunning));
    assert_eq!(code(Lifecycle::Creating, &start(2)), Some(Code::VpsBusy));
    assert_eq!(code(Lifecycle::Creating, &destroy), None);
    assert_eq!(code(Lifecycle::Destroying, &stop()), Some(Code::VpsBusy));
    assert_eq!(code(Lifecycle::Destroying, &destroy), None);
    assert_eq!(code(Lifecycle::Destroying, &ended), None);
    assert_eq!(code(needs(), &restart(2)), Some(Code::VpsNeedsOperator));
    assert_eq!(code(needs(), &destroy), Some(Code::VpsNeedsOperator));
    assert_eq!(code(needs(), &ended), None);
    let build = Request::TemplateRemove {
        name: "x".parse().unwrap(),
    };
    assert_eq!(code(Lifecycle::Ready, &build), Some(Code::Internal));
}

#[test]
fn stop_and_start_say_when_there_is_nothing_to_do() {
    let mut hands = scene("debian-12");
    refused(&mut hands, &stop(), Code::VpsNotRunning);
    hands.ask(id(VPS), &start(1)).unwrap();
    let refusal = refused(&mut hands, &start(2), Code::VpsRunning);
    assert_eq!(refusal.hint, "to give it a new root: mayfly restart 11327");
}

#[test]
fn a_look_that_failed_is_not_an_absence() {
    let mut hands = scene("nixos-shaped");
    hands.ask(id(VPS), &start(1)).unwrap();
    hands.ask(id(VPS), &stop()).unwrap();
    for what in ["pool", "evidence", "init"] {
        hands.host.fail_looks(what);
        assert_eq!(
            hands.ask(id(VPS), &start(2)).unwrap_err().code,
            Code::CouldNotLook,
            "{what}"
        );
        hands.host.heal_looks();
    }
    let last = hands.doc(id(VPS)).last_root.clone().unwrap();
    for unreadable in [last, hands.doc(id(VPS)).pool_path(&name("nix"))] {
        let mark = hands.host.mark(&unreadable).unwrap();
        hands
            .host
            .set_mark(&unreadable, MarkSeen::Unreadable("EIO".into()));
        refused(
            &mut hands,
            &Request::Destroy { now: false },
            Code::CouldNotLook,
        );
        hands.host.set_mark(&unreadable, mark);
    }
    hands
        .ask(id(VPS), &Request::Destroy { now: false })
        .unwrap();
}

#[test]
fn a_dataset_that_is_gone_is_missed_before_the_start() {
    let mut hands = scene("nixos-shaped");
    hands
        .ask(
            id(VPS),
            &Request::MountRemove {
                path: path("/persistent"),
            },
        )
        .unwrap();
    hands
        .host
        .destroy_by_hand(&PoolPath::from_pool("11327").unwrap());
    hands
        .host
        .make_by_hand(&PoolPath::from_pool("11327/nix").unwrap());
    let request = start(1);
    let mut seen = hands.observe(&request, hands.doc(id(VPS)));
    if let Ok(seen) = &mut seen {
        seen.init = Some(crate::observed::InitSeen::Found);
        let refusal = plan_vps(&request, hands.doc(id(VPS)), seen, &hands.context()).unwrap_err();
        assert_eq!(refusal.code, Code::DatasetNotFound);
    }
}

#[test]
fn host_ids_run_out_loudly() {
    let hands = Hands::new();
    let all = [IdRange {
        first: 0,
        count: u32::MAX,
    }];
    let input = Hands::input(id(200));
    let template = &hands.templates[&"debian-12".parse().unwrap()];
    let life = crate::ids::Incarnation::from_random([1; 16]);
    let got = crate::plan::resolve_new_vps(
        &input,
        template,
        &[],
        &all,
        (&hands.host.node(), None),
        life,
    );
    assert_eq!(got.unwrap_err().code, Code::HostUnsuitable);
}
