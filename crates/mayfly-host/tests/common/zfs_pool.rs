//! Pools below datasets of their own in a zpool that `MAYFLY_ZFS_TEST_POOL` names. There must be nothing of value on it.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use mayfly_core::conformance::{Can, Cannot, Clones, Held, Planted, PutError, Rig, Rights, Thing};
use mayfly_core::ids::{Digest, NodeId};
use mayfly_core::names::{PoolPath, TemplatePart};
use mayfly_core::observed::Mark;
use mayfly_core::ports::{Snapshots, Storage};
use mayfly_host::runner::Runner;
use mayfly_host::storage::zfs::ZfsPool;

use super::alone;
use super::guest;

const ZPOOL: &str = "MAYFLY_ZFS_TEST_POOL";
const REQUIRED: &str = "MAYFLY_REQUIRE_ZFS_TESTS";
const DATASET: &str = "MAYFLY_ZFS_TEST_DATASET";

/// The cases that mean nothing on OpenZFS, or that need a process that can be killed.
pub(crate) const SKIPPED: [&str; 5] = [
    "a_burial_that_is_cut_off_is_finished",
    "a_copy_that_is_cut_off_begins_anew",
    "an_exchange_that_is_cut_off_is_finished_or_put_back",
    "a_reaping_that_is_cut_off_is_finished",
    "what_is_cut_off_stays_in_the_staging_area",
];

/// Runs `body` in a process and a mount namespace of its own, with a directory and the name of a dataset that is not
/// there yet; afterwards whatever is there goes.
pub(crate) fn with_dataset(test: &str, body: impl FnOnce(&Path, &str)) {
    if alone::is_inner() {
        let dataset = std::env::var(DATASET).unwrap();
        return alone::alone(test, |dir| body(dir, &dataset), |_| {});
    }
    let Some(zpool) = std::env::var_os(ZPOOL) else {
        assert!(
            std::env::var_os(REQUIRED).is_none(),
            "{test} needs {ZPOOL} and may not be skipped"
        );
        alone::skipped(test, &format!("{ZPOOL} names no scratch zpool"));
        return;
    };
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dataset = format!(
        "{}/mayfly-test-{}-{number}",
        zpool.to_str().unwrap(),
        std::process::id()
    );
    // Each test is a process of its own from here on, so that this speaks to one of them.
    alone::alone_with(
        test,
        &[(DATASET, &dataset)],
        |_| unreachable!(),
        |_| {
            if std::env::var_os("MAYFLY_KEEP").is_none() {
                for name in [dataset.clone(), source_of(&dataset)] {
                    if is_there(&name) {
                        zfs(&["destroy", "-R", &name]);
                    }
                }
            }
        },
    );
}

fn is_there(name: &str) -> bool {
    let listed = Command::new("zfs").args(["list", "-H", name]).output();
    listed.unwrap().status.success()
}

/// Where streams come from.
fn source_of(dataset: &str) -> String {
    format!("{dataset}-source")
}

