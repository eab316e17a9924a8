//! Snapshots of datasets, and the streams that carry them elsewhere, as plain data.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::ids::{Incarnation, NodeId, OperationId, VpsId};
use crate::names::{PoolPath, SnapshotName};
use crate::observed::Mark;

/// The ownership record of a snapshot. A dataset's mark says nothing of its snapshots: others make some as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotMark {
    /// The node that made it, or received it.
    pub node: NodeId,
    /// The VPS and its incarnation.
    pub owner: (VpsId, Incarnation),
    /// The operation that asked for it.
    pub operation: OperationId,
}

/// Whose a snapshot is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotOf {
    /// A record of our own making, in its place.
    Ours(SnapshotMark),
    /// Somebody else's: it has no record, or one that came with the data.
    Foreign,
    /// A record is there and cannot be read.
    Unreadable(String),
}

/// One snapshot of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSeen {
    /// Its name without the dataset's. One that others made may have any.
    pub name: String,
    /// Whose it is.
    pub of: SnapshotOf,
    /// What it is everywhere: a copy that was received has the same, a snapshot of another moment has not.
    pub guid: u64,
    /// What its removal would free.
    pub unique_bytes: Bytes,
}

/// A snapshot of several datasets of one VPS at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSnapshot {
    /// The datasets; at least one, each once.
    pub datasets: Vec<PoolPath>,
    /// What each of the snapshots is called.
    pub name: SnapshotName,
    /// What each of them bears.
    pub mark: SnapshotMark,
}

/// What is sent: one snapshot of one dataset, whole, or what has changed in it since an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSpec {
    /// The dataset.
    pub dataset: PoolPath,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The earlier snapshot of the same dataset that the receiver has.
    pub from: Option<SnapshotName>,
}

/// Where a stream was cut off. What it says is known to the storage that gave it out and to the one that sends; it is
/// passed on as it is. It is no secret and no proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ResumeToken(pub String);

/// What a stream becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiveSpec {
    /// The name of the dataset. The stream of a whole snapshot makes it; that of changes needs it.
    pub dataset: PoolPath,
    /// The mark that it bears; nothing of the kind is taken from the stream.
    pub mark: Mark,
    /// Its quota; a stream of changes leaves it as it is.
    pub quota: Option<Bytes>,
    /// What the snapshot is called here.
    pub snapshot: SnapshotName,
    /// The mark of the snapshot.
    pub snapshot_mark: SnapshotMark,
    /// The snapshot of the dataset that a stream of changes begins at. The dataset must not have been written to since.
    pub from: Option<SnapshotName>,
}

/// What an interrupted [`receive`](crate::ports::Snapshots::receive) left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Nothing: none was begun, or it was finished or aborted.
    None,
    /// The sender goes on from here.
    Resumable(ResumeToken),
    /// All of it is there: the next [`receive`](crate::ports::Snapshots::receive) has nothing to read.
    Whole,
    /// Something that no stream can go on with; [`abort_receive`](crate::ports::Snapshots::abort_receive) removes it.
    Stuck,
}
