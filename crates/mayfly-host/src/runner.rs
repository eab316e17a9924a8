//! The one place that starts other programs.
//!
//! Every command has an absolute program path, a cleared environment with `LC_ALL=C`, a deadline, and no shell. Its
//! argv is logged at debug: secrets go by standard input, never by argv. A failure carries argv, how it ended, and the
//! bounded standard error. Output past its bound is a failure, never cut: a list that was cut reads as "absent".
//!
//! The program and what it starts share one process group, which is killed when the deadline passes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use mayfly_core::ports::Cancel;

mod attend;
mod tool;
use self::attend::{Bounded, Sinks};
pub use tool::{Tool, ToolMissing};

/// How long a command may take when nothing else was said.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// How much standard output is kept when nothing else was said.
pub const DEFAULT_OUTPUT_LIMIT: usize = 64 << 20;
/// How often a command that somebody may cancel is looked after.
const LOOK: Duration = Duration::from_millis(100);
/// How long a pipe may stay open after the program itself has ended (something that it started holds it).
const LINGER: Duration = Duration::from_millis(500);

/// One command, complete: a program, its arguments, and the bounds that it runs in.
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    input: Vec<u8>,
    deadline: Duration,
    output_limit: usize,
}

impl Command {
    /// `tool` without arguments, in `/`, with empty standard input.
    pub fn new(tool: &Tool) -> Self {
        Self::of_our_own(tool.path())
    }

    /// The same with this very program, which is no tool of the host.
    pub(crate) fn of_our_own(program: &Path) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: PathBuf::from("/"),
            input: Vec::new(),
            deadline: DEFAULT_DEADLINE,
            output_limit: DEFAULT_OUTPUT_LIMIT,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// One environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes on those of these variables that this process has itself.
    #[must_use]
    pub fn pass_env(self, names: &[&str]) -> Self {
        names
            .iter()
            .fold(self, |command, name| match std::env::var_os(name) {
                Some(value) => command.env(name, value),
                None => command,
            })
    }

    /// The directory that it runs in.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = dir.as_ref().to_owned();
        self
    }

    /// What it reads on standard input. Never logged: the place for secrets.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// How long it may take before it and what it started are killed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How many bytes of standard output are taken; more is a failure.
    #[must_use]
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output_limit = bytes;
        self
    }

    /// Program and arguments, as they are logged and told.
    pub fn argv(&self) -> Vec<String> {
        let shown = |text: &OsStr| text.to_string_lossy().into_owned();
        std::iter::once(shown(self.program.as_os_str()))
            .chain(self.args.iter().map(|a| shown(a)))
            .collect()
    }
}

/// What a command that succeeded wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// All of standard output; empty where a sink took it.
    pub stdout: Vec<u8>,
    /// Standard error, bounded: warnings, mostly.
    pub stderr: String,
}

impl Output {
    /// Standard output as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// How a command failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// It could not be started or watched: the errno, where there is one.
    NotRun(io::ErrorKind),
    /// It ended with this exit status.
    Status(i32),
    /// A signal ended it.
    Signal(i32),
    /// The deadline passed and it was killed.
    Deadline(Duration),
    /// It wrote more than was allowed and was killed.
    TooMuchOutput(usize),
    /// It was not wanted any more and was killed.
    Unwanted,
}

impl fmt::Display for RunEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRun(kind) => write!(f, "could not be run ({kind})"),
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "ended by signal {signal}"),
            Self::Deadline(limit) => {
                write!(f, "killed: it took more than {} s", limit.as_secs_f32())
            }
            Self::TooMuchOutput(limit) => write!(f, "killed: it wrote more than {limit} bytes"),
            Self::Unwanted => f.write_str("killed: it is not wanted any more"),
        }
    }
}

/// A command that failed, with what is needed to understand it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFailure {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How it ended.
    pub end: RunEnd,
    /// Its standard error, bounded: the beginning and the end of it.
    pub stderr: String,
}

impl std::error::Error for RunFailure {}

impl fmt::Display for RunFailure {
    /// Argv, the end, and the last lines of standard error, on one line and with control characters escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LINES: usize = 6;
        write!(f, "`{}`: {}", escaped(&self.argv.join(" ")), self.end)?;
        let lines: Vec<&str> = self
            .stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        for (n, line) in lines[lines.len().saturating_sub(LINES)..]
            .iter()
            .enumerate()
        {
            write!(f, "{}{}", if n == 0 { ": " } else { "; " }, escaped(line))?;
        }
        Ok(())
    }
}

/// Fit for a terminal or a log: control characters are escaped, quotes and backslashes are left alone.
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Takes a stream in pieces, as they come.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// Runs commands. Blocks the calling thread; holds nothing between commands.
#[derive(Clone, Debug, Default)]
pub struct Runner {
    cancel: Option<Cancel>,
}

