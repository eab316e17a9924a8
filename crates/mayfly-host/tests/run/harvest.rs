//! Copies are taken back from dead roots, whose owner is hostile.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_core::error::Code;
use mayfly_core::persist::record::Taken;
use mayfly_core::ports::{HarvestOrder, HostError, HostResult, Runtime as _};
use mayfly_core::run::{PROTOCOL, RunEnd, RunPhase, RunSpec, RunState};
use mayfly_host::run::client;
use mayfly_host::run::runtime::LxcRuntime;

use crate::bench::{Bench, must, unable, until};

/// A root whose run is over, and the storage `/data`.
pub(crate) struct Dead {
    pub(crate) bench: Bench,
    pub(crate) spec: RunSpec,
    runtime: LxcRuntime,
}

impl Dead {
    fn new(vps: u32) -> Self {
        let bench = Bench::new(vps);
        let spec = bench.spec(&[("data", false)]);
        let runtime = bench.runtime();
        let dead = Self {
            bench,
            spec,
            runtime,
        };
        dead.ended(Some(RunEnd::PowerOff), None);
        dead
    }

    /// What the supervisor left of the run.
    fn ended(&self, end: Option<RunEnd>, ended_unix_ms: Option<u64>) {
        let dir = self.bench.node.run_dir(self.spec.vps, &self.spec.run);
        client::create_run(&dir, &self.spec).unwrap();
        let state = RunState {
            protocol: PROTOCOL,
            phase: RunPhase::Ended,
            supervisor_pid: i32::MAX,
            supervisor_start_ticks: 1,
            lxc_pid: None,
            init_pid: None,
            launch_us: None,
            end,
            in_order: false,
            ended_unix_ms,
            features: [].into(),
            persistence: None,
        };
        fs::write(dir.state(), serde_json::to_vec(&state).unwrap()).unwrap();
    }

    pub(crate) fn root(&self, path: &str) -> PathBuf {
        Bench::root(&self.spec).join(path.trim_start_matches('/'))
    }

    pub(crate) fn storage(&self, path: &str) -> PathBuf {
        let name = format!("pool/{}/data/private{path}", self.bench.vps);
        self.bench.path(&name)
    }

    fn record_file(&self) -> PathBuf {
        let directory = self.storage("/var/lib/mayfly/placed");
        fs::create_dir_all(&directory).unwrap();
        directory.join(format!("{}.json", self.spec.run))
    }

    /// Records these as placed when nothing was stored.
    fn place(&self, paths: &[&str]) {
        fs::create_dir_all(self.storage("/etc")).unwrap();
        fs::write(self.record_file(), record(&self.spec, paths)).unwrap();
    }

    fn order(&self) -> HarvestOrder {
        HarvestOrder {
            vps: self.spec.vps,
            run: self.spec.run.clone(),
            root: self.spec.root.clone(),
            mounts: self.spec.mounts.clone(),
            ids: self.spec.ids,
            storage: "/data".parse().unwrap(),
        }
    }

    fn harvest(&self) -> HostResult<Taken> {
        self.runtime.harvest(&self.order())
    }
}

