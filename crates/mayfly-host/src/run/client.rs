//! How the daemon starts supervisors and reaches them.
//!
//! Everything here blocks, with a deadline: call it from a thread that may block. Nothing here forks.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mayfly_core::run::{RunPhase, RunSpec, RunState};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub use super::state::{FileError, read_state};
pub use super::sweep::{Node, SweepReport, SweepTrouble};

use super::paths::RunDir;
use super::protocol::{Answer, LINE_LIMIT, Request, reached};
use super::state::replace_for_this_boot;
use crate::crash;
use crate::sys::process::wait_readable;

/// How long a supervisor may take to answer what it can answer at once.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How much of a supervisor's log is put into an error.
const LOG_LIMIT: u64 = 2000;

/// A supervisor that was not started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the supervisor of {}: {why}", dir.display())]
pub struct SpawnError {
    /// The run's directory.
    pub dir: PathBuf,
    /// What is known.
    pub why: String,
}

/// A supervisor that did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It ended or was killed without saying that the run is over: sweep.
    #[error("the supervisor of {} is gone", .0.display())]
    Gone(PathBuf),
    /// It did not answer in time.
    #[error("the supervisor of {} does not answer in time", .0.display())]
    Late(PathBuf),
    /// It refused.
    #[error("the supervisor refused: {0}")]
    Refused(String),
    /// The socket failed.
    #[error("cannot talk to the supervisor of {}", dir.display())]
    Broken {
        /// The run's directory.
        dir: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Its state cannot be read.
    #[error(transparent)]
    State(#[from] FileError),
}

/// Makes the run's directory and writes `run.json`. Idempotent.
pub fn create_run(dir: &RunDir, spec: &RunSpec) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir.path())?;
    // The process's umask may have narrowed it.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    replace_for_this_boot(&dir.spec(), &serde_json::to_vec_pretty(spec)?)
}

/// Starts `program supervise RUN_DIR` and returns when `state.json` exists and the sockets listen. The supervisor is
/// no child of this process afterwards: it outlives it and leaves no zombie.
pub fn spawn_supervisor(program: &Path, dir: &RunDir) -> Result<(), SpawnError> {
    let failed = |why: String| SpawnError {
        dir: dir.path().to_owned(),
        why,
    };
    // Given along as an open file, so that there is no moment at which the supervisor lives and does not hold it.
    let lock = match lock(dir) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(failed("another supervisor has this run".to_owned())),
        Err(e) => return Err(failed(e.to_string())),
    };
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(dir.supervisor_log())
    };
    let (out, err) = open()
        .and_then(|out| Ok((out, open()?)))
        .map_err(|e| failed(e.to_string()))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the supervisor outlives the daemon: no deadline, output to a file"
    )]
    let mut supervisor = Command::new(program);
    let status = supervisor
        .arg("supervise")
        .arg(dir.path())
        .env_clear()
        .envs(crash::for_supervisor().map(|at| (crash::CRASH_VARIABLE, at)))
        .current_dir("/")
        .stdin(lock)
        .stdout(out)
        .stderr(err)
        .status()
        .map_err(|e| failed(format!("cannot execute {}: {e}", program.display())))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(format!(
            "{status}: {}",
            log_end(&dir.supervisor_log())
        )))
    }
}

/// Whether a supervisor of this run lives, also one that has not told anything yet.
pub fn is_supervised(dir: &RunDir) -> io::Result<bool> {
    match dir.lock().try_exists()? {
        true => Ok(lock(dir)?.is_none()),
        false => Ok(false),
    }
}

/// Takes the lock of a run; none where somebody holds it. It is let go with the last copy of the file.
fn lock(dir: &RunDir) -> io::Result<Option<fs::File>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(dir.lock())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn log_end(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let from = text
        .len()
        .saturating_sub(usize::try_from(LOG_LIMIT).unwrap_or(usize::MAX));
    String::from_utf8_lossy(&text[from..])
        .trim()
        .escape_debug()
        .to_string()
}

/// Waits until the guest's init was executed, or the run has ended: look at the phase. `Late` when neither happened.
pub fn wait_started(dir: &RunDir, within: Duration) -> Result<RunState, CallError> {
    wait_for(dir, RunPhase::Running, within)
}

/// Waits until the run has ended and everything of it is gone, its supervisor and that one's namespaces included.
pub fn wait_ended(dir: &RunDir, within: Duration) -> Result<RunState, CallError> {
    let state = wait_for(dir, RunPhase::Ended, within)?;
    // It has nothing left to do but to exit.
    if wait_gone(&state, ANSWER_DEADLINE) {
        Ok(state)
    } else {
        Err(CallError::Late(dir.path().to_owned()))
    }
}

