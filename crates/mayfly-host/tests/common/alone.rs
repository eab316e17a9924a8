//! Tests that mount things: each runs in a process and a mount namespace of its own, which take the mounts with them
//! however it ends.
#![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

const INNER: &str = "MAYFLY_TEST_INNER";

/// Says so past the test harness, which keeps what a passing test prints to itself.
pub(crate) fn skipped(test: &str, why: &str) {
    let said = format!("skipped: {test}: {why}\n");
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

/// Whether this is the process that does the test's work.
#[allow(dead_code, reason = "each suite uses its part")]
pub(crate) fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Runs `body` in a process of its own with a private mount namespace and a directory, and then `after` in this one.
/// Without root it is skipped where nothing demands it.
pub(crate) fn alone(test: &str, body: impl FnOnce(&Path), after: impl FnOnce(&Path)) {
    alone_with(test, &[], body, after);
}

/// The same, with these variables in its environment.
pub(crate) fn alone_with(
    test: &str,
    env: &[(&str, &str)],
    body: impl FnOnce(&Path),
    after: impl FnOnce(&Path),
) {
    if let Some(dir) = std::env::var_os(INNER) {
        return body(Path::new(&dir));
    }
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("MAYFLY_REQUIRE_ROOT_TESTS").is_none(),
            "{test} needs root and may not be skipped"
        );
        skipped(test, "it needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INNER, dir.path())
        .envs(env.iter().copied())
        .status()
        .unwrap();
    after(dir.path());
    assert!(status.success(), "{test}: {status}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !table.contains(dir.path().to_str().unwrap()),
        "a mount was left"
    );
}
