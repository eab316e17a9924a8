//! What becomes of a file that was put somewhere.

use super::hands::Hands;
use super::{id, run};
use crate::documents::{Request, VpsDoc};
use crate::files::Ground;
use crate::persist::list::{Listing, list};
use crate::persist::own::{DeclaredSeen, Format, OwnFile};
use crate::persist::path::TreePath;
use crate::plan::{Fate, fate_of_file};

const VPS: u32 = 11327;

const OWN: &str = r#"
["/persistent"]
directories = ["/srv"]
files = [{ file = "/etc/app.conf", method = "copy" }, "/etc/bound"]
"#;

fn listing(doc: &VpsDoc) -> Listing {
    let own = OwnFile {
        path: TreePath::parse("/persistent/etc/mayfly/persistence.toml").unwrap(),
        format: Format::Toml,
        text: Ok(OWN.to_owned()),
    };
    let seen = DeclaredSeen {
        own: Some(own),
        ..DeclaredSeen::default()
    };
    list(&doc.manifest.layout.persistence, &seen)
}

fn fate(doc: &VpsDoc, path: &str, ground: Ground) -> Fate {
    fate_of_file(doc, &listing(doc), &TreePath::parse(path).unwrap(), ground)
}

fn lives(template: &str) -> Hands {
    let mut hands = Hands::new();
    hands.create(id(VPS), template, Some(run(1)));
    hands
}

#[test]
fn a_file_stays_where_a_mount_or_a_declaration_holds_it() {
    let hands = lives("debian-12-impermanence");
    let doc = hands.doc(id(VPS));
    for (path, ground, stays, why) in [
        ("/etc/motd", Ground::Root, false, "temporary root"),
        ("/run/x", Ground::Memory, false, "memory"),
        (
            "/persistent/x",
            Ground::Elsewhere,
            true,
            "dataset 11327 at /persistent",
        ),
        (
            "/srv/www/index.html",
            Ground::Elsewhere,
            true,
            "/srv is declared",
        ),
        // It was declared after this start: there is nothing in its place yet.
        ("/srv/www/index.html", Ground::Root, false, "temporary root"),
        ("/etc/bound", Ground::Elsewhere, true, "declared"),
        ("/etc/bound", Ground::Root, false, "temporary root"),
        (
            "/etc/app.conf",
            Ground::Root,
            true,
            "taken back into /persistent",
        ),
        ("/mnt/usb/x", Ground::Elsewhere, false, "mounted itself"),
    ] {
        let fate = fate(doc, path, ground);
        assert_eq!(fate.stays, stays, "{path}: {fate:?}");
        assert!(fate.why.contains(why), "{path}: {fate:?}");
    }
    let shadow = fate(doc, "/etc/shadow", Ground::Root);
    assert_eq!(shadow.stays, listing(doc).accounts.is_some(), "{shadow:?}");
}

#[test]
fn without_the_feature_all_of_it_stays_and_in_a_rescue_system_what_is_mounted() {
    let hands = lives("debian-12");
    assert!(fate(hands.doc(id(VPS)), "/etc/motd", Ground::Root).stays);
    let mut hands = lives("debian-12-impermanence");
    let rescue = Request::Rescue {
        run: run(2),
        template: "debian-12-impermanence".parse().unwrap(),
        root_at: Some("/mnt/vps".parse().unwrap()),
    };
    hands.ask(id(VPS), &rescue).unwrap();
    let doc = hands.doc(id(VPS));
    assert!(!fate(doc, "/etc/app.conf", Ground::Root).stays);
    assert!(fate(doc, "/mnt/vps/x", Ground::Elsewhere).stays);
    assert!(!fate(doc, "/persistent/x", Ground::Elsewhere).stays);
}
