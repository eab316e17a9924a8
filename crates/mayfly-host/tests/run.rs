//! Runs of real containers: how they start, how they end, and that nothing of them stays.
//!
//! Needs root, LXC, btrfs, a static busybox and a C compiler; says what is missing otherwise. `MAYFLY_KEEP=1` leaves
//! the wreck.
#![allow(
    clippy::disallowed_methods,
    reason = "a test drives the host with its own tools"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

macro_rules! needs_host {
    () => {
        if let Some(why) = unable() {
            eprintln!("skipped: {why}");
            return;
        }
    };
}

#[path = "run/bench.rs"]
mod bench;
#[path = "run/harvest.rs"]
mod harvest;
#[path = "run/settle.rs"]
mod settle;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bench::{Bench, WITHIN, must, unable, until};
use mayfly_core::ports::{Outcome, Runtime as _};
use mayfly_core::run::{RunEnd, RunPhase, RunState};
use mayfly_host::run::client;
use mayfly_host::run::evidence::Evidence;
use mayfly_host::run::ring::read_ring;

fn kill9(pid: i32) {
    must(&format!("kill -9 {pid}"));
}

#[test]
fn a_run_boots_and_powers_off_without_a_trace() {
    needs_host!();
    let bench = Bench::new(90101);
    let spec = bench.spec(&[("data", false)]);
    let (dir, state) = bench.start(&spec);
    assert_eq!(state.phase, RunPhase::Running, "{state:?}");
    eprintln!("init reached after {} us", state.launch_us.unwrap());
    assert!(!bench.node.observe_evidence(bench.vps).unwrap().is_empty());
    assert_eq!(bench.node.observe_runs().unwrap().len(), 1);
    let (ok, report) = bench.exec(&["cat", "/run/mayfly/boot.json"]);
    assert!(ok && report.contains("fresh"), "{report}");
    assert!(
        !bench.exec(&["ls", "/dev/.mayfly"]).0,
        "the handover is visible to the guest"
    );
    let (_, mounts) = bench.exec(&["cat", "/proc/self/mountinfo"]);
    assert!(
        !mounts.contains(".mayfly") && !mounts.contains(bench.path("runs").to_str().unwrap()),
        "{mounts}"
    );
    let root = mounts
        .lines()
        .find(|l| l.split(' ').nth(4) == Some("/"))
        .unwrap();
    let flags = root.split(' ').nth(5).unwrap();
    assert!(
        flags.contains("nodev") && flags.contains("noatime") && flags.contains("idmapped"),
        "{root}"
    );
    assert!(!flags.contains("nosuid"), "sudo would not work: {root}");
    assert!(bench.exec(&["touch", "/data/file"]).0);
    let (_, who) = bench.exec(&["id"]);
    assert!(who.starts_with("uid=0 gid=0"), "{who}");
    bench.exec(&["poweroff", "-f"]);
    let ended = client::wait_ended(&dir, WITHIN).unwrap();
    assert_eq!(ended.end, Some(RunEnd::PowerOff));
    bench.assert_nothing_left();
    // What guest root made is root's outside: nothing was chowned.
    let file = bench.path(&format!("pool/{}/data/private/file", bench.vps));
    assert_eq!(must(&format!("stat -c %u:%g {}", file.display())), "0:0\n");
}

#[test]
fn reboots_and_stops_are_told_apart() {
    needs_host!();
    let bench = Bench::new(90102);
    let (dir, _) = bench.start(&bench.spec(&[]));
    bench.exec(&["reboot", "-f"]);
    assert_eq!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::Reboot)
    );
    bench.assert_nothing_left();

    let (dir, _) = bench.start(&bench.spec(&[]));
    client::stop(&dir, WITHIN, false).unwrap();
    assert_eq!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::PowerOff)
    );
    bench.assert_nothing_left();

    let (dir, _) = bench.start(&bench.spec(&[]));
    client::stop(&dir, WITHIN, true).unwrap();
    assert_eq!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::Killed)
    );
    bench.assert_nothing_left();

    let spec = bench.spec(&[]);
    fs::copy(
        Bench::root(&spec).join("bin/probe"),
        Bench::root(&spec).join("sbin/init"),
    )
    .unwrap();
    let (dir, _) = bench.start(&spec);
    let asked = Instant::now();
    client::stop(&dir, Duration::from_millis(300), false).unwrap();
    assert_eq!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::Killed)
    );
    assert!(asked.elapsed() >= Duration::from_millis(300));
    bench.assert_nothing_left();
    // Stopping what has ended is fine.
    assert_eq!(
        client::stop(&dir, WITHIN, false).unwrap().phase,
        RunPhase::Ended
    );
}