/// The record of files that were not there when they were placed.
pub(crate) fn record(spec: &RunSpec, paths: &[&str]) -> String {
    let file = |path: &&str| {
        serde_json::json!({
            "path": path, "stored": format!("/data{path}"), "content": {"kind": "absent"}
        })
    };
    let files: Vec<_> = paths.iter().map(file).collect();
    serde_json::json!({"version": 1, "run": spec.run.as_str(), "files": files}).to_string()
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[test]
fn what_changed_in_a_root_that_ended_in_order_is_taken_once() {
    needs_host!();
    let dead = Dead::new(90140);
    dead.place(&["/etc/a", "/etc/absent", "/etc/empty"]);
    put(&dead.root("/etc/a"), "new");
    put(&dead.root("/etc/empty"), "");
    put(&dead.storage("/etc/a"), "old");
    put(&dead.storage("/etc/absent"), "kept");
    put(&dead.storage("/etc/empty"), "kept");
    chown(dead.root("/etc/a"), Some(33), Some(34)).unwrap();
    fs::set_permissions(dead.root("/etc/a"), fs::Permissions::from_mode(0o640)).unwrap();
    let taken = dead.harvest().unwrap();
    assert_eq!(
        (taken.count, &taken.files[..]),
        (1, &["/etc/a".to_owned()][..])
    );
    assert_eq!(taken.refused, Vec::<String>::new());
    let stored = dead.storage("/etc/a");
    assert_eq!(
        (read(&stored), read(&dead.storage("/etc/a.prev"))),
        ("new".into(), "old".into())
    );
    // The guest's ids, as they are on the disk: nothing was taken as the host's root.
    let seen = fs::metadata(&stored).unwrap();
    assert_eq!(
        (seen.uid(), seen.gid(), seen.mode() & 0o7777),
        (33, 34, 0o640)
    );
    for kept in ["/etc/absent", "/etc/empty"] {
        assert_eq!(read(&dead.storage(kept)), "kept", "{kept}");
    }
    assert_eq!(dead.harvest().unwrap().count, 0);
    assert_eq!(read(&dead.storage("/etc/a.prev")), "old");
    // The root itself was shown read-only.
    assert_eq!(read(&dead.root("/etc/a")), "new");
}

#[test]
fn of_a_root_that_crashed_only_what_had_settled_is_taken() {
    needs_host!();
    let dead = Dead::new(90141);
    dead.place(&["/etc/settled", "/etc/late"]);
    put(&dead.root("/etc/settled"), "whole");
    std::thread::sleep(Duration::from_millis(1200));
    put(&dead.root("/etc/late"), "hal");
    put(&dead.storage("/etc/late"), "whole");
    dead.ended(Some(RunEnd::Killed), Some(now_ms()));
    let taken = dead.harvest().unwrap();
    assert_eq!(taken.files, ["/etc/settled"]);
    assert_eq!(read(&dead.storage("/etc/settled")), "whole");
    assert_eq!(read(&dead.storage("/etc/late")), "whole");
    // It was done with: its record is gone, and what settled since is not asked for.
    assert_eq!(dead.harvest().unwrap(), Taken::default());
}

#[test]
fn what_a_guest_planted_at_placed_paths_leads_nowhere() {
    needs_host!();
    let dead = Dead::new(90142);
    let outside = dead.bench.path("outside");
    fs::write(&outside, "the host's").unwrap();
    dead.place(&[
        "/etc/link",
        "/etc/pipe",
        "/etc/huge",
        "/etc/hard",
        "/way/file",
        "/up/file",
        "/etc/good",
    ]);
    symlink(&outside, dead.root("/etc/link")).unwrap();
    must(&format!("mkfifo {}", dead.root("/etc/pipe").display()));
    let huge = fs::File::create(dead.root("/etc/huge")).unwrap();
    huge.set_len(17 << 20).unwrap();
    put(&dead.root("/etc/shadow"), "secret of the guest");
    fs::hard_link(dead.root("/etc/shadow"), dead.root("/etc/hard")).unwrap();
    symlink(outside.parent().unwrap(), dead.root("/way")).unwrap();
    put(&dead.root("/up/file"), "new");
    put(&dead.root("/etc/good"), "new");
    // In the storage as well: a link as a directory, and a name that is another file too.
    symlink(outside.parent().unwrap(), dead.storage("/up")).unwrap();
    put(&dead.storage("/other"), "other");
    fs::hard_link(dead.storage("/other"), dead.storage("/etc/good")).unwrap();
    let before = must(&format!("ls -A {}", dead.bench.path(".").display()));
    let taken = dead.harvest().unwrap();
    assert_eq!(taken.files, ["/etc/link", "/etc/hard", "/etc/good"]);
    for (path, why) in [
        ("/etc/pipe", "FIFO"),
        ("/etc/huge", "16 MiB"),
        ("/way/file", "symbolic link /way is in the way"),
        ("/up/file", "is in the way"),
    ] {
        let told = taken.refused.iter().find(|line| line.contains(path));
        assert!(
            told.is_some_and(|line| line.contains(why)),
            "{path}: {taken:?}"
        );
    }
    assert_eq!(fs::read_link(dead.storage("/etc/link")).unwrap(), outside);
    assert_eq!(read(&dead.storage("/etc/hard")), "secret of the guest");
    assert_eq!(fs::metadata(dead.storage("/etc/hard")).unwrap().nlink(), 1);
    assert_eq!(
        (
            read(&dead.storage("/etc/good")),
            read(&dead.storage("/other"))
        ),
        ("new".into(), "other".into())
    );
    assert_eq!(read(&outside), "the host's");
    let after = must(&format!("ls -A {}", dead.bench.path(".").display()));
    assert_eq!(
        before, after,
        "something was made beside the file of the host"
    );
}

#[test]
fn a_record_that_is_none_is_refused_and_keeps_no_root() {
    needs_host!();
    let dead = Dead::new(90143);
    put(&dead.root("/etc/a"), "new");
    let file = dead.record_file();
    let refused = |what: &str| {
        let taken = dead.harvest().unwrap();
        assert_eq!(
            (taken.count, taken.refused.len()),
            (0, 1),
            "{what}: {taken:?}"
        );
        assert!(!dead.storage("/etc/a").exists(), "{what}");
        must(&format!("rm -rf {}", file.display()));
    };
    for path in ["/../etc/a", "/etc/../../a", "/etc/\u{1b}a"] {
        fs::write(&file, record(&dead.spec, &["/etc/a", path])).unwrap();
        refused(path);
    }
    fs::write(&file, vec![b' '; 100 << 20]).unwrap();
    refused("a record of 100 MB");
    must(&format!("mkfifo {}", file.display()));
    refused("a record that is a FIFO");
    fs::create_dir(&file).unwrap();
    refused("a record that is a directory");
    let outside = dead.bench.path("outside");
    fs::write(&outside, record(&dead.spec, &["/etc/a"])).unwrap();
    symlink(&outside, &file).unwrap();
    refused("a record that is a link");
    fs::write(
        &file,
        record(&dead.spec, &["/etc/a"]).replace("000001", "000009"),
    )
    .unwrap();
    refused("the record of another run");
    // Where the record leads out of the storage nothing is written.
    let text = record(&dead.spec, &["/etc/a"]).replace("/data/etc/a", "/data/../a");
    fs::write(&file, text).unwrap();
    refused("a place outside of the storage");
}

#[test]
fn a_full_storage_is_an_error_that_leaves_nothing_half_written() {
    needs_host!();
    let dead = Dead::new(90144);
    let data = dead.storage("");
    let subvolume = data.parent().unwrap().display();
    let pool = dead.bench.path("pool");
    put(&dead.storage("/etc/big"), "old");
    dead.place(&["/etc/big"]);
    let new = "0123456789abcdef".repeat(256 << 10);
    put(&dead.root("/etc/big"), &new);
    must(&format!(
        "sync; btrfs quota enable {}; btrfs qgroup limit 2M {subvolume}",
        pool.display()
    ));
    let error = dead.harvest().unwrap_err();
    assert!(
        matches!(&error, HostError::Failed { why, .. } if why.contains("/etc/big")),
        "{error:?}"
    );
    assert_eq!(read(&dead.storage("/etc/big")), "old");
    let left = must(&format!("ls -A {}", dead.storage("/etc").display()));
    assert_eq!(left, "big\n");
    must(&format!("btrfs qgroup limit none {subvolume}"));
    assert_eq!(dead.harvest().unwrap().files, ["/etc/big"]);
    assert_eq!(read(&dead.storage("/etc/big")), new);
}

#[test]
fn a_harvest_that_cannot_be_says_why() {
    needs_host!();
    let dead = Dead::new(90145);
    // Nothing was placed: nothing is started.
    assert_eq!(dead.harvest().unwrap(), Taken::default());
    dead.place(&["/etc/a"]);
    let mut order = dead.order();
    order.storage = "/srv".parse().unwrap();
    let why = |order: &HarvestOrder| dead.runtime.harvest(order).unwrap_err().to_string();
    assert!(why(&order).contains("no dataset of the VPS holds /srv"));
    order.storage = "/data".parse().unwrap();
    order.mounts[0].read_only = true;
    assert!(why(&order).contains("mounted read-only"));
    // Another run of the VPS lives: it is no business of this root. That very run would be.
    let spec = dead.bench.spec(&[("data", false)]);
    let (dir, _) = dead.bench.start(&spec);
    dead.harvest().unwrap();
    let mut order = dead.order();
    order.run = spec.run.clone();
    let refusal = dead.runtime.harvest(&order).unwrap_err();
    assert!(
        matches!(&refusal, HostError::Refused(why) if why.code == Code::StillAlive),
        "{refusal:?}"
    );
    client::stop(&dir, crate::bench::WITHIN, true).unwrap();
    client::wait_ended(&dir, crate::bench::WITHIN).unwrap();
    dead.harvest().unwrap();
}

/// Processes of the helper that take copies back with these host ids.
pub(crate) fn harvesters(spec: &RunSpec) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let user = format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", spec.ids.first);
        if status.starts_with("Name:\tmayfly-guest\n") && status.contains(&user) {
            found.push(pid);
        }
    }
    found
}

