//! Numbers that stay, over any order of installations.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const BASE: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
    messagebus:x:100:106::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
const BASE_GROUPS: &str =
    "root:x:0:\ndaemon:x:1:\nsudo:x:27:\nmessagebus:x:106:\nnogroup:x:65534:\n";

fn base() -> Files {
    Files {
        passwd: BASE.to_owned(),
        group: BASE_GROUPS.to_owned(),
        shadow: "root:*:19000:0:99999:7:::\nmessagebus:!:19000::::::\n".to_owned(),
        gshadow: "sudo:*::\n".to_owned(),
        subuid: "installer:100000:65536\n".to_owned(),
        subgid: String::new(),
    }
}

fn ids(text: &str) -> BTreeMap<String, u32> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields[0].to_owned(), fields.get(2)?.parse().ok()?))
        })
        .collect()
}

#[test]
fn what_was_kept_keeps_numbers_passwords_shells_and_groups() {
    let kept = Files {
        passwd: "root:x:0:0:root:/root:/bin/zsh\nmessagebus:x:104:110::/nonexistent:/usr/sbin/nologin\n\
            postgres:x:100:106:db:/var/lib/postgresql:/bin/bash\nme:x:1000:1000:Me:/home/me:/bin/bash\n"
            .to_owned(),
        group: "postgres:x:106:\nmessagebus:x:110:\nme:x:1000:\nsudo:x:27:me\n".to_owned(),
        shadow: "me:$y$hash:19500:0:99999:7:::\nroot:$y$root:19500:0:99999:7:::\nghost:!:1::::::\n".to_owned(),
        gshadow: "sudo:*::me\n".to_owned(),
        subuid: "me:100000:65536\n".to_owned(),
        subgid: "me:100000:65536\n".to_owned(),
    };
    let merged = merge(&base(), &kept);
    let (users, groups) = (ids(&merged.files.passwd), ids(&merged.files.group));
    assert_eq!(
        (users["messagebus"], users["postgres"], users["me"]),
        (104, 100, 1000)
    );
    assert_eq!(
        (groups["messagebus"], groups["postgres"], groups["sudo"]),
        (110, 106, 27)
    );
    assert!(
        merged
            .files
            .passwd
            .starts_with("root:x:0:0:root:/root:/bin/zsh\n")
    );
    assert!(merged.files.group.contains("sudo:x:27:me\n"));
    assert!(
        merged.files.shadow.contains("root:$y$root:")
            && merged.files.shadow.contains("me:$y$hash:")
    );
    assert!(!merged.files.shadow.contains("ghost"));
    assert_eq!(merged.files.gshadow, "sudo:*::me\n");
    assert_eq!(merged.files.subuid, "me:100000:65536\n");
    assert!(merged.moved.is_empty(), "{:?}", merged.moved);
    assert_eq!(merged.notes.len(), 1, "{:?}", merged.notes);
}

#[test]
fn a_newcomer_of_the_base_gives_way_and_its_group_with_it() {
    let kept = Files {
        passwd: "postgres:x:100:106::/var/lib/postgresql:/bin/bash\n".to_owned(),
        group: "postgres:x:106:\n".to_owned(),
        ..Files::default()
    };
    let merged = merge(&base(), &kept);
    assert!(
        merged.files.passwd.contains("messagebus:x:999:999:"),
        "{}",
        merged.files.passwd
    );
    let moved: Vec<_> = merged
        .moved
        .iter()
        .map(|m| (m.group, m.name.as_str(), m.from, m.to))
        .collect();
    assert_eq!(
        moved,
        [
            (true, "messagebus", 106, 999),
            (false, "messagebus", 100, 999)
        ]
    );
}

#[test]
fn nobody_becomes_root_and_root_nobody_else() {
    let kept = Files {
        passwd:
            "root:x:1000:1000::/:/bin/sh\nme:x:4294967295:0::/:/bin/sh\nx:y\nbad\u{7}:x:5:5:::\n"
                .to_owned(),
        ..Files::default()
    };
    let merged = merge(&base(), &kept);
    assert_eq!(merged.files.passwd, BASE);
    assert_eq!(merged.notes.len(), 4);
    // An empty base (NixOS before its activation) gets what was kept.
    let merged = merge(&Files::default(), &base());
    assert_eq!(
        (merged.files.passwd.as_str(), merged.files.group.as_str()),
        (BASE, BASE_GROUPS)
    );
}

