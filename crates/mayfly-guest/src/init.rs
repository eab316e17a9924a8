//! The verb `init`: from the host's first process to the VPS's own, with what is declared to stay in its place.

use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::persist::report::Report;
use mayfly_core::persist::spec::Spec;

use crate::apply::{self, Order};
use crate::handover::{self, Handover, Host, Told};
use crate::{child, sys};

/// How long the declarations may keep a VPS from booting.
const APPLY_LIMIT: Duration = Duration::from_secs(20);
/// What a report is long at most; the bound of boot.json is smaller.
const REPORT_BYTES: usize = 2 << 20;

/// Becomes `command[0]` with the rest as its arguments; comes back only when that is impossible.
pub(crate) fn run(command: &[OsString]) -> ExitCode {
    let mut host = Host::open();
    // From here on the console is LXC's final one; the host may set its modes.
    host.tell("begin", "");
    let handover = Handover::read();
    // Before anything of the VPS's is looked at: nobody finds these files by way of what was declared.
    for trouble in handover::remove_traces() {
        eprintln!("mayfly: {trouble}");
    }
    let told = handover
        .persistence
        .as_ref()
        .map(|spec| apply_apart(spec, &mut host));
    if let Err(trouble) = handover.place_boot_report(told.as_ref()) {
        eprintln!("mayfly: {trouble}");
    }
    if let Some(told) = &told {
        host.tell_persistence(told);
    }
    let trouble = become_init(command, &mut host);
    eprintln!("mayfly: {trouble}");
    host.tell("error", &trouble);
    ExitCode::FAILURE
}

/// Applies the declarations in a child: no crash and no hang of it stops a boot. It gives its report back as it is told to
/// others: with a thousand declarations, reading it and writing it again would take a tenth of all.
fn apply_apart(spec: &Result<Vec<u8>, String>, host: &mut Host) -> Told {
    let done = child::run(APPLY_LIMIT, REPORT_BYTES, || {
        host.close();
        // Every mode is given as it is to be.
        rustix::process::umask(rustix::fs::Mode::empty());
        let spec = spec.as_deref().map_err(Clone::clone).and_then(Spec::parse);
        let report = match spec {
            Ok(spec) => apply::apply(&Order::birth(&spec, Path::new("/"))),
            Err(why) => Report::unknown(why),
        };
        Told::of(&report).into_bytes()
    });
    done.and_then(Told::from_bytes).unwrap_or_else(|why| {
        let why = format!("the declarations were not applied to their end: {why}");
        eprintln!("mayfly: {why}");
        Told::of(&Report::unknown(why))
    })
}

fn become_init(command: &[OsString], host: &mut Host) -> String {
    let asked = Path::new(&command[0]);
    if let Err(why) = check_program(asked) {
        return why;
    }
    let mut arguments = Vec::with_capacity(command.len());
    for argument in command {
        match CString::new(argument.as_bytes()) {
            Ok(argument) => arguments.push(argument),
            Err(_) => return "an argument of init holds a zero byte".to_owned(),
        }
    }
    host.tell("exec", &asked.to_string_lossy());
    sys::reset_signals();
    let error = sys::exec(&arguments[0].clone(), &arguments);
    format!(
        "cannot execute {}: {error}{}",
        asked.display(),
        exec_hint(&error)
    )
}

/// Whether `path`, with every link followed inside the VPS, is a regular file that may be executed.
fn check_program(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("init must be an absolute path, not {shown}"));
    }
    match fs::metadata(path) {
        Ok(seen) if !seen.is_file() => Err(format!("{shown} is not a regular file")),
        Ok(seen) if seen.permissions().mode() & 0o111 == 0 => {
            Err(format!("{shown} is not executable"))
        }
        Ok(_) => Ok(()),
        Err(e) => Err(match dangling(path) {
            Some((link, target)) => {
                format!("{shown} leads through {link} to {target}, which cannot be reached: {e}")
            }
            None => format!("{shown} cannot be reached: {e}"),
        }),
    }
}

/// The last symbolic link on the way that leads nowhere, and its target.
fn dangling(path: &Path) -> Option<(String, String)> {
    let mut at = path.to_path_buf();
    let mut last = None;
    // As many links as the kernel follows.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&at) else {
            break;
        };
        last = Some((at.display().to_string(), target.display().to_string()));
        at = at.parent()?.join(target);
    }
    last
}

fn exec_hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => " (its interpreter or loader is missing)",
        Some(libc::ENOEXEC) => " (it is a program for another machine, or no program)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn an_init_is_an_executable_regular_file() {
        let dir = std::env::temp_dir().join(format!("mayfly-guest-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let file = dir.join("init");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        assert!(check_program(&file).unwrap_err().contains("not executable"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(check_program(&file), Ok(()));
        symlink("init", dir.join("good")).unwrap();
        assert_eq!(check_program(&dir.join("good")), Ok(()));
        symlink("/nowhere/init", dir.join("far")).unwrap();
        symlink("far", dir.join("near")).unwrap();
        let why = check_program(&dir.join("near")).unwrap_err();
        assert!(why.contains("/nowhere/init"), "{why}");
        symlink("loop", dir.join("loop")).unwrap();
        assert!(check_program(&dir.join("loop")).is_err());
        assert!(
            check_program(&dir)
                .unwrap_err()
                .contains("not a regular file")
        );
        assert!(check_program(Path::new("init")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
