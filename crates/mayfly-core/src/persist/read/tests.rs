//! What people write, and what the hostile write.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::declare::Severity;
use super::*;

const EXAMPLE: &str = r#"
["/persistent"]
hideMounts = true
presets = ["base"]
directories = [
    "/var/log",
    { directory = "/var/lib/colord", user = "colord", group = "colord", mode = "u=rwx,g=rx,o=" },
    { directory = "/var/cache/x", tier = "cache", allowTrash = true },
]
files = ["/etc/machine-id", { file = "/etc/nix/id_rsa", parentDirectory = { mode = "u=rwx,g=,o=" } }]

["/persistent".users.talyz]
directories = ["Downloads", "VirtualBox VMs", { directory = ".ssh", mode = "0700" }]
files = [".screenrc", { file = ".bash_history", method = "copy" }]
"#;

#[test]
fn toml_and_json_mean_the_same() {
    let from_toml = parse_toml(EXAMPLE);
    assert!(from_toml.problems.is_empty(), "{:?}", from_toml.problems);
    let value: Value = toml::from_str(EXAMPLE).unwrap();
    assert_eq!(parse_json(&value.to_string()), from_toml);
    let storage = &from_toml.storages[&TreePath::parse("/persistent").unwrap()];
    assert_eq!(storage.directories.len(), 3);
    assert_eq!(storage.directories[1].perms.mode, Some(0o750));
    assert_eq!(storage.directories[2].tier, Tier::Cache);
    assert_eq!(storage.files[1].parent.mode, Some(0o700));
    assert_eq!(storage.users["talyz"].files[1].method, Method::Copy);
    assert_eq!(storage.hide, Some(true));
    assert!(storage.presets[&Preset::Base]);
}

#[test]
fn what_the_module_computes_is_no_trouble() {
    let source = parse_json(
        r#"{"/p": {"persistentStoragePath": "/p", "enableDebugging": false, "assertions": [], "directories": [
            {"directory": "/a", "dirPath": "/a", "home": null, "user": "root", "group": "root", "mode": "0755",
             "hideMount": false, "persistentStoragePath": "/p", "defaultPerms": {"mode": "0755"}, "assertions": []}],
          "files": [{"file": "/b", "filePath": "/b", "method": "auto", "home": null,
             "parentDirectory": {"directory": "/", "dirPath": "/", "user": "root", "mode": "0755", "hideMount": true}}]}}"#,
    );
    assert!(source.problems.is_empty(), "{:?}", source.problems);
}

#[test]
fn one_bad_entry_takes_no_other_with_it() {
    let source = parse_toml(
        r#"
        relative = {}
        ["/p"]
        enable = "yes"
        directorys = ["/x"]
        presets = ["bsae"]
        directories = ["/a", 7, { mode = "0700" }, { directory = "/b", mode = "rwx", user = "a:b", tier = "gold" }]
        files = "/c"
        users.x = 1
        "#,
    );
    let problems: Vec<_> = source
        .problems
        .iter()
        .map(|p| (p.at.as_str(), p.severity))
        .collect();
    for at in [
        "relative",
        "/p.enable",
        "/p.presets",
        "/p.directories[1]",
        "/p.directories[2]",
        "/p.directories[3].mode",
        "/p.directories[3].user",
        "/p.directories[3].tier",
        "/p.files",
        "/p.users.x",
    ] {
        assert!(
            problems.contains(&(at, Severity::Error)),
            "{at}: {problems:?}"
        );
    }
    assert!(
        problems.contains(&("/p.directorys", Severity::Warning)),
        "{problems:?}"
    );
    let storage = source.storages.values().next().unwrap();
    let directories: Vec<_> = storage
        .directories
        .iter()
        .map(|d| d.directory.as_str())
        .collect();
    assert_eq!(directories, ["/a", "/b"]);
}

#[test]
fn a_hostile_file_is_read_in_bounds() {
    let deep_list = format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_table = format!("a = {}1{}", "{ b = ".repeat(20_000), "}".repeat(20_000));
    let deep_key = format!("{}a = 1", "a.".repeat(100_000));
    let deep_header = format!("[{}a]", "a.".repeat(100_000));
    let stairs: String = (1..500)
        .map(|n| format!("[{}a]\n", "a.".repeat(n)))
        .collect();
    let many_keys: String = (0..20_000).map(|n| format!("k{n}={{}}\n")).collect();
    let many: String = format!("[\"/p\"]\ndirectories = [{}]", "\"/a\",".repeat(40_000));
    let big = "#".repeat(100 << 20);
    let comments = format!(
        "# {}\n[\"/p\"]\ndirectories = [\"/a\"]\n",
        ".".repeat(5_000)
    );
    assert_eq!(parse_toml(&comments).storages.len(), 1);
    for text in [
        deep_list,
        deep_table,
        deep_key,
        deep_header,
        stairs,
        many_keys,
        many,
        big,
    ] {
        let begun = Instant::now();
        let source = parse_toml(&text);
        assert!(source.problems.any_error(), "{}", &text[..40]);
        assert!(source.problems.iter().count() <= limits::PROBLEMS);
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(5),
            "{took:?} for {}",
            &text[..40]
        );
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse_json(&deep).problems.any_error());
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[/a.~ ]{0,8}".prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ]
}

/// Trees with the keys that mean something, and anything below them.
pub(in crate::persist) fn any_value() -> impl Strategy<Value = Value> {
    let keys = proptest::sample::select(vec![
        "/p",
        "/p/q",
        "/",
        "directories",
        "files",
        "users",
        "enable",
        "directory",
        "file",
        "mode",
        "user",
        "group",
        "parentDirectory",
        "method",
        "tier",
        "presets",
        "home",
        "me",
        "persistentStoragePath",
        "hideMounts",
        "x",
    ]);
    leaf().prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_tree_of_values_is_read(value in any_value()) {
        let source = parse_value(&value);
        prop_assert_eq!(&source, &parse_json(&value.to_string()));
    }

    #[test]
    fn any_text_is_read(text in "[\\[\\]{}=\",.a/#\n\\PC]{0,200}") {
        parse_toml(&text);
        parse_json(&text);
    }
}