/// Packages that draw system numbers as adduser does: the first free one from 100.
fn install(files: &mut Files, name: &str) {
    let free = |text: &str| {
        let taken: BTreeSet<u32> = ids(text).into_values().collect();
        (100..1000).find(|n| !taken.contains(n)).unwrap()
    };
    if !ids(&files.group).contains_key(name) {
        files.group += &format!("{name}:x:{}:\n", free(&files.group));
    }
    if !ids(&files.passwd).contains_key(name) {
        let gid = ids(&files.group)[name];
        files.passwd += &format!(
            "{name}:x:{}:{gid}::/var/lib/{name}:/bin/false\n",
            free(&files.passwd)
        );
    }
}

const PACKAGES: [&str; 6] = ["postgres", "redis", "nginx", "ntp", "exim", "mysql"];

fn order() -> impl Strategy<Value = Vec<&'static str>> {
    proptest::sample::subsequence(PACKAGES.to_vec(), 0..=6).prop_shuffle()
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-d]{1,2}:x:(0|1|100|101|999|1000|4294967295):(0|100|1000):g:/h:/s",
        "[a-d]{1,2}:x:(0|1|100|101|999|1000):([a-d],?){0,3}",
        "[a-d:]{0,12}",
        "\\PC{0,20}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(line(), 0..12).prop_map(|lines| lines.join("\n"))
}

fn any_files() -> impl Strategy<Value = Files> {
    (text(), text(), text(), text()).prop_map(|(passwd, group, shadow, subuid)| Files {
        passwd,
        group,
        shadow,
        subuid,
        ..Files::default()
    })
}

proptest! {
    /// However often a VPS starts on however new a base, and whatever is installed in between in whatever order.
    #[test]
    fn numbers_stay_over_any_order_of_installations(
        boots in proptest::collection::vec((order(), order()), 1..5),
    ) {
        let mut kept = Files::default();
        let mut ever: BTreeMap<String, u32> = BTreeMap::new();
        for (in_base, installed) in boots {
            let mut fresh = base();
            in_base.iter().for_each(|name| install(&mut fresh, name));
            let mut root = merge(&fresh, &kept).files;
            installed.iter().for_each(|name| install(&mut root, name));
            for (name, uid) in ids(&root.passwd) {
                prop_assert_eq!(*ever.entry(name).or_insert(uid), uid);
            }
            let uids: BTreeSet<u32> = ids(&root.passwd).into_values().collect();
            prop_assert_eq!(uids.len(), ids(&root.passwd).len());
            for (name, gid) in ids(&root.group) {
                if let Some(line) = root.passwd.lines().find(|l| l.starts_with(&format!("{name}:"))) {
                    prop_assert_eq!(line.split(':').nth(3).unwrap(), gid.to_string());
                }
            }
            kept = root;
        }
    }

    #[test]
    fn any_texts_merge_and_merging_again_changes_nothing(base in any_files(), kept in any_files()) {
        let once = merge(&base, &kept);
        for (name, uid) in ids(&once.files.passwd) {
            prop_assert!(name != "root" || uid == 0);
        }
        let again = merge(&once.files, &kept);
        prop_assert_eq!(&again.files.passwd, &once.files.passwd);
        prop_assert_eq!(&again.files.group, &once.files.group);
        prop_assert_eq!(&again.files.shadow, &once.files.shadow);
        prop_assert_eq!(&again.files.subuid, &once.files.subuid);
        prop_assert!(again.moved.is_empty());
    }

    #[test]
    fn the_order_of_what_was_kept_means_nothing(mut lines in proptest::collection::vec("[a-f]:x:[1-4]{3}:100:g:/h:/s", 0..6).prop_shuffle()) {
        lines.sort_by_key(|line| line.as_bytes()[0]);
        lines.dedup_by_key(|line| line.as_bytes()[0]);
        let one = Files { passwd: lines.join("\n"), ..Files::default() };
        lines.reverse();
        let other = Files { passwd: lines.join("\n"), ..Files::default() };
        prop_assert_eq!(ids(&merge(&base(), &one).files.passwd), ids(&merge(&base(), &other).files.passwd));
    }
}
