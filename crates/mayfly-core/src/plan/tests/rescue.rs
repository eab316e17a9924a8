//! Rescue mode: what boots, what is shown where, and that nothing of the VPS is given up for it.

use super::hands::Hands;
use super::{dataset, id, name, path, restart, run, start, stop};
use crate::bytes::Bytes;
use crate::documents::{Request, Rescue};
use crate::error::Code;
use crate::fake::COPIED;
use crate::names::PoolPath;

const VPS: u32 = 11327;

fn rescue(template: &str, root_at: Option<&str>, n: u8) -> Request {
    Request::Rescue {
        run: run(n),
        template: template.parse().unwrap(),
        root_at: root_at.map(path),
    }
}

fn lives(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), template, Some(run(1)));
    hands
}

fn shrink() -> Request {
    Request::DatasetSet {
        name: name(""),
        quota_bytes: Bytes::gib(10),
    }
}

fn present(hands: &Hands) -> Rescue {
    hands.doc(id(VPS)).run.clone().unwrap().rescue.unwrap()
}

fn places(rescue: &Rescue) -> Vec<(String, String)> {
    let pair = |m: &crate::documents::Mount| (m.dataset.to_string(), m.path.to_string());
    rescue.mounts.iter().map(pair).collect()
}

fn there(hands: &Hands, name: &str) -> bool {
    hands
        .host
        .datasets()
        .contains(&PoolPath::from_pool(name).unwrap())
}

#[test]
fn a_rescue_system_has_the_datasets_and_gives_nothing_up() {
    let mut hands = lives("debian-12-impermanence");
    hands.ask(id(VPS), &stop()).unwrap();
    hands.ask(id(VPS), &shrink()).unwrap();
    hands
        .ask(id(VPS), &dataset("data", 2, Some("/srv/data")))
        .unwrap();
    hands.ask(id(VPS), &start(2)).unwrap();
    hands.host.guest_write(id(VPS), COPIED, "new").unwrap();
    hands.host.guest_write(id(VPS), "/only-here", "x").unwrap();
    let last = hands.doc(id(VPS)).run.clone().unwrap().root;

    hands
        .ask(id(VPS), &rescue("debian-12", Some("/mnt/vps"), 3))
        .unwrap();
    let doc = hands.doc(id(VPS)).clone();
    assert_eq!(
        doc.run.as_ref().unwrap().root.as_str(),
        "11327.rescue-c5a803"
    );
    assert_eq!(
        doc.last_root,
        Some(last.clone()),
        "the last root stays the last"
    );
    let expected =
        [("", "/mnt/vps"), ("data", "/srv/data")].map(|(d, p)| (d.to_owned(), p.to_owned()));
    assert_eq!(places(&present(&hands)), expected);
    assert_eq!(present(&hands).moved, []);
    // What had changed was taken back before, and is in reach.
    let read = |hands: &Hands, path: &str| hands.host.guest_read(id(VPS), path);
    assert_eq!(
        read(&hands, &format!("/mnt/vps{COPIED}")).as_deref(),
        Some("new")
    );
    assert!(read(&hands, "/etc/motd").unwrap().contains("/mnt/vps"));
    assert_eq!(read(&hands, COPIED), None, "declarations are not applied");
    hands.assert_sound();
    assert!(there(&hands, last.as_str()));

    // Leaving is any restart: the VPS's own system, in a root of its own, and the rescue root is nobody's.
    hands.ask(id(VPS), &restart(4)).unwrap();
    assert_eq!(hands.doc(id(VPS)).run.as_ref().unwrap().rescue, None);
    assert_eq!(read(&hands, COPIED).as_deref(), Some("new"));
    assert_eq!(hands.doc(id(VPS)).last_root, None);
    hands.assert_sound();
    assert!(!there(&hands, "11327.rescue-c5a803") && !there(&hands, last.as_str()));
}

#[test]
fn a_stopped_rescue_system_leaves_the_last_root_where_it_was() {
    let mut hands = lives("debian-12-impermanence");
    hands.ask(id(VPS), &stop()).unwrap();
    let last = hands.doc(id(VPS)).last_root.clone();
    hands.ask(id(VPS), &rescue("debian-12", None, 2)).unwrap();
    assert_eq!(places(&present(&hands)), []);
    // One rescue system after the other.
    hands
        .ask(id(VPS), &rescue("debian-12", Some("/srv"), 3))
        .unwrap();
    assert!(!there(&hands, "11327.rescue-c5a802"));
    hands.ask(id(VPS), &stop()).unwrap();
    assert_eq!(hands.doc(id(VPS)).last_root, last);
    hands.assert_sound();
    assert!(there(&hands, last.unwrap().as_str()));
    assert!(!there(&hands, "11327.rescue-c5a803"));
}

