//! The commands `zfs` and `zpool`: the stable interface of OpenZFS.
//!
//! Every call has a deadline. What a command prints to standard error is told apart in one place ([`Trouble`]); its text is
//! that of the C locale, which has not changed since OpenZFS 0.8.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use mayfly_core::error::LookFailed;
use mayfly_core::ports::HostError;

use super::listing::{self, Row};
use super::preflight::Version;
use crate::runner::{Command, Output, RunEnd, RunFailure, Runner, Tool, ToolMissing};
use crate::storage::refusals::pool_full;

/// A pool whose disks do not answer makes every command hang; nothing in normal use takes near as long.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a failed command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is no dataset, or no snapshot, of that name. A pool that is not imported looks the same.
    Absent,
    /// The name is taken.
    Taken,
    /// Something holds it: a mount, a snapshot hold, a clone.
    Busy,
    /// Snapshots or datasets below it are in the way.
    HasChildren,
    /// The pool, or a quota above it, has no room.
    NoRoom,
    /// A quota is less than what is used.
    BelowUse,
    /// Anything else.
    Other,
}

/// A command that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure(pub(super) RunFailure);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Failure {
    pub(super) fn trouble(&self) -> Trouble {
        // What was killed or never ran has said nothing that could be relied upon.
        if !matches!(self.0.end, RunEnd::Status(_)) {
            return Trouble::Other;
        }
        const SAID: [(&str, Trouble); 13] = [
            ("dataset already exists", Trouble::Taken),
            ("dataset is busy", Trouble::Busy),
            ("pool or dataset is busy", Trouble::Busy),
            ("has dependent clones", Trouble::Busy),
            ("it's being held", Trouble::Busy),
            ("dataset has been held", Trouble::Busy),
            ("filesystem has children", Trouble::HasChildren),
            ("has children", Trouble::HasChildren),
            ("out of space", Trouble::NoRoom),
            ("size is less than current used", Trouble::BelowUse),
            ("dataset does not exist", Trouble::Absent),
            ("snapshot does not exist", Trouble::Absent),
            ("no such pool or dataset", Trouble::Absent),
        ];
        let said = |text: &str| self.0.stderr.contains(text);
        SAID.iter()
            .find(|(text, _)| said(text))
            .map_or(Trouble::Other, |(_, trouble)| *trouble)
    }

    /// The error of a change that failed.
    pub(super) fn of_change(self, action: &str, object: &str) -> HostError {
        match self.trouble() {
            Trouble::NoRoom => pool_full(action),
            Trouble::Busy => HostError::Busy {
                object: object.to_owned(),
                why: self.why(),
            },
            _ => HostError::failed(action, self),
        }
    }

    /// The error of a look that failed.
    pub(super) fn of_look(self, object: &str) -> LookFailed {
        LookFailed::new(object, self)
    }

    /// What the command said, on one line.
    pub(super) fn why(&self) -> String {
        let said: Vec<&str> = self
            .0
            .stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        crate::runner::escaped(&said.join("; "))
    }
}

/// Runs the commands of one version of OpenZFS.
#[derive(Clone, Debug)]
pub(super) struct Zfs {
    runner: Runner,
    zfs: Tool,
    zpool: Tool,
    json: bool,
}

impl Zfs {
    /// Finds the commands. Those of 2.3 and newer are asked for JSON.
    pub(super) fn find(runner: &Runner) -> Result<Self, ToolMissing> {
        Ok(Self {
            runner: runner.clone(),
            zfs: Tool::find("zfs")?,
            zpool: Tool::find("zpool")?,
            json: false,
        })
    }

    pub(super) fn speaking(mut self, version: Version) -> Self {
        self.json = version >= Version::WITH_JSON;
        self
    }

    pub(super) fn run<A: AsRef<str>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, Failure> {
        self.run_tool(&self.zfs, args)
    }

    pub(super) fn run_zpool<A: AsRef<str>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, Failure> {
        self.run_tool(&self.zpool, args)
    }