#[test]
fn the_supervisor_stops_the_guest_when_it_is_terminated() {
    needs_host!();
    let bench = Bench::new(90103);
    let (dir, state) = bench.start(&bench.spec(&[]));
    must(&format!("kill -TERM {}", state.supervisor_pid));
    assert_eq!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::HostDown)
    );
    bench.assert_nothing_left();
}

#[test]
fn whatever_is_killed_the_run_is_over_and_swept() {
    needs_host!();
    let bench = Bench::new(90104);
    let (dir, state) = bench.start(&bench.spec(&[]));
    kill9(state.init_pid.unwrap());
    let ended = client::wait_ended(&dir, WITHIN).unwrap();
    assert!(
        matches!(&ended.end, Some(RunEnd::Crashed { detail }) if detail.contains("init was killed by signal 9")),
        "{ended:?}"
    );
    bench.assert_nothing_left();

    let (dir, state) = bench.start(&bench.spec(&[]));
    kill9(state.lxc_pid.unwrap());
    let ended = client::wait_ended(&dir, WITHIN).unwrap();
    assert!(
        matches!(&ended.end, Some(RunEnd::Crashed { detail }) if detail.contains("lxc-start was killed")),
        "{ended:?}"
    );
    bench.assert_nothing_left();

    let (dir, state) = bench.start(&bench.spec(&[]));
    kill9(state.supervisor_pid);
    let report = bench.node.sweep(bench.vps, WITHIN).unwrap();
    assert_eq!(report.closed.len(), 1);
    assert!(matches!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::Crashed { .. })
    ));
    bench.assert_nothing_left();
    assert_eq!(
        bench.node.sweep(bench.vps, WITHIN).unwrap(),
        client::SweepReport::default()
    );
}

#[test]
fn a_guest_that_outlives_its_monitor_is_found_and_ended() {
    needs_host!();
    let bench = Bench::new(90105);
    let orphan = |spec: &mayfly_core::run::RunSpec| {
        fs::copy(
            Bench::root(spec).join("bin/probe"),
            Bench::root(spec).join("sbin/init"),
        )
        .unwrap();
        let (dir, state) = bench.start(spec);
        until("the init ignores its death signal", || {
            String::from_utf8_lossy(&read_ring(&bench.path("console")).unwrap())
                .matches("orphan ready")
                .count()
                >= bench_runs(spec)
        });
        (dir, state)
    };
    // The supervisor itself finds it.
    let (dir, state) = orphan(&bench.spec(&[]));
    kill9(state.lxc_pid.unwrap());
    assert!(matches!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::Crashed { .. })
    ));
    bench.assert_nothing_left();
    // The supervisor is dead, and its record is lost.
    let spec = bench.spec(&[]);
    let (dir, state) = orphan(&spec);
    let kill_supervisor = |state: &RunState| {
        // In this order the supervisor cannot sweep, and lxc-start cannot end the guest for a hung up terminal.
        must(&format!("kill -STOP {}", state.supervisor_pid));
        kill9(state.lxc_pid.unwrap());
        kill9(state.supervisor_pid);
    };
    kill_supervisor(&state);
    until("lxc-start is dead", || {
        !std::path::Path::new(&format!("/proc/{}/exe", state.lxc_pid.unwrap())).exists()
    });
    fs::remove_dir_all(dir.path()).unwrap();
    let evidence = bench.node.observe_evidence(bench.vps).unwrap();
    let init = state.init_pid.unwrap();
    assert!(
        evidence.contains(&Evidence::Process {
            pid: init,
            run: spec.run.clone()
        }),
        "{evidence:?}"
    );
    assert!(
        evidence
            .iter()
            .any(|e| matches!(e, Evidence::Mount { at, .. } if at == "/")),
        "{evidence:?}"
    );
    let report = bench.node.sweep(bench.vps, WITHIN).unwrap();
    assert!(report.ended.iter().any(|e| e.pid() == init));
    bench.assert_nothing_left();
    // It has left its cgroups as well: the mount alone gives it away.
    let (_, state) = orphan(&bench.spec(&[]));
    let init = state.init_pid.unwrap();
    must(&format!(
        "for f in $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs); do echo {init} > $f; done"
    ));
    kill_supervisor(&state);
    until("only mounts are left", || {
        let left = bench.node.observe_evidence(bench.vps).unwrap();
        !left.is_empty() && left.iter().all(|e| matches!(e, Evidence::Mount { .. }))
    });
    bench.node.sweep(bench.vps, WITHIN).unwrap();
    bench.assert_nothing_left();
}

