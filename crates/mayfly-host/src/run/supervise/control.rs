//! The control socket's side of the supervisor.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use mayfly_core::run::{RunPhase, RunState};
use rustix::event::PollFlags;

use super::Source;
use crate::run::protocol::{Answer, LINE_LIMIT, Request, reached};

/// More callers than this are turned away: they are the daemon only, and each waits for one thing.
const MOST_CALLERS: usize = 64;

pub(super) struct Control {
    listener: UnixListener,
    callers: Vec<Caller>,
}

struct Caller {
    stream: UnixStream,
    line: Vec<u8>,
    waits_for: Option<RunPhase>,
    closed: bool,
}

impl Control {
    pub(super) fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            listener: super::listen(socket)?,
            callers: Vec::new(),
        })
    }

    pub(super) fn interests<'a>(&'a self, add: &mut dyn FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        add(
            Source::ControlListener,
            self.listener.as_fd(),
            PollFlags::IN,
        );
        for (index, caller) in self.callers.iter().enumerate() {
            add(Source::Caller(index), caller.stream.as_fd(), PollFlags::IN);
        }
    }

    pub(super) fn on_caller_comes(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.callers.len() < MOST_CALLERS && stream.set_nonblocking(true).is_ok() {
                self.callers.push(Caller {
                    stream,
                    line: Vec::new(),
                    waits_for: None,
                    closed: false,
                });
            }
        }
    }

    /// Reads what a caller asks; each request is to be answered with [`Control::answer`].
    pub(super) fn on_caller(&mut self, index: usize) -> Vec<Result<Request, String>> {
        let Some(caller) = self.callers.get_mut(index) else {
            return Vec::new();
        };
        let mut buffer = [0; 4096];
        match caller.stream.read(&mut buffer) {
            Ok(0) => caller.closed = true,
            Ok(n) => caller.line.extend_from_slice(&buffer[..n]),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => caller.closed = true,
        }
        let mut requests = Vec::new();
        while let Some(end) = caller.line.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = caller.line.drain(..=end).collect();
            requests.push(
                serde_json::from_slice(&line).map_err(|e| format!("this is no request: {e}")),
            );
        }
        caller.closed |= caller.line.len() > LINE_LIMIT;
        requests
    }

    pub(super) fn answer(&mut self, index: usize, answer: &Answer) {
        if let Some(caller) = self.callers.get_mut(index) {
            caller.send(answer);
        }
    }

    /// Answers a caller when the run has come to `phase`.
    pub(super) fn wait(&mut self, index: usize, phase: RunPhase, state: &RunState) {
        if let Some(caller) = self.callers.get_mut(index) {
            caller.waits_for = Some(phase);
        }
        self.tell_waiting(state);
    }

    /// Answers everybody who waited for this state. Its file is written already.
    pub(super) fn tell_waiting(&mut self, state: &RunState) {
        for caller in &mut self.callers {
            if caller
                .waits_for
                .is_some_and(|phase| reached(state.phase, phase))
            {
                caller.waits_for = None;
                caller.send(&Answer::Ok(Box::new(state.clone())));
            }
        }
    }

    pub(super) fn drop_closed(&mut self) {
        self.callers.retain(|caller| !caller.closed);
    }
}

impl Caller {
    /// An answer is shorter than a socket's buffer; a caller that lets answers pile up is dropped.
    fn send(&mut self, answer: &Answer) {
        let mut line = serde_json::to_vec(answer).unwrap_or_default();
        line.push(b'\n');
        self.closed |= !matches!(self.stream.write(&line), Ok(n) if n == line.len());
    }
}
