//! Making datasets: intent, dataset in the staging area with its mark, contents, rename into place.
//!
//! The rename is what makes the dataset appear: it is complete from its first moment on. `zfs create` is not one step: a
//! power failure may keep the dataset and lose the properties that came with it. What a kill leaves before the rename lies
//! in the staging area under a recorded name, and the next call of the same name begins anew.
//!
//! Intents are files of the same zpool. Each of the commands waits for the transaction group that it is in, and what was
//! written before is in that one or an earlier one: so an intent is on the disks before its dataset, without an fsync.

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{MarkSeen, Role};
use mayfly_core::ports::{HostError, HostResult, NewDataset, Origin, Outcome};
use rustix::fs::{Mode, fchmod};

use super::command::Trouble;
use super::listing::Row;
use super::marks::{self, SHARED};
use super::mount::{PRIVATE, mount_detached};
use super::pool::{STAGING, Seen, TEMPLATES, ZfsPool, absent, is_own};
use crate::crash::crash_point;
use crate::storage::contained::{DIRECTORY, make_directory, open_below};
use crate::storage::names::{check_new, check_parent, staged_name};
use crate::storage::records::Intent;
use crate::storage::refusals::{failed, not_ours, taken};

/// The snapshot that each part of a template has, and a VPS's own base, which clones are made from.
pub(super) const BASE: &str = "base";

impl ZfsPool {
    pub(super) fn create(&self, new: &NewDataset) -> HostResult<Outcome> {
        check_new(new, &self.node, is_own(&new.name))?;
        let whole = self.whole(&new.name);
        let claim = self.claims.claim(&staged_name(&new.name))?;
        let staged = self.staged(&claim.staged);
        let parent = parent_of(new)?;
        let source = match &new.origin {
            Origin::Empty => None,
            Origin::Clone(source) => Some(self.whole(source)),
        };
        // One look at all that matters: every command takes about as long as the cloning itself.
        let base = source.as_ref().map(|source| format!("{source}@{BASE}"));
        let above = parent.as_ref().map(|parent| self.whole(parent));
        let names = [
            Some(&whole),
            Some(&staged),
            above.as_ref(),
            source.as_ref(),
            base.as_ref(),
        ];
        let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
        let mut seen = self.rows(&names)?;
        if let Some(there) = seen.rows.get(&whole) {
            return self.created_before(new, there, &claim.staged);
        }
        seen.check_room(&format!("creating dataset {}", new.name))?;
        if seen.rows.contains_key(&staged) || self.intents.intent(&claim.staged)?.is_some() {
            self.remove_staged(&claim.staged)?;
        }
        if let (Some(parent), Some(above)) = (&parent, &above) {
            let row = seen.rows.get(above).ok_or_else(|| absent(parent))?;
            check_parent(parent, &self.own_mark(row)?, new)?;
        }
        self.intents.write_intent(
            &claim.staged,
            &Intent::new(self.node.clone(), Some(new.name.clone())),
        )?;
        crash_point("create.after_intent");
        let made = self
            .make_staged(new, &staged, &mut seen)
            .and_then(|()| self.put_into_place(&staged, &new.name));
        if let Err(error) = made {
            if let Err(left) = self.remove_staged(&claim.staged) {
                tracing::warn!(dataset = %new.name, %left, "what was begun is left in the staging area");
            }
            return Err(error);
        }
        crash_point("create.after_rename");
        self.intents.remove(&claim.staged)?;
        Ok(Outcome::Changed)
    }

    /// The whole name of something in the staging area.
    pub(super) fn staged(&self, staged: &str) -> String {
        format!("{}/{STAGING}/{staged}", self.dataset)
    }

