//! The event loop, from the start of lxc-start to its end, and its deadlines.
//!
//! ```text
//! Starting ── helper's FIFO closes after "exec" ──> Running ── lxc-start ends ──> (sweep)
//!    │ too long: kill lxc-start            │ stop: halt signal ── too long: kill init ── too long: kill lxc-start
//! ```

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, UNIX_EPOCH};

use mayfly_core::run::RunPhase;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::end::Facts;
use super::report::{Report, Told};
use super::settle::Settle;
use super::{FLUSH_DEADLINE, Source, Supervisor, kill};
use crate::crash::crash_point;
use crate::run::cgroups::Groups;
use crate::run::harvest::child::Harvester;
use crate::run::proc_text::read_text;
use crate::run::protocol::{Answer, Request};
use crate::sys::process::{signal, take_signal, timespec};

/// How long it may take until the guest's init is executed.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long lxc-start may take to end after init was killed, or has ended.
const LXC_DEADLINE: Duration = Duration::from_secs(10);
/// How long a guest may take to halt when the supervisor itself is asked to end.
const TERM_TIMEOUT: Duration = Duration::from_secs(60);

/// When an init that may not have been ready for the halt signal is sent it again.
const HALT_AGAIN: Duration = Duration::from_millis(500);
/// The age at which any init is ready for it.
const HALT_READY: Duration = Duration::from_secs(15);

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// The halt signal was sent; then init is killed.
    Asked(Instant),
    /// Init was killed or is gone; then lxc-start is killed.
    Ending(Instant),
    /// Nothing more can be done but wait.
    Final,
}

/// What is watched besides the supervisor's own sockets.
pub(super) struct Watch<'g> {
    groups: &'g Groups,
    lxc_pid: Pid,
    lxc: OwnedFd,
    init: Option<OwnedFd>,
    report: Report,
    /// Copies that may be taken back.
    settle: Option<Settle>,
    /// A harvest that was killed.
    dying: Option<Harvester>,
    began: Instant,
    stop: Stop,
    /// When the halt signal is sent again.
    again: Option<Instant>,
    over: bool,
}

impl<'g> Watch<'g> {
    pub(super) fn new(
        groups: &'g Groups,
        lxc_pid: Pid,
        lxc: OwnedFd,
        report: Report,
        began: Instant,
    ) -> Self {
        Self {
            groups,
            lxc_pid,
            lxc,
            init: None,
            report,
            settle: None,
            dying: None,
            began,
            stop: Stop::No,
            again: None,
            over: false,
        }
    }

    /// Serves events until lxc-start has ended.
    pub(super) fn watch(mut self, own: &mut Supervisor, facts: &mut Facts) -> io::Result<()> {
        while !self.over {
            self.on_time(own, facts);
            let now = Instant::now();
            if let Some(settle) = &mut self.settle {
                settle.on_time(now);
            }
            let settle = self.settle.as_ref().map(Settle::deadline);
            let timeout = self
                .deadline(own)
                .into_iter()
                .chain(settle)
                .map(|at| at.saturating_duration_since(now))
                .chain(own.console.on_time(now))
                .min();
            let mut gone = Vec::new();
            for (source, ready) in own.wait(Some(&self), timeout)? {
                if !self.on_event(own, facts, source, ready) {
                    if let Source::Viewer(index) = source {
                        gone.push(index);
                    }
                }
            }
            own.console.drop_viewers(&gone);
            own.control.drop_closed();
        }
        Ok(())
    }