#[test]
fn what_would_hide_the_rescue_system_is_moved_and_told() {
    let mut hands = lives("debian-12");
    hands.ask(id(VPS), &stop()).unwrap();
    hands.ask(id(VPS), &shrink()).unwrap();
    for (name, at) in [
        ("var", "/var"),
        ("usr", "/usr/local"),
        ("home", "/home"),
        ("vps", "/mnt/vps"),
    ] {
        hands.ask(id(VPS), &dataset(name, 1, Some(at))).unwrap();
    }
    hands
        .ask(id(VPS), &rescue("debian-12", Some("/mnt/vps"), 2))
        .unwrap();
    let expected = [
        ("home", "/home"),
        ("", "/mnt/vps"),
        ("vps", "/mnt/vps/mnt/vps"),
        ("usr", "/mnt/vps/usr/local"),
        ("var", "/mnt/vps/var"),
    ];
    assert_eq!(
        places(&present(&hands)),
        expected.map(|(d, p)| (d.to_owned(), p.to_owned()))
    );
    let moved: Vec<_> = present(&hands)
        .moved
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(moved, ["/mnt/vps", "/usr/local", "/var"]);
    hands.assert_sound();
}

#[test]
fn what_cannot_be_a_rescue_system_is_refused() {
    let mut hands = lives("debian-12-impermanence");
    for (template, at, code) in [
        ("absent", "/mnt/vps", Code::TemplateNotFound),
        ("debian-12", "/usr", Code::MountPointRefused),
        ("debian-12", "/usr/share/vps", Code::MountPointRefused),
        ("debian-12", "/proc/vps", Code::MountPointRefused),
        ("debian-12", "/", Code::MountPointRefused),
    ] {
        let refusal = hands
            .ask(id(VPS), &rescue(template, Some(at), 2))
            .unwrap_err();
        assert_eq!(refusal.code, code, "{template} {at}: {refusal:?}");
    }
    assert!(hands.host.is_running(id(VPS)));
}

#[test]
fn a_system_that_lies_in_a_dataset_brings_a_clone_of_it_along() {
    let mut hands = lives("nixos-shaped");
    let own = hands.doc(id(VPS)).pool_path(&name("nix"));
    hands.twice = true;
    hands
        .ask(id(VPS), &rescue("nixos-shaped", Some("/mnt/vps"), 2))
        .unwrap();
    let (root, part) = ("11327.rescue-c5a802", "11327.rescue-c5a802/nix");
    let shown: Vec<_> = hands
        .host
        .mounts_of(id(VPS))
        .into_iter()
        .map(|(at, of)| format!("{of} at {at}"))
        .collect();
    // The VPS's own store is out of the way of the rescue system's.
    let wanted = [
        "11327 at /mnt/vps".to_owned(),
        format!("{own} at /mnt/vps/nix"),
        format!("{part} at /nix"),
    ];
    assert_eq!(shown, wanted);
    assert_eq!(present(&hands).moved, [path("/nix")]);
    hands.assert_sound();
    assert!(
        there(&hands, root) && there(&hands, part),
        "nobody reaps what lives"
    );
    // Another one after it, and out of that: what lies in a root goes with it.
    hands
        .ask(id(VPS), &rescue("nixos-shaped", None, 3))
        .unwrap();
    assert!(!there(&hands, root) && !there(&hands, part));
    hands.ask(id(VPS), &stop()).unwrap();
    hands.assert_sound();
    assert!(!there(&hands, "11327.rescue-c5a803/nix"));
    hands.ask(id(VPS), &start(4)).unwrap();
    hands
        .ask(id(VPS), &rescue("nixos-shaped", Some("/mnt/vps"), 5))
        .unwrap();
    hands.ask(id(VPS), &Request::Destroy { now: true }).unwrap();
    assert!(!there(&hands, "11327.rescue-c5a805/nix"));
}
