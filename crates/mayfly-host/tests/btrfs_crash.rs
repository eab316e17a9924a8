//! The btrfs driver killed at every crash point, and after power failures.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/scratch_pool.rs"]
mod scratch;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::given::{
    at, burial_of_data, burial_of_root, condemned, exchange, operation, persistent, put_aside, root,
};
use mayfly_core::mirror::MirrorKey;
use mayfly_core::names::{PoolPath, TemplatePart};
use mayfly_core::observed::MarkSeen;
use mayfly_core::ports::{Cancel, Origin, Storage};
use mayfly_core::proof::{Burial, ConfirmedDestroy};
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopy};
use mayfly_host::crash::{CRASH_POINTS, CRASH_VARIABLE};
use mayfly_host::runner::Runner;
use mayfly_host::storage::btrfs::{BtrfsPool, PoolSource};
use scratch::{
    alone, build_template, data, digest, gone, loops_of, new_pool, node, pool, private, records,
};

const ACTION: &str = "MAYFLY_TEST_ACTION";
const POOL: &str = "MAYFLY_TEST_POOL";

fn mirror_key() -> MirrorKey {
    MirrorKey::new("/vps/200").unwrap()
}

fn copy() -> TreeCopy {
    let (from, to) = (persistent(&node(), 300, "", Bytes::mib(64)), "300/nix");
    TreeCopy {
        owner: from.mark.owner.unwrap(),
        from: from.name,
        below: at("/nix"),
        to: PoolPath::from_pool(to).unwrap(),
        without: Vec::new(),
    }
}

fn taken() -> TakenOut {
    TakenOut {
        owner: copy().owner,
        dataset: copy().from,
        path: at("/nix"),
        by: operation(4),
    }
}

/// A VPS with something in `/nix` that lies deeper than what is destroyed in one go, and an empty dataset for it.
fn fill(pool: &BtrfsPool) {
    for name in ["", "nix"] {
        pool.create_dataset(&persistent(&node(), 300, name, Bytes::mib(64)))
            .unwrap();
    }
    let deep = private(pool, &copy().from)
        .join("nix")
        .join("d/".repeat(150));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "precious").unwrap();
}

/// What the killed process of [`a_kill_anywhere_leaves_what_the_next_call_mends`] does.
fn act(action: &str, path: &Path) {
    let open = || BtrfsPool::open(path, &node()).unwrap();
    let grave = PoolPath::grave("g");
    match action {
        "create" => {
            let pool = open();
            pool.create_dataset(&persistent(&node(), 200, "", Bytes::mib(64)))
                .unwrap();
            pool.create_dataset(&root(
                &node(),
                200,
                1,
                Origin::Clone(persistent(&node(), 200, "", Bytes::mib(1)).name),
            ))
            .unwrap();
            pool.create_dataset(&persistent(&node(), 200, "nix", Bytes::mib(64)))
                .unwrap();
        }
        "exchange" => {
            let aside = put_aside(&node(), 300, "", 5, Origin::Empty).name;
            open()
                .exchange(&exchange(300, "", &aside, Some(5)))
                .unwrap();
        }
        "copy" => {
            let (mut told, cancel) = (|_: &str| {}, Cancel::default());
            open().copy_tree(&copy(), &cancel, &mut told).unwrap();
        }
        "take_out" => {
            let pool = open();
            for to in [TakeTo::Aside, TakeTo::Back, TakeTo::Aside, TakeTo::Nothing] {
                pool.take_out(&taken(), to).unwrap();
            }
        }
        "bury" => {
            let pool = open();
            let top = persistent(&node(), 300, "", Bytes::mib(64));
            pool.bury(&burial_of_data(&pool, &node(), &top, 9), &grave)
                .unwrap();
        }
        "reap" => {
            let pool = open();
            pool.reap(&condemned(&pool, &node(), &grave)).unwrap();
        }
        "mirror" => {
            open().put_mirror(&mirror_key(), "the new one\n").unwrap();
        }
        "generation" => {
            open().raise_generation(70).unwrap();
        }
        "template" => {
            build_template(&open()).unwrap();
        }
        "format" => {
            BtrfsPool::format(
                &Runner::default(),
                &new_pool(path),
                &node(),
                &path.join("pool"),
            )
            .unwrap();
        }
        other => panic!("{other}"),
    }
}

