//! Quotas: a limit on the subvolume's own simple-quota group.
//!
//! Usage and limit are read from sysfs, which shows what the kernel holds in memory; the tree on disk lags behind by up to
//! a commit. Data that was written and has no extent yet is only reserved there, so it is counted as well.

use std::os::fd::OwnedFd;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::DatasetSeen;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::pool::{BtrfsPool, Uuid};
use crate::storage::contained::DIRECTORY;
use crate::storage::refusals::failed;
use crate::sys::btrfs as sys;

/// Which accounting a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaMode {
    Off,
    Simple,
    /// Counting by walking back references: a snapshot in a group makes it inconsistent, and limits then do not hold.
    Full,
}

fn sysfs(uuid: &Uuid) -> String {
    format!("/sys/fs/btrfs/{uuid}/qgroups")
}

pub(super) fn mode(uuid: &Uuid) -> Result<QuotaMode, LookFailed> {
    let path = format!("{}/mode", sysfs(uuid));
    match std::fs::read_to_string(&path).as_deref().map(str::trim) {
        Ok("squota") => Ok(QuotaMode::Simple),
        Ok("disabled") => Ok(QuotaMode::Off),
        Ok(_) => Ok(QuotaMode::Full),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(QuotaMode::Off),
        Err(error) => Err(LookFailed::new(path, error)),
    }
}

/// The quota groups of a file system.
pub(super) struct Groups(OwnedFd);

impl Groups {
    pub(super) fn open(uuid: &Uuid) -> Result<Self, LookFailed> {
        let path = sysfs(uuid);
        let opened = rustix::fs::open(&path, DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        opened.map(Self).map_err(|e| LookFailed::new(path, e))
    }

    /// Limit and usage of the subvolume `id`; none where there is no limit, or no group.
    fn of(&self, id: u64) -> Result<(Option<Bytes>, Option<Bytes>), LookFailed> {
        let Some(written) = self.number(id, "referenced")? else {
            return Ok((None, None));
        };
        let pending = self.number(id, "rsv_data")?.unwrap_or(0);
        // A group without a limit shows 0.
        let limit = self
            .number(id, "max_referenced")?
            .filter(|max| *max != 0 && *max != u64::MAX);
        Ok((
            limit.map(Bytes),
            Some(Bytes(written.saturating_add(pending))),
        ))
    }

    /// `None` when the file is not there. A listing reads thousands of these: one buffer, three system calls.
    fn number(&self, id: u64, name: &str) -> Result<Option<u64>, LookFailed> {
        let path = format!("0_{id}/{name}");
        let look = |why: String| LookFailed::new(format!("the quota {path}"), why);
        let file = match openat(
            &self.0,
            &path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(look(errno.to_string())),
        };
        let mut text = [0; 32];
        let length = match rustix::io::read(&file, &mut text) {
            Ok(length) => length,
            // It went with its subvolume between the two calls.
            Err(Errno::NODEV) => return Ok(None),
            Err(errno) => return Err(look(errno.to_string())),
        };
        let text = String::from_utf8_lossy(&text[..length]);
        text.trim()
            .parse()
            .map(Some)
            .map_err(|e| look(format!("{e}")))
    }
}

impl BtrfsPool {
    pub(super) fn seen(
        &self,
        groups: &Groups,
        id: u64,
        uuid: &Uuid,
    ) -> Result<DatasetSeen, LookFailed> {
        let (quota, used) = groups.of(id)?;
        Ok(DatasetSeen {
            mark: self.marks.mark(uuid),
            quota,
            used,
            snapshots: Vec::new(),
            origin: None,
        })
    }

    pub(super) fn limit(&self, name: &PoolPath, id: u64, quota: Bytes) -> HostResult<()> {
        sys::set_limit(&self.top, id, quota.0)
            .map_err(|e| failed(format!("setting the quota of {name}"), e))
    }

    pub(super) fn change_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        let dataset = self.subvolume_must(name)?;
        self.own_mark(name, &dataset.uuid)?;
        let (now, used) = Groups::open(&self.uuid)?.of(dataset.id)?;
        if now == Some(quota) {
            return Ok(Outcome::Unchanged);
        }
        let used = used.ok_or_else(|| {
            LookFailed::new(format!("the usage of {name}"), "it has no quota group")
        })?;
        if quota < used {
            return Err(HostError::Refused(Refusal::new(
                Code::QuotaBelowUse,
                format!("dataset {name} holds {used}; a quota of {quota} is less than that"),
                "ask for more, or delete something in it first (snapshots keep what was deleted)",
            )));
        }
        self.limit(name, dataset.id, quota)?;
        self.sync()?;
        Ok(Outcome::Changed)
    }

    /// Removes quota groups that outlived the subvolumes which this process destroyed: kernels before 6.10 leave them
    /// behind. No failure matters; a group that is still charged, until the cleaner has been there, is tried again later.
    pub(super) fn collect_groups(&self) {
        self.dropped()
            .retain(|id| match sys::destroy_qgroup(&self.top, *id) {
                Ok(()) | Err(Errno::NOENT) => false,
                Err(errno) => {
                    tracing::debug!(id, %errno, "a quota group stays for now");
                    true
                }
            });
    }
}
