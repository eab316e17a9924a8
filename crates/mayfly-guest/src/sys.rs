//! The only unsafe code of this crate.
#![allow(
    unsafe_code,
    reason = "execve with the process's own environment, fork, signals, leases and file system ids have no safe form in rustix"
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
/// A file system without leases says nothing.
///
/// In a guest the kernel gives leases to the file's owner alone, so this process is that for the moment of the question.
pub(crate) fn is_open_for_writing(file: &File, owner: u32) -> bool {
    as_owner(owner, || {
        // SAFETY: both calls take the descriptor, which is open as long as `file`, and a number.
        let refused =
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } == -1;
        if refused {
            return io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN);
        }
        // SAFETY: as above.
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        false
    })
}

/// Does `act` with the files' side of this thread's identity changed to `owner`, where that is possible.
fn as_owner<T>(owner: u32, act: impl FnOnce() -> T) -> T {
    // SAFETY: these change the identity of this thread for file systems, and no memory.
    let before = unsafe { libc::setfsuid(owner) };
    let done = act();
    // What comes next would be somebody else's: the second call tells what the first one has made of it.
    // SAFETY: as above.
    let after = unsafe {
        libc::setfsuid(before as libc::uid_t);
        libc::setfsuid(u32::MAX)
    };
    if after != before {
        std::process::abort();
    }
    done
}

/// Keeps a lease that somebody breaks from ending this process: the kernel tells of it by a signal.
pub(crate) fn survive_lease_breaks() {
    // SAFETY: ignoring a signal installs no handler, and nothing else in this program uses this one.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_asked_as_its_owner_and_never_after() {
        // SAFETY: it changes nothing, since there is no such number.
        let who = || unsafe { libc::setfsuid(u32::MAX) };
        let before = who();
        let inside = as_owner(1, who);
        assert_eq!(who(), before);
        // Only root can be somebody else.
        assert_eq!(inside, if before == 0 { 1 } else { before });
    }
}
