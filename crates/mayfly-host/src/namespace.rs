//! The daemon's own mount namespace.

use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};

/// Gives this thread, and those that it starts, a mount namespace of their own: what is mounted on the host later shows
/// up in it, what is mounted in it stays in it and goes with the last process of it. The host's propagation is left as
/// it is. Call it while the process has one thread.
pub fn enter_private() -> io::Result<()> {
    crate::sys::ns::unshare_mounts()?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    Ok(())
}
