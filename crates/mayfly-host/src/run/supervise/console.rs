//! The guest's console: a pty whose master is here, a ring on disk, and any number of viewers.
//!
//! The master is always drained, at its pace ([`Pace`]): lxc-start cannot end while nobody reads. Viewers read from the ring, each at its
//! own position, so a slow one costs nothing; it is dropped when the ring has overtaken it. The master must not
//! close while the guest runs: lxc-start would end, and the guest with it.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, openat};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use super::Source;
use super::pace::Pace;
use crate::run::ring::Ring;

/// Typed bytes that wait for the guest to read them.
const INPUT_LIMIT: usize = 64 << 10;
/// How often the pty is read for one event.
const CONSOLE_READS: usize = 16;
/// So many turns of that at the end of a run; a terminal holds less.
const REST_TURNS: usize = 16;
/// More viewers than this are turned away, so that descriptors remain for the run itself.
const MOST_VIEWERS: usize = 256;

pub(super) struct Console {
    master: OwnedFd,
    /// Kept open so that the master is never without a slave before lxc-start has opened it.
    _slave: OwnedFd,
    slave_path: PathBuf,
    hung_up: bool,
    ring: Ring,
    listener: UnixListener,
    viewers: Vec<Viewer>,
    input: VecDeque<u8>,
    /// None: what is left is taken at once.
    pace: Option<Pace>,
}

struct Viewer {
    stream: UnixStream,
    position: u64,
    types: bool,
}

