//! Copying trees, and taking directories out of them.
//!
//! A base gets what a template has from its birth once it has its contents: it cannot be written to any more, and has the
//! snapshot that clones are made from.

use std::os::fd::OwnedFd;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::LookFailed;
use mayfly_core::names::PoolPath;
use mayfly_core::observed::Role;
use mayfly_core::ports::{Cancel, HostResult, Outcome};
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopied, TreeCopy};

use super::create::BASE;
use super::marks;
use super::mount::mount_detached;
use super::pool::{ZfsPool, absent};
use super::preflight::zpool_of;
use crate::crash::crash_point;
use crate::storage::contained::{DIRECTORY, open_below};
use crate::storage::copy::{Blocks, Copying};
use crate::storage::taken::take_out;

impl ZfsPool {
    pub(super) fn copy(
        &self,
        copy: &TreeCopy,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&str),
    ) -> HostResult<TreeCopied> {
        let (from, to) = (self.whole(&copy.from), self.whole(&copy.to));
        let snapshot = format!("{to}@{BASE}");
        let seen = self.rows(&[&from, &to, &snapshot])?;
        let mark = |name: &PoolPath, whole: &str| {
            let row = seen.rows.get(whole).ok_or_else(|| absent(name))?;
            self.own_mark(row)
        };
        copy.check_from(&mark(&copy.from, &from)?)?;
        let role = mark(&copy.to, &to).and_then(|mark| {
            copy.check_to(&mark)?;
            Ok(mark.role)
        })?;
        seen.check_room(&format!("copying into dataset {}", copy.to))?;
        let saved = self.saved_by_sharing()?;
        let copying = Copying {
            copy,
            from: self.private(&copy.from)?,
            to: self.top(&copy.to)?,
            blocks: Blocks::Shared,
            sync: &|| self.sync_within_quota(copy),
            cancel,
            progress,
        };
        let copied = copying.run()?;
        let is_kept =
            role != Role::Base || self.keep_base(&to, seen.rows.contains_key(&snapshot))?;
        let bytes = copied.unwrap_or_default();
        let shared = match copied {
            // Others copy as well: what they shared meanwhile is none of it.
            Some(_) => Bytes(self.saved_by_sharing()?.saturating_sub(saved)).min(bytes),
            None => Bytes(0),
        };
        Ok(TreeCopied {
            outcome: match copied {
                None if is_kept => Outcome::Unchanged,
                _ => Outcome::Changed,
            },
            copied: bytes.saturating_sub(shared),
            shared,
        })
    }

    /// A quota holds from one transaction to the next: what was written within one may be more than it allows.
    fn sync_within_quota(&self, copy: &TreeCopy) -> HostResult<()> {
        self.sync()?;
        let look = |e| LookFailed::new(format!("the usage of {}", copy.to), e);
        let row = self.row_must(&copy.to)?;
        let seen = marks::seen(&self.dataset, &row, Vec::new()).map_err(look)?;
        match (seen.quota, seen.used) {
            (Some(quota), Some(used)) if used > quota => Err(copy.too_large().into()),
            _ => Ok(()),
        }
    }

    /// Keeps the contents of a base as they are; whether it was so already.
    fn keep_base(&self, whole: &str, has_snapshot: bool) -> HostResult<bool> {
        if has_snapshot {
            return Ok(true);
        }
        let action = || format!("keeping {whole} as it is");
        self.zfs
            .run(["set", "readonly=on", whole])
            .map_err(|f| f.of_change(&action(), whole))?;
        crash_point("copy.after_readonly");
        let snapshot = format!("{whole}@{BASE}");
        self.zfs
            .run(["snapshot", &snapshot])
            .map_err(|f| f.of_change(&action(), &snapshot))?;
        crash_point("copy.after_snapshot");
        Ok(false)
    }

    /// The bytes that shared blocks save in the zpool; 0 where it shares none.
    fn saved_by_sharing(&self) -> HostResult<u64> {
        let zpool = zpool_of(&self.dataset);
        // Versions without shared blocks have no such property and say so.
        let Ok(out) = self
            .zfs
            .run_zpool(["get", "-H", "-p", "-o", "value", "bclonesaved", zpool])
        else {
            return Ok(0);
        };
        Ok(out.text().trim().parse().unwrap_or(0))
    }

    /// The top of a dataset, with what lies beside its contents.
    fn top(&self, name: &PoolPath) -> HostResult<OwnedFd> {
        let look = |e| LookFailed::new(format!("the top of dataset {name}"), e);
        let mount = mount_detached(&self.whole(name)).map_err(look)?;
        open_below(mount, ".", DIRECTORY).map_err(|e| look(e).into())
    }

    pub(super) fn take(&self, what: &TakenOut, to: TakeTo) -> HostResult<Outcome> {
        what.check(&self.own_mark(&self.row_must(&what.dataset)?)?)?;
        let outcome = take_out(&self.top(&what.dataset)?, what, to)?;
        // Also where an earlier call did it: that one may not have come so far.
        self.sync()?;
        Ok(outcome)
    }
}
