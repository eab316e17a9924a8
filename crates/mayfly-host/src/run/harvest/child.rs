//! Starting the confined process and hearing what it has to say. Nothing here blocks but [`Harvester::wait`].
//!
//! Order, report and complaints go through files of memory: whoever waits for the end waits for one descriptor, and a
//! helper that talks without end runs into the seal of its file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::order::Order;
use super::report::{Failed, Report, parse_report};
use crate::sys::process::{signal, spawn_tied, wait_readable};

/// How long it may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Status of a process that could not be confined; the helper has others.
pub(super) const NOT_CONFINED: i32 = 70;
/// How long a report may be: the helper leaves out what is more than a mebibyte.
pub(super) const REPORT_BYTES: u64 = 2 << 20;
/// How long its complaints may be; a few lines are told of them.
const COMPLAINT_BYTES: u64 = 64 << 10;

/// A confined process under way. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Harvester {
    child: Child,
    pidfd: OwnedFd,
    report: File,
    complaint: File,
    deadline: Instant,
    late: bool,
}

impl Harvester {
    /// Starts it. It dies with the calling thread.
    pub(crate) fn start(program: &Path, order: &Order) -> io::Result<Self> {
        let report = sealed(c"report", REPORT_BYTES)?;
        let complaint = sealed(c"complaint", COMPLAINT_BYTES)?;
        let mut input = File::from(memfd_create(c"order", MemfdFlags::CLOEXEC)?);
        input.write_all(&serde_json::to_vec(order)?)?;
        input.rewind()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "it is tied to this process, has a deadline, and is waited for among other events"
        )]
        let mut command = Command::new(program);
        command
            .arg("harvest")
            .env_clear()
            .current_dir("/")
            .stdin(input)
            .stdout(Stdio::from(report.try_clone()?))
            .stderr(Stdio::from(complaint.try_clone()?));
        let mut child = spawn_tied(&mut command)?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pidfd = pid
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match pidfd {
            Ok(pidfd) => Ok(Self {
                child,
                pidfd,
                report,
                complaint,
                deadline: Instant::now() + DEADLINE,
                late: false,
            }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    /// Readable when it has ended.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// When [`Harvester::on_time`] is to be called; none when it was.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.late).then_some(self.deadline)
    }

    /// Kills it where its time is up.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if !self.late && now >= self.deadline {
            self.late = true;
            self.kill();
        }
    }

    /// Has it end. Whoever drops it waits for that.
    pub(crate) fn kill(&self) {
        // One that is gone already is fine.
        let _ = signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// What it has told, once it has ended.
    pub(crate) fn finish(mut self) -> Result<Report, Failed> {
        let status = self.child.wait().map_err(|e| Failed::new(e.to_string()))?;
        let complaint = String::from_utf8_lossy(&heard(&mut self.complaint)).into_owned();
        if self.late {
            return Err(Failed::new(format!(
                "it took longer than {} s",
                DEADLINE.as_secs()
            )));
        }
        match status.code() {
            Some(0 | 1) => parse_report(&heard(&mut self.report))
                .map_err(|why| Failed::new(format!("{why} {complaint}"))),
            Some(NOT_CONFINED) => Err(Failed::new(complaint)),
            _ => Err(Failed::new(format!("{} {complaint}", shown(status)))),
        }
    }

    /// Waits for its end, not beyond its deadline.
    pub(crate) fn wait(mut self) -> Result<Report, Failed> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match wait_readable(self.pidfd.as_fd(), left) {
            Ok(true) => {}
            Ok(false) => self.on_time(Instant::now()),
            Err(e) => return Err(Failed::new(e.to_string())),
        }
        self.finish()
    }
}

impl Drop for Harvester {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn shown(status: ExitStatus) -> String {
    format!("the helper ended early ({status}):")
}

/// A file of memory that cannot grow.
fn sealed(name: &std::ffi::CStr, size: u64) -> io::Result<File> {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, size)?;
    fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd.into())
}

/// What was written into a file, whose position the writer shares.
fn heard(file: &mut File) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(length) = file.stream_position() {
        if file.rewind().is_ok() {
            let _ = file.take(length).read_to_end(&mut text);
        }
    }
    text
}
