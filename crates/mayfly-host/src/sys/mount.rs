//! Attributes of detached mounts.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// `struct mount_attr` of the kernel, first version.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Set on a mount: no writes.
pub(crate) const READ_ONLY: u64 = 0x1;
/// Set-user-id bits and file capabilities do not count.
pub(crate) const NO_SUID: u64 = 0x2;
/// Device nodes do not open.
pub(crate) const NO_DEV: u64 = 0x4;
/// Nothing can be executed.
pub(crate) const NO_EXEC: u64 = 0x8;
/// The field that says when access times are written; cleared before one of its values is set.
pub(crate) const ATIME_FIELD: u64 = 0x70;
/// Access times are never written.
pub(crate) const NO_ATIME: u64 = 0x10;

/// The owners on the disk are those of the given user namespace.
const ID_MAP: u64 = 0x0010_0000;

/// Shows a mount that nobody sees yet with the ids of a user namespace.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let namespace =
        u64::try_from(user_namespace.as_raw_fd()).expect("a descriptor is not negative");
    change(mount, ID_MAP, 0, namespace)
}

/// Clears and sets attributes of the one mount that `mount` was opened on.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64) -> io::Result<()> {
    change(mount, set, clear, 0)
}

fn change(mount: BorrowedFd<'_>, set: u64, clear: u64, userns_fd: u64) -> io::Result<()> {
    let attributes = MountAttr {
        set,
        clear,
        propagation: 0,
        userns_fd,
    };
    // SAFETY: the path is an empty C string, the structure has the size that is passed, and both live for the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