/// What lies in a dataset, guests' things apart.
fn beside(pool: &BtrfsPool, name: &PoolPath) -> Vec<String> {
    let there = fs::read_dir(pool.path().join(name.as_str())).unwrap();
    let mut names: Vec<_> = there
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
#[ignore = "the process that other tests kill"]
fn killed() {
    if let (Some(action), Some(path)) = (std::env::var_os(ACTION), std::env::var_os(POOL)) {
        act(action.to_str().unwrap(), Path::new(&path));
    }
}

/// Runs an action in a process that dies at `point`; with a namespace of its own where it mounts.
fn kill_at(point: &str, action: &str, path: &Path) {
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(if action == "format" {
            &["--mount", "--propagation", "private"][..]
        } else {
            &["--uts"]
        })
        .arg(exe)
        .args(["--exact", "killed", "--ignored", "--nocapture"])
        .env(ACTION, action)
        .env(POOL, path)
        .env(CRASH_VARIABLE, point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success(), "{action} was not killed at {point}");
}

#[test]
fn a_kill_anywhere_leaves_what_the_next_call_mends() {
    alone("a_kill_anywhere_leaves_what_the_next_call_mends", |dir| {
        let pool = pool(dir);
        let finished = || {
            assert_eq!(pool.clear_staging().unwrap(), Vec::<String>::new());
            let (marks, datasets) = (records(&pool, "marks"), pool.observe().unwrap().datasets);
            assert_eq!(
                (records(&pool, "intents"), records(&pool, "staging")),
                (0, 0)
            );
            assert_eq!(marks, datasets.len(), "{datasets:?}");
            for (name, seen) in &datasets {
                assert!(
                    matches!(seen.mark, MarkSeen::Local(_)),
                    "{name} has no mark"
                );
            }
            datasets.len()
        };
        let empty = || {
            for id in [200, 300] {
                let top = persistent(&node(), id, "", Bytes::mib(64));
                if pool.look(&top.name).unwrap().is_some() {
                    pool.bury(
                        &burial_of_data(&pool, &node(), &top, 1),
                        &PoolPath::grave("e"),
                    )
                    .unwrap();
                    pool.reap(&condemned(&pool, &node(), &PoolPath::grave("e")))
                        .unwrap();
                }
            }
            let root = root(&node(), 200, 1, Origin::Empty);
            if pool.look(&root.name).unwrap().is_some() {
                pool.bury(
                    &burial_of_root(&pool, &node(), &root, 1),
                    &PoolPath::grave("e"),
                )
                .unwrap();
                pool.reap(&condemned(&pool, &node(), &PoolPath::grave("e")))
                    .unwrap();
            }
            assert_eq!(finished(), 0);
        };
        let grave = PoolPath::grave("g");
        for point in CRASH_POINTS {
            let action = point.split_once('.').unwrap().0;
            match action {
                "create" => {
                    // With and without clearing in between.
                    for clear in [true, false] {
                        kill_at(point, action, pool.path());
                        if clear {
                            finished();
                        }
                        act(action, pool.path());
                        assert_eq!(finished(), 3);
                        empty();
                    }
                }
                // Another driver takes more than one step for it.
                "exchange" if *point == "exchange.after_first" => {}
                "exchange" => {
                    for contents in [Some(5), None] {
                        for name in ["", "nix", "nix/deep"] {
                            pool.create_dataset(&persistent(&node(), 300, name, Bytes::mib(64)))
                                .unwrap();
                        }
                        let new = put_aside(&node(), 300, "", 5, Origin::Empty);
                        pool.create_dataset(&new).unwrap();
                        kill_at(point, action, pool.path());
                        assert_eq!(finished(), 4);
                        // Finished, or put back.
                        pool.exchange(&exchange(300, "", &new.name, contents))
                            .unwrap();
                        assert_eq!(finished(), 4);
                        let there = pool.look(&persistent(&node(), 300, "", Bytes::mib(64)).name);
                        let MarkSeen::Local(mark) = there.unwrap().unwrap().mark else {
                            panic!("{point}: no mark")
                        };
                        assert_eq!(mark.contents, contents.map(operation), "{point}");
                        for name in ["nix", "nix/deep"] {
                            let name = persistent(&node(), 300, name, Bytes::mib(64)).name;
                            assert!(pool.look(&name).unwrap().is_some(), "{point}: {name}");
                        }
                        pool.bury(
                            &burial_of_data(&pool, &node(), &new, 1),
                            &PoolPath::grave("a"),
                        )
                        .unwrap();
                        pool.reap(&condemned(&pool, &node(), &PoolPath::grave("a")))
                            .unwrap();
                        empty();
                    }
                }
                "bury" | "reap" => {
                    for name in ["", "nix", "nix/deep"] {
                        pool.create_dataset(&persistent(&node(), 300, name, Bytes::mib(64)))
                            .unwrap();
                    }
                    if action == "bury" {
                        kill_at(point, action, pool.path());
                        finished();
                    } else {
                        act("bury", pool.path());
                        kill_at(point, action, pool.path());
                    }
                    if pool.look(&grave).unwrap().is_none() && action == "bury" {
                        act("bury", pool.path());
                    }
                    if pool.look(&grave).unwrap().is_some() {
                        act("reap", pool.path());
                    }
                    empty();
                }
                "template" => {
                    kill_at(point, action, pool.path());
                    let count = finished();
                    assert_eq!(
                        count,
                        if *point == "template.after_rename" {
                            3
                        } else {
                            0
                        },
                        "{point}: not whole"
                    );
                    build_template(&pool).unwrap();
                    assert_eq!(finished(), 3);
                    let name = PoolPath::template(&digest(), &TemplatePart::Base);
                    let seen = pool.look(&name).unwrap().unwrap().mark;
                    let proof = ConfirmedDestroy::prove_template(&name, &seen, &node()).unwrap();
                    pool.bury(&Burial::of_data(proof, operation(1)), &grave)
                        .unwrap();
                    act("reap", pool.path());
                    empty();
                }
                "mirror" => {
                    let key = mirror_key();
                    pool.put_mirror(&key, "the old one\n").unwrap();
                    kill_at(point, action, pool.path());
                    let all = pool.mirrors().unwrap();
                    assert_eq!(all.len(), 1, "{point}: {all:?}");
                    let there = all[&key].clone().unwrap();
                    assert!(["the old one\n", "the new one\n"].contains(&there.as_str()));
                    act(action, pool.path());
                    assert_eq!(
                        pool.mirrors().unwrap()[&key].as_deref(),
                        Ok("the new one\n")
                    );
                    pool.remove_mirror(&key).unwrap();
                    empty();
                }
                "generation" => {
                    pool.raise_generation(7).unwrap();
                    kill_at(point, action, pool.path());
                    act(action, pool.path());
                    assert_eq!(pool.generation(), Ok(Some(70)));
                }
                // Another driver keeps a base in these steps.
                "copy" if ["copy.after_readonly", "copy.after_snapshot"].contains(point) => {}
                "copy" => {
                    fill(&pool);
                    kill_at(point, action, pool.path());
                    assert_eq!(finished(), 2);
                    let below = "d/".repeat(150) + "file";
                    let copied = private(&pool, &copy().to).join(&below);
                    // Whole, or nothing.
                    assert!(
                        copied.is_file()
                            || fs::read_dir(private(&pool, &copy().to)).unwrap().count() == 0,
                        "{point}"
                    );
                    act(action, pool.path());
                    assert_eq!(fs::read_to_string(copied).unwrap(), "precious", "{point}");
                    let original = private(&pool, &copy().from).join("nix").join(&below);
                    assert_eq!(fs::read_to_string(original).unwrap(), "precious", "{point}");
                    assert_eq!(beside(&pool, &copy().to), [".copied", "private"], "{point}");
                    empty();
                }
                "take_out" => {
                    // Undone, where it was not to be destroyed yet, and destroyed.
                    for back in [true, false] {
                        fill(&pool);
                        kill_at(point, action, pool.path());
                        let tree = private(&pool, &copy().from);
                        if back {
                            let put = pool.take_out(&taken(), TakeTo::Back).unwrap();
                            let begun = ["take_out.after_dropping", "take_out.after_moving_up"];
                            let is_back = tree
                                .join("nix")
                                .join("d/".repeat(150))
                                .join("file")
                                .is_file();
                            assert_eq!(is_back, !begun.contains(point), "{point}: {put:?}");
                        }
                        if tree.join("nix").is_dir() {
                            pool.take_out(&taken(), TakeTo::Aside).unwrap();
                        }
                        pool.take_out(&taken(), TakeTo::Nothing).unwrap();
                        assert_eq!(fs::read_dir(&tree).unwrap().count(), 0, "{point}");
                        assert_eq!(beside(&pool, &copy().from), ["nix", "private"], "{point}");
                        empty();
                    }
                }
                // Where no driver is at work: test_import.py, test_recover.py and test_crash.py of tests/e2e.
                "import" | "pull" | "recover" => {}
                "format" => {
                    let place = dir.join(point);
                    fs::create_dir(&place).unwrap();
                    kill_at(point, action, &place);
                    assert!(
                        !place.join("pool.img").exists(),
                        "{point}: it has its name and is not finished"
                    );
                    gone(|| loops_of(&place).is_empty(), "the loop device");
                    let new = BtrfsPool::format(
                        &Runner::default(),
                        &new_pool(&place),
                        &node(),
                        &place.join("pool"),
                    )
                    .unwrap();
                    new.unmount().unwrap();
                    assert_eq!(fs::read_dir(&place).unwrap().count(), 2);
                }
                other => panic!("no test kills {other}"),
            }
        }
    });
}

/// A power failure is a copy of the disk at any moment, mounted later.
fn after_power_failure(dir: &Path, pool: BtrfsPool, check: impl FnOnce(&BtrfsPool)) {
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .arg(dir.join("pool.img"))
        .arg(dir.join("copy.img"))
        .status();
    assert!(copied.unwrap().success());
    pool.unmount().unwrap();
    gone(|| loops_of(dir).is_empty(), "the loop device");
    fs::rename(dir.join("copy.img"), dir.join("pool.img")).unwrap();
    // Or the kernel takes the older copy for a stale twin of what it has seen.
    assert!(
        Command::new("btrfs")
            .args(["device", "scan", "--forget"])
            .status()
            .unwrap()
            .success()
    );
    let pool = BtrfsPool::attach(
        &PoolSource::Loop(dir.join("pool.img")),
        &node(),
        &dir.join("pool"),
    )
    .unwrap();
    check(&pool);
    pool.unmount().unwrap();
}

#[test]
fn a_power_failure_never_parts_a_dataset_from_its_record() {
    alone(
        "a_power_failure_never_parts_a_dataset_from_its_record",
        |dir| {
            let base = data(11327);
            let old = root(&node(), 11327, 1, Origin::Empty);
            let first = pool(dir);
            first.create_dataset(&old).unwrap();
            first.unmount().unwrap();
            for synced_by_guest in [false, true] {
                let pool = pool(dir);
                // Promised: it is there afterwards.
                pool.create_dataset(&base).unwrap();
                let new = root(
                    &node(),
                    11327,
                    if synced_by_guest { 2 } else { 3 },
                    Origin::Empty,
                );
                pool.create_dataset(&new).unwrap();
                let grave = PoolPath::grave(if synced_by_guest { "a" } else { "b" });
                if synced_by_guest {
                    // A guest's fsync writes a log of its own tree, ahead of the transaction.
                    for name in [&base.name, &new.name] {
                        let file = fs::File::create(private(&pool, name).join("log")).unwrap();
                        file.sync_all().unwrap();
                    }
                    pool.bury(&burial_of_root(&pool, &node(), &new, 1), &grave)
                        .unwrap();
                    fs::File::open(private(&pool, &base.name).join("log"))
                        .unwrap()
                        .sync_all()
                        .unwrap();
                }
                after_power_failure(dir, pool, |pool| {
                    let seen = pool.observe().unwrap().datasets;
                    assert!(
                        seen.contains_key(&base.name) && seen.contains_key(&old.name),
                        "{seen:?}"
                    );
                    for (name, one) in seen {
                        let MarkSeen::Local(mark) = one.mark else {
                            panic!("{name} has lost its mark")
                        };
                        assert!(
                            !name.is_grave() || mark.condemned_by.is_some(),
                            "{name} lies there uncondemned"
                        );
                    }
                    assert_eq!(pool.clear_staging().unwrap(), Vec::<String>::new());
                    assert_eq!(
                        records(pool, "marks"),
                        pool.observe().unwrap().datasets.len()
                    );
                });
            }
        },
    );
}
