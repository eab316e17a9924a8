//! Putting things into a guest's tree from outside.
//!
//! The tree is hostile: whatever is in it may be changed at any moment. So every directory is reached by openat2 that stays
//! beneath the dataset and follows no symlink, and is then used by its descriptor.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::{GuestPath, PoolPath};
use mayfly_core::persist::limits::FILE_BYTES;
use mayfly_core::ports::{FileEdit, HostError, HostResult, Outcome, TreePlan};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, fchmod, fchown, fstat, fsync, openat, renameat, statat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::contained::{make_directory, open_below, open_regular};
use super::refusals::failed;

const PLACE: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW);

/// Owner, group and mode of what the platform makes: it is the guest's root's.
const PLATFORMS: (u32, u32, u32) = (0, 0, 0o644);

/// One dataset's tree.
struct Tree<'a> {
    name: &'a PoolPath,
    top: OwnedFd,
    /// Whether files must be on the disk before they take their names.
    keep_safe: bool,
}

/// Puts a plan into the tree at `top`, the `private` of the dataset `name`. Files of a dataset that is to be kept safe are
/// on the disk before they take their names.
pub(super) fn put_into_tree(
    name: &PoolPath,
    top: OwnedFd,
    keep_safe: bool,
    plan: &TreePlan,
) -> HostResult<Outcome> {
    let tree = Tree {
        name,
        top,
        keep_safe,
    };
    let mut changed = false;
    for path in &plan.directories {
        changed |= tree.ensure_directory(path)?;
    }
    for (path, target) in &plan.links {
        changed |= tree.ensure_link(path, target)?;
    }
    for (path, text) in &plan.files {
        changed |= tree.ensure_file(path, text)?;
    }
    for edit in &plan.edits {
        changed |= tree.ensure_edit(edit)?;
    }
    Ok(if changed {
        Outcome::Changed
    } else {
        Outcome::Unchanged
    })
}

/// Reads a regular file of the tree at `top`; none where nothing is.
pub(super) fn read_from_tree(
    name: &PoolPath,
    top: &OwnedFd,
    path: &GuestPath,
    limit: usize,
) -> HostResult<Option<Vec<u8>>> {
    let refuse = |why: String| {
        let message = format!("{path} of dataset {name} {why}");
        Err(HostError::Refused(Refusal::new(
            Code::Invalid,
            message,
            format!("look at what is at {path} of the VPS, and put a plain file there"),
        )))
    };
    let failed = |e: &dyn std::fmt::Display| {
        HostError::failed(format!("reading {path} of dataset {name}"), e)
    };
    let file = match open_regular(top, path.relative()) {
        Ok(Ok(file)) => file,
        Ok(Err(_)) => return refuse("is no regular file".to_owned()),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
            return refuse("cannot be reached: something on the way is no directory".to_owned());
        }
        Err(errno) => return Err(failed(&errno)),
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(&e))?;
    if bytes.len() > limit {
        return refuse(format!("is longer than {limit} bytes"));
    }
    Ok(Some(bytes))
}