fn bench_runs(spec: &mayfly_core::run::RunSpec) -> usize {
    usize::from_str_radix(spec.run.as_str(), 16).unwrap()
}

#[test]
fn a_frozen_guest_is_swept_too() {
    needs_host!();
    let bench = Bench::new(90106);
    let (_, state) = bench.start(&bench.spec(&[]));
    let file = must(&format!(
        "ls -d /sys/fs/cgroup/freezer/mayfly-{0}/{1}.*/payload/freezer.state /sys/fs/cgroup/mayfly-{0}/{1}.*/payload/cgroup.freeze 2>/dev/null || true",
        bench.node.node, bench.vps
    ));
    let file = file.trim();
    fs::write(
        file,
        if file.ends_with("state") {
            "FROZEN"
        } else {
            "1"
        },
    )
    .unwrap();
    kill9(state.supervisor_pid);
    bench.node.sweep(bench.vps, WITHIN).unwrap();
    bench.assert_nothing_left();
}

#[test]
fn read_only_and_subvolumes_hold_against_guest_root() {
    needs_host!();
    let bench = Bench::new(90107);
    let (dir, _) = bench.start(&bench.spec(&[("data", false), ("fixed", true)]));
    assert!(bench.exec(&["touch", "/data/x"]).0);
    for attempt in [
        &["touch", "/fixed/x"][..],
        &["mount", "-o", "remount,rw,bind", "/fixed"],
        &["mount", "-o", "remount,rw", "/fixed"],
        &[
            "sh",
            "-c",
            "mount --bind /fixed /tmp && mount -o remount,rw,bind /tmp && touch /tmp/x",
        ],
    ] {
        let (ok, text) = bench.exec(attempt);
        assert!(!ok, "{attempt:?} went through: {text}");
    }
    assert_eq!(
        must(&format!(
            "ls {}",
            bench
                .path(&format!("pool/{}/fixed/private", bench.vps))
                .display()
        )),
        ""
    );
    let (ok, text) = bench.exec(&["sh", "-c", "cd /data && probe subvolumes"]);
    assert!(
        ok && text.matches("Inappropriate ioctl for device").count() == 8,
        "{text}"
    );
    client::stop(&dir, WITHIN, true).unwrap();
    client::wait_ended(&dir, WITHIN).unwrap();
    bench.assert_nothing_left();
}

