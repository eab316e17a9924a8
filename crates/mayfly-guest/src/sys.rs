//! The only unsafe code of this crate.
#![allow(
    unsafe_code,
    reason = "execve with the process's own environment and leases have no safe form in rustix"
)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

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