impl Tree<'_> {
    fn ensure_directory(&self, path: &GuestPath) -> HostResult<bool> {
        if path.is_top() || open_below(&self.top, path.relative(), PLACE).is_ok() {
            return Ok(false);
        }
        let mut made = false;
        self.walk(path, path.relative(), &mut |dir, name| {
            made = true;
            make_directory(dir, name).map(drop)
        })?;
        Ok(made)
    }

    /// Goes down `inner` one component at a time. What is missing is made with `make`; anything but a directory is
    /// refused.
    fn walk(
        &self,
        path: &GuestPath,
        inner: &str,
        make: &mut dyn FnMut(&OwnedFd, &str) -> rustix::io::Result<()>,
    ) -> HostResult<OwnedFd> {
        let mut dir = self
            .top
            .try_clone()
            .map_err(|e| HostError::failed(self.action(path), e))?;
        let mut gone = String::new();
        for name in inner.split('/').filter(|name| !name.is_empty()) {
            gone = format!("{gone}/{name}");
            let mut next = open_below(&dir, name, PLACE);
            if matches!(next, Err(Errno::NOENT)) {
                match make(&dir, name) {
                    // Somebody else may have put something there meanwhile: what it is, the next look tells.
                    Ok(()) | Err(Errno::EXIST) => next = open_below(&dir, name, PLACE),
                    Err(errno) => return Err(self.error(path, errno)),
                }
            }
            dir = match next {
                Ok(next) => next,
                Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                    return Err(self.in_the_way(path, &gone, &dir, name));
                }
                Err(errno) => return Err(self.error(path, errno)),
            };
        }
        Ok(dir)
    }

    /// The directory that `path` lies in, which must be there, and the name there.
    fn parent<'p>(&self, path: &'p GuestPath) -> HostResult<(OwnedFd, &'p str)> {
        let (above, leaf) = path
            .relative()
            .rsplit_once('/')
            .unwrap_or(("", path.relative()));
        Ok((self.walk(path, above, &mut |_, _| Err(Errno::NOENT))?, leaf))
    }

    fn ensure_link(&self, path: &GuestPath, target: &str) -> HostResult<bool> {
        let (dir, leaf) = self.parent(path)?;
        match symlinkat(target, &dir, leaf) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.error(path, errno)),
        }
    }

    fn ensure_file(&self, path: &GuestPath, text: &str) -> HostResult<bool> {
        let (dir, leaf) = self.parent(path)?;
        if holds(&dir, leaf, text) {
            return Ok(false);
        }
        self.replace(path, &dir, leaf, text, PLATFORMS)
    }

    /// Changes a file that is as it was read. Its owner may change it between the last look and the rename: then theirs
    /// is lost, as with any two editors.
    fn ensure_edit(&self, edit: &FileEdit) -> HostResult<bool> {
        let path = &edit.path;
        let (dir, leaf) = self.parent(path)?;
        let found = match read_from_tree(self.name, &self.top, path, FILE_BYTES) {
            Err(HostError::Refused(_)) => return Err(HostError::Refused(edit.refusal())),
            found => found?,
        };
        let done = edit.is_done(found.as_deref());
        if done.ok_or_else(|| edit.refusal())? {
            return Ok(false);
        }
        let rights = match statat(&dir, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(seen) => (seen.st_uid, seen.st_gid, seen.st_mode & 0o777),
            Err(Errno::NOENT) => PLATFORMS,
            Err(errno) => return Err(self.error(path, errno)),
        };
        self.replace(path, &dir, leaf, &edit.after, rights)
    }

    /// Puts a new file in the place of what is there.
    fn replace(
        &self,
        path: &GuestPath,
        dir: &OwnedFd,
        leaf: &str,
        text: &str,
        (uid, gid, mode): (u32, u32, u32),
    ) -> HostResult<bool> {
        // The name is always the same, so that what a kill left is replaced by the next attempt.
        let new = format!(".{leaf}.mayfly");
        let put = || -> rustix::io::Result<()> {
            match unlinkat(dir, &new, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(dir, &new, flags, Mode::RUSR | Mode::WUSR)?);
            file.write_all(text.as_bytes())
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
            fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            fchmod(&file, Mode::from_raw_mode(mode))?;
            if self.keep_safe {
                fsync(&file)?;
            }
            renameat(dir, &new, dir, leaf)
        };
        match put() {
            Ok(()) => Ok(true),
            Err(errno) => {
                // Only what the attempt itself made; a failure leaves it to the next attempt.
                let _ = unlinkat(dir, &new, AtFlags::empty());
                match errno {
                    Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => {
                        Err(self.in_the_way(path, path.as_str(), dir, leaf))
                    }
                    errno => Err(self.error(path, errno)),
                }
            }
        }
    }

    fn action(&self, path: &GuestPath) -> String {
        format!(
            "putting {} into dataset {}",
            path.as_str().escape_debug(),
            self.name
        )
    }

    fn error(&self, path: &GuestPath, errno: Errno) -> HostError {
        match errno {
            Errno::DQUOT => HostError::Refused(Refusal::new(
                Code::DiskSpace,
                format!("{}: its quota is used up", self.action(path)),
                format!(
                    "delete something in it, or give it more: mayfly dataset set {} quota=SIZE",
                    self.name
                ),
            )),
            errno => failed(self.action(path), errno),
        }
    }

    fn in_the_way(&self, path: &GuestPath, at: &str, dir: impl AsFd, name: &str) -> HostError {
        let kind = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_or("something else", |seen| {
            kind_name(FileType::from_raw_mode(seen.st_mode))
        });
        let (path, at) = (path.as_str().escape_debug(), at.escape_debug());
        HostError::Refused(Refusal::new(
            Code::MountPointRefused,
            format!(
                "{path} in dataset {} is refused: {at} is {kind}, not a directory of its own",
                self.name
            ),
            format!(
                "inside the VPS, move {at} away and make it a directory; or choose another path"
            ),
        ))
    }
}

/// Whether a regular file has exactly this text and these rights. A FIFO does not make this wait.
fn holds(dir: impl AsFd, name: &str, text: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = open_below(dir, name, flags) else {
        return false;
    };
    let Ok(seen) = fstat(&file) else { return false };
    let plain = FileType::from_raw_mode(seen.st_mode) == FileType::RegularFile;
    if !plain
        || seen.st_size as usize != text.len()
        || seen.st_mode & 0o7777 != 0o644
        || (seen.st_uid, seen.st_gid) != (0, 0)
    {
        return false;
    }
    let mut found = Vec::with_capacity(text.len());
    File::from(file)
        .take(text.len() as u64 + 1)
        .read_to_end(&mut found)
        .is_ok()
        && found == text.as_bytes()
}

/// What a file is, in words.
pub(super) fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symlink",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something else",
    }
}