    fn created_before(&self, new: &NewDataset, there: &Row, staged: &str) -> HostResult<Outcome> {
        match marks::mark_in(there) {
            MarkSeen::Local(mark) if mark == new.mark => {
                if self.intents.intent(staged)?.is_some() {
                    self.remove_staged(staged)?;
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

    fn make_staged(&self, new: &NewDataset, staged: &str, seen: &mut Seen) -> HostResult<()> {
        let mut options = vec!["mountpoint=legacy".to_owned(), marks::written(&new.mark)?];
        if new.mark.role == Role::Temporary {
            options.push("com.sun:auto-snapshot=false".to_owned());
        }
        match &new.origin {
            Origin::Empty => {
                options.extend(new.quota.map(|quota| format!("refquota={}", quota.0)));
                self.stage_empty(new, staged, &options)
            }
            Origin::Clone(source) => self.stage_clone(new, source, staged, options, seen),
        }
    }

    fn stage_empty(&self, new: &NewDataset, staged: &str, options: &[String]) -> HostResult<()> {
        let action = format!("creating dataset {}", new.name);
        self.make_empty(&action, staged, options)?;
        crash_point("create.after_contents");
        Ok(())
    }

    /// An empty dataset with an empty `private`.
    pub(super) fn make_empty(
        &self,
        action: &str,
        staged: &str,
        options: &[String],
    ) -> HostResult<()> {
        let options = options.iter().flat_map(|option| ["-o", option]);
        self.zfs
            .run(["create", "-u"].into_iter().chain(options).chain([staged]))
            .map_err(|f| f.of_change(action, staged))?;
        crash_point("create.after_subvolume");
        let fill = || -> rustix::io::Result<()> {
            let top = open_below(mount_detached(staged)?, ".", DIRECTORY)?;
            fchmod(&top, Mode::RWXU)?;
            make_directory(&top, PRIVATE).map(drop)
        };
        fill().map_err(|errno| failed(action, errno))
    }

    fn stage_clone(
        &self,
        new: &NewDataset,
        source: &PoolPath,
        staged: &str,
        mut options: Vec<String>,
        seen: &mut Seen,
    ) -> HostResult<()> {
        let action = format!("cloning dataset {source}");
        let from = self.whole(source);
        let row = seen.rows.get(&from).ok_or_else(|| absent(source))?;
        let mark = self.own_mark(row)?;
        // A template has had its snapshot from its birth, a base since it has its contents. Anything else gets one that goes with the last clone of it.
        let lasting = matches!(mark.role, Role::Template | Role::Base);
        let snapshot = if lasting {
            format!("{from}@{BASE}")
        } else {
            let leaf = staged.rsplit('/').next().unwrap_or_default();
            let snapshot = format!("{from}@mayfly-{leaf}");
            match self.zfs.run(["snapshot", &snapshot]) {
                Ok(_) => {}
                // A call that was cut off made it.
                Err(failure) if failure.trouble() == Trouble::Taken => {}
                Err(failure) => return Err(failure.of_change(&action, &snapshot)),
            }
            snapshot
        };
        if !lasting {
            seen.rows.extend(self.rows(&[&snapshot])?.rows);
        }
        let look = |why: String| LookFailed::new(&snapshot, why);
        let row = seen.rows.get(&snapshot);
        let row = row.ok_or_else(|| look("it is not there".to_owned()))?;
        let shared = row.number("referenced").map(Bytes);
        let shared = shared.map_err(|e| look(e.to_string()))?;
        match (new.mark.role, new.quota) {
            // What a root shares with its template is nobody's disk space.
            (Role::Temporary, quota) => {
                let limit = quota.map(|quota| quota.saturating_add(shared));
                options.extend(limit.map(|limit| format!("refquota={}", limit.0)));
                options.push(format!("{SHARED}={}", shared.0));
            }
            (_, Some(quota)) if quota < shared => return Err(too_small(new, quota, shared)),
            (_, quota) => options.extend(quota.map(|quota| format!("refquota={}", quota.0))),
        }
        let options = options.iter().flat_map(|option| ["-o", option]);
        self.zfs
            .run(
                ["clone"]
                    .into_iter()
                    .chain(options)
                    .chain([&*snapshot, staged]),
            )
            .map_err(|f| f.of_change(&action, staged))?;
        crash_point("create.after_subvolume");
        if !lasting {
            self.zfs
                .run(["destroy", "-d", &snapshot])
                .map_err(|f| f.of_change(&action, &snapshot))?;
        }
        crash_point("create.after_contents");
        Ok(())
    }

    /// Gives what was staged its name.
    pub(super) fn put_into_place(&self, staged: &str, name: &PoolPath) -> HostResult<()> {
        self.rename(staged, name, &format!("moving dataset {name} into place"))
    }

    /// Renames a dataset. Nothing is mounted or unmounted by it.
    pub(super) fn rename(&self, whole: &str, to: &PoolPath, action: &str) -> HostResult<()> {
        let _alone = self.change_shape();
        match self.zfs.run(["rename", "-u", whole, &self.whole(to)]) {
            Ok(_) => Ok(()),
            Err(failure) if failure.trouble() == Trouble::Taken => {
                Err(HostError::Refused(taken(to)))
            }
            Err(failure) => Err(failure.of_change(action, whole)),
        }
    }
}

/// The dataset that a new one lies in; none at the pool's top and among the templates.
pub(super) fn parent_of(new: &NewDataset) -> HostResult<Option<PoolPath>> {
    match new.name.as_str().rsplit_once('/') {
        None | Some((TEMPLATES, _)) => Ok(None),
        Some((parent, _)) => PoolPath::from_pool(parent)
            .map(Some)
            .ok_or_else(|| not_ours(&new.name, "it has no plain name")),
    }
}

fn too_small(new: &NewDataset, quota: Bytes, shared: Bytes) -> HostError {
    HostError::Refused(Refusal::new(
        Code::DiskSpace,
        format!(
            "dataset {} would have a quota of {quota}, and what it starts with holds {shared}",
            new.name
        ),
        "give the VPS more disk space: on ZFS a quota counts what `du` shows",
    ))
}
