//! Named places where a test can kill this process, to prove that what it leaves there is finished or removed later.

use std::sync::OnceLock;

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

/// Aborts the process where [`CRASH_VARIABLE`] names this place. The variable is read once.
pub fn crash_point(name: &'static str) {
    static AT: OnceLock<Option<String>> = OnceLock::new();
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not in CRASH_POINTS");
    if AT.get_or_init(|| std::env::var(CRASH_VARIABLE).ok()).as_deref() == Some(name) {
        std::process::abort();
    }
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
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut all);
        for name in CRASH_POINTS {
            assert!(all.contains(&format!("crash_point(\"{name}\")")), "no code passes {name}");
        }
    }
}
