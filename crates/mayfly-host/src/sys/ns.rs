//! Namespaces of a run. For single-threaded processes only: the supervisor.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::process::{Fork, fork, leave_now, wait_readable};

/// How long the maker of a user namespace may take.
const NAMESPACE_DEADLINE: Duration = Duration::from_secs(10);
/// How many network namespaces a VPS may have, those of its own user namespaces included. Each takes some 0.8 MB of the host's
/// memory, of which less than a quarter is counted to the VPS. Guest root cannot raise it without CAP_SYS_RESOURCE.
const NETWORK_NAMESPACES: &[u8] = b"256";
/// Keeps the capabilities over the change of ids: some hosts let only the privileged make user namespaces.
const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// Gives this process a mount namespace of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: only CLONE_FILES can hurt other threads' descriptors; it is not asked for.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(io::Error::from)
}

/// Has this thread, and what it starts, live in another mount namespace. For a thread that ends soon.
pub(crate) fn enter_mounts(namespace: &OwnedFd) -> io::Result<()> {
    // A thread that shares its working directory with others may not enter one.
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Gives this process namespaces of its own of all that the harvest of a root has no need of, and of mounts.
pub(crate) fn unshare_for_harvest() -> io::Result<()> {
    let all = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: as above.
    unsafe { unshare_unsafe(all) }.map_err(io::Error::from)
}

/// Makes a user namespace with the ids `0..count` mapped to `first..`, created by the user `first`, so that the
/// kernel charges that user for what the namespace takes. It may hold [`NETWORK_NAMESPACES`].
pub(crate) fn create_user_namespace(first: u32, count: u32) -> io::Result<OwnedFd> {
    let (made, tell_made) = pipe_with(PipeFlags::CLOEXEC)?;
    let (may_go, let_go) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = match fork()? {
        Fork::Child => {
            drop(let_go);
            let tell = |done: io::Result<()>| {
                let errno = done.err().and_then(|e| e.raw_os_error()).unwrap_or(0);
                let _ = rustix::io::write(&tell_made, &errno.to_ne_bytes());
            };
            tell(become_owner(first));
            // A byte comes when the maps are written; none where the parent gave up, or died.
            if matches!(rustix::io::read(&may_go, &mut [0u8; 1]), Ok(1)) {
                tell(limit_namespaces());
                let _ = rustix::io::read(&may_go, &mut [0u8; 1]);
            }
            leave_now(0)
        }
        Fork::Parent(child) => child,
    };
    drop(tell_made);
    let namespace = adopt(child.as_raw_pid(), File::from(made), &let_go, first, count);
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

/// In the forked child, in the new namespace: these limits are those of whoever opens the file. Allocates nothing.
fn limit_namespaces() -> io::Result<()> {
    let file = c"/proc/sys/user/max_net_namespaces";
    let file = openat(CWD, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, NETWORK_NAMESPACES)?;
    Ok(())
}

/// In the parent: writes the maps, has the limits written, and takes a descriptor of the namespace.
fn adopt(child: i32, mut made: File, go: &OwnedFd, first: u32, count: u32) -> io::Result<OwnedFd> {
    hear(&mut made)?;
    let map = format!("0 {first} {count}");
    fs::write(format!("/proc/{child}/uid_map"), &map)?;
    fs::write(format!("/proc/{child}/gid_map"), &map)?;
    rustix::io::write(go, b"+")?;
    hear(&mut made)
        .map_err(|e| io::Error::new(e.kind(), format!("its limits cannot be set: {e}")))?;
    Ok(File::open(format!("/proc/{child}/ns/user"))?.into())
}

/// Waits for what the child tells of its last step.
fn hear(child: &mut File) -> io::Result<()> {
    if !wait_readable(child.as_fd(), NAMESPACE_DEADLINE)? {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the maker of the user namespace does not answer",
        ));
    }
    let mut errno = [0; 4];
    child.read_exact(&mut errno)?;
    match i32::from_ne_bytes(errno) {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The path under which another process of the host reaches a descriptor of this one.
pub(crate) fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}