    fn interests<'a>(&'a self, add: &mut dyn FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        add(Source::Lxc, self.lxc.as_fd(), PollFlags::IN);
        if let Some(init) = &self.init {
            add(Source::Init, init.as_fd(), PollFlags::IN);
        }
        if let Some(report) = self.report.interest() {
            add(Source::Report, report, PollFlags::IN);
        }
        if let Some(harvest) = self.settle.as_ref().and_then(Settle::interest) {
            add(Source::Harvest, harvest, PollFlags::IN);
        }
    }

    /// False: the viewer that the event is about is to be dropped.
    fn on_event(
        &mut self,
        own: &mut Supervisor,
        facts: &mut Facts,
        source: Source,
        ready: PollFlags,
    ) -> bool {
        match source {
            Source::Lxc => {
                self.over = true;
                own.note_death();
            }
            Source::Init => {
                own.note_death();
                self.on_init_gone(facts);
            }
            Source::Report => self.on_report(own, facts),
            Source::Harvest => {
                if let Some(settle) = &mut self.settle {
                    settle.on_harvested();
                }
            }
            Source::Signals => {
                if take_signal(own.signals.as_fd()).is_some() {
                    // Nobody of the daemon's sends signals: this is the host going down.
                    facts.host_down = true;
                    self.stop(own, facts, TERM_TIMEOUT, false);
                }
            }
            Source::ControlListener => own.control.on_caller_comes(),
            Source::Caller(index) => self.on_caller(own, facts, index),
            Source::Console | Source::ConsoleListener | Source::Viewer(_) => {
                return own.on_console_event(source, ready);
            }
        }
        true
    }

    /// lxc-start then tidies up and says why init ended. Of a run that was killed both are known: the supervisor's own
    /// sweep does all of it, and does not wait.
    fn on_init_gone(&mut self, facts: &Facts) {
        if facts.killed {
            kill(&self.lxc);
        }
        // Readable for ever from here on.
        self.init = None;
        // What was not taken by now is taken by the daemon, from the dead root.
        self.dying = self.settle.take().and_then(Settle::end);
        self.stop = Stop::Ending(Instant::now() + LXC_DEADLINE);
        self.step_aside();
    }

    /// Leaves the run's cgroups while the guest dies. The kernel may let whoever moves a process wait for a grace period; at
    /// the end of the run, where it must have left, nothing else would go on meanwhile. It tries again there.
    fn step_aside(&self) {
        if let Err(e) = self.groups.release_supervisor() {
            complain!("cannot leave the run's cgroups yet: {e}");
        }
    }

    fn on_report(&mut self, own: &mut Supervisor, facts: &mut Facts) {
        // The helper speaks: LXC has set the console's modes and will not do it again.
        own.console.make_transparent();
        let Some((told, persistence)) = self.report.on_ready() else {
            return;
        };
        own.state.persistence = persistence;
        match told {
            Told::Executed => {
                facts.reached = true;
                own.state.phase = RunPhase::Running;
                own.state.launch_us = u64::try_from(self.began.elapsed().as_micros()).ok();
                self.find_init(own);
                self.settle = Settle::begin(&own.spec, &own.dir);
                crash_point("supervise.init_seen");
                if let Err(e) = own.save() {
                    complain!("cannot write the state: {e}");
                }
                crash_point("supervise.after_running");
            }
            Told::Error(why) => facts.helper = Some(why),
            Told::Nothing => {}
        }
    }

    /// Init is the child of lxc-start that is process 1 of its own namespace.
    fn find_init(&mut self, own: &mut Supervisor) {
        let children = children(self.lxc_pid);
        if children.as_ref().is_ok_and(Vec::is_empty) {
            // It was reaped already. Its monitor may take a while to end.
            own.note_death();
        }
        for pid in children.unwrap_or_default() {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            // Looked at after the descriptor was taken: the id cannot mean another process any more.
            if is_init_of(pid, self.lxc_pid) {
                own.state.init_pid = Some(pid.as_raw_pid());
                self.init = Some(pidfd);
                return;
            }
        }
        complain!(
            "init is not among the children of lxc-start: it can be killed only with its monitor"
        );
    }

    fn on_caller(&mut self, own: &mut Supervisor, facts: &mut Facts, index: usize) {
        for request in own.control.on_caller(index) {
            let done = match request {
                Ok(Request::Stop { timeout_ms, force }) => {
                    self.stop(own, facts, Duration::from_millis(timeout_ms), force);
                    Ok(())
                }
                Ok(Request::Resize { rows, cols }) => {
                    own.console.resize(rows, cols).map_err(|e| e.to_string())
                }
                Ok(Request::Status {}) => Ok(()),
                Ok(Request::Wait { phase }) => {
                    own.control.wait(index, phase, &own.state);
                    continue;
                }
                Err(why) => Err(why),
            };
            let answer =
                done.map_or_else(Answer::Error, |()| Answer::Ok(Box::new(own.state.clone())));
            own.control.answer(index, &answer);
        }
    }

    fn stop(&mut self, own: &Supervisor, facts: &mut Facts, timeout: Duration, force: bool) {
        facts.asked = true;
        if matches!(self.stop, Stop::Ending(_) | Stop::Final) {
            return;
        }
        match &self.init {
            Some(init) if !force => {
                if self.stop == Stop::No {
                    send_halt(init, own);
                    self.again = Some(Instant::now() + HALT_AGAIN);
                }
                let wanted = Instant::now() + timeout;
                // A second request may shorten the wait, never lengthen it.
                self.stop = Stop::Asked(match self.stop {
                    Stop::Asked(at) => at.min(wanted),
                    _ => wanted,
                });
            }
            _ => self.kill_init(facts),
        }
    }

    /// The kernel drops a signal that process 1 of a container has no handler for: one that came before init was ready
    /// for it is lost, so a young init is asked again.
    fn halt_again(&mut self, own: &Supervisor) {
        let now = Instant::now();
        let young = self.began.elapsed() < HALT_READY;
        self.again = young.then_some(now + HALT_AGAIN);
        if let (Some(init), true) = (&self.init, young) {
            send_halt(init, own);
        }
    }

    /// Kills init, or lxc-start where init is not known: then the kernel kills what was started already.
    fn kill_init(&mut self, facts: &mut Facts) {
        facts.killed = facts.asked;
        kill(self.init.as_ref().unwrap_or(&self.lxc));
        self.stop = Stop::Ending(Instant::now() + LXC_DEADLINE);
        self.step_aside();
    }

    fn deadline(&self, own: &Supervisor) -> Option<Instant> {
        match self.stop {
            Stop::Asked(at) => Some(self.again.map_or(at, |again| at.min(again))),
            Stop::Ending(at) => Some(at),
            Stop::No if own.state.phase == RunPhase::Starting => Some(self.began + START_DEADLINE),
            Stop::No | Stop::Final => None,
        }
    }

    fn on_time(&mut self, own: &Supervisor, facts: &mut Facts) {
        if self.deadline(own).is_none_or(|at| at > Instant::now()) {
            return;
        }
        match self.stop {
            Stop::No => {
                facts.timed_out = true;
                self.kill_init(facts);
            }
            Stop::Asked(at) if at > Instant::now() => self.halt_again(own),
            Stop::Asked(_) => self.kill_init(facts),
            Stop::Ending(_) => {
                kill(&self.lxc);
                self.stop = Stop::Final;
            }
            Stop::Final => {}
        }
    }
}

