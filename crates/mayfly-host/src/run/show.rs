//! Showing one file or directory in this process's mount namespace, and nothing that is mounted below it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};

use crate::storage::zfs::{mount_detached, open_private};
use crate::sys::mount::{
    ATIME_FIELD, NO_ATIME, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY, map_ids, set_attributes,
};

/// How it is shown: with exactly these attributes, and with the ids of a user namespace where one is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) attributes: u64,
    pub(super) ids: Option<BorrowedFd<'a>>,
}

impl Look<'_> {
    /// With the ids as they are.
    pub(super) fn with(attributes: u64) -> Self {
        Self {
            attributes,
            ids: None,
        }
    }
}

/// Shows a directory; its path is the platform's, and what stands there is not followed.
pub(super) fn show_directory(source: &Path, target: &Path, look: Look<'_>) -> io::Result<()> {
    open(source, OFlags::DIRECTORY)
        .and_then(|found| show_opened(&found, target, look))
        .map_err(|e| cannot_mount(&source.display().to_string(), target, &e))
}

/// The same for a file.
pub(super) fn show_file(source: &Path, target: &Path, look: Look<'_>) -> io::Result<()> {
    open(source, OFlags::empty())
        .and_then(|found| show_opened(&found, target, look))
        .map_err(|e| cannot_mount(&source.display().to_string(), target, &e))
}

/// Opens what is to be shown later.
pub(super) fn open(source: &Path, kind: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
    Ok(openat(CWD, source, flags, Mode::empty())?)
}

/// Shows what was opened in this mount namespace.
pub(super) fn show_opened(source: &OwnedFd, target: &Path, look: Look<'_>) -> io::Result<()> {
    let tree = clone_mount(source, look)?;
    Ok(move_mount(&tree, "", CWD, target, MOVE)?)
}

/// Mounts the `private` of a dataset, and nothing else of it. Kernels before 6.15 clone only what is mounted somewhere, so
/// the whole dataset is at the target for a moment.
pub(super) fn show_dataset(dataset: &str, target: &Path, look: Look<'_>) -> io::Result<()> {
    let show = || -> io::Result<()> {
        let whole = mount_detached(dataset)?;
        move_mount(&whole, "", CWD, target, MOVE)?;
        let private = open_private(&whole)
            .map_err(io::Error::from)
            .and_then(|private| clone_mount(&private, look));
        drop(whole);
        unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        Ok(move_mount(&private?, "", CWD, target, MOVE)?)
    };
    show().map_err(|e| cannot_mount(dataset, target, &e))
}

const MOVE: MoveMountFlags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;

fn clone_mount(source: &OwnedFd, look: Look<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(source, "", flags)?;
    let clear = READ_ONLY | NO_SUID | NO_DEV | NO_EXEC | ATIME_FIELD;
    set_attributes(tree.as_fd(), look.attributes | NO_ATIME, clear)?;
    if let Some(ids) = look.ids {
        map_ids(tree.as_fd(), ids)?;
    }
    Ok(tree)
}

fn cannot_mount(source: &str, target: &Path, e: &io::Error) -> io::Error {
    explained(&format!("cannot mount {source} at {}", target.display()), e)
}

/// An error that also says what was being done.
pub(super) fn explained(what: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}
