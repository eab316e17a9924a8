//! The way through a tree that is copied.
//!
//! The tree is a guest's: it may be of any depth and width, and anything may lie in it. So every entry is reached from the open
//! directory that it lies in and never followed; there is no recursion, only so many directories are open at a time, and
//! nothing is remembered of what was copied.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ports::{Cancel, HostError, HostResult};
use mayfly_core::trees::TreeCopy;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, linkat, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use super::attributes::Attributes;
use super::contents::{Blocks, Contents, Stop};
use crate::storage::contained::{DIRECTORY, open_below};
use crate::storage::refusals::failed;
use crate::storage::removal::next_entry;
use crate::sys::btrfs as sys;

/// How deep directories may lie in each other.
const DEEPEST: usize = 1000;
/// How many of them are open at a time, each in both trees.
const OPEN: usize = 64;
/// So much of a path is told.
const TOLD: usize = 200;

/// One directory on the way.
struct Level {
    name: CString,
    seen: Stat,
    /// What is left out below it, by the path in it.
    without: Vec<String>,
    /// Where the listing goes on.
    next: i64,
    /// The number of the copy.
    made: u64,
    /// None while deeper ones have the room.
    open: Option<Pair>,
}

/// A directory and its copy.
struct Pair {
    from: Dir,
    to: OwnedFd,
}

