//! Copies are taken back while the guest runs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mayfly_core::persist::spec::Spec;
use mayfly_core::run::{RunEnd, RunPhase, RunSpec};
use mayfly_host::run::client;
use mayfly_host::run::paths::RunDir;

use crate::bench::{Bench, WITHIN, must, supervisor, unable, until};
use crate::harvest::{harvesters, place_much, record};

/// A run whose `/data` is its storage, with these files placed.
fn spec(bench: &Bench, paths: &[&str]) -> RunSpec {
    let mut spec = bench.spec(&[("data", false)]);
    let mut told = Spec::new(spec.run.as_str(), true);
    told.storage = Some("/data".to_owned().try_into().unwrap());
    spec.persistence = Some(told);
    for path in paths {
        fs::write(Bench::root(&spec).join(path.trim_start_matches('/')), "").unwrap();
    }
    let directory = storage(bench, "/var/lib/mayfly/placed");
    fs::create_dir_all(&directory).unwrap();
    fs::create_dir_all(storage(bench, "/etc")).unwrap();
    fs::write(
        directory.join(format!("{}.json", spec.run)),
        record(&spec, paths),
    )
    .unwrap();
    spec
}

fn storage(bench: &Bench, path: &str) -> PathBuf {
    bench.path(&format!("pool/{}/data/private{path}", bench.vps))
}

fn stored(bench: &Bench, path: &str) -> String {
    fs::read_to_string(storage(bench, path)).unwrap_or_default()
}

fn replace(bench: &Bench, text: &str) {
    let script = format!("echo {text} > /etc/new && mv /etc/new /etc/a");
    let (ok, said) = bench.exec(&["sh", "-c", &script]);
    assert!(ok, "{said}");
}

#[test]
fn a_file_that_was_replaced_is_taken_once_it_has_settled() {
    needs_host!();
    let bench = Bench::new(90150);
    let spec = spec(&bench, &["/etc/a", "/etc/b"]);
    let (dir, state) = bench.start(&spec);
    assert_eq!(state.phase, RunPhase::Running, "{state:?}");
    // The helper was told of declarations, and has told how they went.
    assert!(state.persistence.is_some(), "{state:?}");
    let told = fs::metadata(dir.persistence()).unwrap();
    let of_guest = (0, spec.ids.first, 0o640);
    assert_eq!((told.uid(), told.gid(), told.mode() & 0o7777), of_guest);
    let mut before = std::time::SystemTime::now();
    for text in ["one", "two"] {
        before = std::time::SystemTime::now();
        replace(&bench, text);
        let asked = Instant::now();
        until("it is taken", || {
            stored(&bench, "/etc/a") == format!("{text}\n")
        });
        eprintln!("taken after {:?}", asked.elapsed());
    }
    assert_eq!(stored(&bench, "/etc/a.prev"), "one\n");
    let touched = |dir: &RunDir| fs::metadata(dir.lock()).unwrap().modified().unwrap();
    assert!(touched(&dir) > before, "no look left its time");
    let proportion = must(&format!(
        "grep ^Pss: /proc/{}/smaps_rollup",
        state.supervisor_pid
    ));
    eprintln!("the supervisor's {}", proportion.trim());
    // The last change is left for the daemon: the root is dead before it has settled.
    let script = "(exec 3>/etc/a; echo three >&3; exec sleep 600) > /dev/null 2>&1 &";
    assert!(bench.exec(&["sh", "-c", script]).0);
    until("it is written", || {
        fs::read_to_string(Bench::root(&spec).join("etc/a")).unwrap() == "three\n"
    });
    client::stop(&dir, WITHIN, true).unwrap();
    let before = std::time::SystemTime::now();
    let ended = client::wait_ended(&dir, WITHIN).unwrap();
    assert_eq!(ended.end, Some(RunEnd::Killed));
    let at = std::time::UNIX_EPOCH + Duration::from_millis(ended.ended_unix_ms.unwrap());
    assert!(at <= std::time::SystemTime::now() && at + Duration::from_secs(1) > before);
    bench.assert_nothing_left();
    assert_eq!(stored(&bench, "/etc/a"), "two\n");
}

