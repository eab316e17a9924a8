//! Copying a directory of one dataset into another one, which gets it whole.
//!
//! The copy is made beside the new dataset's `private`, where no guest sees it, and takes the place of that empty directory by
//! one rename. Before the rename a record says that the copy is whole, and of what: without it, what lies there was cut off
//! and begins anew; with it, the rename is all that is missing, or nothing.

mod attributes;
mod contents;
mod walk;

use std::os::fd::OwnedFd;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::ids::Digest;
use mayfly_core::ports::{Cancel, HostError, HostResult};
use mayfly_core::trees::TreeCopy;
use rustix::fs::{Dir, Mode, fstat, mkdirat, renameat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::walk::Walk;
use super::contained::{DIRECTORY, open_below};
use super::names::PRIVATE;
use super::records::{Records, VERSION};
use super::refusals::failed;
use super::removal::{is_there, next_entry, remove_tree};
use crate::crash::crash_point;

pub(super) use self::contents::Blocks;

/// No dataset's name begins with a dot.
const COPYING: &str = ".copying";
/// What has several names, by the numbers of the inodes that were copied.
const LINKS: &str = ".copying-links";
const RECORD: &str = ".copied";

/// Says that a dataset's contents are a copy, and of what.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyRecord {
    version: u32,
    copy: Digest,
}

impl CopyRecord {
    fn of(copy: &TreeCopy) -> HostResult<Self> {
        let text = serde_json::to_vec(copy)
            .map_err(|e| HostError::failed(format!("copying into {}", copy.to), e))?;
        Ok(Self {
            version: VERSION,
            copy: Digest::of(&text),
        })
    }
}

/// A copy, with all that it needs.
pub(super) struct Copying<'a> {
    /// What is copied.
    pub(super) copy: &'a TreeCopy,
    /// The `private` of the dataset that is read.
    pub(super) from: OwnedFd,
    /// The top of the dataset that is filled.
    pub(super) to: OwnedFd,
    /// How blocks are copied.
    pub(super) blocks: Blocks,
    /// Has all that was changed in the new dataset on the disk when it returns.
    pub(super) sync: &'a dyn Fn() -> HostResult<()>,
    /// Whether it is still wanted.
    pub(super) cancel: &'a Cancel,
    /// Who is told how far it is.
    pub(super) progress: &'a mut dyn FnMut(&str),
}

impl Copying<'_> {
    /// Fills the new dataset; the bytes that were copied, or none where it has the copy already.
    pub(super) fn run(mut self) -> HostResult<Option<Bytes>> {
        let copy = self.copy;
        let wanted = CopyRecord::of(copy)?;
        let top = self.to.try_clone();
        let top = top.map_err(|e| HostError::failed(self.action(), e))?;
        let records = Records::new(top, "record of a copy");
        let record = records.read::<CopyRecord>(RECORD).map_err(|why| {
            LookFailed::new(format!("what dataset {} is a copy of", copy.to), why)
        })?;
        let is_begun = self.look(is_there(&self.to, c".copying"))?;
        if record.as_ref() == Some(&wanted) {
            if !is_begun {
                // An earlier call may not have come so far.
                (self.sync)()?;
                return Ok(None);
            }
            self.put_into_place()?;
            return Ok(Some(Bytes(0)));
        }
        // A record without what it speaks of is that of contents which came with another copy.
        if !self.look(self.is_empty())? || (record.is_some() && !is_begun) {
            return Err(copy.filled().into());
        }
        records.remove(RECORD)?;
        self.clear()?;
        let copied = self.fill().and_then(|copied| {
            (self.sync)()?;
            crash_point("copy.after_contents");
            records.write(RECORD, &wanted)?;
            Ok(copied)
        });
        match copied {
            Ok(copied) => {
                crash_point("copy.after_record");
                self.put_into_place()?;
                Ok(Some(copied))
            }
            Err(error) => {
                if let Err(left) = self.clear() {
                    tracing::warn!(dataset = %copy.to, %left, "a part of a copy is left beside its contents");
                }
                Err(error)
            }
        }
    }

    fn action(&self) -> String {
        let copy = self.copy;
        format!(
            "copying {} of dataset {} into dataset {}",
            copy.below.as_str().escape_debug(),
            copy.from,
            copy.to
        )
    }

    fn look<T>(&self, looked: rustix::io::Result<T>) -> HostResult<T> {
        let what = || format!("what lies in dataset {}", self.copy.to);
        looked.map_err(|errno| LookFailed::new(what(), errno).into())
    }

    fn is_empty(&self) -> rustix::io::Result<bool> {
        let private = open_below(&self.to, PRIVATE, DIRECTORY)?;
        Ok(next_entry(&mut Dir::new(private)?)?.is_none())
    }

    /// Removes what was copied by a call that was cut off.
    fn clear(&self) -> HostResult<()> {
        for name in [COPYING, LINKS] {
            remove_tree(&self.to, name).map_err(|errno| failed(self.action(), errno))?;
        }
        Ok(())
    }

    fn fill(&mut self) -> HostResult<Bytes> {
        let action = self.action();
        let below = self.open_below()?;
        let make = |name: &str| -> rustix::io::Result<OwnedFd> {
            mkdirat(&self.to, name, Mode::RWXU)?;
            open_below(&self.to, name, DIRECTORY)
        };
        let failed = |errno| failed(&action, errno);
        let links = make(LINKS).map_err(failed)?;
        let into = make(COPYING).map_err(failed)?;
        let without = self.copy.left_out()?;
        let walk = Walk::new(
            (self.copy, self.blocks),
            &links,
            self.cancel,
            &mut *self.progress,
        );
        let copied = walk.run(below, into, without)?;
        remove_tree(&self.to, LINKS).map_err(failed)?;
        Ok(copied)
    }

    /// The directory whose contents are copied.
    fn open_below(&self) -> HostResult<OwnedFd> {
        let copy = self.copy;
        let refuse = |code, why: &str| {
            let below = copy.below.as_str().escape_debug();
            Refusal::new(
                code,
                format!("{below} of dataset {} {why}", copy.from),
                format!("look at what is at {below} of the VPS"),
            )
            .into()
        };
        let path = match copy.below.relative() {
            "" => ".",
            inner => inner,
        };
        let opened = match open_below(&self.from, path, DIRECTORY) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Err(refuse(Code::FileNotFound, "is not there")),
            Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => {
                let why = "is no directory, or something on the way to it is none";
                return Err(refuse(Code::FileRefused, why));
            }
            Err(errno) => return Err(failed(self.action(), errno)),
        };
        let device = |fd: &OwnedFd| {
            let seen = fstat(fd).map_err(|errno| failed(self.action(), errno));
            seen.map(|seen| seen.st_dev)
        };
        if device(&opened)? != device(&self.from)? {
            return Err(refuse(Code::FileRefused, "is no part of the dataset"));
        }
        Ok(opened)
    }

    fn put_into_place(&self) -> HostResult<()> {
        match renameat(&self.to, COPYING, &self.to, PRIVATE) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Err(self.copy.filled().into()),
            Err(errno) => return Err(failed(self.action(), errno)),
        }
        crash_point("copy.after_rename");
        (self.sync)()
    }
}

/// Whether the contents of the dataset whose top this is are a copy that came to its end.
pub(super) fn is_whole(top: &OwnedFd) -> Result<bool, LookFailed> {
    let look = |errno: Errno| LookFailed::new("what a dataset is a copy of", errno);
    let is_recorded = is_there(top, c".copied").map_err(look)?;
    Ok(is_recorded && !is_there(top, c".copying").map_err(look)?)
}
