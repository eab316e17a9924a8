//! Making datasets: intent, subvolume in the staging area, contents, quota, mark, rename into place.
//!
//! The rename is what makes the dataset appear: it is complete from its first moment on. What a kill leaves before that
//! lies in the staging area under a recorded name, and the next call of the same name begins anew.

use std::os::fd::AsFd;

use mayfly_core::error::LookFailed;
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{MarkSeen, Role};
use mayfly_core::ports::{HostError, HostResult, NewDataset, Origin, Outcome};
use rustix::fs::{RenameFlags, renameat_with};
use rustix::io::Errno;

use super::pool::{BtrfsPool, PRIVATE, Subvolume, TEMPLATES, TRASH, is_own};
use crate::crash::crash_point;
use crate::storage::contained::{DIRECTORY, make_directory, names_in, open_below};
use crate::storage::copy::is_whole;
use crate::storage::names::{check_new, check_parent, staged_name};
use crate::storage::records::Intent;
use crate::storage::refusals::{failed, not_ours, taken};
use crate::storage::removal::remove_tree;
use crate::sys::btrfs as sys;

impl BtrfsPool {
    pub(super) fn create(&self, new: &NewDataset) -> HostResult<Outcome> {
        let reserved = is_own(&new.name) || [TRASH, TEMPLATES].contains(&new.name.as_str());
        check_new(new, &self.node, reserved)?;
        if let Some(there) = self.subvolume(&new.name)? {
            return self.created_before(new, &there);
        }
        let action = || format!("creating dataset {}", new.name);
        self.check_room(&action())?;
        let claim = self.claim(&staged_name(&new.name))?;
        self.remove_staged(&claim.staged)?;
        self.check_parent(new)?;
        self.intents.write_intent(
            &claim.staged,
            &Intent::new(self.node.clone(), Some(new.name.clone())),
        )?;
        crash_point("create.after_intent");
        let made = self
            .make_staged(new, &claim.staged)
            .and_then(|()| self.put_into_place(new, &claim.staged));
        if let Err(error) = made {
            if let Err(left) = self.remove_staged(&claim.staged) {
                tracing::warn!(dataset = %new.name, %left, "what was begun is left in the staging area");
            }
            return Err(error);
        }
        crash_point("create.after_rename");
        if new.mark.role != Role::Temporary {
            self.sync()?;
        }
        self.intents.remove(&claim.staged)?;
        Ok(Outcome::Changed)
    }

    fn created_before(&self, new: &NewDataset, there: &Subvolume) -> HostResult<Outcome> {
        match self.marks.mark(&there.uuid) {
            MarkSeen::Local(mark) if mark == new.mark => {
                let staged = staged_name(&new.name);
                if self.intents.intent(&staged)?.is_some() {
                    self.remove_staged(&staged)?;
                    self.sync()?;
                }
                Ok(Outcome::Unchanged)
            }
            MarkSeen::Unreadable(why) => {
                Err(LookFailed::new(format!("the mark of {}", new.name), why).into())
            }
            MarkSeen::Local(_) | MarkSeen::NotLocal | MarkSeen::Unset => {
                Err(taken(&new.name).into())
            }
        }
    }

    /// A dataset lies at the pool's top, among the templates, or in a dataset of the same owner.
    fn check_parent(&self, new: &NewDataset) -> HostResult<()> {
        let Some((parent, _)) = new.name.as_str().rsplit_once('/') else {
            return Ok(());
        };
        if parent == TEMPLATES {
            return Ok(());
        }
        let parent = PoolPath::from_pool(parent)
            .ok_or_else(|| not_ours(&new.name, "it has no plain name"))?;
        let above = self.subvolume_must(&parent)?;
        check_parent(&parent, &self.own_mark(&parent, &above.uuid)?, new)
    }

    fn make_staged(&self, new: &NewDataset, staged: &str) -> HostResult<()> {
        let action = || format!("creating dataset {}", new.name);
        let dataset = match &new.origin {
            Origin::Empty => self
                .stage_empty(&self.staging, staged)
                .map_err(|e| failed(action(), e))?,
            Origin::Clone(source) => self.stage_clone(source, staged)?,
        };
        crash_point("create.after_contents");
        if let Some(quota) = new.quota {
            self.limit(&new.name, dataset.id, quota)?;
        }
        crash_point("create.after_quota");
        self.marks.write_mark(&dataset.uuid, &new.mark)?;
        crash_point("create.after_mark");
        Ok(())
    }

    /// An empty subvolume with an empty `private`.
    pub(super) fn stage_empty(&self, dir: impl AsFd, name: &str) -> rustix::io::Result<Subvolume> {
        sys::create_subvolume(&dir, name)?;
        crash_point("create.after_subvolume");
        let dataset = opened(&dir, name)?;
        make_directory(&dataset.fd, PRIVATE)?;
        Ok(dataset)
    }

    fn stage_clone(&self, source: &PoolPath, staged: &str) -> HostResult<Subvolume> {
        let from = self.subvolume_must(source)?;
        let mark = self.own_mark(source, &from.uuid)?;
        if mark.role == Role::Base && !is_whole(&from.fd)? {
            let what = format!("the contents of {source}");
            return Err(LookFailed::new(what, "they are not whole").into());
        }
        let clone = || -> rustix::io::Result<Subvolume> {
            sys::create_snapshot(&from.fd, &self.staging, staged)?;
            crash_point("create.after_subvolume");
            let dataset = opened(&self.staging, staged)?;
            // What lies beside `private` is the platform's: records, the empty stubs of nested datasets, and what was taken
            // out of the guest's tree.
            for name in names_in(&dataset.fd)?
                .iter()
                .filter(|name| *name != PRIVATE)
            {
                remove_tree(&dataset.fd, name)?;
            }
            open_below(&dataset.fd, PRIVATE, DIRECTORY)?;
            Ok(dataset)
        };
        clone().map_err(|e| failed(format!("cloning dataset {source}"), e))
    }

    fn put_into_place(&self, new: &NewDataset, staged: &str) -> HostResult<()> {
        let (holder, leaf) = self.holder(&new.name)?;
        let _still = self.hold_shape();
        match renameat_with(&self.staging, staged, &holder, leaf, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(HostError::Refused(taken(&new.name))),
            Err(errno) => Err(failed(
                format!("moving dataset {} into place", new.name),
                errno,
            )),
        }
    }
}

fn opened(dir: impl AsFd, name: &str) -> rustix::io::Result<Subvolume> {
    super::pool::open_subvolume(dir, name)?.ok_or(Errno::NOENT)
}
