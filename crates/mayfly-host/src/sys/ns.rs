//! Namespaces of a run. For single-threaded processes only: the supervisor.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::process::{Fork, fork, leave_now, wait_readable};

/// How long the maker of a user namespace may take.
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(10);
/// Keeps the capabilities over the change of ids: some hosts let only the privileged make user namespaces.
const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// Gives this process a mount namespace of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: only CLONE_FILES can hurt other threads' descriptors; it is not asked for.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// Makes a user namespace with the ids `0..count` mapped to `first..`, created by the user `first`, so that the
/// kernel charges that user for what the namespace takes.
pub(crate) fn create_user_namespace(first: u32, count: u32) -> io::Result<OwnedFd> {
    let (made, tell_made) = pipe_with(PipeFlags::CLOEXEC)?;
    let (may_go, let_go) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = match fork()? {
        Fork::Child => {
            drop(let_go);
            let errno = become_owner(first)
                .err()
                .and_then(|e| e.raw_os_error())
                .unwrap_or(0);
            let _ = rustix::io::write(&tell_made, &errno.to_ne_bytes());
            // Ends when the parent closes its side, or dies.
            let _ = rustix::io::read(&may_go, &mut [0u8; 1]);
            leave_now(0)
        }
        Fork::Parent(child) => child,
    };
    drop(tell_made);
    let namespace = adopt(child.as_raw_pid(), File::from(made), first, count);
    drop(let_go);
    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
    namespace
}

/// In the forked child: becomes the user that owns the namespace, and makes it. Calls nothing that allocates.
fn become_owner(first: u32) -> io::Result<()> {
    let check = |done: libc::c_long| {
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: plain system calls on integers, in a process with one thread. The raw calls are used because glibc's
    // wrappers would signal threads; there are none.
    unsafe {
        check(libc::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP).into())?;
        check(libc::syscall(
            libc::SYS_setgroups,
            0,
            std::ptr::null::<libc::gid_t>(),
        ))?;
        check(libc::syscall(libc::SYS_setresgid, first, first, first))?;
        check(libc::syscall(libc::SYS_setresuid, first, first, first))?;
        check(libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER))
    }
}

/// In the parent: writes the maps and takes a descriptor of the namespace.
fn adopt(child: i32, mut made: File, first: u32, count: u32) -> io::Result<OwnedFd> {
    if !wait_readable(made.as_fd(), NAMESPACE_DEADLINE)? {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the maker of the user namespace does not answer",
        ));
    }
    let mut errno = [0; 4];
    made.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    let map = format!("0 {first} {count}");
    fs::write(format!("/proc/{child}/uid_map"), &map)?;
    fs::write(format!("/proc/{child}/gid_map"), &map)?;
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}

/// The path under which another process of the host reaches a descriptor of this one.
pub(crate) fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}
