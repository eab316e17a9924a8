//! Declared files that are bound or linked.

use std::os::fd::OwnedFd;

use mayfly_core::persist::declare::Method;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::report::{Fate, How};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::Outcome;
use super::steps::bind_over;
use crate::content::{find, put};
use crate::tree::{Tree, abandon, finish, kind, name_of, new_link, same, write};

/// What systemd takes for "make one at this boot, and write it here".
const NO_MACHINE_ID: &[u8] = b"uninitialized\n";

/// Makes the file at `path` stay as `stored`. What the platform wrote there gives way.
pub(super) fn place(
    tree: &Tree,
    path: &TreePath,
    stored: &TreePath,
    method: Method,
    platform: bool,
) -> Result<Outcome, String> {
    let parent = path.parent().unwrap_or_else(TreePath::top);
    let parent_fd = tree
        .directory(&parent)
        .map_err(|e| tree.explain(&parent, e))?;
    let found = tree.look(path).map_err(|e| tree.explain(path, e))?;
    let mut kept = tree.look(stored).map_err(|e| tree.explain(stored, e))?;
    if let Some(found) = &found {
        match kind(found) {
            FileType::Symlink => return linked(&parent_fd, path, stored),
            FileType::Directory => return Err("a directory is in the way".to_owned()),
            _ if kept.as_ref().is_some_and(|kept| same(kept, found)) => {
                return Ok(Outcome::done(Fate::Already, How::Bind));
            }
            FileType::RegularFile if platform => {
                if kept.is_none() {
                    kept = Some(store_first(tree, path, stored)?);
                }
                if method == Method::Symlink {
                    return link_over(&parent_fd, path, stored);
                }
            }
            _ if found.st_size > 0 => {
                return Err("a file is there already, and it is not empty".to_owned());
            }
            _ => {}
        }
    }
    if method == Method::Auto && kept.is_none() && path.as_str() == "/etc/machine-id" {
        write(tree, stored, NO_MACHINE_ID, 0o644)?;
        kept = tree.look(stored).map_err(|e| tree.explain(stored, e))?;
    }
    match kept {
        Some(kept) if method == Method::Auto => match kind(&kept) {
            FileType::Directory => Err("what is stored for it is a directory".to_owned()),
            FileType::Symlink => Err(
                "what is stored for it is a symbolic link: use method = \"symlink\" or \"copy\""
                    .to_owned(),
            ),
            _ => bind_file(tree, &parent_fd, path, stored, found.is_none()),
        },
        _ => match found {
            Some(found) => Err(format!(
                "{} is in the way of the link",
                name_of(kind(&found))
            )),
            None => match symlinkat(stored.as_str(), &parent_fd, path.name()) {
                Ok(()) => Ok(Outcome::done(Fate::Applied, How::Symlink)),
                Err(e) => Err(format!("it cannot be linked: {e}")),
            },
        },
    }
}

/// Makes what the platform wrote the first version that is stored: a machine keeps the id that it was made with.
fn store_first(tree: &Tree, path: &TreePath, stored: &TreePath) -> Result<Stat, String> {
    let found = find(tree, path)?;
    let parent = stored.parent().unwrap_or_else(TreePath::top);
    let parent = tree
        .directory(&parent)
        .map_err(|e| tree.explain(&parent, e))?;
    put(&found, path, &parent, stored.name(), true, || Ok(()))?;
    match tree.look(stored) {
        Ok(Some(kept)) => Ok(kept),
        Ok(None) => Err(format!("{stored} is gone again")),
        Err(e) => Err(tree.explain(stored, e)),
    }
}

/// Puts the link into the place of the file, which is there until the link is.
fn link_over(parent: &OwnedFd, path: &TreePath, stored: &TreePath) -> Result<Outcome, String> {
    new_link(parent, stored.as_str())
        .and_then(|()| finish(parent, path.name()))
        .map_err(|e| {
            abandon(parent);
            format!("it cannot be linked: {e}")
        })?;
    Ok(Outcome::done(Fate::Applied, How::Symlink))
}

fn linked(parent: &OwnedFd, path: &TreePath, stored: &TreePath) -> Result<Outcome, String> {
    let target = readlinkat(parent, path.name(), Vec::new()).map_err(|e| format!("{path}: {e}"))?;
    if target.to_bytes() == stored.as_str().as_bytes() {
        return Ok(Outcome::done(Fate::Already, How::Symlink));
    }
    Err("a symbolic link to something else is in the way".to_owned())
}

fn bind_file(
    tree: &Tree,
    parent: &OwnedFd,
    path: &TreePath,
    stored: &TreePath,
    make: bool,
) -> Result<Outcome, String> {
    if make {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        openat(parent, path.name(), flags, mode)
            .map_err(|e| format!("no file to mount on can be made: {e}"))?;
    }
    let bound = || {
        let from = tree
            .open(stored, OFlags::PATH)
            .map_err(|e| tree.explain(stored, e))?;
        let to = tree
            .open(path, OFlags::PATH)
            .map_err(|e| tree.explain(path, e))?;
        bind_over(tree, &from, path, &to)
    };
    let bound = bound();
    if bound.is_err() && make {
        // Nothing is left of what is refused, unless it is not the one that was made.
        let empty = tree
            .look(path)
            .ok()
            .flatten()
            .is_some_and(|stat| stat.st_size == 0);
        if empty {
            let _: Result<(), Errno> = unlinkat(parent, path.name(), AtFlags::empty());
        }
    }
    bound
}

/// The type of what lies at a path, for tests of what may be replaced.
pub(super) fn replaceable(tree: &Tree, path: &TreePath) -> Result<(), String> {
    let Some(fd) = tree
        .open(path, OFlags::PATH)
        .map(Some)
        .or_else(|e| match e {
            Errno::NOENT => Ok(None),
            e => Err(tree.explain(path, e)),
        })?
    else {
        return Ok(());
    };
    match kind(&fstat(&fd).map_err(|e| format!("{path}: {e}"))?) {
        FileType::RegularFile | FileType::Symlink => Ok(()),
        other => Err(format!("{} is in the way", name_of(other))),
    }
}
