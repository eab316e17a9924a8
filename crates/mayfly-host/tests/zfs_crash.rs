//! The OpenZFS driver killed at every crash point that it passes.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![allow(dead_code, reason = "the rig is made for another suite")]

#[path = "common/alone.rs"]
mod alone;
#[path = "common/guest.rs"]
mod guest;
#[path = "common/zfs_pool.rs"]
mod rig;

use std::path::Path;
use std::process::{Command, Stdio};

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::given::{
    at, burial_of_data, burial_of_root, condemned, digest, exchange, operation, own_base, part,
    persistent, put_aside, root,
};
use mayfly_core::names::{PoolPath, TemplatePart};
use mayfly_core::observed::MarkSeen;
use mayfly_core::ports::{Cancel, NewDataset, Origin, Storage as _, TreePlan};
use mayfly_core::proof::{Burial, ConfirmedDestroy};
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopy};
use mayfly_host::crash::{CRASH_POINTS, CRASH_VARIABLE};
use mayfly_host::runner::Runner;
use mayfly_host::storage::zfs::ZfsPool;
use mayfly_host::storage::{TemplatePool as _, TemplateStaging};
use rig::{node, with_dataset, zfs};

const ACTION: &str = "MAYFLY_TEST_ACTION";
const POOL: &str = "MAYFLY_TEST_POOL";
const PLACE: &str = "MAYFLY_TEST_PLACE";

const SOURCES: &str = concat!(
    include_str!("../src/storage/zfs/create.rs"),
    include_str!("../src/storage/zfs/bury.rs"),
    include_str!("../src/storage/zfs/exchange.rs"),
    include_str!("../src/storage/zfs/template.rs"),
    include_str!("../src/storage/zfs/format.rs"),
    include_str!("../src/storage/zfs/trees.rs"),
    include_str!("../src/storage/copy.rs"),
    include_str!("../src/storage/taken.rs"),
);

/// The points that this driver passes, by what it does there.
fn points(action: &str) -> Vec<&'static str> {
    let passed = |point: &&&str| SOURCES.contains(&format!("crash_point(\"{point}\")"));
    let of_action = CRASH_POINTS
        .iter()
        .filter(|point| point.starts_with(&format!("{action}.")));
    let points: Vec<_> = of_action.filter(passed).copied().collect();
    assert!(!points.is_empty(), "nothing is cut in {action}");
    points
}

fn data(name: &str) -> NewDataset {
    persistent(&node(), 300, name, Bytes::mib(64))
}

fn aside() -> NewDataset {
    put_aside(&node(), 300, "", 5, Origin::Empty)
}

fn copy() -> TreeCopy {
    TreeCopy {
        owner: data("").mark.owner.unwrap(),
        from: data("").name,
        below: at("/"),
        to: own_base(&node(), 300, 4).name,
        without: Vec::new(),
    }
}

fn taken() -> TakenOut {
    TakenOut {
        owner: copy().owner,
        dataset: data("").name,
        path: at("/nix"),
        by: operation(4),
    }
}

/// A VPS with something in `/nix`.
fn fill(pool: &ZfsPool) {
    pool.create_dataset(&data("")).unwrap();
    let tree = TreePlan {
        directories: vec![at("/nix/store")],
        files: vec![(at("/nix/store/file"), "precious".into())],
        ..TreePlan::default()
    };
    pool.prepare_tree(&data("").name, &tree).unwrap();
}

fn read(pool: &ZfsPool, name: &PoolPath) -> Option<Vec<u8>> {
    pool.read_file(name, &at("/nix/store/file"), 99).unwrap()
}

fn grave() -> PoolPath {
    PoolPath::grave("g")
}

fn build(pool: &ZfsPool) {
    let mut staging: Box<dyn TemplateStaging + '_> =
        pool.begin_template(&"debian-12".parse().unwrap()).unwrap();
    for part in [TemplatePart::Base, part(""), part("srv/data")] {
        std::fs::write(staging.part(&part).unwrap().join("file"), "x").unwrap();
    }
    staging.publish(&digest(7)).unwrap();
}

