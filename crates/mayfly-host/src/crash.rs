//! Named places where a test can kill this process, to prove that what it leaves there is finished or removed later.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The environment variable that names the place to die at.
pub const CRASH_VARIABLE: &str = "MAYFLY_CRASH_AT";

/// Every place, in the order in which a call passes them.
pub const CRASH_POINTS: &[&str] = &[
    "create.after_intent",
    "create.after_subvolume",
    "create.after_contents",
    "create.after_quota",
    "create.after_mark",
    "create.after_rename",
    "bury.after_lower_marks",
    "bury.after_marks",
    "bury.after_rename",
    "reap.after_one_subvolume",
    "reap.after_subvolumes",
    "template.after_intent",
    "template.after_base",
    "template.after_part",
    "template.after_marks",
    "template.after_rename",
    "format.after_file",
    "format.after_mount",
    "format.after_pool_record",
];

/// Kills the process where [`CRASH_VARIABLE`] names this place. The variable is read once.
pub fn crash_point(name: &'static str) {
    debug_assert!(
        CRASH_POINTS.contains(&name),
        "{name} is not in CRASH_POINTS"
    );
    if wanted() == Some(name) {
        die();
    }
}

/// The same for the steps of plans, which the engine names: `step.launch` before the step, `step.launch.done` after it
/// and before the journal says so. `step.record#3` means the third time that a `record` is passed.
pub fn step_point(name: &str) {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let Some(at) = wanted().and_then(|at| at.strip_prefix("step.")) else {
        return;
    };
    let (point, which) = at.split_once('#').unwrap_or((at, "1"));
    if point == name && which.parse() == Ok(PASSED.fetch_add(1, Ordering::SeqCst) + 1) {
        die();
    }
}

/// As `kill -9` would do it: nothing is flushed, nothing is dropped.
fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}

fn wanted() -> Option<&'static str> {
    static AT: OnceLock<Option<String>> = OnceLock::new();
    AT.get_or_init(|| std::env::var(CRASH_VARIABLE).ok())
        .as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(dir: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|e| e == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_listed_point_is_passed_somewhere() {
        let mut all = String::new();
        sources(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut all,
        );
        for name in CRASH_POINTS {
            assert!(
                all.contains(&format!("crash_point(\"{name}\")")),
                "no code passes {name}"
            );
        }
    }
}
