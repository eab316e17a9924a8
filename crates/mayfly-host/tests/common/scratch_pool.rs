//! Pools in files of their own, for tests of the btrfs driver. Needs root; every test runs in a process and a mount
//! namespace of its own, which take mounts and loop devices with them however it ends.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]
#![allow(dead_code, reason = "each suite uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mayfly_core::bytes::Bytes;
use mayfly_core::conformance::given::persistent;
use mayfly_core::ids::{Digest, NodeId};
use mayfly_core::names::{PoolPath, TemplateName, TemplatePart};
use mayfly_core::ports::{HostError, NewDataset, Outcome, Storage};
use mayfly_host::runner::Runner;
use mayfly_host::storage::TemplatePool;
use mayfly_host::storage::btrfs::{Allocation, BtrfsPool, NewPool};

use super::alone::alone as run_alone;

/// Runs `body` as [`run_alone`] does; afterwards its loop devices must be gone.
pub(crate) fn alone(test: &str, body: impl FnOnce(&Path)) {
    run_alone(test, body, |dir| {
        gone(|| loops_of(dir).is_empty(), "the loop device");
    });
}

pub(crate) fn gone(mut is_gone: impl FnMut() -> bool, what: &str) {
    for _ in 0..200 {
        if is_gone() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("{what} did not go away");
}

pub(crate) fn loops_of(dir: &Path) -> Vec<PathBuf> {
    let backing =
        |entry: fs::DirEntry| fs::read_to_string(entry.path().join("loop/backing_file")).ok();
    let all = fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter_map(backing);
    all.map(|path| PathBuf::from(path.trim()))
        .filter(|path| path.starts_with(dir))
        .collect()
}

pub(crate) fn node() -> NodeId {
    NodeId::from_random([1; 8])
}

pub(crate) fn new_pool(dir: &Path) -> NewPool {
    NewPool::Loop {
        file: dir.join("pool.img"),
        size: Bytes::gib(1),
        allocation: Allocation::Sparse,
    }
}

pub(crate) fn pool(dir: &Path) -> BtrfsPool {
    BtrfsPool::format(
        &Runner::default(),
        &new_pool(dir),
        &node(),
        &dir.join("pool"),
    )
    .unwrap()
}

pub(crate) fn private(pool: &BtrfsPool, name: &PoolPath) -> PathBuf {
    pool.path().join(name.as_str()).join("private")
}

pub(crate) fn make_subvolume(path: &Path) {
    let made = Command::new("btrfs")
        .args(["subvolume", "create"])
        .arg(path)
        .stdout(Stdio::null())
        .status();
    assert!(made.unwrap().success());
}

pub(crate) fn records(pool: &BtrfsPool, kind: &str) -> usize {
    fs::read_dir(pool.path().join(".mayfly").join(kind))
        .unwrap()
        .count()
}

pub(crate) fn data(id: u32) -> NewDataset {
    persistent(&node(), id, "", Bytes::mib(64))
}

pub(crate) fn digest() -> Digest {
    Digest::from_random([7; 32])
}

pub(crate) fn build_template(pool: &BtrfsPool) -> Result<Outcome, HostError> {
    let name: TemplateName = "debian-12".parse().unwrap();
    let mut staging = pool.begin_template(&name)?;
    assert!(matches!(
        pool.begin_template(&name).map(|_| ()),
        Err(HostError::Busy { .. })
    ));
    let parts = [
        TemplatePart::Base,
        TemplatePart::Dataset("".parse().unwrap()),
        TemplatePart::Dataset("srv/data".parse().unwrap()),
    ];
    for (n, part) in parts.iter().enumerate() {
        let dir = staging.part(part)?;
        assert_eq!(staging.part(part)?, dir);
        fs::write(dir.join("part"), n.to_string()).unwrap();
    }
    // What is being built is neither seen nor cleared.
    assert!(pool.clear_staging().unwrap().is_empty());
    assert!(
        pool.observe()
            .unwrap()
            .datasets
            .keys()
            .all(|name| !name.as_str().contains("template="))
    );
    staging.publish(&digest())
}
