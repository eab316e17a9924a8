//! Quotas: a limit on the subvolume's own simple-quota group.
//!
//! Usage and limit are read from sysfs, which shows what the kernel holds in memory; the tree on disk lags behind by up to
//! a commit. Data that was written and has no extent yet is only reserved there, so it is counted as well.

use std::path::PathBuf;

use mayfly_core::bytes::Bytes;
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::DatasetSeen;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use rustix::io::Errno;

use super::pool::{BtrfsPool, Uuid, failed};
use crate::sys::btrfs as sys;

/// Which accounting a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaMode {
    Off,
    Simple,
    /// Counting by walking back references: a snapshot in a group makes it inconsistent, and limits then do not hold.
    Full,
}

fn groups(uuid: &Uuid) -> PathBuf {
    PathBuf::from(format!("/sys/fs/btrfs/{uuid}/qgroups"))
}

/// `None` when the file is not there.
fn read(path: PathBuf) -> Result<Option<String>, LookFailed> {
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LookFailed::new(path.display().to_string(), error)),
    }
}

pub(super) fn mode(uuid: &Uuid) -> Result<QuotaMode, LookFailed> {
    match read(groups(uuid).join("mode"))?.as_deref() {
        Some("squota") => Ok(QuotaMode::Simple),
        None | Some("disabled") => Ok(QuotaMode::Off),
        Some(_) => Ok(QuotaMode::Full),
    }
}

/// Limit and usage of the subvolume `id`; none without a group.
fn group(uuid: &Uuid, id: u64) -> Result<(Option<Bytes>, Option<Bytes>), LookFailed> {
    let dir = groups(uuid).join(format!("0_{id}"));
    let number = |name: &str| -> Result<Option<u64>, LookFailed> {
        let Some(text) = read(dir.join(name))? else { return Ok(None) };
        text.parse().map(Some).map_err(|e| LookFailed::new(dir.join(name).display().to_string(), e))
    };
    let limited = number("limit_flags")?.unwrap_or(0) & 1 != 0;
    let limit = number("max_referenced")?.filter(|max| limited && *max < u64::MAX);
    let used = match (number("referenced")?, number("rsv_data")?) {
        (Some(written), pending) => Some(written.saturating_add(pending.unwrap_or(0))),
        (None, _) => None,
    };
    Ok((limit.map(Bytes), used.map(Bytes)))
}

impl BtrfsPool {
    pub(super) fn seen(&self, id: u64, uuid: &Uuid) -> Result<DatasetSeen, LookFailed> {
        let (quota, used) = group(&self.uuid, id)?;
        Ok(DatasetSeen { mark: self.marks.mark(uuid), quota, used })
    }

    pub(super) fn limit(&self, name: &PoolPath, id: u64, quota: Bytes) -> HostResult<()> {
        sys::set_limit(&self.top, id, quota.0).map_err(|e| failed(format!("setting the quota of {name}"), e))
    }

    pub(super) fn change_quota(&self, name: &PoolPath, quota: Bytes) -> HostResult<Outcome> {
        let dataset = self.subvolume_must(name)?;
        self.own_mark(name, &dataset.uuid)?;
        let (now, used) = group(&self.uuid, dataset.id)?;
        if now == Some(quota) {
            return Ok(Outcome::Unchanged);
        }
        let used = used.ok_or_else(|| LookFailed::new(format!("the usage of {name}"), "it has no quota group"))?;
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
        self.dropped().retain(|id| match sys::destroy_qgroup(&self.top, *id) {
            Ok(()) | Err(Errno::NOENT) => false,
            Err(errno) => {
                tracing::debug!(id, %errno, "a quota group stays for now");
                true
            }
        });
    }
}
