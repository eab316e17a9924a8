//! A pool in a loop file, with roots made of one static busybox, and runs on it. All of it goes when dropped.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use mayfly_core::ids::{NodeId, RunId, VpsId};
use mayfly_core::run::{IdRange, Limits, MountSource, PROTOCOL, RunMount, RunSpec, RunState};
use mayfly_host::run::attach::attach_command;
use mayfly_host::run::client::{self, Node};
use mayfly_host::run::paths::RunDir;
use mayfly_host::run::runtime::{LxcRuntime, RuntimePlaces};
use mayfly_host::storage::KernelIdentity;

pub(crate) const WITHIN: Duration = Duration::from_secs(20);

/// An init that runs until it is told to power off.
const INIT: &str = "#!/bin/sh\nexport PATH=/bin\necho hello from init\ntrap 'poweroff -f' USR1\n\
                    while :; do sleep 1 & wait $!; done\n";

pub(crate) struct Bench {
    dir: tempfile::TempDir,
    pub(crate) node: Node,
    pub(crate) vps: VpsId,
    runs: std::cell::Cell<u32>,
}

/// Why nothing can be tried here, if so.
pub(crate) fn unable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("these tests need root".into());
    }
    for tool in [
        "/usr/bin/lxc-start",
        "/usr/bin/busybox",
        "/usr/sbin/mkfs.btrfs",
        "/usr/bin/cc",
    ] {
        if !Path::new(tool).exists() {
            return Some(format!("{tool} is missing"));
        }
    }
    (!supervisor().exists()).then(|| {
        format!(
            "{} is not built: cargo build --examples",
            supervisor().display()
        )
    })
}

fn target() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().and_then(Path::parent).unwrap().to_owned()
}

pub(crate) fn supervisor() -> PathBuf {
    target().join("examples/supervise")
}

/// The static guest helper and the probe, built once. `MAYFLY_GUEST` names a helper that is built already.
fn programs() -> &'static (PathBuf, PathBuf) {
    static BUILT: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let helper = std::env::var_os("MAYFLY_GUEST").map_or_else(build_helper, PathBuf::from);
        let probe = target().join("run-probe");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/run/probe.c");
        assert!(
            Command::new("cc")
                .args(["-static", "-O1", "-o"])
                .arg(&probe)
                .arg(source)
                .status()
                .unwrap()
                .success()
        );
        (helper, probe)
    })
}

/// In a target directory of its own, so that it does not wait for other builds.
fn build_helper() -> PathBuf {
    let triple = "x86_64-unknown-linux-gnu";
    let at = target().join("run-helper");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            "guest",
            "-p",
            "mayfly-guest",
            "--target",
            triple,
            "--target-dir",
        ])
        .arg(&at)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .status();
    assert!(built.unwrap().success(), "the guest helper does not build");
    at.join(triple).join("guest/mayfly-guest")
}