#[test]
fn one_guest_cannot_take_the_inotify_budget_of_another() {
    needs_host!();
    let (greedy, other) = (Bench::new(90108), Bench::new(90109));
    greedy.start(&greedy.spec(&[]));
    let mut hog = greedy
        .command(&["probe", "inotify", "all"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut taken = String::new();
    BufReader::new(hog.stdout.as_mut().unwrap())
        .read_line(&mut taken)
        .unwrap();
    eprintln!("the greedy guest took {} inotify instances", taken.trim());
    assert!(
        !greedy.exec(&["probe", "inotify"]).0,
        "the budget is not used up"
    );
    let (_, state) = other.start(&other.spec(&[]));
    assert_eq!(state.phase, RunPhase::Running);
    assert!(
        other.exec(&["probe", "inotify"]).0,
        "the other guest has no inotify instance left"
    );
    let root_has = Command::new(Bench::root(&greedy.spec(&[])).join("bin/probe"))
        .arg("inotify")
        .status()
        .unwrap();
    assert!(
        root_has.success(),
        "the host's root has no inotify instance left"
    );
    greedy.node.sweep(greedy.vps, WITHIN).unwrap();
    hog.wait().unwrap();
}

#[test]
fn a_start_without_a_usable_init_fails_and_says_why() {
    needs_host!();
    let bench = Bench::new(90110);
    let fails = |prepare: &dyn Fn(&std::path::Path), expected: &str| {
        let spec = bench.spec(&[]);
        let init = Bench::root(&spec).join("sbin/init");
        fs::remove_file(&init).unwrap();
        prepare(&init);
        let (dir, _) = bench.start(&spec);
        let ended = client::wait_ended(&dir, WITHIN).unwrap();
        let Some(RunEnd::FailedToStart { detail }) = ended.end else {
            panic!("{ended:?}")
        };
        assert!(detail.contains(expected), "{detail}");
        bench.assert_nothing_left();
    };
    fails(&|_| (), "/sbin/init cannot be reached");
    fails(
        &|init| symlink("/nix/var/nix/profiles/system/init", init).unwrap(),
        "leads through /sbin/init to /nix/var/nix",
    );
    fails(&|init| fs::write(init, "x").unwrap(), "not executable");
    fails(&|init| fs::create_dir(init).unwrap(), "not a regular file");
    fails(
        &|init| bench.script(init, "not a program"),
        "cannot execute /sbin/init",
    );
    fails(
        &|init| bench.script(init, "#!/no/such/shell\n"),
        "interpreter or loader is missing",
    );
}

/// The end of a run is told when all of it is swept up, which may take longer than its init had to live.
#[test]
fn an_init_that_dies_at_once_fails_its_start_however_long_its_end_takes() {
    needs_host!();
    let bench = Bench::new(90114);
    let spec = bench.spec(&[]);
    let init = Bench::root(&spec).join("sbin/init");
    bench.script(
        &init,
        "#!/bin/sh\nyes 0123456789 | head -c 600000; echo the-e''nd; while :; do sleep 60; done\n",
    );
    let (dir, state) = bench.start(&spec);
    let runtime = bench.runtime();
    let alive = runtime.await_init(bench.vps, &spec.run, WITHIN).unwrap();
    assert_eq!(alive, Outcome::Unchanged);
    // A viewer that does not read, and has more to read than it can be sent, is waited for at the end.
    let viewer = UnixStream::connect(dir.console_socket()).unwrap();
    until("it has printed all", || {
        String::from_utf8_lossy(&read_ring(&bench.path("console")).unwrap()).contains("the-end")
    });
    kill9(state.init_pid.unwrap());
    let failed = runtime
        .await_init(bench.vps, &spec.run, WITHIN)
        .unwrap_err();
    assert!(
        failed.to_string().contains("init was killed by signal 9"),
        "{failed}"
    );
    drop(viewer);
    client::wait_ended(&dir, WITHIN).unwrap();
    bench.assert_nothing_left();
}

#[test]
fn a_run_that_cannot_be_prepared_fails_and_leaves_nothing() {
    needs_host!();
    let bench = Bench::new(90111);
    let mut spec = bench.spec(&[("data", false)]);
    fs::remove_dir(Bench::root(&spec).join("data")).unwrap();
    let (dir, _) = bench.start(&spec);
    let ended = client::wait_ended(&dir, WITHIN).unwrap();
    assert!(
        matches!(&ended.end, Some(RunEnd::FailedToStart { detail }) if detail.contains("data")),
        "{ended:?}"
    );
    bench.assert_nothing_left();

    // The last component of a source is never followed.
    spec = bench.spec(&[]);
    let root = Bench::root(&spec);
    fs::rename(&root, root.with_file_name("real")).unwrap();
    symlink("real", &root).unwrap();
    let (dir, _) = bench.start(&spec);
    let ended = client::wait_ended(&dir, WITHIN).unwrap();
    assert!(
        matches!(&ended.end, Some(RunEnd::FailedToStart { detail }) if detail.contains("cannot mount")),
        "{ended:?}"
    );
    bench.assert_nothing_left();

    // A directory that guests cannot pass is refused before anything exists.
    fs::set_permissions(bench.path("runs"), fs::Permissions::from_mode(0o700)).unwrap();
    let dir = bench.node.run_dir(spec.vps, &spec.run);
    let target = std::env::current_exe().unwrap();
    let program = target
        .parent()
        .and_then(std::path::Path::parent)
        .unwrap()
        .join("examples/supervise");
    let refused = client::spawn_supervisor(&program, &dir).unwrap_err();
    assert!(refused.to_string().contains("0711"), "{refused}");
}

#[test]
fn the_console_replays_to_several_viewers_and_takes_input() {
    needs_host!();
    let bench = Bench::new(90112);
    let spec = bench.spec(&[]);
    let init = Bench::root(&spec).join("sbin/init");
    bench.script(
        &init,
        "#!/bin/sh\necho ready\nwhile read line; do eval \"$line\"; done\n",
    );
    let (dir, _) = bench.start(&spec);
    let view = || {
        let stream = UnixStream::connect(dir.console_socket()).unwrap();
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        stream
    };
    // None where the stream is closed before.
    let try_until = |stream: &mut UnixStream, wanted: &str| {
        let mut seen = Vec::new();
        let mut buffer = [0; 64 << 10];
        let mut looked_at = 0;
        while !seen[looked_at..]
            .windows(wanted.len())
            .any(|w| w == wanted.as_bytes())
        {
            looked_at = seen.len().saturating_sub(wanted.len());
            match stream.read(&mut buffer).unwrap() {
                0 => return None,
                n => seen.extend_from_slice(&buffer[..n]),
            }
        }
        Some(String::from_utf8_lossy(&seen).into_owned())
    };
    let read_until = |stream: &mut UnixStream, wanted: &str| {
        let seen = try_until(stream, wanted);
        seen.unwrap_or_else(|| panic!("closed before {wanted:?}"))
    };
    let (mut first, mut lazy) = (view(), view());
    read_until(&mut first, "ready\r");
    client::resize(&dir, 50, 132).unwrap();
    first
        .write_all(b"/bin/stty size; echo $((6 * 7))\n")
        .unwrap();
    let seen = read_until(&mut first, "42\r\n");
    assert!(seen.contains("50 132"), "{seen}");
    let mut late = view();
    assert!(read_until(&mut late, "42\r\n").contains("ready\r"));
    // A flood: the lazy viewer reads nothing and holds nobody up; who reads sees the end, and comes again where the guest
    // was faster, as `mayfly console` does.
    first.write_all(b"i=0; while [ $i -lt 40000 ]; do echo $i-0123456789012345678901234567890123456789; i=$((i+1)); done; echo the-e''nd\n").unwrap();
    while try_until(&mut first, "the-end\r\n").is_none() {
        first = view();
    }
    assert!(read_ring(&bench.path("console")).unwrap().len() <= 1 << 20);
    lazy.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut rest = Vec::new();
    assert!(
        lazy.read_to_end(&mut rest).is_ok(),
        "the lazy viewer was not dropped"
    );
    client::stop(&dir, WITHIN, true).unwrap();
    assert_eq!(
        client::wait_ended(&dir, WITHIN).unwrap().end,
        Some(RunEnd::Killed)
    );
    bench.assert_nothing_left();
}
