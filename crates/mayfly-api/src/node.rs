//! The node and its pool.

use mayfly_core::bytes::Bytes;
use mayfly_core::documents::PoolSpec;
use mayfly_core::ids::NodeId;
use mayfly_core::network::NodeNetwork;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The node at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// The version of `mayfly serve`.
    pub version: String,
    /// Where its datasets are.
    pub pool: PoolSpec,
    /// How many VPSes it has.
    pub vpses: usize,
    /// How many of them run.
    pub running: usize,
    /// How many of them wait for an operator.
    pub needs_operator: usize,
    /// How many templates it has.
    pub templates: usize,
    /// How many operations are not over.
    pub operations: usize,
    /// Room in the pool; none where it could not be looked at, and `trouble` says why.
    pub space: Option<ShareView>,
    /// Its network; none where it has none. `trouble` says where it is not as it should be.
    #[serde(default)]
    pub network: Option<NodeNetwork>,
    /// What is wrong.
    pub trouble: Vec<String>,
}

/// How the pool's space is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShareView {
    /// Its size.
    pub capacity_bytes: Bytes,
    /// What can still be written.
    pub free_bytes: Bytes,
    /// The quotas of all persistent datasets together.
    pub promised_bytes: Bytes,
    /// `promised_bytes` in hundredths of `capacity_bytes`; above 200 is refused.
    pub promised_percent: u64,
}

/// The pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolView {
    /// Where it is.
    pub pool: PoolSpec,
    /// Its space.
    pub space: ShareView,
    /// All that lies in it.
    pub datasets: Vec<PoolDatasetView>,
    /// Graves that wait to be destroyed.
    pub waiting: Vec<String>,
    /// What is left alone, and why.
    pub reports: Vec<String>,
}

/// One dataset of the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolDatasetView {
    /// Its name, relative to the pool.
    pub dataset: String,
    /// `persistent`, `temporary`, `template`, or why that is not known: `unmarked`, `foreign`, `unreadable`.
    pub role: String,
    /// Its quota.
    pub quota_bytes: Option<Bytes>,
    /// What counts against the quota.
    pub used_bytes: Option<Bytes>,
}
