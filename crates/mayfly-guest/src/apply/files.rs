//! Declared files that are bound or linked.

use std::os::fd::OwnedFd;

use mayfly_core::persist::declare::Method;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::report::{Fate, How};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, openat, readlinkat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::Outcome;
use super::steps::bind_over;
use crate::content::{find, put};
use crate::tree::{Tree, abandon, finish, kind, name_of, new_link, same, write};

/// What systemd takes for "make one at this boot, and write it here".
const NO_MACHINE_ID: &[u8] = b"uninitialized\n";

/// What has to be done for a file.
pub(super) enum Action {
    /// Nothing.
    Already(How),
    /// It is bound; `make` says that there is nothing to mount on yet.
    Bind { first: First, make: bool },
    /// It is linked; `over` says that a file makes way for the link.
    Link { first: First, over: bool },
}

/// What becomes the first stored version before that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// Nothing: there is one, or none is needed.
    None,
    /// What the platform wrote: a machine keeps the id that it was made with.
    Platform,
    /// That there is no id yet.
    NoMachineId,
}

/// Decides what is to be done for the file at `path`, after a look at both sides: at `at`, which is `path` where all that
/// is to be mounted over it is, and at `stored`.
pub(super) fn decide(
    tree: &Tree,
    path: &TreePath,
    at: &TreePath,
    stored: &TreePath,
    method: Method,
    platform: bool,
) -> Result<Action, String> {
    let found = tree.look(at).map_err(|e| tree.explain(at, e))?;
    let kept = tree.look(stored).map_err(|e| tree.explain(stored, e))?;
    let first = match &found {
        None => First::None,
        Some(found) => match kind(found) {
            FileType::Symlink => return linked(tree, at, stored),
            FileType::Directory => return Err("a directory is in the way".to_owned()),
            _ if kept.as_ref().is_some_and(|kept| same(kept, found)) => {
                return Ok(Action::Already(How::Bind));
            }
            FileType::RegularFile if platform => {
                let first = match kept {
                    None => First::Platform,
                    Some(_) => First::None,
                };
                if method == Method::Symlink {
                    return Ok(Action::Link { first, over: true });
                }
                first
            }
            _ if found.st_size > 0 => {
                return Err("a file is there already, and it is not empty".to_owned());
            }
            _ => First::None,
        },
    };
    let make = found.is_none();
    match (&kept, method) {
        (Some(kept), Method::Auto) => match kind(kept) {
            FileType::Directory => Err("what is stored for it is a directory".to_owned()),
            FileType::Symlink => Err(
                "what is stored for it is a symbolic link: use method = \"symlink\" or \"copy\""
                    .to_owned(),
            ),
            _ => Ok(Action::Bind { first, make }),
        },
        (None, Method::Auto) if first == First::Platform => Ok(Action::Bind { first, make }),
        (None, Method::Auto) if path.as_str() == "/etc/machine-id" => {
            let first = First::NoMachineId;
            Ok(Action::Bind { first, make })
        }
        _ => match &found {
            Some(found) => Err(format!(
                "{} is in the way of the link",
                name_of(kind(found))
            )),
            None => Ok(Action::Link { first, over: false }),
        },
    }
}

/// Does it.
pub(super) fn place(
    tree: &Tree,
    path: &TreePath,
    stored: &TreePath,
    action: &Action,
) -> Result<Outcome, String> {
    let parent = path.parent().unwrap_or_else(TreePath::top);
    let parent = tree
        .directory(&parent)
        .map_err(|e| tree.explain(&parent, e))?;
    match action {
        Action::Already(how) => Ok(Outcome::done(Fate::Already, *how)),
        Action::Bind { first, make } => {
            store_first(tree, path, stored, *first)?;
            bind_file(tree, &parent, path, stored, *make)
        }
        Action::Link { first, over } => {
            store_first(tree, path, stored, *first)?;
            let linked = if *over {
                // The file is there until the link is.
                new_link(&parent, stored.as_str()).and_then(|()| finish(&parent, path.name()))
            } else {
                symlinkat(stored.as_str(), &parent, path.name())
            };
            match linked {
                Ok(()) => Ok(Outcome::done(Fate::Applied, How::Symlink)),
                Err(e) => {
                    abandon(&parent);
                    Err(format!("it cannot be linked: {e}"))
                }
            }
        }
    }
}

fn store_first(
    tree: &Tree,
    path: &TreePath,
    stored: &TreePath,
    first: First,
) -> Result<(), String> {
    match first {
        First::None => Ok(()),
        First::NoMachineId => write(tree, stored, NO_MACHINE_ID, 0o644),
        First::Platform => {
            let found = find(tree, path)?;
            let parent = stored.parent().unwrap_or_else(TreePath::top);
            let parent = tree
                .directory(&parent)
                .map_err(|e| tree.explain(&parent, e))?;
            Ok(put(&found, path, &parent, stored.name(), true, || Ok(()))?)
        }
    }
}

fn linked(tree: &Tree, path: &TreePath, stored: &TreePath) -> Result<Action, String> {
    let target = tree
        .open(path, OFlags::PATH)
        .and_then(|link| readlinkat(link, "", Vec::new()))
        .map_err(|e| format!("{path}: {e}"))?;
    if target.to_bytes() == stored.as_str().as_bytes() {
        return Ok(Action::Already(How::Symlink));
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