/// What the killed process does.
fn act(action: &str, dataset: &str, at: &Path) {
    if action == "format" {
        ZfsPool::format(&Runner::default(), dataset, &node(), at).unwrap();
        return;
    }
    let pool = ZfsPool::attach(&Runner::default(), dataset, &node(), at).unwrap();
    match action {
        "create" => {
            pool.create_dataset(&data("")).unwrap();
        }
        "exchange" => {
            pool.exchange(&exchange(300, "", &aside().name, Some(5)))
                .unwrap();
        }
        "copy" => {
            let (mut told, cancel) = (|_: &str| {}, Cancel::default());
            pool.copy_tree(&copy(), &cancel, &mut told).unwrap();
        }
        "take_out" => {
            for to in [TakeTo::Aside, TakeTo::Back, TakeTo::Aside, TakeTo::Nothing] {
                pool.take_out(&taken(), to).unwrap();
            }
        }
        "bury" => {
            pool.bury(&burial_of_data(&pool, &node(), &data(""), 9), &grave())
                .unwrap();
        }
        "reap" => {
            pool.reap(&condemned(&pool, &node(), &grave())).unwrap();
        }
        "template" => build(&pool),
        other => panic!("{other}"),
    }
    pool.unmount().unwrap();
}

#[test]
#[ignore = "the process that other tests kill"]
fn killed() {
    if let (Some(action), Some(pool), Some(place)) = (
        std::env::var_os(ACTION),
        std::env::var_os(POOL),
        std::env::var_os(PLACE),
    ) {
        act(
            action.to_str().unwrap(),
            pool.to_str().unwrap(),
            Path::new(&place),
        );
    }
}

/// Runs an action in a process that dies at `point`, with a mount namespace of its own that goes with it.
fn kill_at(point: &str, dataset: &str, place: &Path) {
    let action = point.split_once('.').unwrap().0;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "killed", "--ignored", "--nocapture"])
        .env(ACTION, action)
        .env(POOL, dataset)
        .env(PLACE, place)
        .env(CRASH_VARIABLE, point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!status.success(), "{action} was not killed at {point}");
    eprintln!("killed at {point}");
}

/// Everything has a mark of its own, and nothing is left unfinished.
fn finished(pool: &ZfsPool, dataset: &str) -> usize {
    assert_eq!(pool.clear_staging().unwrap(), Vec::<String>::new());
    let staging = format!("{dataset}/.mayfly/staging");
    assert_eq!(
        zfs(&["list", "-H", "-r", "-o", "name", &staging]).trim(),
        staging
    );
    let intents = std::fs::read_dir(pool.path().join("intents")).unwrap();
    assert_eq!(intents.count(), 0);
    let datasets = pool.observe().unwrap().datasets;
    for (name, seen) in &datasets {
        let MarkSeen::Local(_) = seen.mark else {
            panic!("{name} has no mark")
        };
    }
    datasets.len()
}

fn empty(pool: &ZfsPool, dataset: &str) {
    if pool.look(&data("").name).unwrap().is_some() {
        pool.bury(&burial_of_data(pool, &node(), &data(""), 9), &grave())
            .unwrap();
    }
    if pool.look(&grave()).unwrap().is_some() {
        pool.reap(&condemned(pool, &node(), &grave())).unwrap();
    }
    assert_eq!(finished(pool, dataset), 0);
}

