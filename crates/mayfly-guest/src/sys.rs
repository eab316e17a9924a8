//! The only unsafe code of this crate.
#![allow(
    unsafe_code,
    reason = "execve with the process's own environment has no safe form in rustix"
)]

use std::ffi::CString;
use std::io;

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