#[track_caller]
pub(crate) fn zfs(args: &[&str]) -> String {
    let out = Command::new("zfs").args(args).output().unwrap();
    assert!(
        out.status.success(),
        "zfs {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

pub(crate) fn node() -> NodeId {
    NodeId::from_random([1; 8])
}

pub(crate) struct ZfsRig {
    pool: Arc<ZfsPool>,
    dataset: String,
    /// Where datasets are mounted, as the supervisor of a run would.
    mounts: PathBuf,
    mounted: AtomicUsize,
    begun: Instant,
}

/// A dataset in use, for as long as this is there.
struct Mounted(PathBuf);

impl Held for Mounted {}

impl Drop for Mounted {
    fn drop(&mut self) {
        let gone = Command::new("umount").arg(&self.0).status();
        assert!(gone.unwrap().success() || std::thread::panicking());
    }
}

/// A process in whose mount namespace a dataset is in use. Its mounts have ended when it has been waited for.
struct Guest(Child);

impl Held for Guest {}

impl Drop for Guest {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn property(name: &str, value: impl std::fmt::Display) -> String {
    format!("mayfly:{name}={value}")
}

/// The properties that a mark consists of.
fn written(mark: &Mark) -> Vec<String> {
    let mut own = mark.clone();
    own.condemned_by = None;
    let record = serde_json::json!({ "version": 1, "mark": own });
    let condemned = mark.condemned_by.as_ref();
    [
        Some(property("mark", record)),
        condemned.map(|by| property("condemned", by)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl ZfsRig {
    pub(crate) fn new(dir: &Path, dataset: &str) -> Self {
        let pool =
            ZfsPool::format(&Runner::default(), dataset, &node(), &dir.join("pool")).unwrap();
        let mounts = dir.join("mounts");
        std::fs::create_dir(&mounts).unwrap();
        Self {
            pool: Arc::new(pool),
            dataset: dataset.to_owned(),
            mounts,
            mounted: AtomicUsize::new(0),
            begun: Instant::now(),
        }
    }

    fn whole(&self, name: &PoolPath) -> String {
        format!("{}/{}", self.dataset, name.as_str())
    }

    fn mount(&self, name: &PoolPath) -> Mounted {
        let number = self.mounted.fetch_add(1, Ordering::Relaxed);
        let at = self.mounts.join(number.to_string());
        std::fs::create_dir(&at).unwrap();
        let status = Command::new("mount")
            .args(["-t", "zfs", &self.whole(name)])
            .arg(&at)
            .status();
        assert!(status.unwrap().success(), "mounting {name}");
        Mounted(at)
    }

    fn inside<T>(&self, name: &PoolPath, act: impl FnOnce(&Path) -> T) -> T {
        let mounted = self.mount(name);
        act(&mounted.0.join("private"))
    }

    fn make(&self, whole: &str, properties: &[String]) {
        let mut args = vec!["create", "-u", "-o", "mountpoint=legacy"];
        for property in properties {
            args.extend(["-o", property]);
        }
        args.push(whole);
        zfs(&args);
    }

    /// A dataset whose properties came with a stream.
    fn receive(&self, whole: &str, properties: &[String]) {
        let source = source_of(&self.dataset);
        self.make(&source, properties);
        zfs(&["snapshot", &format!("{source}@sent")]);
        let script =
            format!("zfs send -p {source}@sent | zfs receive -u -o mountpoint=legacy {whole}");
        let received = Command::new("sh").args(["-c", &script]).status();
        assert!(received.unwrap().success(), "{script}");
        zfs(&["destroy", &format!("{whole}@sent")]);
        zfs(&["destroy", "-r", &source]);
    }

    fn staged(&self, name: &str) -> String {
        format!("{}/.mayfly/staging/{name}", self.dataset)
    }
}

impl Rig for ZfsRig {
    fn storage(&self) -> Arc<dyn Storage> {
        self.pool.clone()
    }

    fn snapshots(&self) -> Can<Arc<dyn Snapshots>> {
        Ok(self.pool.clone())
    }

    fn spool(&self) -> File {
        tempfile::tempfile().unwrap()
    }

    fn tainted_stream(&self, mark: &Mark, into: &File) -> Can<()> {
        let source = source_of(&self.dataset);
        let mut properties = written(mark);
        properties.push("canmount=off".to_owned());
        self.make(&source, &properties);
        let at = self.mounts.join("source");
        std::fs::create_dir_all(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "zfs", &source])
            .arg(&at)
            .status();
        assert!(mounted.unwrap().success());
        let mounted = Mounted(at);
        std::fs::create_dir(mounted.0.join("private")).unwrap();
        drop(mounted);
        let elsewhere = format!("mountpoint={}", self.mounts.join("taken").display());
        zfs(&["set", &elsewhere, "canmount=noauto", &source]);
        zfs(&[
            "snapshot",
            "-o",
            "mayfly:snapshot={}",
            &format!("{source}@sent"),
        ]);
        let sent = Command::new("zfs")
            .args(["send", "-p", &format!("{source}@sent")])
            .stdout(into.try_clone().unwrap())
            .status();
        assert!(sent.unwrap().success());
        zfs(&["destroy", "-r", &source]);
        Ok(())
    }

    fn mounts_itself(&self, dataset: &PoolPath) -> Can<bool> {
        let whole = self.whole(dataset);
        let seen = zfs(&["get", "-H", "-o", "value,source", "mountpoint", &whole]);
        Ok(seen.trim() != "legacy\tlocal")
    }

    fn begins(&self, case: &str, again: bool) {
        let how = if again { ", each call twice" } else { "" };
        eprintln!("{:?} {case}{how}", self.begun.elapsed());
    }

    fn node(&self) -> NodeId {
        node()
    }

    fn template(&self, digest: &Digest, parts: &[(TemplatePart, Vec<(&str, Thing)>)]) {
        guest::build(&*self.pool, digest, parts);
    }

    fn put(&self, dataset: &PoolPath, path: &str, thing: &Thing) -> Result<(), PutError> {
        self.inside(dataset, |top| guest::put(top, path, thing))
    }

    fn read(&self, dataset: &PoolPath, path: &str) -> Option<String> {
        self.inside(dataset, |top| guest::read(top, path))
    }

    fn remove(&self, dataset: &PoolPath, path: &str) -> Result<(), PutError> {
        self.inside(dataset, |top| guest::remove(top, path))
    }

    fn rights(&self, dataset: &PoolPath, path: &str) -> Can<Rights> {
        Ok(self.inside(dataset, |top| guest::rights(top, path)))
    }

    fn settle(&self) {
        self.pool.hurry_space().unwrap();
    }

    fn plant(&self, name: &PoolPath, planted: &Planted) -> Can<()> {
        let whole = self.whole(name);
        match planted {
            Planted::Unmarked => self.make(&whole, &[]),
            Planted::CameWithData(mark) => self.receive(&whole, &written(mark)),
            Planted::Unreadable => self.make(&whole, &[property("mark", "{\"version\":1,")]),
            Planted::Local(mark) => self.make(&whole, &written(mark)),
        }
        Ok(())
    }

    fn uproot(&self, name: &PoolPath) {
        zfs(&["destroy", "-r", &self.whole(name)]);
    }

    fn litter(&self, name: &str) {
        self.make(&self.staged(name), &[]);
    }

    fn clean(&self, name: &str) {
        zfs(&["destroy", &self.staged(name)]);
    }

    fn hold(&self, name: &PoolPath) -> Can<Box<dyn Held + '_>> {
        // In a mount namespace of its own, as guests have it: what is mounted in the namespace that it runs in, `zfs`
        // unmounts by itself.
        let number = self.mounted.fetch_add(1, Ordering::Relaxed);
        let at = self.mounts.join(number.to_string());
        std::fs::create_dir(&at).unwrap();
        let script = format!(
            "mount -t zfs {} {} && echo mounted && exec sleep 100000",
            self.whole(name),
            at.display()
        );
        let mut guest = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 8];
        guest.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Ok(Box::new(Guest(guest)))
    }

    fn refuses_what_is_in_use(&self) -> Can<()> {
        Ok(())
    }

    fn clones(&self) -> Clones {
        Clones::NeedTheirOrigin
    }

    fn foreign_snapshot(&self, name: &PoolPath, snapshot: &str) -> Can<()> {
        zfs(&["snapshot", &format!("{}@{snapshot}", self.whole(name))]);
        Ok(())
    }

    fn cut(&self, _: &dyn Fn(&dyn Storage)) -> Can<()> {
        Err(Cannot("a call is killed in a process of its own"))
    }
}