#[test]
fn a_kill_anywhere_leaves_what_the_next_call_mends() {
    with_dataset(
        "a_kill_anywhere_leaves_what_the_next_call_mends",
        |dir, dataset| {
            let (at, place) = (dir.join("pool"), dir.join("killed"));
            for point in points("format") {
                kill_at(point, dataset, &place);
            }
            let pool = ZfsPool::format(&Runner::default(), dataset, &node(), &at).unwrap();
            for point in points("create") {
                for clear in [true, false] {
                    kill_at(point, dataset, &place);
                    if clear {
                        finished(&pool, dataset);
                    }
                    pool.create_dataset(&data("")).unwrap();
                    assert_eq!(finished(&pool, dataset), 1, "{point}");
                    empty(&pool, dataset);
                }
            }
            for point in points("exchange") {
                for contents in [Some(5), None] {
                    for name in ["", "nix", "nix/deep"] {
                        pool.create_dataset(&data(name)).unwrap();
                    }
                    pool.create_dataset(&aside()).unwrap();
                    kill_at(point, dataset, &place);
                    assert_eq!(finished(&pool, dataset), 4, "{point}");
                    // Finished, or put back.
                    pool.exchange(&exchange(300, "", &aside().name, contents))
                        .unwrap();
                    let there = pool.look(&data("").name).unwrap().unwrap().mark;
                    let MarkSeen::Local(mark) = there else {
                        panic!("{point}: no mark")
                    };
                    assert_eq!(mark.contents, contents.map(operation), "{point}");
                    for name in ["nix", "nix/deep"] {
                        assert!(pool.look(&data(name).name).unwrap().is_some(), "{point}");
                    }
                    pool.bury(&burial_of_data(&pool, &node(), &aside(), 9), &grave())
                        .unwrap();
                    pool.reap(&condemned(&pool, &node(), &grave())).unwrap();
                    empty(&pool, dataset);
                }
            }
            for point in points("copy") {
                fill(&pool);
                let base = own_base(&node(), 300, 4);
                pool.create_dataset(&base).unwrap();
                kill_at(point, dataset, &place);
                assert_eq!(finished(&pool, dataset), 2, "{point}");
                let (mut told, cancel) = (|_: &str| {}, Cancel::default());
                pool.copy_tree(&copy(), &cancel, &mut told).unwrap();
                let clone = root(&node(), 300, 1, Origin::Clone(base.name.clone()));
                pool.create_dataset(&clone).unwrap();
                assert_eq!(
                    read(&pool, &clone.name).as_deref(),
                    Some(&b"precious"[..]),
                    "{point}"
                );
                pool.bury(&burial_of_root(&pool, &node(), &clone, 9), &grave())
                    .unwrap();
                pool.reap(&condemned(&pool, &node(), &grave())).unwrap();
                pool.bury(&burial_of_data(&pool, &node(), &base, 9), &grave())
                    .unwrap();
                pool.reap(&condemned(&pool, &node(), &grave())).unwrap();
                empty(&pool, dataset);
            }
            for point in points("take_out") {
                fill(&pool);
                kill_at(point, dataset, &place);
                pool.take_out(&taken(), TakeTo::Back).unwrap();
                let is_back = read(&pool, &data("").name).is_some();
                assert_eq!(is_back, point != "take_out.after_dropping", "{point}");
                if is_back {
                    pool.take_out(&taken(), TakeTo::Aside).unwrap();
                }
                pool.take_out(&taken(), TakeTo::Nothing).unwrap();
                assert_eq!(read(&pool, &data("").name), None, "{point}");
                empty(&pool, dataset);
            }
            for point in points("bury").into_iter().chain(points("reap")) {
                for name in ["", "nix", "nix/deep"] {
                    pool.create_dataset(&data(name)).unwrap();
                }
                if point.starts_with("reap") {
                    pool.bury(&burial_of_data(&pool, &node(), &data(""), 9), &grave())
                        .unwrap();
                }
                kill_at(point, dataset, &place);
                finished(&pool, dataset);
                empty(&pool, dataset);
            }
            for point in points("template") {
                kill_at(point, dataset, &place);
                let whole = if point == "template.after_rename" {
                    4
                } else {
                    0
                };
                assert_eq!(finished(&pool, dataset), whole, "{point}: not whole");
                build(&pool);
                // Its base, `.root`, `srv` on the way, and `srv/data`.
                assert_eq!(finished(&pool, dataset), 4, "{point}");
                let name = PoolPath::template(&digest(7), &TemplatePart::Base);
                let seen = pool.look(&name).unwrap().unwrap().mark;
                let proof = ConfirmedDestroy::prove_template(&name, &seen, &node()).unwrap();
                pool.bury(&Burial::of_data(proof, operation(1)), &grave())
                    .unwrap();
                empty(&pool, dataset);
            }
        },
    );
}