pub(crate) fn sh(script: &str) -> Output {
    Command::new("/bin/sh")
        .args(["-euc", script])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn must(script: &str) -> String {
    let done = sh(script);
    assert!(
        done.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

impl Bench {
    /// Each test takes a number of its own, because containers and ids are the host's.
    pub(crate) fn new(vps: u32) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mayfly-run")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let at = dir.path().display();
        must(&format!(
            "truncate -s 512M {at}/pool.img; mkfs.btrfs -q {at}/pool.img; mkdir {at}/pool {at}/runs; chmod 711 {at}/runs;
             mount -o loop,nosuid,nodev {at}/pool.img {at}/pool; chmod 700 {at}/pool"
        ));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let pool = dir.path().join("pool");
        let line = mounts
            .lines()
            .find(|l| l.split(' ').nth(4) == pool.to_str())
            .unwrap();
        let place = KernelIdentity::FileSystem {
            device: line.split(' ').nth(2).unwrap().to_owned(),
            root: "/".to_owned(),
        };
        let node = NodeId::from_random(
            (u64::from(std::process::id()) << 32 | u64::from(vps)).to_be_bytes(),
        );
        let runs = dir.path().join("runs");
        let node = Node {
            node,
            runs,
            pool: Some(place),
        };
        Self {
            dir,
            node,
            vps: vps.try_into().unwrap(),
            runs: 0.into(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A spec with a fresh root, whose `private` the caller may change before the start.
    pub(crate) fn spec(&self, mounts: &[(&str, bool)]) -> RunSpec {
        let number = self.runs.get() + 1;
        self.runs.set(number);
        let run: RunId = format!("{number:06x}").parse().unwrap();
        let vps = self.vps;
        let root = self.dataset(&format!("{vps}.impermanence-{run}"));
        for name in [
            "bin", "boot", "dev", "etc", "proc", "run", "sbin", "sys", "tmp", "var",
        ] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
        fs::copy(&programs().1, root.join("bin/probe")).unwrap();
        for name in [
            "sh", "mount", "cat", "ls", "sleep", "poweroff", "reboot", "touch", "stty", "id", "mv",
        ] {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        self.script(&root.join("sbin/init"), INIT);
        let mounts = mounts.iter().map(|(name, read_only)| {
            let dataset = self.path(&format!("pool/{vps}/{name}/private"));
            if !dataset.exists() {
                self.dataset(&format!("{vps}/{name}"));
            }
            fs::create_dir(root.join(name)).unwrap();
            RunMount {
                source: MountSource::Directory {
                    path: dataset.to_str().unwrap().into(),
                },
                target: format!("/{name}").parse().unwrap(),
                read_only: *read_only,
            }
        });
        RunSpec {
            protocol: PROTOCOL,
            node: self.node.node.clone(),
            vps,
            incarnation: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            run,
            hostname: "web1".parse().unwrap(),
            mounts: mounts.collect(),
            root: MountSource::Directory {
                path: root.to_str().unwrap().into(),
            },
            ids: IdRange {
                first: 0x1000_0000 + vps.get() % 1000 * IdRange::SIZE,
                count: IdRange::SIZE,
            },
            limits: Limits {
                memory_bytes: None,
                swap_bytes: Default::default(),
                cpu_percent: None,
                processes: Some(500),
            },
            features: [].into(),
            init: "/sbin/init".parse().unwrap(),
            halt_signal: libc::SIGUSR1,
            boot_report: serde_json::json!({ "root": "fresh" }),
            persistence: None,
            network: None,
            guest_helper: programs().0.to_str().unwrap().into(),
            console_dir: self.path("console").to_str().unwrap().into(),
            detach: vec![self.path("pool").to_str().unwrap().into()],
        }
    }

    /// The daemon's side, for runs of this bench.
    pub(crate) fn runtime(&self) -> LxcRuntime {
        LxcRuntime::new(RuntimePlaces {
            node: self.node.clone(),
            program: supervisor(),
            guest_helper: programs().0.clone(),
            consoles: self.path("consoles"),
        })
    }

    fn dataset(&self, name: &str) -> PathBuf {
        let at = self.path("pool").join(name);
        must(&format!(
            "mkdir -p $(dirname {0}); btrfs subvolume create {0}; mkdir {0}/private",
            at.display()
        ));
        at.join("private")
    }

    /// Every guest file is owned by root outside too: roots are mapped when they are mounted.
    pub(crate) fn script(&self, at: &Path, text: &str) {
        fs::write(at, text).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn root(spec: &RunSpec) -> PathBuf {
        let MountSource::Directory { path } = &spec.root else {
            panic!("the root is no directory")
        };
        path.into()
    }

    /// Starts a run and waits until its init runs, or it failed.
    pub(crate) fn start(&self, spec: &RunSpec) -> (RunDir, RunState) {
        let dir = self.node.run_dir(spec.vps, &spec.run);
        client::create_run(&dir, spec).unwrap();
        client::spawn_supervisor(&supervisor(), &dir).unwrap();
        let state = client::wait_started(&dir, WITHIN).unwrap();
        (dir, state)
    }

    /// A program inside the VPS.
    pub(crate) fn command(&self, argv: &[&str]) -> Command {
        let attach = attach_command(&self.node.node, self.vps, &["PATH=/bin"], argv).unwrap();
        let mut command = Command::new(attach.program);
        command.args(attach.args).env_clear().stdin(Stdio::null());
        command
    }

    pub(crate) fn exec(&self, argv: &[&str]) -> (bool, String) {
        let done = self.command(argv).output().unwrap();
        let text = [done.stdout, done.stderr].concat();
        (
            done.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Nothing of the VPS is anywhere: processes, mounts, cgroups, sockets.
    pub(crate) fn assert_nothing_left(&self) {
        let evidence = self.node.observe_evidence(self.vps).unwrap();
        assert!(evidence.is_empty(), "{evidence:?}");
        let name = format!("mayfly-{}", self.node.node);
        let groups = must(&format!(
            "find /sys/fs/cgroup -type d -path '*/{name}/{}.*' 2>/dev/null || true",
            self.vps
        ));
        assert_eq!(groups, "");
        let own = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = self.path("runs");
        assert!(
            !own.contains(at.to_str().unwrap()),
            "a mount of a run is in the host's namespace"
        );
        assert_eq!(
            must(&format!("find {} -type s -o -type p", at.display())),
            ""
        );
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::env::var_os("MAYFLY_KEEP").is_some() {
            eprintln!("kept: {}", self.dir.path().display());
            self.dir.disable_cleanup(true);
            return;
        }
        if let Err(troubles) = self.node.sweep(self.vps, WITHIN) {
            eprintln!("sweep: {troubles:?}");
        }
        let done = sh(&format!("umount {}", self.path("pool").display()));
        if !done.status.success() {
            eprintln!("umount: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

/// Repeats a look until it is true.
pub(crate) fn until(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + 3 * WITHIN;
    while !look() {
        assert!(Instant::now() < end, "still not: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
