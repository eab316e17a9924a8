//! Contents that a reinstall put aside, and what the VPS was before it.

use serde::{Deserialize, Serialize};

use super::{Base, VpsDoc};
use crate::bytes::Bytes;
use crate::ids::OperationId;
use crate::names::{DatasetName, PoolPath, TemplateName};
use crate::template::{Manifest, RootKind};

/// What a reinstall replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ReinstallScope {
    /// The system: what the template has.
    Os,
    /// What the VPS keeps beside its system.
    Data,
    /// Both.
    All,
}

impl ReinstallScope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Os, Self::Data, Self::All];

    /// Whether the system is replaced.
    pub fn has_system(self) -> bool {
        self != Self::Data
    }

    /// Whether data beside the system is.
    pub fn has_data(self) -> bool {
        self != Self::Os
    }
}

impl std::fmt::Display for ReinstallScope {
    /// The word for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Os => "os",
            Self::Data => "data",
            Self::All => "all",
        })
    }
}

/// Former contents of one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAside {
    /// The dataset whose contents they were.
    pub dataset: DatasetName,
    /// Where they are now.
    pub aside: PoolPath,
    /// The reinstall that they had come with; none for the first contents.
    pub had: Option<OperationId>,
    /// What they held.
    pub used_bytes: Bytes,
}

/// One reinstall that can be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The reinstall.
    pub by: OperationId,
    /// What it replaced.
    pub scope: ReinstallScope,
    /// When, in milliseconds since 1970; to be shown, not to be counted from.
    pub at_unix_ms: u64,
    /// The name of the template that the VPS was of.
    pub template: TemplateName,
    /// Its base.
    pub base: Base,
    /// The manifest of that.
    pub manifest: Manifest,
    /// What temporary roots were made from, where there were any.
    pub root_kind: Option<RootKind>,
    /// Former contents.
    pub datasets: Vec<PutAside>,
    /// How long they have been kept, in milliseconds of a running host, up to `counted_boot_ms`.
    pub kept_ms: u64,
    /// The kernel's boot in which that was counted last.
    pub counted_boot_id: String,
    /// When, by that boot's clock.
    pub counted_boot_ms: u64,
    /// Why it is kept beyond its days, where it is: somebody's snapshots are not given up by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

impl Replaced {
    /// So long are former contents kept, in milliseconds of a running host.
    pub const KEPT_MS: u64 = 7 * Self::DAY_MS;
    /// So many reinstalls of a VPS can be undone; before one more, somebody gives them up, or goes back.
    pub const AT_MOST: usize = 3;
    /// A day.
    pub const DAY_MS: u64 = 24 * 3600 * 1000;

    /// How long they have been kept by now. Only clocks that do not jump are counted, so that what passed between the last
    /// count and a boot of the host is left out: contents are kept longer then, never shorter. No count adds more than a day,
    /// since it may have begun before they were put aside: an operation can wait that long.
    pub fn kept_by(&self, boot_id: &str, boot_ms: u64) -> u64 {
        let since = match self.counted_boot_id == boot_id {
            true => boot_ms.saturating_sub(self.counted_boot_ms),
            false => 0,
        };
        self.kept_ms.saturating_add(since.min(Self::DAY_MS))
    }

    /// Whether they go, or their age is to be written down: once a day, and after a boot. What is kept beyond its days is looked
    /// at once a day as well.
    pub fn is_due(&self, boot_id: &str, boot_ms: u64) -> bool {
        let kept = self.kept_by(boot_id, boot_ms);
        self.counted_boot_id != boot_id
            || boot_ms < self.counted_boot_ms
            || (kept >= Self::KEPT_MS && self.held_by.is_none())
            || kept - self.kept_ms >= Self::DAY_MS
    }

    /// What they hold together.
    pub fn used_bytes(&self) -> Bytes {
        let used = self.datasets.iter().map(|one| one.used_bytes);
        used.fold(Bytes(0), Bytes::saturating_add)
    }
}

impl VpsDoc {
    /// Whether contents that were put aside are known under this name.
    pub fn knows_replaced(&self, name: &PoolPath) -> bool {
        let mut all = self.replaced.iter().flat_map(|one| &one.datasets);
        all.any(|one| one.aside == *name)
    }
}