/// A copy on its way.
pub(super) struct Walk<'a> {
    copy: &'a TreeCopy,
    links: &'a OwnedFd,
    contents: Contents<'a>,
    attributes: Attributes,
    device: u64,
    is_btrfs: bool,
    levels: Vec<Level>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        (copy, blocks): (&'a TreeCopy, Blocks),
        links: &'a OwnedFd,
        cancel: &'a Cancel,
        progress: &'a mut dyn FnMut(&str),
    ) -> Self {
        Self {
            copy,
            links,
            contents: Contents::new(blocks, cancel, progress),
            attributes: Attributes::new(),
            device: 0,
            is_btrfs: blocks == Blocks::Written,
            levels: Vec::new(),
        }
    }

    /// Copies all that is in the directory `from`, and what that has itself, into the empty one `to`. The bytes of data that
    /// were copied.
    pub(super) fn run(
        mut self,
        from: OwnedFd,
        to: OwnedFd,
        without: Vec<String>,
    ) -> HostResult<Bytes> {
        let seen = fstat(&from).map_err(|errno| self.stopped(c"", errno.into()))?;
        self.device = seen.st_dev;
        self.enter(c"", seen, (from, to), without)
            .map_err(|stop| self.stopped(c"", stop))?;
        while let Some(level) = self.levels.last_mut() {
            let listed = match &mut level.open {
                Some(pair) => next_entry(&mut pair.from),
                None => Err(Errno::BADF),
            };
            match listed.map_err(|errno| self.stopped(c"", errno.into()))? {
                Some(entry) => {
                    if let Some(level) = self.levels.last_mut() {
                        level.next = entry.offset();
                    }
                    self.entry(entry.file_name())?;
                }
                None => self.leave().map_err(|stop| self.stopped(c"", stop))?,
            }
        }
        Ok(self.contents.copied())
    }

    fn enter(
        &mut self,
        name: &CStr,
        seen: Stat,
        (from, to): (OwnedFd, OwnedFd),
        without: Vec<String>,
    ) -> Result<(), Stop> {
        let made = fstat(&to)?.st_ino;
        self.levels.push(Level {
            name: name.to_owned(),
            seen,
            without,
            next: 0,
            made,
            open: Some(Pair {
                from: Dir::new(from)?,
                to,
            }),
        });
        let far = self.levels.len().checked_sub(OPEN + 1);
        if let Some(level) = far.and_then(|far| self.levels.get_mut(far)) {
            level.open = None;
        }
        Ok(())
    }

    /// Gives the innermost directory its attributes, and goes back to the one that it lies in.
    fn leave(&mut self) -> Result<(), Stop> {
        let Some(Level {
            seen,
            open: Some(pair),
            ..
        }) = self.levels.pop()
        else {
            return Err(Errno::BADF.into());
        };
        let (from, to) = (pair.from.fd()?, pair.to.as_fd());
        if let Some(above) = self.levels.last_mut().filter(|above| above.open.is_none()) {
            let up = |dir: BorrowedFd<'_>, number: u64| -> rustix::io::Result<OwnedFd> {
                let up = openat(dir, c"..", DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                // Nobody moves directories here; whoever did would lead the copy astray.
                match fstat(&up)?.st_ino == number {
                    true => Ok(up),
                    false => Err(Errno::STALE),
                }
            };
            let mut listed = Dir::new(up(from, above.seen.st_ino)?)?;
            listed.seek(above.next)?;
            above.open = Some(Pair {
                from: listed,
                to: up(to, above.made)?,
            });
        }
        self.attributes.of_open(&seen, from, to)?;
        Ok(())
    }

    fn entry(&mut self, name: &CStr) -> HostResult<()> {
        let level = self.levels.last_mut().and_then(|level| {
            let without = level.inside(name);
            Some((level.open.take()?, without))
        });
        let Some((pair, without)) = level else {
            return Err(self.stopped(name, Errno::BADF.into()));
        };
        let copied = self.copy_entry(&pair, name, &without);
        if let Some(level) = self.levels.last_mut() {
            level.open = Some(pair);
        }
        let Some((seen, inner)) = copied? else {
            return Ok(());
        };
        if self.levels.len() == DEEPEST {
            return Err(self.refuse(name, "lies too deep: there are 1000 directories above it"));
        }
        let entered = self.enter(name, seen, inner, without);
        entered.map_err(|stop| self.stopped(c"", stop))
    }

    /// Copies what is no directory. A directory is made, and given back to be entered where anything of it is copied.
    fn copy_entry(
        &mut self,
        pair: &Pair,
        name: &CStr,
        without: &[String],
    ) -> HostResult<Option<(Stat, (OwnedFd, OwnedFd))>> {
        let stopped = |walk: &Self, errno: Errno| walk.stopped(name, errno.into());
        let from = pair.from.fd().map_err(|errno| stopped(self, errno))?;
        let seen = statat(from, name, AtFlags::SYMLINK_NOFOLLOW);
        let seen = seen.map_err(|errno| stopped(self, errno))?;
        if let Err(stop) = self.contents.pause() {
            return Err(self.stopped(name, stop));
        }
        let is_left_out = without.iter().any(String::is_empty);
        let both = (from, pair.to.as_fd());
        if FileType::from_raw_mode(seen.st_mode) != FileType::Directory {
            if !is_left_out {
                self.other(&seen, both, name)
                    .map_err(|stop| self.stopped(name, stop))?;
            }
            return Ok(None);
        }
        let made = self.directory(both, name);
        let (seen, inner) = made.map_err(|errno| stopped(self, errno))?;
        if !is_left_out {
            // The number of every subvolume's top, and that of the empty directory which a snapshot has in its place.
            let is_nested = self.is_btrfs && [sys::FIRST_FREE, 2].contains(&seen.st_ino);
            if seen.st_dev != self.device || is_nested {
                return Err(self.refuse(name, "is another file system or subvolume"));
            }
            return Ok(Some((seen, inner)));
        }
        self.attributes
            .of_open(&seen, inner.0.as_fd(), inner.1.as_fd())
            .map_err(|errno| stopped(self, errno))?;
        Ok(None)
    }

    /// Opens a directory, and makes its copy.
    fn directory(
        &self,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        name: &CStr,
    ) -> rustix::io::Result<(Stat, (OwnedFd, OwnedFd))> {
        let opened = open_below(from, name, DIRECTORY)?;
        mkdirat(to, name, Mode::RWXU)?;
        Ok((fstat(&opened)?, (opened, open_below(to, name, DIRECTORY)?)))
    }

    fn other(
        &mut self,
        seen: &Stat,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        name: &CStr,
    ) -> Result<(), Stop> {
        let number = seen.st_ino.to_string();
        if seen.st_nlink > 1 {
            match linkat(self.links, number.as_str(), to, name, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                linked => return linked.map_err(Stop::from),
            }
        }
        let mode = Mode::from_raw_mode(seen.st_mode);
        match FileType::from_raw_mode(seen.st_mode) {
            FileType::RegularFile => self.regular(seen, (from, to), name)?,
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target.as_c_str(), to, name)?;
                self.attributes.of_named(seen, (from, to), name, false)?;
            }
            FileType::Directory | FileType::Unknown => return Err(Errno::IO.into()),
            kind => {
                mknodat(to, name, kind, mode, seen.st_rdev)?;
                self.attributes.of_named(seen, (from, to), name, true)?;
            }
        }
        if seen.st_nlink > 1 {
            linkat(to, name, self.links, number.as_str(), AtFlags::empty())?;
        }
        Ok(())
    }

    fn regular(
        &mut self,
        seen: &Stat,
        (from, to): (BorrowedFd<'_>, BorrowedFd<'_>),
        name: &CStr,
    ) -> Result<(), Stop> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let opened = open_below(from, name, flags)?;
        let found = fstat(&opened)?;
        if (found.st_dev, found.st_ino) != (self.device, seen.st_ino) {
            return Err(Errno::STALE.into());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made = openat(to, name, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
        let (from, to) = (opened.as_fd(), made.as_fd());
        self.contents.copy(&found, from, to)?;
        self.attributes.of_open(&found, from, to)?;
        Ok(())
    }

    /// A path as it is told: what it ends in, and nothing that a terminal would take for more than text.
    fn told(&self, name: &CStr) -> String {
        let mut path = match self.copy.below.as_str() {
            "/" => String::new(),
            below => below.to_owned(),
        };
        let on_the_way = self.levels.iter().map(|level| level.name.as_c_str());
        // Of the highest, the path is told already.
        for part in on_the_way.chain([name]).filter(|part| !part.is_empty()) {
            path.push('/');
            path.push_str(&part.to_string_lossy());
        }
        let characters = path.chars().count();
        let shown: String = match characters.checked_sub(TOLD) {
            None | Some(0) => path,
            Some(more) => std::iter::once('…')
                .chain(path.chars().skip(more))
                .collect(),
        };
        match shown.is_empty() {
            true => "/".to_owned(),
            false => shown.escape_debug().to_string(),
        }
    }

    fn refuse(&self, name: &CStr, why: &str) -> HostError {
        let path = self.told(name);
        let message = format!("{path} of dataset {} {why}", self.copy.from);
        let hint = format!("inside the VPS, move {path} away or remove it");
        Refusal::new(Code::FileRefused, message, hint).into()
    }

    fn stopped(&self, name: &CStr, stop: Stop) -> HostError {
        let action = format!("copying {} of dataset {}", self.told(name), self.copy.from);
        match stop {
            Stop::Unwanted => HostError::failed(action, "it is not wanted any more"),
            Stop::Failed(Errno::DQUOT) => self.copy.too_large().into(),
            Stop::Failed(errno) => failed(action, errno),
        }
    }
}

impl Level {
    /// What is left out of `name`, by the path in it; an empty one for all of it.
    fn inside(&self, name: &CStr) -> Vec<String> {
        let inside = |path: &String| {
            let rest = path.as_bytes().strip_prefix(name.to_bytes())?;
            match rest.split_first() {
                None => Some(String::new()),
                Some((b'/', _)) => path.get(path.len() - rest.len() + 1..).map(str::to_owned),
                Some(_) => None,
            }
        };
        self.without.iter().filter_map(inside).collect()
    }
}