/// Files that take some time to look at.
pub(crate) fn place_much(root: &Path) -> Vec<String> {
    let names: Vec<String> = (0..14).map(|n| format!("/etc/much{n}")).collect();
    for name in &names {
        let file = fs::File::create(root.join(name.trim_start_matches('/'))).unwrap();
        file.set_len(15 << 20).unwrap();
    }
    names
}

#[test]
fn the_helper_sees_nothing_of_the_host() {
    needs_host!();
    let dead = Dead::new(90146);
    let much = place_much(&Bench::root(&dead.spec));
    dead.place(&much.iter().map(String::as_str).collect::<Vec<_>>());
    let (runtime, order) = (&dead.runtime, dead.order());
    std::thread::scope(|scope| {
        let harvest = scope.spawn(|| runtime.harvest(&order));
        let mut pid = 0;
        until("the helper is at work", || {
            pid = harvesters(&dead.spec).first().copied().unwrap_or_default();
            pid != 0
        });
        must(&format!("kill -STOP {pid}"));
        let proc = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let mut seen: Vec<(String, String)> = proc("mountinfo")
            .lines()
            .map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                (fields[4].to_owned(), fields[5].to_owned())
            })
            .collect();
        seen.sort();
        let points: Vec<&str> = seen.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(points, ["/", "/0", "/mayfly-guest", "/root"], "{seen:?}");
        for (at, flags) in &seen {
            assert!(
                flags.contains("nosuid") && flags.contains("nodev"),
                "{at}: {flags}"
            );
            assert_eq!(
                flags.contains("noexec"),
                at != "/mayfly-guest",
                "{at}: {flags}"
            );
            assert_eq!(flags.starts_with("ro"), at != "/0", "{at}: {flags}");
        }
        let listed = must(&format!("ls -A /proc/{pid}/root/"));
        assert_eq!(listed, "0\nmayfly-guest\nroot\n");
        let status = proc("status");
        let first = dead.spec.ids.first;
        for line in [
            format!("Gid:\t{first}\t{first}\t{first}\t{first}"),
            "Groups:\t ".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
            "CapInh:\t0000000000000000".to_owned(),
            // Of files only, and in its own user namespace.
            "CapPrm:\t00000000900000df".to_owned(),
            "CapBnd:\t00000000900000df".to_owned(),
            "Threads:\t1".to_owned(),
        ] {
            assert!(
                status.lines().any(|l| l == line),
                "{line} is not in\n{status}"
            );
        }
        assert_eq!(
            proc("uid_map").split_whitespace().collect::<Vec<_>>(),
            ["0", &first.to_string(), &dead.spec.ids.count.to_string()]
        );
        let limits = proc("limits");
        for (name, most) in [
            ("Max processes", "0"),
            ("Max core file size", "0"),
            ("Max open files", "64"),
            ("Max address space", "268435456"),
            ("Max cpu time", "20"),
        ] {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            let fields: Vec<&str> = line[name.len()..].split_whitespace().collect();
            assert_eq!(fields[..2], [most, most], "{line}");
        }
        for space in ["net", "ipc", "uts", "mnt", "user", "cgroup"] {
            let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{space}");
        }
        let open = must(&format!("ls -l /proc/{pid}/fd"));
        assert!(
            !open.contains("socket:") && !open.contains("pipe:"),
            "{open}"
        );
        must(&format!("kill -CONT {pid}"));
        assert_eq!(harvest.join().unwrap().unwrap().count, much.len());
    });
    assert_eq!(harvesters(&dead.spec), [] as [i32; 0]);
}

#[test]
fn a_harvest_of_ten_files_is_quick() {
    needs_host!();
    let dead = Dead::new(90147);
    let names: Vec<String> = (0..10).map(|n| format!("/etc/file{n}")).collect();
    for name in &names {
        put(&dead.root(name), &name.repeat(100));
    }
    dead.place(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let began = std::time::Instant::now();
    assert_eq!(dead.harvest().unwrap().count, 10);
    let took = began.elapsed();
    let began = std::time::Instant::now();
    assert_eq!(dead.harvest().unwrap(), Taken::default());
    eprintln!(
        "ten files were taken in {took:?}, and it was seen in {:?} that nothing was placed",
        began.elapsed()
    );
    assert!(took < Duration::from_secs(5));
}
