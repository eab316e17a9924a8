//! Why a run ended, judged from what is known; and the last sweep.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;

use mayfly_core::run::RunEnd;

use super::report::bounded;

/// How much of LXC's log is looked at: a whole life is some tens of kibibytes.
const LOG_LIMIT: u64 = 256 << 10;

/// What is known when lxc-start has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// The guest's init was executed.
    pub(super) reached: bool,
    /// What the helper said went wrong.
    pub(super) helper: Option<String>,
    /// The start took too long.
    pub(super) timed_out: bool,
    /// The host goes down: the supervisor was sent a signal.
    pub(super) host_down: bool,
    /// A stop was asked for.
    pub(super) asked: bool,
    /// And init was killed for it.
    pub(super) killed: bool,
    /// What could not be prepared.
    pub(super) unprepared: Option<String>,
    /// How lxc-start ended.
    pub(super) lxc: Option<ExitStatus>,
    /// The end of LXC's log.
    pub(super) log: String,
}

/// Why the run ended. Pure.
pub(super) fn judge(facts: &Facts) -> RunEnd {
    let init = init_end(&facts.log);
    if facts.host_down && facts.reached {
        return RunEnd::HostDown;
    }
    if facts.killed && init != Some(InitEnd::Halted) {
        return RunEnd::Killed;
    }
    if !facts.reached {
        return RunEnd::FailedToStart {
            detail: start_failure(facts),
        };
    }
    match init {
        Some(InitEnd::Halted) => RunEnd::PowerOff,
        Some(InitEnd::Rebooted) => RunEnd::Reboot,
        Some(InitEnd::Signal(_) | InitEnd::Status(_)) | None if facts.asked => RunEnd::PowerOff,
        Some(InitEnd::Signal(signal)) => RunEnd::Crashed {
            detail: format!("init was killed by signal {signal}"),
        },
        Some(InitEnd::Status(status)) => RunEnd::Crashed {
            detail: format!("init ended by itself with status {status}"),
        },
        None => RunEnd::Crashed {
            detail: lxc_end(facts.lxc),
        },
    }
}

/// Whether the guest's init ended by halting or rebooting, whoever had wished for that. Pure.
pub(super) fn was_in_order(facts: &Facts) -> bool {
    matches!(
        init_end(&facts.log),
        Some(InitEnd::Halted | InitEnd::Rebooted)
    )
}

fn start_failure(facts: &Facts) -> String {
    if let Some(why) = facts.helper.as_ref().or(facts.unprepared.as_ref()) {
        return bounded(why);
    }
    let errors: Vec<&str> = facts
        .log
        .lines()
        .filter_map(error_message)
        .take(3)
        .collect();
    let what = if facts.timed_out {
        "init was not reached in time".to_owned()
    } else {
        lxc_end(facts.lxc)
    };
    if errors.is_empty() {
        what
    } else {
        bounded(&format!("{what}: {}", errors.join("; ")))
    }
}

fn lxc_end(status: Option<ExitStatus>) -> String {
    match status.map(|status| (status.code(), status.signal())) {
        Some((_, Some(signal))) => format!("lxc-start was killed by signal {signal}"),
        Some((Some(0), _)) => "the guest ended without giving a reason".to_owned(),
        Some((Some(code), _)) => format!("lxc-start ended with status {code}"),
        _ => "lxc-start was not started".to_owned(),
    }
}

/// How the guest's init ended, as LXC logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InitEnd {
    Halted,
    Rebooted,
    Signal(i32),
    Status(i32),
}

/// A guest that powers off or reboots has its init killed with SIGINT or SIGHUP by the kernel itself; nothing else can
/// do that to a process 1 that did not ask for it, except the host.
fn init_end(log: &str) -> Option<InitEnd> {
    let mut found = None;
    for message in log.lines().filter_map(|line| message(line)) {
        if let Some(rest) = message.strip_prefix("Child <") {
            let number = |text: &str| text.rsplit_once('(')?.1.strip_suffix(')')?.parse().ok();
            found = match (number(rest), rest.contains("ended on signal")) {
                (Some(2), true) => Some(InitEnd::Halted),
                (Some(1), true) => Some(InitEnd::Rebooted),
                (Some(signal), true) => Some(InitEnd::Signal(signal)),
                (Some(status), false) => Some(InitEnd::Status(status)),
                (None, _) => found,
            };
        } else if message.starts_with("Container init process ") && message.ends_with(" exited") {
            // Overridden by the line above where init did not end with status 0.
            found = Some(InitEnd::Status(0));
        }
    }
    found
}

