//! The supervisor: one process, one thread, one run.
//!
//! It is started by the daemon and outlives it. lxc-start is tied to it: when the supervisor is killed, lxc-start and
//! the guest die with it, and the daemon sweeps. It owns what must not close while the guest runs: the master of the
//! console's pty, the user namespace, the mount namespace.

/// Says something on standard error, which is the supervisor's log. Not `eprintln`: that panics where the disk is full,
/// and the guest would die with the supervisor.
macro_rules! complain {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod console;
mod control;
mod end;
mod events;
mod launch;
mod mounts;
mod pace;
mod report;
mod settle;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use mayfly_core::features::Features;
use mayfly_core::run::{PROTOCOL, RunEnd, RunPhase, RunSpec, RunState};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::console::Console;
use self::control::Control;
use self::end::{Facts, judge, read_log, was_in_order};
use self::events::Watch;
pub(crate) use self::launch::find_program;
use self::report::Report;
pub(crate) use self::report::bounded;
use super::apparmor;
use super::cgroups::Groups;
use super::paths::{RunDir, container_name};
use super::show::explained;
use super::state::{self, replace, replace_for_this_boot};
use super::{evidence::LookError, ring};
use crate::crash::crash_point;
use crate::sys::process::{Fork, fork, leave_now, signal, signal_descriptor, wait_readable};

/// How long preparations may take before the daemon is told that they failed.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// How long members of the run's cgroups may take to die of SIGKILL.
const SWEEP_DEADLINE: Duration = Duration::from_secs(30);
/// How long empty cgroups may take to become removable.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
/// How long viewers of the console may take to read what came last.
const FLUSH_DEADLINE: Duration = Duration::from_millis(200);

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Signals,
    Lxc,
    Init,
    Report,
    Harvest,
    Console,
    ConsoleListener,
    Viewer(usize),
    ControlListener,
    Caller(usize),
}

/// Runs one life of a container, as the whole of this process: `mayfly supervise RUN_DIR`.
///
/// The process that is called returns as soon as `state.json` exists and the sockets listen (status 0), or when that
/// failed (status 1, the reason on standard error). Its child is the supervisor: nobody's child, in a session of its
/// own, so that it outlives the daemon and leaves no zombie.
pub fn supervise(run_dir: &Path) -> ! {
    let dir = RunDir::new(run_dir);
    let forked = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(io::Error::from)
        .and_then(|(heard, tell)| Ok((heard, tell, fork()?)));
    match forked {
        Ok((heard, tell, Fork::Parent(_))) => {
            drop(tell);
            let told = wait_readable(heard.as_fd(), HANDSHAKE_DEADLINE).unwrap_or(false)
                && matches!(rustix::io::read(&heard, &mut [0; 1]), Ok(1));
            leave_now(if told { 0 } else { 1 })
        }
        Ok((heard, tell, Fork::Child)) => {
            drop(heard);
            match Supervisor::open(dir, &tell) {
                Ok((supervisor, began)) => {
                    drop(tell);
                    std::process::exit(supervisor.run(began))
                }
                Err(e) => {
                    complain!("cannot supervise {}: {e}", run_dir.display());
                    std::process::exit(1)
                }
            }
        }
        Err(e) => {
            complain!("cannot supervise {}: {e}", run_dir.display());
            std::process::exit(1)
        }
    }
}

struct Supervisor {
    dir: RunDir,
    spec: RunSpec,
    state: RunState,
    signals: OwnedFd,
    console: Console,
    control: Control,
}

impl Supervisor {
    /// Takes the run over: session, signals, sockets, `state.json`. Nothing of the guest exists yet.
    fn open(dir: RunDir, tell: &OwnedFd) -> io::Result<(Self, Instant)> {
        let began = Instant::now();
        crash_point("supervise.begun");
        rustix::process::setsid()?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        std::env::set_current_dir("/")?;
        if let Some(why) = dir.unusable() {
            return Err(io::Error::other(why));
        }
        let spec = state::read_spec(&dir).map_err(|e| io::Error::other(with_cause(&e)))?;
        let own = rustix::process::getpid().as_raw_pid();
        let state = RunState {
            protocol: PROTOCOL,
            phase: RunPhase::Starting,
            supervisor_pid: own,
            supervisor_start_ticks: state::start_ticks(own)?
                .ok_or_else(|| io::Error::other("no start time"))?,
            lxc_pid: None,
            init_pid: None,
            launch_us: None,
            end: None,
            in_order: false,
            ended_unix_ms: None,
            features: Features::new(),
            persistence: None,
        };
        let signals = signal_descriptor(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
        let console = Console::open(&dir.console_socket(), Path::new(&spec.console_dir))?;
        let control = Control::open(&dir.control_socket())?;
        // What LXC makes in the container must not inherit the narrow mask.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let mut supervisor = Self {
            dir,
            spec,
            state,
            signals,
            console,
            control,
        };
        supervisor.save()?;
        crash_point("supervise.after_state");
        rustix::io::write(tell, b"+")?;
        Ok((supervisor, began))
    }