impl Supervisor {
    /// Waits for events of everything that is watched.
    fn wait(
        &self,
        watch: Option<&Watch<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::with_capacity(16);
        let mut fds = Vec::with_capacity(16);
        {
            let mut add = |source, fd, flags| {
                sources.push(source);
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            };
            if let Some(watch) = watch {
                watch.interests(&mut add);
                add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
                self.control.interests(&mut add);
            }
            self.console.interests(&mut add);
        }
        match poll(&mut fds, timeout.map(timespec).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = sources
            .iter()
            .zip(&fds)
            .map(|(source, fd)| (*source, fd.revents()));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// The guest is dead, as of now.
    fn note_death(&mut self) {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        self.state
            .ended_unix_ms
            .get_or_insert(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    }

    fn on_console_event(&mut self, source: Source, ready: PollFlags) -> bool {
        match source {
            Source::Console => self.console.on_console(),
            Source::ConsoleListener => self.console.on_viewer_comes(),
            Source::Viewer(index) => return self.console.on_viewer(index, ready),
            _ => {}
        }
        true
    }

    /// Takes what the guest printed last, and gives viewers a moment to read it.
    pub(super) fn flush_console(&mut self) {
        let end = Instant::now() + FLUSH_DEADLINE;
        while !self.console.is_flushed() && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(events) = self.wait(None, Some(left)) else {
                return;
            };
            let mut gone = Vec::new();
            for (source, ready) in events {
                if !self.on_console_event(source, ready) {
                    if let Source::Viewer(index) = source {
                        gone.push(index);
                    }
                }
            }
            self.console.drop_viewers(&gone);
        }
    }
}

fn send_halt(init: &OwnedFd, own: &Supervisor) {
    if let Err(e) = signal(init.as_fd(), own.spec.halt_signal) {
        complain!("the halt signal cannot be sent: {e}");
    }
}

/// The children of a process with one thread.
fn children(of: Pid) -> io::Result<Vec<Pid>> {
    let pid = of.as_raw_pid();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let numbers = list.split_whitespace().filter_map(|word| word.parse().ok());
    Ok(numbers.filter_map(Pid::from_raw).collect())
}

fn is_init_of(pid: Pid, parent: Pid) -> bool {
    let status = read_text(format!("/proc/{}/status", pid.as_raw_pid())).unwrap_or_default();
    let last = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|l| l.split_whitespace().last())
    };
    last("NSpid:") == Some("1") && last("PPid:") == Some(parent.as_raw_pid().to_string().as_str())
}
