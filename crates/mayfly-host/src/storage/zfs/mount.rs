//! Mounting a dataset without a mount point: the mount is a descriptor, no mount namespace holds it, and it ends with the
//! descriptor.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

use crate::storage::contained::{DIRECTORY, open_below};

pub(super) use crate::storage::names::PRIVATE;

/// Mounts a dataset. Its top is for the platform only.
///
/// One that is read-only by its properties, as templates are, and that somebody else looks into at this moment, is given to
/// those alone who ask for it read-only.
pub(crate) fn mount_detached(dataset: &str) -> rustix::io::Result<OwnedFd> {
    match mount_as(dataset, false) {
        Err(Errno::BUSY) => mount_as(dataset, true),
        done => done,
    }
}

fn mount_as(dataset: &str, read_only: bool) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("zfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", dataset)?;
    if read_only {
        fsconfig_set_flag(&context, "ro")?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Opens the contents of a mounted dataset.
pub(crate) fn open_private(mount: impl AsFd) -> rustix::io::Result<OwnedFd> {
    match open_below(mount, PRIVATE, DIRECTORY) {
        // A symlink there is not what Mayfly made.
        Err(Errno::LOOP) => Err(Errno::NOTDIR),
        done => done,
    }
}
