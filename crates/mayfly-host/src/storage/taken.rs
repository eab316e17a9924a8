//! Directories that are taken out of a guest's tree: renamed to a place beside `private`, which no guest reaches.
//!
//! The rename is one step, on the file system of the dataset: at every moment the directory is in the one place or the other.
//! One that is to be destroyed gets another name first, so that what was begun to be destroyed is never put back.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use mayfly_core::error::{Code, LookFailed};
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::trees::{TakeTo, TakenOut};
use rustix::fs::{AtFlags, FileType, OFlags, fstat, renameat, statat};
use rustix::io::Errno;

use super::contained::{DIRECTORY, make_directory, open_below};
use super::names::PRIVATE;
use super::refusals::failed;
use super::removal::{is_there, remove_tree};
use crate::crash::crash_point;

/// Takes a directory out of the tree of the dataset whose top is `top`, or does with it what else is asked. What was changed
/// is on the disk once the caller has synced.
pub(super) fn take_out(top: &OwnedFd, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
    let taken = Taken {
        top,
        what,
        // No dataset's name begins with a dot.
        aside: format!(".taken-{}", what.by),
        dropped: format!(".dropped-{}", what.by),
    };
    let changed = match to {
        TakeTo::Aside => taken.take()?,
        TakeTo::Back => taken.put_back()?,
        TakeTo::Nothing => taken.destroy()?,
    };
    Ok(match changed {
        true => Outcome::Changed,
        false => Outcome::Unchanged,
    })
}

struct Taken<'a> {
    top: &'a OwnedFd,
    what: &'a TakenOut,
    aside: String,
    dropped: String,
}

impl Taken<'_> {
    fn is_aside(&self) -> HostResult<bool> {
        let there = |name: &str| is_there(self.top, &CString::new(name).unwrap_or_default());
        there(&self.aside).map_err(|errno| {
            let what = format!("what lies beside the tree of dataset {}", self.what.dataset);
            LookFailed::new(what, errno).into()
        })
    }

    fn take(&self) -> HostResult<bool> {
        if self.is_aside()? {
            return Ok(false);
        }
        let (above, leaf) = self.parent(&mut |_, _| Err(Errno::NOENT))?;
        let seen = match statat(&above, leaf, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(seen) => seen,
            Err(errno) => return Err(self.error(errno)),
        };
        if FileType::from_raw_mode(seen.st_mode) != FileType::Directory {
            return Err(self.refuse(Code::FileRefused, "is no directory"));
        }
        let own = fstat(self.top).map_err(|errno| self.error(errno))?;
        let opened = open_below(&above, leaf, DIRECTORY).map_err(|errno| self.error(errno))?;
        let opened = fstat(&opened).map_err(|errno| self.error(errno))?;
        if opened.st_dev != own.st_dev {
            let why = "is no part of the dataset";
            return Err(self.refuse(Code::FileRefused, why));
        }
        renameat(&above, leaf, self.top, &self.aside).map_err(|errno| self.error(errno))?;
        crash_point("take_out.after_taking");
        Ok(true)
    }

    fn put_back(&self) -> HostResult<bool> {
        if !self.is_aside()? {
            return Ok(false);
        }
        let (above, leaf) = self.parent(&mut |dir, name| make_directory(dir, name).map(drop))?;
        // It takes the place of an empty directory, and of nothing else.
        match renameat(self.top, &self.aside, &above, leaf) {
            Ok(()) => {
                crash_point("take_out.after_putting_back");
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                let why = "is something else now, and no empty directory";
                Err(self.refuse(Code::FileRefused, why))
            }
            Err(errno) => Err(self.error(errno)),
        }
    }

    fn destroy(&self) -> HostResult<bool> {
        let action = || {
            format!(
                "destroying what was {} of {}",
                self.what.path, self.what.dataset
            )
        };
        let failed = |errno| match errno {
            Errno::XDEV => self.refuse(
                Code::FileRefused,
                "has another file system or subvolume in it, and is not destroyed",
            ),
            errno => failed(action(), errno),
        };
        // What an earlier call began to destroy goes first, or the rename would find it in its way.
        let mut changed = remove_tree(self.top, &self.dropped).map_err(failed)?;
        if self.is_aside()? {
            renameat(self.top, &self.aside, self.top, &self.dropped).map_err(failed)?;
            crash_point("take_out.after_dropping");
            changed = remove_tree(self.top, &self.dropped).map_err(failed)? || changed;
        }
        Ok(changed)
    }

    /// The directory that the path lies in, reached one component at a time, and the name there. What is missing on the way is
    /// made with `make`.
    fn parent(
        &self,
        make: &mut dyn FnMut(&OwnedFd, &str) -> rustix::io::Result<()>,
    ) -> HostResult<(OwnedFd, &str)> {
        let inner = self.what.path.relative();
        let (above, leaf) = inner.rsplit_once('/').unwrap_or(("", inner));
        let mut dir = open_below(self.top, PRIVATE, DIRECTORY).map_err(|errno| {
            let what = format!("the contents of dataset {}", self.what.dataset);
            LookFailed::new(what, errno)
        })?;
        for name in above.split('/').filter(|name| !name.is_empty()) {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY;
            let mut next = open_below(&dir, name, flags);
            if matches!(next, Err(Errno::NOENT)) {
                make(&dir, name).map_err(|errno| self.error(errno))?;
                next = open_below(&dir, name, flags);
            }
            dir = next.map_err(|errno| self.error(errno))?;
        }
        Ok((dir, leaf))
    }

    fn refuse(&self, code: Code, why: &str) -> HostError {
        self.what.refusal(code, why).into()
    }

    fn error(&self, errno: Errno) -> HostError {
        match errno {
            Errno::NOENT => self.refuse(Code::FileNotFound, "is not there"),
            Errno::LOOP | Errno::NOTDIR | Errno::XDEV => self.refuse(
                Code::FileRefused,
                "cannot be reached: something on the way is no directory",
            ),
            errno => failed(
                format!("moving {} of dataset {}", self.what.path, self.what.dataset),
                errno,
            ),
        }
    }
}