/// How a run ended whose init was executed and has not lived for `settle`; none where that lives. Sweeping up after it may
/// take `sweep`.
pub fn ended_at_once(
    dir: &RunDir,
    settle: Duration,
    sweep: Duration,
) -> Result<Option<RunState>, CallError> {
    let mut ended = wait_ended(dir, settle);
    for _ in 0..2 {
        if !matches!(ended, Err(CallError::Late(_))) {
            break;
        }
        // A dead init may still be swept up after, and a supervisor that is busy with that answers nobody; nor does one that
        // is held up for another reason.
        if status(dir).is_ok_and(|state| state.ended_unix_ms.is_none()) {
            return Ok(None);
        }
        ended = wait_ended(dir, sweep);
    }
    ended.map(Some)
}

/// Waits until the supervisor that a state names has exited.
fn wait_gone(state: &RunState, within: Duration) -> bool {
    let Some(Ok(pidfd)) =
        Pid::from_raw(state.supervisor_pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()))
    else {
        return true;
    };
    // Looked at after the descriptor was taken: the id may belong to another process by now.
    match super::state::start_ticks(state.supervisor_pid) {
        Ok(Some(ticks)) if ticks == state.supervisor_start_ticks => {
            wait_readable(pidfd.as_fd(), within).unwrap_or(false)
        }
        _ => true,
    }
}

/// Asks for the end of the run: the halt signal, and SIGKILL after `timeout`; SIGKILL at once with `force`. Returns
/// when the request was taken; then use [`wait_ended`]. A run that has ended already is fine.
pub fn stop(dir: &RunDir, timeout: Duration, force: bool) -> Result<RunState, CallError> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    match call(dir, &Request::Stop { timeout_ms, force }, ANSWER_DEADLINE) {
        Err(CallError::Gone(_)) => ended(dir),
        other => other,
    }
}

/// Sets the size of the console.
pub fn resize(dir: &RunDir, rows: u16, cols: u16) -> Result<RunState, CallError> {
    call(dir, &Request::Resize { rows, cols }, ANSWER_DEADLINE)
}

/// Asks the supervisor itself, so that an answer also says that it is alive.
pub fn status(dir: &RunDir) -> Result<RunState, CallError> {
    call(dir, &Request::Status {}, ANSWER_DEADLINE)
}

fn wait_for(dir: &RunDir, phase: RunPhase, within: Duration) -> Result<RunState, CallError> {
    match call(dir, &Request::Wait { phase }, within) {
        // Closed without an answer, or not listening any more: the end is in the file, or the supervisor is dead.
        Err(CallError::Gone(_)) => ended(dir),
        Ok(state) if reached(state.phase, phase) => Ok(state),
        Ok(_) => Err(CallError::Late(dir.path().to_owned())),
        other => other,
    }
}

/// The state of a run whose supervisor does not listen any more.
fn ended(dir: &RunDir) -> Result<RunState, CallError> {
    // Between the removal of its socket and the last state lies a moment.
    let end = Instant::now() + Duration::from_secs(2);
    loop {
        let state = read_state(dir)?;
        if state.phase == RunPhase::Ended {
            return Ok(state);
        }
        if Instant::now() >= end
            || matches!(super::state::start_ticks(state.supervisor_pid), Ok(None))
        {
            // It may have written its end just before it died.
            let state = read_state(dir)?;
            let over = state.phase == RunPhase::Ended;
            return if over {
                Ok(state)
            } else {
                Err(CallError::Gone(dir.path().to_owned()))
            };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn call(dir: &RunDir, request: &Request, within: Duration) -> Result<RunState, CallError> {
    let own = || dir.path().to_owned();
    let broken = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => CallError::Gone(own()),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Late(own()),
        _ => CallError::Broken { dir: own(), cause },
    };
    let mut line = serde_json::to_vec(request).map_err(|e| broken(e.into()))?;
    line.push(b'\n');
    let mut stream = UnixStream::connect(dir.control_socket()).map_err(broken)?;
    stream
        .set_write_timeout(Some(ANSWER_DEADLINE))
        .map_err(broken)?;
    stream
        .set_read_timeout(Some(within.max(Duration::from_millis(1))))
        .map_err(broken)?;
    stream.write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream.take(LINE_LIMIT as u64))
        .read_line(&mut answer)
        .map_err(broken)?;
    if answer.is_empty() {
        return Err(CallError::Gone(own()));
    }
    match serde_json::from_str(&answer).map_err(|e| broken(e.into()))? {
        Answer::Ok(state) => Ok(*state),
        Answer::Error(why) => Err(CallError::Refused(why)),
    }
}
