//! The run's own mount namespace: the root, the datasets and the helper's files, and nothing else of the pool.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mayfly_core::run::{MountSource, RunSpec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};

use crate::run::lxc_config::{HANDOVER, handover};
use crate::run::paths::RunDir;
use crate::storage::zfs::{mount_detached, open_private};
use crate::sys::mount::{
    ATIME_FIELD, NO_ATIME, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, set_attributes,
};
use crate::sys::ns::unshare_mounts;

/// Enters a mount namespace of its own and mounts there what the guest will see.
///
/// The pool is mounted nosuid outside; a flag that is set when LXC copies a mount into the guest's user namespace
/// stays set for ever, so it is cleared here (sudo must work), and read-only is set here (so that it holds).
pub(super) fn enter(spec: &RunSpec, dir: &RunDir) -> io::Result<()> {
    unshare_mounts().map_err(|e| explained("cannot make a mount namespace", &e))?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .map_err(|e| explained("cannot make the mount namespace private", &e.into()))?;
    show_directory(&spec.root, &dir.root(), false)?;
    for (index, mount) in spec.mounts.iter().enumerate() {
        show_directory(&mount.source, &dir.dataset(index), mount.read_only)?;
    }
    for name in handover(spec) {
        let source = match name {
            "guest" => PathBuf::from(&spec.guest_helper),
            "boot.json" => dir.boot_report(),
            "persistence.json" => dir.persistence(),
            _ => dir.report(),
        };
        let target = dir.handover(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&target)?;
        show(
            &source,
            &target,
            READ_ONLY | NO_SUID | NO_DEV,
            OFlags::empty(),
        )?;
    }
    for point in &spec.detach {
        unmount(point.as_str(), UnmountFlags::DETACH).map_err(|e| {
            explained(
                &format!("cannot let go of {point} in the mount namespace"),
                &e.into(),
            )
        })?;
    }
    Ok(())
}

/// Lets go of all that [`enter`] mounted; what is not mounted any more is fine. Returns what stayed.
pub(super) fn leave(spec: &RunSpec, dir: &RunDir) -> Vec<String> {
    let datasets = (0..spec.mounts.len()).map(|index| dir.dataset(index));
    let handovers = HANDOVER.iter().map(|name| dir.handover(name));
    let mut stayed = Vec::new();
    for path in datasets.chain(handovers).chain([dir.root()]) {
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(e) => stayed.push(format!("cannot unmount {}: {e}", path.display())),
        }
    }
    stayed
}

fn show_directory(source: &MountSource, target: &Path, read_only: bool) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(target)?;
    let attributes = NO_DEV | if read_only { READ_ONLY } else { 0 };
    match source {
        MountSource::Directory { path } => {
            show(Path::new(path), target, attributes, OFlags::DIRECTORY)
        }
        MountSource::Zfs { dataset } => {
            show_dataset(dataset, target, attributes).map_err(|e| cannot_mount(dataset, target, &e))
        }
    }
}

/// Mounts the `private` of a dataset, and nothing else of it. Kernels before 6.15 clone only what is mounted somewhere, so
/// the whole dataset is at the target for a moment.
fn show_dataset(dataset: &str, target: &Path, attributes: u64) -> io::Result<()> {
    let whole = mount_detached(dataset)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&whole, "", CWD, target, flags)?;
    let private = open_private(&whole)
        .map_err(io::Error::from)
        .and_then(|private| clone_mount(&private, attributes));
    drop(whole);
    unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    Ok(move_mount(&private?, "", CWD, target, flags)?)
}

/// Mounts one file or directory, not what is mounted below it, with exactly these attributes.
fn show(source: &Path, target: &Path, attributes: u64, kind: OFlags) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    openat(CWD, source, flags, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|found| show_opened(&found, target, attributes))
        .map_err(|e| cannot_mount(&source.display().to_string(), target, &e))
}

fn show_opened(source: &OwnedFd, target: &Path, attributes: u64) -> io::Result<()> {
    let tree = clone_mount(source, attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&tree, "", CWD, target, flags)?)
}

fn clone_mount(source: &OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(source, "", flags)?;
    let clear = READ_ONLY | NO_SUID | NO_DEV | NO_EXEC | ATIME_FIELD;
    set_attributes(tree.as_fd(), attributes | NO_ATIME, clear)?;
    Ok(tree)
}

fn cannot_mount(source: &str, target: &Path, e: &io::Error) -> io::Error {
    explained(&format!("cannot mount {source} at {}", target.display()), e)
}

/// An error that also says what was being done.
pub(super) fn explained(what: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
