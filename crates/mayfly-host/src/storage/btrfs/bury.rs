//! Moving datasets to the graveyard.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{Mark, Role};
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::proof::Burial;
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::pool::{BtrfsPool, Uuid, is_own};
use crate::crash::crash_point;
use crate::storage::contained::{DIRECTORY, open_below};
use crate::storage::names::check_goes_along;
use crate::storage::refusals::{failed, not_ours, taken};

/// The directory that holds the entry of a dataset: the pool's top, or one that was opened.
pub(super) enum Holder<'a> {
    Top(&'a OwnedFd),
    Opened(OwnedFd),
}

impl AsFd for Holder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Top(fd) => fd.as_fd(),
            Self::Opened(fd) => fd.as_fd(),
        }
    }
}

impl BtrfsPool {
    /// The directory that a name lies in, and the name there.
    pub(super) fn holder<'n>(&self, name: &'n PoolPath) -> HostResult<(Holder<'_>, &'n str)> {
        let Some((parent, leaf)) = name.as_str().rsplit_once('/') else {
            return Ok((Holder::Top(&self.top), name.as_str()));
        };
        match open_below(&self.top, parent, DIRECTORY) {
            Ok(fd) => Ok((Holder::Opened(fd), leaf)),
            Err(Errno::NOENT) => Err(HostError::Refused(Refusal::new(
                Code::DatasetNotFound,
                format!("there is no dataset {parent} that {name} could lie in"),
                "make the dataset above it first",
            ))),
            Err(errno) => Err(LookFailed::new(format!("the place of {name}"), errno).into()),
        }
    }

    pub(super) fn move_to_grave(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        let name = burial.dataset();
        if !grave.is_grave() || name.is_grave() || is_own(name) {
            return Err(not_ours(
                name,
                "a dataset is buried from its place, and in the graveyard",
            ));
        }
        let Some(dataset) = self.subvolume(name)? else {
            return self.buried_before(burial, grave);
        };
        let mark = self.own_mark(name, &dataset.uuid)?;
        let lower = self.below(dataset.id, name.as_str())?;
        let marks: Vec<(&Uuid, Mark)> = lower
            .iter()
            .map(|one| Ok((&one.uuid, self.goes_along(&mark, &one.path, &one.uuid)?)))
            .collect::<HostResult<_>>()?;
        // The highest mark is written last, so that what speaks for the whole is never ahead of its parts.
        for (uuid, lower) in marks {
            self.condemn(uuid, lower, burial)?;
            crash_point("bury.after_lower_marks");
        }
        let keep_safe = mark.role != Role::Temporary;
        self.condemn(&dataset.uuid, mark, burial)?;
        crash_point("bury.after_marks");
        self.rename(name, grave)?;
        crash_point("bury.after_rename");
        if keep_safe {
            self.sync()?;
        }
        Ok(Outcome::Changed)
    }

    fn buried_before(&self, burial: &Burial, grave: &PoolPath) -> HostResult<Outcome> {
        let there = self.subvolume_must(burial.dataset());
        let Some(buried) = self.subvolume(grave)? else {
            return there.map(|_| Outcome::Unchanged);
        };
        let mark = self.own_mark(grave, &buried.uuid)?;
        if mark.made_as == *burial.dataset() && mark.condemned_by.as_ref() == Some(burial.by()) {
            return Ok(Outcome::Unchanged);
        }
        there.map(|_| Outcome::Unchanged)
    }

    /// The mark of a dataset below one that is buried, where both are of one owner and kind.
    fn goes_along(&self, above: &Mark, path: &str, uuid: &Uuid) -> HostResult<Mark> {
        let name =
            PoolPath::from_pool(path).ok_or_else(|| not_ours(path, "it has no plain name"))?;
        let mark = self.own_mark(&name, uuid)?;
        check_goes_along(above, &mark, path)?;
        Ok(mark)
    }

    fn condemn(&self, uuid: &Uuid, mut mark: Mark, burial: &Burial) -> HostResult<()> {
        if mark.condemned_by.as_ref() == Some(burial.by()) {
            return Ok(());
        }
        mark.condemned_by = Some(burial.by().clone());
        self.marks.write_mark(uuid, &mark)
    }

    pub(super) fn rename(&self, from: &PoolPath, to: &PoolPath) -> HostResult<()> {
        let (old, old_name) = self.holder(from)?;
        let (new, new_name) = self.holder(to)?;
        let _still = self.hold_shape();
        match renameat_with(&old, old_name, &new, new_name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(HostError::Refused(taken(to))),
            Err(errno) => Err(failed(format!("moving {from} to {to}"), errno)),
        }
    }
}