impl Console {
    pub(super) fn open(socket: &Path, ring: &Path) -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = openat(
            CWD,
            &name,
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let slave_path = PathBuf::from(name.into_string().map_err(io::Error::other)?);
        fcntl_setfl(&master, OFlags::NONBLOCK)?;
        tcsetwinsize(
            &master,
            Winsize {
                ws_row: 24,
                ws_col: 80,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?;
        let listener = super::listen(socket)?;
        let ring = Ring::open(ring)?;
        Ok(Self {
            master,
            _slave: slave,
            slave_path,
            hung_up: false,
            ring,
            listener,
            viewers: Vec::new(),
            input: VecDeque::new(),
            pace: Some(Pace::new(Instant::now())),
        })
    }

    /// Lets what the guest may print grow with time; how long to wait where that is nothing.
    pub(super) fn on_time(&mut self, now: Instant) -> Option<Duration> {
        let pace = self.pace.as_mut()?;
        pace.refill(now);
        pace.pause(now)
    }

    /// Takes all that was printed, and from here on at once: nobody prints any more, or little.
    pub(super) fn take_the_rest(&mut self) {
        self.pace = None;
        for _ in 0..REST_TURNS {
            if self.hung_up_or_empty() {
                break;
            }
            self.on_console();
        }
    }

    fn may_take(&self) -> usize {
        self.pace.as_ref().map_or(usize::MAX, Pace::left)
    }

    /// What lxc-start takes as the console.
    pub(super) fn slave_path(&self) -> &Path {
        &self.slave_path
    }

    pub(super) fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        Ok(tcsetwinsize(
            &self.master,
            Winsize {
                ws_row: rows,
                ws_col: cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )?)
    }

    /// LXC makes the slave turn each newline into two characters, and the guest's own terminal did that already.
    pub(super) fn make_transparent(&self) {
        if let Ok(mut modes) = tcgetattr(&self.master) {
            if modes.output_modes.contains(OutputModes::OPOST) {
                modes.output_modes.remove(OutputModes::OPOST);
                let _ = tcsetattr(&self.master, OptionalActions::Now, &modes);
            }
        }
    }

    pub(super) fn interests<'a>(&'a self, add: &mut dyn FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        if !self.hung_up {
            let out = if self.input.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            let read = if self.may_take() == 0 {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            // With neither, the end of the other side is told all the same, again and again.
            if !(read | out).is_empty() {
                add(Source::Console, self.master.as_fd(), read | out);
            }
        }
        add(
            Source::ConsoleListener,
            self.listener.as_fd(),
            PollFlags::IN,
        );
        for (index, viewer) in self.viewers.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if viewer.position < self.ring.head() {
                flags |= PollFlags::OUT;
            }
            if viewer.types && self.input.len() < INPUT_LIMIT {
                flags |= PollFlags::IN;
            }
            add(Source::Viewer(index), viewer.stream.as_fd(), flags);
        }
    }

    /// Takes what the guest printed, at most so much at a time that the other sources get their turn.
    pub(super) fn on_console(&mut self) {
        let mut buffer = [0; 16 << 10];
        for _ in 0..CONSOLE_READS {
            let most = buffer.len().min(self.may_take());
            if most == 0 {
                break;
            }
            match rustix::io::read(&self.master, &mut buffer[..most]) {
                Ok(0) => self.hung_up = true,
                Ok(n) => {
                    if let Some(pace) = &mut self.pace {
                        pace.take(n);
                    }
                    self.print(&buffer[..n]);
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(_) => self.hung_up = true,
            }
            break;
        }
        self.push_input();
    }

    /// Adds to the ring, from where it goes to the viewers.
    pub(super) fn print(&mut self, bytes: &[u8]) {
        if let Err(e) = self.ring.append(bytes) {
            complain!("console: {} bytes are lost: {e}", bytes.len());
        }
    }

    fn push_input(&mut self) {
        while !self.input.is_empty() && !self.hung_up {
            match rustix::io::write(&self.master, self.input.as_slices().0) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    pub(super) fn on_viewer_comes(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.viewers.len() < MOST_VIEWERS && stream.set_nonblocking(true).is_ok() {
                self.viewers.push(Viewer {
                    stream,
                    position: self.ring.tail(),
                    types: true,
                });
            }
        }
    }

    /// Serves one viewer. False: it is to be dropped.
    pub(super) fn on_viewer(&mut self, index: usize, ready: PollFlags) -> bool {
        let Some(viewer) = self.viewers.get_mut(index) else {
            return true;
        };
        if ready.contains(PollFlags::IN) && viewer.types {
            let mut buffer = [0; 4096];
            match viewer.stream.read(&mut buffer) {
                Ok(0) => viewer.types = false,
                Ok(n) => self.input.extend(&buffer[..n]),
                Err(e) if transient(&e) => {}
                Err(_) => return false,
            }
            self.push_input();
        }
        if ready.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return false;
        }
        !ready.contains(PollFlags::OUT) || self.feed(index)
    }

    /// Sends a viewer what it has not seen yet, as much as it takes now. More at a time than [`Self::on_console`]
    /// takes from the guest: who reads is never overtaken.
    fn feed(&mut self, index: usize) -> bool {
        let viewer = &mut self.viewers[index];
        let mut buffer = [0; 16 << 10];
        for _ in 0..2 * CONSOLE_READS {
            let Ok(n) = self.ring.read_at(viewer.position, &mut buffer) else {
                return false;
            };
            match viewer.stream.write(&buffer[..n]) {
                Ok(0) => return n == 0,
                Ok(sent) => viewer.position += sent as u64,
                Err(e) => return transient(&e),
            }
        }
        true
    }

    /// Drops the viewers whose index is in `gone`, and those that the ring has overtaken.
    pub(super) fn drop_viewers(&mut self, gone: &[usize]) {
        let mut index = 0;
        let tail = self.ring.tail();
        self.viewers.retain(|viewer| {
            index += 1;
            !gone.contains(&(index - 1)) && viewer.position >= tail
        });
    }

    /// Whether every viewer has seen everything.
    pub(super) fn is_flushed(&self) -> bool {
        self.hung_up_or_empty()
            && self
                .viewers
                .iter()
                .all(|viewer| viewer.position >= self.ring.head())
    }

    fn hung_up_or_empty(&self) -> bool {
        use rustix::event::{PollFd, poll};
        let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
        self.hung_up
            || !matches!(poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }
}

fn transient(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