impl Runner {
    /// One whose commands are killed, and not even started, once they are not wanted any more.
    pub fn wanted_until(cancel: &Cancel) -> Self {
        Self {
            cancel: Some(cancel.clone()),
        }
    }

    fn is_unwanted(&self) -> bool {
        self.cancel.as_ref().is_some_and(Cancel::is_set)
    }

    /// Runs `command` to its end and keeps what it writes.
    pub fn run(&self, command: &Command) -> Result<Output, RunFailure> {
        let mut stdout = Vec::new();
        let limit = command.output_limit;
        let kept = self.watch(
            command,
            &mut |piece| take(&mut stdout, piece, limit),
            &mut |_| {},
        )?;
        Ok(Output {
            stdout,
            stderr: kept,
        })
    }

    /// Runs `command` and hands standard output to `stdout` and standard error to `stderr` as it comes. There is no
    /// bound on standard output.
    pub fn run_streaming(
        &self,
        command: &Command,
        stdout: Sink<'_>,
        stderr: Sink<'_>,
    ) -> Result<Output, RunFailure> {
        let mut taking = |piece: &[u8]| {
            stdout(piece);
            true
        };
        Ok(Output {
            stderr: self.watch(command, &mut taking, stderr)?,
            stdout: Vec::new(),
        })
    }

    /// Runs `command` with these descriptors as its standard input and output, instead of what it would read and of
    /// keeping what it writes: for streams of any length. The descriptors are shared with the program while it runs and
    /// stay open here.
    pub fn run_on(
        &self,
        command: &Command,
        stdin: Option<BorrowedFd<'_>>,
        stdout: Option<BorrowedFd<'_>>,
    ) -> Result<Output, RunFailure> {
        let mut kept = Vec::new();
        let limit = command.output_limit;
        let stderr = self.watch_on(
            command,
            [stdin, stdout],
            &mut |piece| take(&mut kept, piece, limit),
            &mut |_| {},
        )?;
        Ok(Output {
            stdout: kept,
            stderr,
        })
    }

    /// Runs `command` on this descriptor and hands standard output to `stdout` as it comes, as long as that wants more;
    /// a program whose output is not wanted any more is ended, and has failed.
    pub fn run_reading(
        &self,
        command: &Command,
        stdin: BorrowedFd<'_>,
        stdout: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), RunFailure> {
        self.watch_on(command, [Some(stdin), None], stdout, &mut |_| {})
            .map(drop)
    }

    fn watch(
        &self,
        command: &Command,
        stdout: &mut dyn FnMut(&[u8]) -> bool,
        stderr: Sink<'_>,
    ) -> Result<String, RunFailure> {
        self.watch_on(command, [None, None], stdout, stderr)
    }

    fn watch_on(
        &self,
        command: &Command,
        given: [Option<BorrowedFd<'_>>; 2],
        stdout: &mut dyn FnMut(&[u8]) -> bool,
        stderr: Sink<'_>,
    ) -> Result<String, RunFailure> {
        let argv = command.argv();
        tracing::debug!(?argv, "run");
        let begun = Instant::now();
        let mut kept = Bounded::default();
        let mut sinks = Sinks {
            stdout,
            stderr,
            kept: &mut kept,
        };
        let end = match self.is_unwanted() {
            true => Ok(Some(RunEnd::Unwanted)),
            false => start(command, given)
                .and_then(|child| self.attend(child, command, begun, &mut sinks)),
        };
        tracing::debug!(
            program = argv[0],
            ms = begun.elapsed().as_millis() as u64,
            ?end,
            "ended"
        );
        let end = match end {
            Ok(None) => return Ok(kept.text()),
            Ok(Some(end)) => end,
            Err(error) => {
                kept.push(error.to_string().as_bytes());
                RunEnd::NotRun(error.kind())
            }
        };
        Err(RunFailure {
            argv,
            end,
            stderr: kept.text(),
        })
    }
}

fn take(all: &mut Vec<u8>, piece: &[u8], limit: usize) -> bool {
    all.extend_from_slice(piece);
    all.len() <= limit
}

#[allow(
    clippy::disallowed_methods,
    reason = "this is the one home of Command::new"
)]
fn start(command: &Command, given: [Option<BorrowedFd<'_>>; 2]) -> io::Result<Child> {
    let shared = |fd: Option<BorrowedFd<'_>>| -> io::Result<Option<Stdio>> {
        fd.map(|fd| fd.try_clone_to_owned().map(Stdio::from))
            .transpose()
    };
    let [stdin, stdout] = given;
    let stdin = shared(stdin)?.unwrap_or_else(|| {
        if command.input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        }
    });
    let stdout = shared(stdout)?.unwrap_or_else(Stdio::piped);
    let mut process = std::process::Command::new(&command.program);
    process
        .args(&command.args)
        .env_clear()
        .env("PATH", tool::search_path())
        .env("LC_ALL", "C")
        .envs(command.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&command.dir)
        .process_group(0)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped());
    process.spawn()
}

#[cfg(test)]
mod tests;
