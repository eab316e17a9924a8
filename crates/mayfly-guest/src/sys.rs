//! The only unsafe code of this crate.
#![allow(
    unsafe_code,
    reason = "execve with the process's own environment, fork, signals and leases have no safe form in rustix"
)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::process::Pid;

/// Replaces this process by `program`; returns only when that failed.
pub(crate) fn exec(program: &CString, arguments: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: `program` and every element of `arguments` are live C strings for the whole call, the list ends in a
    // null pointer, and `environ` is the process's own: this program is single-threaded and never changes it.
    unsafe {
        libc::execv(program.as_ptr(), pointers.as_ptr());
    }
    io::Error::last_os_error()
}

/// Which of the two a process is after [`fork`].
pub(crate) enum Forked {
    /// The new one.
    Child,
    /// The old one, and who the new one is.
    Parent(Pid),
}

/// Makes a second process of this one.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: this program is single-threaded, so that no lock is held by somebody who is not there in the child. In
    // tests other threads may be; the C library takes care of its own locks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child).map_or(Forked::Child, Forked::Parent)),
    }
}

/// Ends a child at once: what its parent has registered for its own end is not done.
pub(crate) fn end(status: i32) -> ! {
    // SAFETY: it takes a number and does not come back.
    unsafe { libc::_exit(status) }
}

/// Takes back that the language's runtime ignores a closed pipe: an ignored signal stays ignored over `exec`.
pub(crate) fn reset_signals() {
    // SAFETY: the default action installs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Whether anybody has `file` open for writing, as far as the kernel tells: it gives a read lease only where nobody has.
/// A file system without leases, or a file of another owner, says nothing.
pub(crate) fn is_open_for_writing(file: &File) -> bool {
    // SAFETY: both calls take the descriptor, which is open as long as `file`, and a number.
    let refused = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } == -1;
    if refused {
        return io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    false
}

/// Keeps a lease that somebody breaks from ending this process: the kernel tells of it by a signal.
pub(crate) fn survive_lease_breaks() {
    // SAFETY: ignoring a signal installs no handler, and nothing else in this program uses this one.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}
