//! Mounts that change while a VPS runs.

use super::hands::Hands;
use super::{dataset, id, mount, name, path, restart, run, start, stop};
use crate::bytes::Bytes;
use crate::documents::Request;
use crate::error::Code;

const VPS: u32 = 11327;

fn lives(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), template, Some(run(1)));
    let shrink = Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(10),
    };
    hands.ask(id(VPS), &shrink).unwrap();
    hands
}

fn add(of: &str, at: &str) -> Request {
    Request::MountAdd {
        mount: mount(of, at),
    }
}

fn remove(at: &str) -> Request {
    Request::MountRemove { path: path(at) }
}

fn shown(hands: &Hands) -> Vec<String> {
    let all = hands.host.mounts_of(id(VPS)).into_iter();
    all.map(|(at, of)| format!("{of} at {at}")).collect()
}

fn lines(hands: &mut Hands, request: &Request) -> Vec<String> {
    hands.plan(id(VPS), request).unwrap().lines()
}

#[test]
fn a_mount_is_shown_at_once_and_from_then_on() {
    let mut hands = lives("debian-12");
    hands.twice = true;
    hands.ask(id(VPS), &dataset("data", 2, None)).unwrap();
    assert_eq!(shown(&hands), [""; 0]);
    let wanted = [
        "show 11327/data at /srv in run c5a801 of 11327",
        "record of 11327: 11327/data is mounted at /srv",
    ];
    assert_eq!(lines(&mut hands, &add("data", "/srv")), wanted);
    hands.ask(id(VPS), &add("data", "/srv")).unwrap();
    hands.ask(id(VPS), &add("", "/persistent")).unwrap();
    let both = ["11327 at /persistent", "11327/data at /srv"];
    assert_eq!(shown(&hands), both);
    hands
        .host
        .guest_write(id(VPS), "/srv/kept", "dear")
        .unwrap();
    hands.ask(id(VPS), &restart(2)).unwrap();
    assert_eq!(shown(&hands), both);

    let wanted = [
        "hide 11327/data at /srv in run c5a802 of 11327",
        "record of 11327: nothing is mounted at /srv",
    ];
    assert_eq!(lines(&mut hands, &remove("/srv")), wanted);
    hands.ask(id(VPS), &remove("/srv")).unwrap();
    assert_eq!(shown(&hands), both[..1]);
    // The guest goes on, and what it does not have can be destroyed.
    let destroy = Request::DatasetDestroy {
        name: name("data"),
        force: false,
    };
    hands.ask(id(VPS), &destroy).unwrap();
    assert!(hands.host.is_running(id(VPS)));
    hands.ask(id(VPS), &stop()).unwrap();
    hands.ask(id(VPS), &start(3)).unwrap();
    assert_eq!(shown(&hands), both[..1]);
    hands.assert_sound();
}

#[test]
fn a_dataset_is_made_and_shown_or_neither() {
    let mut hands = lives("debian-12");
    hands.host.guest_link(id(VPS), "/nix", "/etc").unwrap();
    let before = hands.doc(id(VPS)).clone();
    let refused = hands
        .ask(id(VPS), &dataset("nix", 2, Some("/nix")))
        .unwrap_err();
    assert_eq!(refused.code, Code::MountPointRefused);
    assert!(refused.message.contains("symlink"), "{refused:?}");
    assert_eq!(*hands.doc(id(VPS)), before);
    assert!(
        !hands
            .host
            .datasets()
            .contains(&before.pool_path(&name("nix")))
    );
    hands
        .ask(id(VPS), &dataset("nix", 2, Some("/nix2")))
        .unwrap();
    assert_eq!(shown(&hands), ["11327/nix at /nix2"]);
    hands.assert_sound();
}

#[test]
fn a_run_that_is_over_is_followed_by_one_that_shows_it() {
    let mut hands = lives("debian-12");
    let plan = hands.plan(id(VPS), &add("", "/persistent")).unwrap();
    hands.host.guest_reboot(id(VPS));
    for planned in &plan.steps {
        hands.perform(&planned.step).unwrap();
    }
    hands.ask(id(VPS), &restart(2)).unwrap();
    assert_eq!(shown(&hands), ["11327 at /persistent"]);
}

#[test]
fn a_rescue_system_shows_what_does_not_hide_it() {
    let mut hands = lives("debian-12");
    let rescue = Request::Rescue {
        run: run(2),
        template: "debian-12".parse().unwrap(),
        root_at: Some(path("/mnt/vps")),
    };
    hands.ask(id(VPS), &rescue).unwrap();
    hands
        .ask(id(VPS), &dataset("nix", 2, Some("/nix")))
        .unwrap();
    hands
        .ask(id(VPS), &dataset("usr", 2, Some("/usr/local")))
        .unwrap();
    // The root dataset is at its one place already.
    let wanted = ["record of 11327: 11327 is mounted at /persistent"];
    assert_eq!(lines(&mut hands, &add("", "/persistent")), wanted);
    hands.ask(id(VPS), &add("", "/persistent")).unwrap();
    let inside = [
        "11327 at /mnt/vps",
        "11327/usr at /mnt/vps/usr/local",
        "11327/nix at /nix",
    ];
    assert_eq!(shown(&hands), inside);
    let told = hands.doc(id(VPS)).run.clone().unwrap().rescue.unwrap();
    assert_eq!(told.moved, [path("/usr/local")]);
    assert_eq!(told.mounts.len(), 3);
    let destroy = Request::DatasetDestroy {
        name: name("usr"),
        force: true,
    };
    assert_eq!(
        hands.ask(id(VPS), &destroy).unwrap_err().code,
        Code::VpsRunning
    );
    hands.ask(id(VPS), &remove("/usr/local")).unwrap();
    hands.ask(id(VPS), &destroy).unwrap();
    assert_eq!(shown(&hands), [inside[0], inside[2]]);
    let told = hands.doc(id(VPS)).run.clone().unwrap().rescue.unwrap();
    assert_eq!((told.moved.len(), told.mounts.len()), (0, 2));
    hands.ask(id(VPS), &restart(3)).unwrap();
    assert_eq!(shown(&hands), ["11327/nix at /nix", "11327 at /persistent"]);
    hands.assert_sound();
}
