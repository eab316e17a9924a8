//! What the pool has promised: the quotas of all persistent datasets, and of those that plans under way are about to make.

use super::{Plan, Step};
use crate::bytes::Bytes;
use crate::documents::Request;
use crate::observed::{DatasetSeen, MarkSeen, Observed, PoolSeen, Role};

/// The quotas of all persistent datasets that the pool has promised, and what is held by contents that were put aside.
pub fn promised(pool: &PoolSeen) -> Bytes {
    let promise = |d: &DatasetSeen| {
        let quota = d.quota.unwrap_or_default();
        match &d.mark {
            MarkSeen::Local(mark) if mark.role == Role::Persistent => quota,
            // Nobody writes there any more.
            MarkSeen::Local(mark) if matches!(mark.role, Role::Replaced | Role::Base) => {
                d.used.unwrap_or(quota)
            }
            _ => Bytes(0),
        }
    };
    pool.datasets
        .iter()
        .filter(|(name, _)| !name.is_grave())
        .fold(Bytes(0), |sum, (_, d)| sum.saturating_add(promise(d)))
}

/// The same, with what others are about to promise.
pub(super) fn promised_with_plans(seen: &Observed) -> Bytes {
    promised(&seen.pool).saturating_add(seen.pending)
}

impl Plan {
    /// What the pool will have promised on top of `pool` once this is carried out; what it gives back does not count.
    pub fn pending_promises(&self, pool: &PoolSeen) -> Bytes {
        let more = |step: &Step| match step {
            Step::CreateDataset { new }
                if matches!(new.mark.role, Role::Persistent | Role::Base) =>
            {
                let is_there = pool.datasets.contains_key(&new.name);
                new.quota.filter(|_| !is_there).unwrap_or_default()
            }
            Step::SetQuota {
                dataset,
                quota_bytes,
            } => {
                let had = pool.datasets.get(dataset).and_then(|d| d.quota);
                quota_bytes.saturating_sub(had.unwrap_or_default())
            }
            Step::Exchange { used_bytes, .. } => *used_bytes,
            _ => Bytes(0),
        };
        let steps = self.steps.iter().map(|planned| more(&planned.step));
        steps.fold(Bytes(0), Bytes::saturating_add)
    }
}

impl Request {
    /// Whether it may make the pool promise more: only one such plan is made at a time, or two could promise the same.
    pub fn may_promise_space(&self) -> bool {
        match self {
            Self::Create { .. } | Self::DatasetCreate { .. } | Self::DatasetSet { .. } => true,
            Self::Reinstall { .. } | Self::Convert { .. } => true,
            Self::Set { change } => change.disk_bytes.is_some(),
            _ => false,
        }
    }
}
