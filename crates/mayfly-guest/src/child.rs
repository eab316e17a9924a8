//! Work that must not take this process with it: it is done in a child, which gives its result back through a pipe.
//!
//! This process becomes the VPS's init, so nothing of the child stays: neither its umask nor its descriptors, and no
//! zombie of it unless the kernel cannot end it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use crate::sys::{self, Forked};

/// How long a child that is killed, or that has told everything, may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// Does `work` in a child, and returns what it returned, `room` bytes at most. A child that is not done after `limit` is
/// killed.
pub(crate) fn run(
    limit: Duration,
    room: usize,
    work: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, String> {
    let (reading, writing) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("there is no pipe: {e}"))?;
    match sys::fork().map_err(|e| format!("there is no child: {e}"))? {
        Forked::Child => {
            drop(reading);
            let done = catch_unwind(AssertUnwindSafe(work));
            let told = done.is_ok_and(|bytes| File::from(writing).write_all(&bytes).is_ok());
            sys::end(if told { 0 } else { 1 })
        }
        Forked::Parent(child) => {
            drop(writing);
            let read = read_all(&reading, Instant::now() + limit, room);
            if read.is_err() {
                let _ = kill_process(child, Signal::KILL);
            }
            let end = reap(child, Instant::now() + GRACE);
            match (read, end) {
                (Err(Why::TooLong), _) => Err(format!("it took longer than {limit:?}")),
                (Err(Why::TooMuch), _) => Err(format!("it told more than {room} bytes")),
                (Err(Why::Failed(e)), _) => Err(format!("its result cannot be read: {e}")),
                (Ok(_), Some(end)) if end.exit_status() != Some(0) => Err(explain(end)),
                (Ok(bytes), _) => Ok(bytes),
            }
        }
    }
}

enum Why {
    TooLong,
    TooMuch,
    Failed(Errno),
}

fn read_all(pipe: &OwnedFd, until: Instant, room: usize) -> Result<Vec<u8>, Why> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Why::Failed(Errno::RANGE))?;
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(Why::TooLong),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(Why::Failed(e)),
        }
        match read(pipe, &mut piece) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(Errno::INTR) => {}
            Err(e) => return Err(Why::Failed(e)),
        }
        if bytes.len() > room {
            return Err(Why::TooMuch);
        }
    }
}

/// Waits for the end of the child. One that hangs in the kernel is left to whoever this process becomes.
fn reap(child: Pid, until: Instant) -> Option<WaitStatus> {
    loop {
        match waitpid(Some(child), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::INTR) => {}
            _ => return None,
        }
    }
}

fn explain(end: WaitStatus) -> String {
    match (end.terminating_signal(), end.exit_status()) {
        (Some(signal), _) => format!("it was ended by signal {signal}"),
        (_, Some(status)) => format!("it failed with status {status}"),
        _ => "nobody knows how it ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_child_gives_its_result_back() {
        let long = vec![b'x'; 300_000];
        assert_eq!(run(20 * SECOND, 1 << 20, || long.clone()), Ok(long.clone()));
        assert_eq!(run(20 * SECOND, 1 << 20, Vec::new), Ok(Vec::new()));
        let why = run(20 * SECOND, 1 << 10, || long.clone()).unwrap_err();
        assert!(why.contains("more than 1024"), "{why}");
    }

    #[test]
    fn whatever_happens_to_it_is_told() {
        let why = run(20 * SECOND, 100, || panic!("it has to")).unwrap_err();
        assert_eq!(why, "it failed with status 1");
        let why = run(20 * SECOND, 100, || std::process::abort()).unwrap_err();
        assert_eq!(why, "it was ended by signal 6");
        let begun = Instant::now();
        let why = run(SECOND / 5, 100, || {
            std::thread::sleep(60 * SECOND);
            Vec::new()
        });
        assert_eq!(why, Err("it took longer than 200ms".to_owned()));
        assert!(begun.elapsed() < 10 * SECOND);
    }
}
