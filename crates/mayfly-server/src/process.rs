//! One program with pipes or with a terminal of its own, between channels; or with pipes alone.
//!
//! With a terminal it runs under `setsid --ctty`, which makes the terminal its own and then becomes the program: what
//! a forked child would have to do by hand.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::Message;
use mayfly_api::{ExecStart, STDERR, STDOUT};
use rustix::fs::{CWD, Mode, OFlags, fcntl_setfl, openat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::AttachCommand;

/// A program that is over may have left others behind that hold its output open: after so many silences in a row of such a
/// length it is over. One long silence would be none: a daemon that was held up finds it over before it has looked.
const SILENCES: u32 = 5;
const SILENCE: Duration = Duration::from_millis(50);
/// What ends input at a terminal.
const END_OF_TRANSMISSION: u8 = 4;

/// What goes into a program.
#[derive(Debug)]
pub(crate) enum Input {
    /// Typed bytes.
    Bytes(Bytes),
    /// No more of them.
    Eof,
    /// The terminal has another size.
    Resize {
        /// Its height.
        rows: u16,
        /// Its width.
        cols: u16,
    },
}

/// A program under way. Dropped, it is killed with all that descends from it.
pub(crate) struct Process {
    child: Child,
    pumps: JoinSet<()>,
    traffic: Arc<Traffic>,
    over: bool,
}

/// What the pumps did.
#[derive(Default)]
struct Traffic {
    pieces: AtomicU64,
    /// Pumps that hold a piece that the client has not taken yet.
    holding: AtomicUsize,
}

impl Process {
    /// Starts it. Its output goes to `out` as frames; the answer's channel is its input.
    pub(crate) fn start(
        attach: &AttachCommand,
        how: &ExecStart,
        out: &mpsc::Sender<Message>,
    ) -> io::Result<(Self, mpsc::Sender<Input>)> {
        let (sender, input) = mpsc::channel(16);
        let traffic = Arc::new(Traffic::default());
        let mut pumps = JoinSet::new();
        let child = if how.tty {
            let (master, slave) = open_terminal(how.rows, how.cols)?;
            let child = command("/usr/bin/setsid", attach)
                .arg("--ctty")
                .arg(&attach.program)
                .args(&attach.args)
                .stdin(Stdio::from(slave.try_clone()?))
                .stdout(Stdio::from(slave.try_clone()?))
                .stderr(Stdio::from(slave))
                .spawn()?;
            let screen = pipe::Receiver::from_file_unchecked(master.try_clone()?.into())?;
            let keyboard = pipe::Sender::from_file_unchecked(master.into())?;
            pumps.spawn(pump(screen, STDOUT, out.clone(), Arc::clone(&traffic)));
            tokio::spawn(feed_terminal(keyboard, input));
            child
        } else {
            let mut child = command(&attach.program, attach)
                .args(&attach.args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(stdout) = child.stdout.take() {
                pumps.spawn(pump(stdout, STDOUT, out.clone(), Arc::clone(&traffic)));
            }
            if let Some(stderr) = child.stderr.take() {
                pumps.spawn(pump(stderr, STDERR, out.clone(), Arc::clone(&traffic)));
            }
            tokio::spawn(feed_pipe(child.stdin.take(), input));
            child
        };
        Ok((
            Self {
                child,
                pumps,
                traffic,
                over: false,
            },
            sender,
        ))
    }

    /// Waits for its end and for all that it printed. 128 + signal for one that was killed.
    pub(crate) async fn finished(mut self) -> io::Result<i32> {
        let status = self.child.wait().await?;
        self.over = true;
        let mut silences = 0;
        while silences < SILENCES {
            let before = self.traffic.pieces.load(Ordering::SeqCst);
            let silence = tokio::time::sleep(SILENCE);
            tokio::select! {
                done = self.pumps.join_next() => if done.is_none() { break },
                () = silence => {
                    let held = self.traffic.holding.load(Ordering::SeqCst);
                    let is_silent = held == 0 && before == self.traffic.pieces.load(Ordering::SeqCst);
                    silences = if is_silent { silences + 1 } else { 0 };
                }
            }
        }
        Ok(exit_code(status))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let (false, Some(pid)) = (self.over, self.child.id()) {
            kill_tree(pid);
        }
    }
}

/// A program with three pipes. Dropped before its end, it is killed with all that descends from it.
pub(crate) struct Piped {
    child: Child,
    /// Its input; taken away, it is at its end.
    pub(crate) stdin: Option<ChildStdin>,
    /// What it prints.
    pub(crate) stdout: ChildStdout,
    /// What it complains of.
    pub(crate) stderr: ChildStderr,
    over: bool,
}

impl Piped {
    /// Starts it.
    pub(crate) fn start(attach: &AttachCommand) -> io::Result<Self> {
        let mut child = command(&attach.program, attach)
            .args(&attach.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (stdin, Some(stdout), Some(stderr)) => Ok(Self {
                child,
                stdin,
                stdout,
                stderr,
                over: false,
            }),
            _ => Err(io::Error::other("it has no pipes")),
        }
    }

    /// Waits for its end. 128 + signal for one that was killed.
    pub(crate) async fn end(&mut self) -> io::Result<i32> {
        let status = self.child.wait().await?;
        self.over = true;
        Ok(exit_code(status))
    }

    /// Lets it end by itself for so long; then it is killed. Whoever is killed from outside leaves what ran inside without
    /// a parent there: a guest that halts at that moment waits for it.
    pub(crate) async fn leave(mut self, within: Duration) {
        let _ = tokio::time::timeout(within, self.end()).await;
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        if let (false, Some(pid)) = (self.over, self.child.id()) {
            kill_tree(pid);
        }
    }
}

fn command(program: impl AsRef<std::ffi::OsStr>, attach: &AttachCommand) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(attach.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .kill_on_drop(true);
    command
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The two ends of a new terminal; the first does not block.
fn open_terminal(rows: u16, cols: u16) -> io::Result<(OwnedFd, OwnedFd)> {
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
    fcntl_setfl(&master, OFlags::NONBLOCK)?;
    resize(&master, rows, cols);
    Ok((master, slave))
}

fn resize(master: impl AsFd, rows: u16, cols: u16) {
    // A size that is refused leaves the terminal as it was.
    let _ = tcsetwinsize(
        master,
        Winsize {
            ws_row: rows,
            ws_col: cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    );
}

/// Passes output on. An error is the end as well: a terminal whose last holder is gone says EIO.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    tag: u8,
    out: mpsc::Sender<Message>,
    traffic: Arc<Traffic>,
) {
    let mut buffer = vec![0; 32 << 10];
    buffer[0] = tag;
    loop {
        match from.read(&mut buffer[1..]).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                traffic.holding.fetch_add(1, Ordering::SeqCst);
                traffic.pieces.fetch_add(1, Ordering::SeqCst);
                let sent = out
                    .send(Message::Binary(Bytes::copy_from_slice(&buffer[..=n])))
                    .await;
                traffic.holding.fetch_sub(1, Ordering::SeqCst);
                if sent.is_err() {
                    return;
                }
            }
        }
    }
}

async fn feed_pipe(stdin: Option<ChildStdin>, mut input: mpsc::Receiver<Input>) {
    let mut stdin = stdin;
    while let Some(input) = input.recv().await {
        match (input, &mut stdin) {
            (Input::Bytes(bytes), Some(pipe)) => {
                if pipe.write_all(&bytes).await.is_err() {
                    stdin = None;
                }
            }
            (Input::Eof, _) => stdin = None,
            (Input::Bytes(_) | Input::Resize { .. }, _) => {}
        }
    }
}

async fn feed_terminal(mut keyboard: pipe::Sender, mut input: mpsc::Receiver<Input>) {
    while let Some(input) = input.recv().await {
        let written = match input {
            Input::Bytes(bytes) => keyboard.write_all(&bytes).await,
            Input::Eof => keyboard.write_all(&[END_OF_TRANSMISSION]).await,
            Input::Resize { rows, cols } => {
                resize(&keyboard, rows, cols);
                Ok(())
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// Kills what descends from a process: lxc-attach alone would leave the program inside alive. The process itself is
/// killed by its handle.
fn kill_tree(pid: u32) {
    let Ok(root) = i32::try_from(pid) else { return };
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return;
    };
    for pid in entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
    {
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut waiting = vec![root];
    while let Some(parent) = waiting.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            waiting.push(child);
            kill_child(child, parent);
        }
    }
}

/// Kills a process that is still the child of that parent: the handle is taken before the look, so that a number that
/// was given to another process in between is left alone.
fn kill_child(pid: i32, parent: i32) {
    let Some(handle) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
    else {
        return;
    };
    if parent_of(pid) == Some(parent) {
        // One that has ended meanwhile is as good.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
    }
}

fn parent_of(pid: i32) -> Option<i32> {
    parse_parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 4 of `/proc/PID/stat`. The name before it may contain anything.
fn parse_parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
