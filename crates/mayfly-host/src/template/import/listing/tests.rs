use super::*;
use mayfly_core::bytes::Bytes;

fn listed(text: &str) -> Result<Listed, String> {
    let bounds = Bounds {
        entries: 20,
        bytes: Bytes::gib(1),
        room: Bytes::mib(512),
    };
    let mut checker = Checker::new(bounds);
    // In pieces, as they come through a pipe.
    text.as_bytes().chunks(7).all(|piece| checker.take(piece));
    checker.verdict()
}

#[track_caller]
fn refused(text: &str, why: &str) {
    let got = listed(text).unwrap_err();
    assert!(got.contains(why), "{got}");
}

/// What tar 1.34 printed.
const FINE: &str = r#"drwxr-xr-x 0/0               0 2026-11-25 16:34 "./"
drwxr-xr-x 0/0               0 2026-11-25 16:34 "./etc/"
-rw-r--r-- 0/0               2 2026-11-25 16:34 "./etc/hl"
lrwxrwxrwx 0/0               0 2026-11-25 16:34 "./etc/sl" -> "../../x"
hrw-r--r-- 0/0               0 2026-11-25 16:34 "./etc/a\nb\"\303\244" link to "./etc/hl"
drwxr-xr-x 0/0               0 2026-11-25 16:34 "./dev/"
crw-r--r-- 0/0             1,3 2026-11-25 16:34 "./dev/null"
prw-r--r-- 0/0               0 2026-11-25 16:34 "./ff"
"#;

#[test]
fn an_archive_as_it_should_be_is_counted() {
    let got = listed(FINE).unwrap();
    assert_eq!((got.entries, got.bytes, got.is_unified()), (8, 2, false));
    let entry = parse(FINE.lines().nth(4).unwrap().as_bytes()).unwrap();
    assert_eq!(entry.path, "./etc/a\nb\"ä".as_bytes());
    assert_eq!(entry.target.as_deref(), Some(&b"./etc/hl"[..]));
}

#[test]
fn what_leads_out_of_the_tree_is_refused() {
    let file = |name: &str| format!("-rw-r--r-- 0/0 1 2026-11-25 16:34 \"{name}\"\n");
    refused(&file("/etc/passwd"), "absolute");
    refused(&file("../etc/passwd"), "out of the tree");
    refused(&file("./a/../../b"), "out of the tree");
    refused(&file("a/.."), "out of the tree");
    let link = |to: &str| format!("lrwxrwxrwx 0/0 0 2026-11-25 16:34 \"./a\" -> \"{to}\"\n");
    assert!(listed(&link("/etc")).is_ok(), "a link may name anything");
    refused(
        &(link("/etc") + &file("./a/passwd")),
        "below the symbolic link",
    );
    refused(&(link("b") + &file("a//b/c")), "below the symbolic link");
    let hard = |to: &str| format!("hrw-r--r-- 0/0 0 2026-11-25 16:34 \"./x\" link to \"{to}\"\n");
    refused(&hard("/etc/passwd"), "absolute");
    refused(&hard("../x"), "out of the tree");
    refused(&(link("/etc") + &hard("a/passwd")), "symbolic link");
    let escaped = r#"-rw-r--r-- 0/0 1 2026-11-25 16:34 "a\0\056./x""#.to_owned() + "\n";
    refused(&escaped, "strange");
    refused(&file(r"\056\056/x"), "out of the tree");
}

#[test]
fn device_nodes_are_in_dev_only() {
    let node = |at: &str| format!("brw-r--r-- 0/0 8,0 2026-11-25 16:34 \"{at}\"\n");
    assert!(listed(&node("dev/sda")).is_ok());
    for at in ["etc/sda", "./dev", "devil/sda", "rootfs/dev/sda"] {
        refused(&node(at), "not in /dev");
    }
    let unified = "drwxr-xr-x 0/0 0 2026-11-25 16:34 \"rootfs/\"\n\
                   -rw-r--r-- 0/0 9 2026-11-25 16:34 \"metadata.yaml\"\n";
    let got = listed(&format!("{unified}{}", node("rootfs/dev/sda"))).unwrap();
    assert_eq!(
        (got.metadata, got.rootfs),
        (Some("metadata.yaml"), Some("rootfs"))
    );
    refused(&format!("{unified}{}", node("dev/sda")), "not in /dev");
    let out = "hrw-r--r-- 0/0 0 2026-11-25 16:34 \"rootfs/x\" link to \"metadata.yaml\"\n";
    refused(&format!("{unified}{out}"), "out of the tree");
}

#[test]
fn bombs_are_refused_by_what_they_would_become() {
    let file = |bytes: u64| format!("-rw-r--r-- 0/0 {bytes} 2026-11-25 16:34 \"a\"\n");
    refused(&file(2 << 30), "more than 1G");
    refused(&file(600 << 20), "room");
    refused(&file(300 << 20).repeat(2), "room");
    refused(&file(u64::MAX).repeat(2), "more than");
    refused(&file(0).repeat(21), "entries");
    refused(&file(0).replace('a', &"x".repeat(LINE)), "too long");
}

#[test]
fn what_is_not_understood_is_refused() {
    for line in [
        "",
        "-rw-r--r-- 0/0 1",
        "-rw-r--r-- 0/0 one 2026-11-25 16:34 \"a\"",
        "-rw-r--r-- 0/0 1 2026-11-25 16:34 \"a",
        "-rw-r--r-- 0/0 1 2026-11-25 16:34 \"a\" unknown file type `Z'",
        "lrwxrwxrwx 0/0 0 2026-11-25 16:34 \"a\"",
        "lrwxrwxrwx 0/0 0 2026-11-25 16:34 \"a\" -> \"b\"c",
        "-rw-r--r-- 0/0 1 2026-11-25 16:34 \"a\\9\"",
    ] {
        refused(&format!("{line}\n"), "strange");
    }
    refused("Vrw-r--r-- 0/0 1 2026-11-25 16:34 \"a\"\n", "of a kind");
}