/// The text of a log line: `lxc-start NAME TIME LEVEL CATEGORY - FILE:FUNCTION:LINE - TEXT`.
fn message(line: &str) -> Option<&str> {
    line.splitn(3, " - ").nth(2)
}

fn error_message(line: &str) -> Option<&str> {
    let (head, _) = line.split_once(" - ")?;
    head.split_whitespace()
        .any(|word| word == "ERROR")
        .then(|| message(line))?
}

/// The end of LXC's log; empty where there is none.
pub(super) fn read_log(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let size = file.metadata().map_or(0, |seen| seen.len());
        let _ = file.seek(SeekFrom::Start(size.saturating_sub(LOG_LIMIT)));
        let _ = file.take(LOG_LIMIT).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(message: &str) -> String {
        format!(
            "lxc-start m 20261122181325.818 DEBUG    start - ../src/lxc/start.c:signal_handler:464 - Container init process 7 exited\n\
             lxc-start m 20261122181325.818 INFO     error - ../src/lxc/error.c:lxc_error_set_and_log:34 - {message}\n"
        )
    }

    fn ran(message: &str) -> Facts {
        Facts {
            reached: true,
            log: log(message),
            lxc: Some(ExitStatus::from_raw(0)),
            ..Facts::default()
        }
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(
            judge(&ran("Child <7> ended on signal Interrupt(2)")),
            RunEnd::PowerOff
        );
        assert_eq!(
            judge(&ran("Child <7> ended on signal Hangup(1)")),
            RunEnd::Reboot
        );
        let crashed = |detail: &str| RunEnd::Crashed {
            detail: detail.into(),
        };
        assert_eq!(
            judge(&ran("Child <7> ended on signal Killed(9)")),
            crashed("init was killed by signal 9")
        );
        assert_eq!(
            judge(&ran("Child <7> ended on error (3)")),
            crashed("init ended by itself with status 3")
        );
        assert_eq!(
            judge(&ran("anything")),
            crashed("init ended by itself with status 0")
        );
        let dead = Facts {
            reached: true,
            lxc: Some(ExitStatus::from_raw(9)),
            ..Facts::default()
        };
        assert_eq!(judge(&dead), crashed("lxc-start was killed by signal 9"));
    }

    #[test]
    fn a_wanted_end_is_no_crash() {
        let asked = Facts {
            asked: true,
            ..ran("Child <7> ended on error (3)")
        };
        assert_eq!(judge(&asked), RunEnd::PowerOff);
        let killed = Facts {
            killed: true,
            ..ran("Child <7> ended on signal Killed(9)")
        };
        assert_eq!(judge(&killed), RunEnd::Killed);
        let in_time = Facts {
            killed: true,
            ..ran("Child <7> ended on signal Interrupt(2)")
        };
        assert_eq!(judge(&in_time), RunEnd::PowerOff);
        let down = |killed, message: &str| Facts {
            host_down: true,
            killed,
            ..ran(message)
        };
        for (facts, in_order) in [
            (down(false, "Child <7> ended on signal Interrupt(2)"), true),
            (down(true, "Child <7> ended on signal Killed(9)"), false),
        ] {
            assert_eq!(judge(&facts), RunEnd::HostDown);
            assert_eq!(was_in_order(&facts), in_order);
        }
    }

    #[test]
    fn a_failed_start_says_what_it_knows() {
        let facts = Facts {
            helper: Some("/sbin/init cannot be reached".into()),
            ..ran("Child <7> ended on error (1)")
        };
        let failed = |detail: &str| RunEnd::FailedToStart {
            detail: detail.into(),
        };
        assert_eq!(
            judge(&Facts {
                reached: false,
                ..facts
            }),
            failed("/sbin/init cannot be reached")
        );
        let line = "lxc-start m 2026 ERROR    conf - ../src/lxc/conf.c:f:1 - No such file - Failed to mount \x1b x\n";
        let facts = Facts {
            log: line.into(),
            lxc: Some(ExitStatus::from_raw(256)),
            ..Facts::default()
        };
        assert_eq!(
            judge(&facts),
            failed("lxc-start ended with status 1: No such file - Failed to mount \\u{1b} x")
        );
        assert_eq!(
            judge(&Facts::default()),
            failed("lxc-start was not started")
        );
    }
}