    /// From here on every outcome is in `state.json`. Gives the process's exit status.
    fn run(mut self, began: Instant) -> i32 {
        let mut facts = Facts::default();
        let groups = match Groups::create(&self.spec.node, self.spec.vps, &self.spec.run) {
            Ok(groups) => Some(groups),
            Err(e) => {
                facts.unprepared = Some(e.to_string());
                None
            }
        };
        crash_point("supervise.after_cgroups");
        if let Some(groups) = &groups {
            if let Err(e) = self.live(groups, began, &mut facts) {
                facts.unprepared = Some(e.to_string());
            }
        }
        facts.log = read_log(&self.dir.lxc_log());
        self.state.in_order = was_in_order(&facts);
        self.finish(groups.as_ref(), &judge(&facts))
    }

    /// Starts the container and watches over it until lxc-start has ended.
    fn live(&mut self, groups: &Groups, began: Instant, facts: &mut Facts) -> io::Result<()> {
        groups.adopt_supervisor()?;
        crash_point("supervise.after_adoption");
        let report = Report::create(&self.dir, self.spec.ids.first)?;
        let mut launched = launch::launch(&self.spec, &self.dir, &self.console)?;
        let pid = i32::try_from(launched.lxc.id())
            .ok()
            .and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("lxc-start has no process id"))?;
        self.state.lxc_pid = Some(pid.as_raw_pid());
        self.state.features = self.spec.features.clone();
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        self.save()?;
        crash_point("supervise.after_lxc_recorded");
        let watched = Watch::new(groups, pid, pidfd, report, began).watch(self, facts);
        if watched.is_err() {
            // Without events nobody watches the guest: it must not go on.
            let _ = launched.lxc.kill();
        }
        facts.lxc = launched
            .lxc
            .wait()
            .ok()
            .or(Some(ExitStatus::from_raw(libc::SIGKILL)));
        crash_point("supervise.lxc_ended");
        watched
    }

    /// Sweeps up, and says so. The end is written only when nothing of the run is alive any more.
    fn finish(mut self, groups: Option<&Groups>, end: &RunEnd) -> i32 {
        let own = Some(self.state.supervisor_pid);
        let survivors = groups.map_or(Ok(Default::default()), |groups| {
            groups.kill(own, SWEEP_DEADLINE)
        });
        let proven = match survivors.map_err(|e: LookError| e.to_string()) {
            Ok(left) if left.is_empty() => Ok(()),
            Ok(left) => Err(format!("processes {left:?} do not die")),
            Err(e) => Err(e),
        };
        crash_point("supervise.after_killing");
        for trouble in mounts::leave(&self.spec, &self.dir) {
            complain!("{trouble}");
        }
        crash_point("supervise.after_unmounting");
        if proven.is_ok() {
            for (at, e) in apparmor::forget(&container_name(&self.spec.node, self.spec.vps)) {
                complain!("cannot remove {}: {e}", at.display());
            }
        }
        if let Some(groups) = groups {
            if let Err(e) = groups.release_supervisor() {
                complain!("cannot leave the run's cgroups: {e}");
            }
            for (dir, e) in groups.remove(REMOVE_DEADLINE) {
                complain!("cannot remove {}: {e}", dir.display());
            }
        }
        crash_point("supervise.after_cgroups_removed");
        self.console.take_the_rest();
        self.console.print(&ring::note(&describe(end)));
        self.flush_console();
        for path in [
            self.dir.control_socket(),
            self.dir.console_socket(),
            self.dir.report(),
        ] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    complain!("cannot remove {}: {e}", path.display())
                }
                _ => {}
            }
        }
        crash_point("supervise.after_sockets_removed");
        if let Err(why) = &proven {
            complain!("the run has not ended: {why}");
            return 1;
        }
        self.state.phase = RunPhase::Ended;
        self.state.end = Some(end.clone());
        let saved = self.save();
        crash_point("supervise.after_end");
        match saved {
            Ok(()) => 0,
            Err(e) => {
                complain!("cannot write the end of the run: {e}");
                1
            }
        }
    }

    /// Replaces `state.json`, then answers who waited for it. Why a run ended is asked for after a power cut too; that one
    /// is alive is not.
    fn save(&mut self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.state)?;
        match self.state.phase {
            RunPhase::Ended => replace(&self.dir.state(), &text)?,
            RunPhase::Starting | RunPhase::Running => {
                replace_for_this_boot(&self.dir.state(), &text)?
            }
        }
        self.control.tell_waiting(&self.state);
        Ok(())
    }
}

fn describe(end: &RunEnd) -> String {
    match end {
        RunEnd::PowerOff => "the run ended: powered off".into(),
        RunEnd::Reboot => "the run ended: reboot".into(),
        RunEnd::Killed => "the run ended: killed".into(),
        RunEnd::HostDown => "the run ended: the host went down".into(),
        RunEnd::Crashed { detail } => format!("the run crashed: {}", bounded(detail)),
        RunEnd::FailedToStart { detail } => format!("the start failed: {}", bounded(detail)),
    }
}

fn with_cause(e: &dyn std::error::Error) -> String {
    e.source()
        .map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}"))
}

/// A socket that only root may connect to: the umask is narrow when this is called.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)
        .map_err(|e| explained(&format!("cannot listen on {}", path.display()), &e))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends SIGKILL; a process that is gone already is fine.
fn kill(pidfd: &OwnedFd) {
    let _ = signal(pidfd.as_fd(), libc::SIGKILL);
}
