//! A btrfs pool for the conformance suite.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mayfly_core::conformance::{
    Can, Cannot, Clones, Held, OF_SNAPSHOTS, Planted, PutError, Rig, Rights, Thing,
};
use mayfly_core::ids::{Digest, NodeId};
use mayfly_core::names::{PoolPath, TemplatePart};
use mayfly_core::observed::Mark;
use mayfly_core::ports::{Snapshots, Storage};
use mayfly_host::storage::btrfs::BtrfsPool;

use super::guest;
use super::scratch::{make_subvolume, node, private};

/// The cases that mean nothing on btrfs, or that its own suites have.
const SKIPPED: [&str; 9] = [
    "a_burial_that_is_cut_off_is_finished",
    "a_copy_that_is_cut_off_begins_anew",
    "an_exchange_that_is_cut_off_is_finished_or_put_back",
    "a_mark_that_came_with_the_data_proves_nothing",
    "a_reaping_that_is_cut_off_is_finished",
    "foreign_snapshots_do_not_keep_a_root",
    "something_in_use_below_keeps_the_whole_grave",
    "what_is_cut_off_stays_in_the_staging_area",
    "what_is_in_use_is_busy_and_stays_provable",
];

const NO_SNAPSHOTS: Cannot = Cannot("snapshots of btrfs are not driven yet");

/// All cases that are skipped.
pub(crate) fn skipped() -> Vec<&'static str> {
    [&SKIPPED[..], &OF_SNAPSHOTS[..]].concat()
}

pub(crate) struct BtrfsRig {
    pool: Arc<BtrfsPool>,
    /// Where datasets are held in use.
    mounts: PathBuf,
    held: AtomicUsize,
}

impl BtrfsRig {
    pub(crate) fn new(pool: BtrfsPool, mounts: &Path) -> Self {
        fs::create_dir_all(mounts).unwrap();
        Self {
            pool: Arc::new(pool),
            mounts: mounts.to_owned(),
            held: AtomicUsize::new(0),
        }
    }

    pub(crate) fn pool(&self) -> &BtrfsPool {
        &self.pool
    }

    fn path(&self, name: &PoolPath) -> PathBuf {
        self.pool.path().join(name.as_str())
    }

    fn record(&self, subvolume: &Path) -> PathBuf {
        let out = Command::new("btrfs")
            .args(["subvolume", "show"])
            .arg(subvolume)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let uuid = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("UUID:"))
            .unwrap();
        self.pool.path().join(".mayfly/marks").join(uuid.trim())
    }

    fn delete(&self, subvolume: &Path) {
        let record = self.record(subvolume);
        let status = Command::new("btrfs")
            .args(["-q", "subvolume", "delete"])
            .arg(subvolume)
            .status();
        assert!(status.unwrap().success());
        if fs::symlink_metadata(&record).is_ok() {
            fs::remove_file(record).unwrap();
        }
    }
}

fn mark_record(record: &Path, mark: &Mark) -> String {
    let uuid = record.file_name().unwrap().to_str().unwrap();
    serde_json::json!({ "version": 1, "uuid": uuid, "mark": mark }).to_string()
}

struct Mounted(PathBuf);

impl Held for Mounted {}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.0).status();
        assert!(gone.unwrap().success() || std::thread::panicking());
    }
}

impl Rig for BtrfsRig {
    fn storage(&self) -> Arc<dyn Storage> {
        self.pool.clone()
    }

    fn snapshots(&self) -> Can<Arc<dyn Snapshots>> {
        Err(NO_SNAPSHOTS)
    }

    fn spool(&self) -> fs::File {
        tempfile::tempfile().unwrap()
    }

    fn tainted_stream(&self, _: &Mark, _: &fs::File) -> Can<()> {
        Err(NO_SNAPSHOTS)
    }

    fn mounts_itself(&self, _: &PoolPath) -> Can<bool> {
        Err(NO_SNAPSHOTS)
    }

    fn node(&self) -> NodeId {
        node()
    }

    fn template(&self, digest: &Digest, parts: &[(TemplatePart, Vec<(&str, Thing)>)]) {
        guest::build(&*self.pool, digest, parts);
    }

    fn put(&self, dataset: &PoolPath, path: &str, thing: &Thing) -> Result<(), PutError> {
        guest::put(&private(&self.pool, dataset), path, thing)
    }

    fn read(&self, dataset: &PoolPath, path: &str) -> Option<String> {
        guest::read(&private(&self.pool, dataset), path)
    }

    fn remove(&self, dataset: &PoolPath, path: &str) -> Result<(), PutError> {
        guest::remove(&private(&self.pool, dataset), path)
    }

    fn rights(&self, dataset: &PoolPath, path: &str) -> Can<Rights> {
        Ok(guest::rights(&private(&self.pool, dataset), path))
    }

    fn settle(&self) {
        self.pool.hurry_space().unwrap();
    }

    fn plant(&self, name: &PoolPath, planted: &Planted) -> Can<()> {
        if matches!(planted, Planted::CameWithData(_)) {
            return Err(Cannot(
                "a mark goes by the uuid of its subvolume, which no copy has",
            ));
        }
        make_subvolume(&self.path(name));
        let record = self.record(&self.path(name));
        match planted {
            Planted::Unmarked | Planted::CameWithData(_) => {}
            Planted::Unreadable => symlink("{\"version\":1,", record).unwrap(),
            Planted::Local(mark) => symlink(mark_record(&record, mark), &record).unwrap(),
        }
        Ok(())
    }

    fn uproot(&self, name: &PoolPath) {
        self.delete(&self.path(name));
    }

    fn litter(&self, name: &str) {
        make_subvolume(&self.pool.path().join(".mayfly/staging").join(name));
    }

    fn clean(&self, name: &str) {
        self.delete(&self.pool.path().join(".mayfly/staging").join(name));
    }

    fn hold(&self, name: &PoolPath) -> Can<Box<dyn Held + '_>> {
        let number = self.held.fetch_add(1, Ordering::Relaxed);
        let at = self.mounts.join(number.to_string());
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .arg("--bind")
            .arg(private(&self.pool, name))
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success());
        Ok(Box::new(Mounted(at)))
    }

    fn refuses_what_is_in_use(&self) -> Can<()> {
        Err(Cannot("btrfs destroys a subvolume that is in use"))
    }

    fn clones(&self) -> Clones {
        Clones::StandAlone
    }

    fn foreign_snapshot(&self, _: &PoolPath, _: &str) -> Can<()> {
        Err(Cannot("btrfs keeps snapshots as datasets"))
    }

    fn cut(&self, _: &dyn Fn(&dyn Storage)) -> Can<()> {
        Err(Cannot("btrfs_crash kills it in processes of their own"))
    }
}
