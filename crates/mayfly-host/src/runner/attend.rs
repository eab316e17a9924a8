//! Looking after one command that runs: its pipes, its deadline, and its end.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::{Command, LINGER, LOOK, RunEnd, Runner, Sink};

/// A child that is killed with its group and waited for, whatever happens.
struct Reaped {
    child: Option<Child>,
}

impl Reaped {
    fn child(&mut self) -> io::Result<&mut Child> {
        let gone = || io::Error::other("the child was waited for already");
        self.child.as_mut().ok_or_else(gone)
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child()?.wait()?;
        self.child = None;
        Ok(status)
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Some(group) = Pid::from_raw(child.id() as i32) {
            // Not waited for yet, so the number cannot belong to anybody else. It may have ended: no trouble.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let begun = Instant::now();
        while begun.elapsed() < LINGER {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        // A pool whose disks do not answer keeps a command in the kernel, where no signal reaches it: whoever asked has
        // waited long enough. Where no thread can be had, it stays a zombie until this process ends.
        let waiting = std::thread::Builder::new().spawn(move || child.wait());
        if let Err(error) = waiting {
            tracing::warn!(%error, "a killed command is not waited for");
        }
    }
}

/// Where the output of a command goes.
pub(super) struct Sinks<'a> {
    pub(super) stdout: &'a mut dyn FnMut(&[u8]) -> bool,
    pub(super) stderr: Sink<'a>,
    pub(super) kept: &'a mut Bounded,
}

impl Runner {
    /// Feeds and drains one child until it has ended. `Ok(None)` is success.
    pub(super) fn attend(
        &self,
        child: Child,
        command: &Command,
        begun: Instant,
        to: &mut Sinks<'_>,
    ) -> io::Result<Option<RunEnd>> {
        let mut child = Reaped { child: Some(child) };
        let pid = Pid::from_raw(child.child()?.id() as i32)
            .ok_or_else(|| io::Error::other("no process id"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let mut input = child.child()?.stdin.take();
        let mut out = child.child()?.stdout.take();
        let mut err = child.child()?.stderr.take();
        for pipe in [
            input.as_ref().map(AsFd::as_fd),
            out.as_ref().map(AsFd::as_fd),
            err.as_ref().map(AsFd::as_fd),
        ]
        .into_iter()
        .flatten()
        {
            rustix::io::ioctl_fionbio(pipe, true)?;
        }
        let mut unsent: &[u8] = &command.input;
        let mut ended: Option<Instant> = None;
        while ended.is_none() || out.is_some() || err.is_some() {
            let now = Instant::now();
            let until = ended.map_or(begun + command.deadline, |at| at + LINGER);
            let Some(left) = until
                .checked_duration_since(now)
                .filter(|left| !left.is_zero())
            else {
                if ended.is_some() {
                    break;
                }
                return Ok(Some(RunEnd::Deadline(command.deadline)));
            };
            if self.is_unwanted() {
                return Ok(Some(RunEnd::Unwanted));
            }
            let left = match self.cancel {
                Some(_) => left.min(LOOK),
                None => left,
            };
            let ready = wait_for(
                &[
                    (ended.is_none().then(|| pidfd.as_fd()), PollFlags::IN),
                    (out.as_ref().map(AsFd::as_fd), PollFlags::IN),
                    (err.as_ref().map(AsFd::as_fd), PollFlags::IN),
                    (input.as_ref().map(AsFd::as_fd), PollFlags::OUT),
                ],
                left,
            )?;
            if ready[1] && !drain(&mut out, &mut |piece| (to.stdout)(piece))? {
                return Ok(Some(RunEnd::TooMuchOutput(command.output_limit)));
            }
            if ready[2] {
                drain(&mut err, &mut |piece| {
                    to.kept.push(piece);
                    (to.stderr)(piece);
                    true
                })?;
            }
            if ready[3] {
                feed(&mut input, &mut unsent)?;
            }
            if ready[0] {
                ended = Some(Instant::now());
                input = None;
            }
        }
        let status = child.wait()?;
        Ok(match (status.success(), status.code(), status.signal()) {
            (true, _, _) => None,
            (_, Some(code), _) => Some(RunEnd::Status(code)),
            (_, None, signal) => Some(RunEnd::Signal(signal.unwrap_or(0))),
        })
    }
}

type Watched<'a> = (Option<BorrowedFd<'a>>, PollFlags);

/// Which of these became ready (or broke) within `limit`.
fn wait_for(watched: &[Watched<'_>; 4], limit: Duration) -> io::Result<[bool; 4]> {
    let mut at = [None; 4];
    let mut fds = Vec::with_capacity(4);
    for (n, (fd, flags)) in watched.iter().enumerate() {
        if let Some(fd) = fd {
            at[n] = Some(fds.len());
            fds.push(PollFd::from_borrowed_fd(*fd, *flags));
        }
    }
    // A spurious early return is harmless: the caller looks at the clock again.
    let limit = rustix::event::Timespec {
        tv_sec: limit.as_secs().min(3600) as i64,
        tv_nsec: limit.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(at.map(|n| n.is_some_and(|n| !fds[n].revents().is_empty())))
}

/// Reads what is there; drops the pipe at its end. False: the sink wants no more.
fn drain<R: Read>(pipe: &mut Option<R>, sink: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<bool> {
    let Some(open) = pipe else { return Ok(true) };
    let mut piece = [0; 64 << 10];
    match open.read(&mut piece) {
        Ok(0) => *pipe = None,
        Ok(n) => return Ok(sink(&piece[..n])),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) => {}
        Err(error) => return Err(error),
    }
    Ok(true)
}

/// Writes what fits; closes the pipe when all is written or nobody reads it any more.
fn feed<W: Write>(pipe: &mut Option<W>, unsent: &mut &[u8]) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    match open.write(unsent) {
        Ok(n) => *unsent = &unsent[n..],
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            return Ok(());
        }
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => *unsent = &[],
        Err(error) => return Err(error),
    }
    if unsent.is_empty() {
        *pipe = None;
    }
    Ok(())
}

/// The beginning and the end of a stream.
#[derive(Default)]
pub(super) struct Bounded {
    head: Vec<u8>,
    tail: Vec<u8>,
    left_out: usize,
}

impl Bounded {
    const HEAD: usize = 4 << 10;
    const TAIL: usize = 12 << 10;

    pub(super) fn push(&mut self, piece: &[u8]) {
        let room = (Self::HEAD - self.head.len()).min(piece.len());
        self.head.extend_from_slice(&piece[..room]);
        self.tail.extend_from_slice(&piece[room..]);
        let over = self.tail.len().saturating_sub(Self::TAIL);
        self.tail.drain(..over);
        self.left_out += over;
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.left_out > 0 {
            text.push_str(&format!("\n[{} bytes left out]\n", self.left_out));
        }
        text.push_str(&String::from_utf8_lossy(&self.tail));
        text
    }
}