#[test]
fn a_file_that_is_held_open_for_writing_is_left_until_it_is_closed() {
    needs_host!();
    let bench = Bench::new(90151);
    let spec = spec(&bench, &["/etc/a"]);
    let (dir, _) = bench.start(&spec);
    let mut writer = bench
        .command(&[
            "sh",
            "-c",
            "exec 3>>/etc/a; echo half >&3; sleep 5; echo whole >&3",
        ])
        .spawn()
        .unwrap();
    until("it writes", || {
        fs::read_to_string(Bench::root(&spec).join("etc/a")).unwrap() == "half\n"
    });
    while writer.try_wait().unwrap().is_none() {
        let kept = stored(&bench, "/etc/a");
        // It may have ended between the two looks.
        if writer.try_wait().unwrap().is_none() {
            assert_eq!(kept, "");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    until("it is taken", || {
        stored(&bench, "/etc/a") == "half\nwhole\n"
    });
    client::stop(&dir, WITHIN, true).unwrap();
    client::wait_ended(&dir, WITHIN).unwrap();
    bench.assert_nothing_left();
}

#[test]
fn a_run_without_copies_is_not_woken() {
    needs_host!();
    let bench = Bench::new(90152);
    let plain = spec(&bench, &[]);
    must(&format!(
        "rm {}/*",
        storage(&bench, "/var/lib/mayfly/placed").display()
    ));
    let (dir, state) = bench.start(&plain);
    let switches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", state.supervisor_pid)).unwrap();
        let line = status
            .lines()
            .find(|l| l.starts_with("voluntary_ctxt"))
            .unwrap();
        line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()
    };
    let is_quiet = |seconds| {
        let before = switches();
        std::thread::sleep(Duration::from_secs(seconds));
        switches() == before
    };
    // What came with the start, which may take a while.
    until("it is quiet", || is_quiet(1));
    assert!(is_quiet(4), "the supervisor was woken");
    client::stop(&dir, WITHIN, true).unwrap();
    client::wait_ended(&dir, WITHIN).unwrap();
    bench.assert_nothing_left();
}

#[test]
fn a_harvest_dies_with_its_supervisor_and_with_its_guest() {
    needs_host!();
    let bench = Bench::new(90153);
    for whole in [false, true] {
        let spec = spec(&bench, &[]);
        let much = place_much(&Bench::root(&spec));
        let paths: Vec<&str> = much.iter().map(String::as_str).collect();
        let file = storage(&bench, &format!("/var/lib/mayfly/placed/{}.json", spec.run));
        fs::write(file, record(&spec, &paths)).unwrap();
        let (dir, state) = bench.start(&spec);
        bench.exec(&["touch", "/etc/much0"]);
        until("a harvest is under way", || !harvesters(&spec).is_empty());
        let helper = harvesters(&spec)[0];
        // It cannot end by itself.
        must(&format!("kill -STOP {helper}"));
        if whole {
            client::stop(&dir, WITHIN, true).unwrap();
            client::wait_ended(&dir, WITHIN).unwrap();
        } else {
            must(&format!("kill -9 {}", state.supervisor_pid));
            until("it died too", || harvesters(&spec).is_empty());
            bench.node.sweep(bench.vps, WITHIN).unwrap();
        }
        assert_eq!(harvesters(&spec), [] as [i32; 0]);
        bench.assert_nothing_left();
    }
}

/// Starts a run whose supervisor dies at `point`.
fn start_dying(bench: &Bench, spec: &RunSpec, point: &str) -> RunDir {
    let dir = bench.node.run_dir(spec.vps, &spec.run);
    client::create_run(&dir, spec).unwrap();
    let lock = fs::File::create(dir.lock()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let status = Command::new(supervisor())
        .arg("supervise")
        .arg(dir.path())
        .env_clear()
        .env("MAYFLY_CRASH_AT", point)
        .stdin(lock)
        .stdout(Stdio::null())
        .process_group(0)
        .status();
    assert!(status.unwrap().success());
    client::wait_started(&dir, WITHIN).unwrap();
    dir
}

#[test]
fn a_supervisor_that_is_killed_before_or_after_a_harvest_leaves_nothing() {
    needs_host!();
    let bench = Bench::new(90154);
    for point in ["supervise.before_settle", "supervise.after_settle"] {
        let spec = spec(&bench, &["/etc/a"]);
        let dir = start_dying(&bench, &spec, point);
        replace(&bench, point);
        until("the supervisor is dead", || {
            !client::is_supervised(&dir).unwrap()
        });
        bench.node.sweep(bench.vps, WITHIN).unwrap();
        bench.assert_nothing_left();
        let taken = stored(&bench, "/etc/a") == format!("{point}\n");
        assert_eq!(taken, point == "supervise.after_settle");
        let state = client::read_state(&dir).unwrap();
        assert!(matches!(state.end, Some(RunEnd::Crashed { .. })) && state.ended_unix_ms.is_none());
    }
}
