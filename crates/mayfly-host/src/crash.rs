//! Named places where a test can kill this process, to prove that what it leaves there is finished or removed later.
//!
//! The daemon hands the places of a supervisor on to the first one that it starts, and to no other: what it does about
//! that death is not in the way of itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The environment variable that names the places to die at, with commas between them.
pub const CRASH_VARIABLE: &str = "MAYFLY_CRASH_AT";

/// Every place in the storage drivers, in the order in which a call passes them.
pub const CRASH_POINTS: &[&str] = &[
    "create.after_intent",
    "create.after_subvolume",
    "create.after_contents",
    "create.after_quota",
    "create.after_mark",
    "create.after_rename",
    "exchange.after_first",
    "exchange.after_swap",
    "exchange.after_one_below",
    "exchange.after_mark",
    "copy.after_contents",
    "copy.after_record",
    "copy.after_rename",
    "copy.after_readonly",
    "copy.after_snapshot",
    "take_out.after_taking",
    "take_out.after_putting_back",
    "take_out.after_dropping",
    "take_out.after_moving_up",
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
    "pull.after_download",
    "import.after_unpack",
    "mirror.after_write",
    "mirror.after_rename",
    "generation.after_rename",
    "recover.after_write",
    "recover.after_log",
    "recover.after_exchange",
    "format.after_file",
    "format.after_mount",
    "format.after_pool_record",
];

/// Every place in a supervisor, in the order in which a run passes them.
pub const SUPERVISOR_POINTS: &[&str] = &[
    "supervise.begun",
    "supervise.after_state",
    "supervise.after_cgroups",
    "supervise.after_adoption",
    "supervise.after_mounts",
    "supervise.after_user_namespace",
    "supervise.before_lxc_start",
    "supervise.after_lxc_start",
    "supervise.after_lxc_recorded",
    "supervise.init_seen",
    "supervise.after_running",
    "supervise.before_settle",
    "supervise.after_settle",
    "supervise.lxc_ended",
    "supervise.after_killing",
    "supervise.after_unmounting",
    "supervise.after_cgroups_removed",
    "supervise.after_sockets_removed",
    "supervise.after_end",
];

/// Kills the process where [`CRASH_VARIABLE`] names this place. The variable is read once.
pub fn crash_point(name: &'static str) {
    debug_assert!(
        CRASH_POINTS.contains(&name) || SUPERVISOR_POINTS.contains(&name),
        "{name} is not in CRASH_POINTS or SUPERVISOR_POINTS"
    );
    if wanted().any(|at| at == name) {
        die();
    }
}

/// The places at which the supervisor that is started now is to die; none but for the first.
pub(crate) fn for_supervisor() -> Option<&'static str> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    let at = wanted().find(|at| at.starts_with("supervise."))?;
    (!GIVEN.swap(true, Ordering::SeqCst)).then_some(at)
}

/// The same for the steps of plans, which the engine names: `step.launch` before the step, `step.launch.done` after it
/// and before the journal says so. `step.record#3` means the third time that a `record` is passed.
pub fn step_point(name: &str) {
    static PASSED: AtomicUsize = AtomicUsize::new(0);
    let Some(at) = wanted().find_map(|at| at.strip_prefix("step.")) else {
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

fn wanted() -> impl Iterator<Item = &'static str> {
    static AT: OnceLock<String> = OnceLock::new();
    AT.get_or_init(|| std::env::var(CRASH_VARIABLE).unwrap_or_default())
        .split(',')
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
    fn every_listed_point_is_passed_somewhere_and_no_other() {
        let mut all = String::new();
        sources(
            &std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut all,
        );
        // What the program itself passes is not of this crate.
        let of_the_program = |name: &&&str| name.starts_with("recover.");
        let listed = || CRASH_POINTS.iter().chain(SUPERVISOR_POINTS);
        for name in listed().filter(|name| !of_the_program(name)) {
            assert!(
                all.contains(&format!("crash_point(\"{name}\")")),
                "no code passes {name}"
            );
        }
        for call in all.split("crash_point(\"").skip(1) {
            let (name, _) = call.split_once('"').unwrap();
            assert!(
                listed().any(|one| *one == name),
                "{name} is passed, and in no list"
            );
        }
    }
}