    /// Runs a command with a stream as its standard input or output, for no longer than `limit`.
    pub(super) fn run_on(
        &self,
        args: &[&str],
        stdin: Option<BorrowedFd<'_>>,
        stdout: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Output, Failure> {
        let command = Command::new(&self.zfs).args(args).deadline(limit);
        self.runner.run_on(&command, stdin, stdout).map_err(Failure)
    }

    fn run_tool<A: AsRef<str>>(
        &self,
        tool: &Tool,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, Failure> {
        let mut command = Command::new(tool).deadline(DEADLINE);
        for arg in args {
            command = command.arg(arg.as_ref());
        }
        self.runner.run(&command).map_err(Failure)
    }

    /// Properties of datasets: of those named, and with `-r` among `how` of all below them.
    pub(super) fn get(
        &self,
        how: &[&str],
        properties: &[&str],
        names: &[&str],
    ) -> Result<Vec<Row>, GetFailed> {
        let form: &[&str] = if self.json {
            // Not --json-int: it cuts numbers at 2^63.
            &["-j", "-p"]
        } else {
            &["-H", "-p", "-o", "name,property,value,source"]
        };
        let properties = properties.join(",");
        let args = ["get"]
            .iter()
            .chain(form)
            .chain(how)
            .copied()
            .chain([properties.as_str()])
            .chain(names.iter().copied());
        let out = self.run(args).map_err(GetFailed::Command)?;
        let parsed = if self.json {
            listing::from_json(&out.stdout)
        } else {
            listing::from_table(&out.stdout)
        };
        parsed.map_err(GetFailed::Answer)
    }

    /// Properties of those of these datasets that are there; the others are certain not to be there.
    ///
    /// Always as a table: with one name missing, the command prints no JSON at all.
    pub(super) fn get_those_there(
        &self,
        properties: &[&str],
        names: &[&str],
    ) -> Result<Vec<Row>, GetFailed> {
        let mut command = Command::new(&self.zfs).deadline(DEADLINE);
        command = command.args(["get", "-H", "-p", "-o", "name,property,value,source"]);
        command = command.arg(properties.join(",")).args(names);
        let mut stdout = Vec::new();
        let run = self.runner.run_streaming(
            &command,
            &mut |piece| stdout.extend_from_slice(piece),
            &mut |_| {},
        );
        let absent = match run.map_err(Failure) {
            Ok(_) => Vec::new(),
            Err(failure) => all_absent(&failure, names).ok_or(GetFailed::Command(failure))?,
        };
        let rows = listing::from_table(&stdout).map_err(GetFailed::Answer)?;
        for name in names {
            let there = rows.iter().any(|row| row.name == *name);
            if there == absent.contains(name) {
                return Err(GetFailed::Answer(listing::contradicts_itself(name)));
            }
        }
        Ok(rows)
    }
}

/// Which of the names a failed look says are not there; none where it says anything else as well.
fn all_absent<'a>(failure: &Failure, names: &[&'a str]) -> Option<Vec<&'a str>> {
    matches!(failure.0.end, RunEnd::Status(1)).then_some(())?;
    let named = |line: &str| {
        let name = line
            .strip_prefix("cannot open '")?
            .strip_suffix("': dataset does not exist")?;
        names.iter().find(|one| **one == name).copied()
    };
    let lines = failure.0.stderr.lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).map(named).collect()
}

/// Properties could not be had.
#[derive(Clone, Debug)]
pub(super) enum GetFailed {
    /// The command failed.
    Command(Failure),
    /// It succeeded, and its answer makes no sense.
    Answer(listing::BadListing),
}

impl GetFailed {
    pub(super) fn of_look(self, object: &str) -> LookFailed {
        match self {
            Self::Command(failure) => failure.of_look(object),
            Self::Answer(bad) => LookFailed::new(object, bad),
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Command(failure) if failure.trouble() == Trouble::Absent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenZFS 2.3.9 prints, and what it means.
    const SAID: &[(&str, Trouble)] = &[
        (
            "cannot open 'tank/ct/101': dataset does not exist\n",
            Trouble::Absent,
        ),
        (
            "cannot rename 'tank/ct/101': dataset already exists\n",
            Trouble::Taken,
        ),
        (
            "cannot create snapshot 'tank/ct/101@a': dataset already exists\n",
            Trouble::Taken,
        ),
        (
            "cannot destroy 'tank/ct/101': dataset is busy\n",
            Trouble::Busy,
        ),
        (
            "cannot destroy snapshot tank/ct/101@s: it's being held. Run 'zfs holds -r tank/ct/101@s' to see holders.\n",
            Trouble::Busy,
        ),
        (
            "cannot destroy 'tank/ct/101@s': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/ct/x\n",
            Trouble::Busy,
        ),
        (
            "cannot destroy 'tank/ct/101': filesystem has children\nuse '-r' to destroy the following datasets:\ntank/ct/101@s1\n",
            Trouble::HasChildren,
        ),
        (
            "cannot create 'tank/ct/101': out of space\n",
            Trouble::NoRoom,
        ),
        (
            "cannot set property for 'tank/ct/101': size is less than current used or reserved space\n",
            Trouble::BelowUse,
        ),
        (
            "cannot create 'tank/ct/a/b': parent does not exist\n",
            Trouble::Other,
        ),
        ("internal error: out of memory\n", Trouble::Other),
        ("", Trouble::Other),
    ];

    fn failure(end: RunEnd, stderr: &str) -> Failure {
        Failure(RunFailure {
            argv: vec!["zfs".into()],
            end,
            stderr: stderr.into(),
        })
    }

    #[test]
    fn what_a_command_says_is_told_apart() {
        for (stderr, trouble) in SAID {
            let failure = failure(RunEnd::Status(1), stderr);
            assert_eq!(failure.trouble(), *trouble, "{stderr}");
        }
    }

    #[test]
    fn a_command_that_was_killed_says_nothing_about_absence() {
        for end in [
            RunEnd::Signal(9),
            RunEnd::Deadline(DEADLINE),
            RunEnd::TooMuchOutput(1),
        ] {
            let failure = failure(end, "cannot open 'tank/ct/101': dataset does not exist\n");
            assert_eq!(failure.trouble(), Trouble::Other);
        }
    }
}
