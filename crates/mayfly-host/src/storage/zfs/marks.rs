//! Ownership: local user properties of datasets.
//!
//! Only a property that was set on the very dataset counts. One that is inherited speaks of the dataset above, one that was
//! received came with somebody's stream.

use mayfly_core::bytes::Bytes;
use mayfly_core::ids::{NodeId, OperationId};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::{DatasetSeen, Mark, MarkSeen};
use mayfly_core::ports::{HostError, HostResult};
use serde::{Deserialize, Serialize};

use super::listing::{BadListing, Property, Row, Source};

/// Whose a dataset is: a [`Mark`] as JSON, without its condemnation.
pub(super) const MARK: &str = "mayfly:mark";
/// The operation that gave it up for destruction.
pub(super) const CONDEMNED: &str = "mayfly:condemned";
/// What a temporary root shares with the snapshot that it was made from, in bytes. ZFS counts it against the refquota,
/// Mayfly does not.
pub(super) const SHARED: &str = "mayfly:shared";
/// Whose pool it is: a [`PoolRecord`] as JSON, on the pool's own dataset.
pub(super) const POOL: &str = "mayfly:pool";

/// All that [`seen`] needs.
pub(super) const OF_A_DATASET: [&str; 7] = [
    "name",
    MARK,
    CONDEMNED,
    SHARED,
    "refquota",
    "referenced",
    "origin",
];

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct MarkRecord {
    version: u32,
    mark: Mark,
}

/// What a pool's own dataset says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolRecord {
    pub(super) version: u32,
    pub(super) node: NodeId,
}

impl PoolRecord {
    pub(super) fn of(node: &NodeId) -> Self {
        Self {
            version: VERSION,
            node: node.clone(),
        }
    }

    /// The record in a property that was set on the dataset itself.
    pub(super) fn read(property: &Property) -> Result<Self, String> {
        let record: Self = serde_json::from_str(&property.value).map_err(|e| e.to_string())?;
        if record.version == VERSION {
            Ok(record)
        } else {
            Err(format!(
                "its version is {}, known is {VERSION}",
                record.version
            ))
        }
    }
}

/// The property that says whose a new dataset is.
pub(super) fn written(mark: &Mark) -> HostResult<String> {
    let record = MarkRecord {
        version: VERSION,
        mark: Mark {
            condemned_by: None,
            ..mark.clone()
        },
    };
    let text = serde_json::to_string(&record)
        .map_err(|e| HostError::failed(format!("writing the mark of {}", mark.made_as), e))?;
    Ok(format!("{MARK}={text}"))
}

/// The mark of a dataset.
pub(super) fn mark_in(row: &Row) -> MarkSeen {
    let Some(property) = row.get(MARK) else {
        return MarkSeen::Unset;
    };
    if property.source != Source::Local {
        return MarkSeen::NotLocal;
    }
    let mut mark = match serde_json::from_str::<MarkRecord>(&property.value) {
        Ok(record) if record.version == VERSION => record.mark,
        Ok(record) => {
            return MarkSeen::Unreadable(format!(
                "its version is {}, known is {VERSION}",
                record.version
            ));
        }
        Err(error) => return MarkSeen::Unreadable(error.to_string()),
    };
    if mark.condemned_by.is_some() {
        return MarkSeen::Unreadable("it has a condemnation where none belongs".to_owned());
    }
    // A condemnation counts where it was set as well: that of the dataset above says nothing of this one.
    if let Some(condemned) = row.get(CONDEMNED).filter(|p| p.source == Source::Local) {
        match condemned.value.parse::<OperationId>() {
            Ok(operation) => mark.condemned_by = Some(operation),
            Err(error) => return MarkSeen::Unreadable(format!("its condemnation: {error}")),
        }
    }
    MarkSeen::Local(mark)
}

/// What a clone shares with its origin.
pub(super) fn shared(row: &Row) -> Result<u64, BadListing> {
    match row.get(SHARED) {
        Some(property) if property.source == Source::Local => row.number(SHARED),
        _ => Ok(0),
    }
}

/// A dataset of the pool whose own name is given, from its row and the names of its snapshots.
pub(super) fn seen(
    pool: &str,
    row: &Row,
    snapshots: Vec<String>,
) -> Result<DatasetSeen, BadListing> {
    let origin = row.get("origin").and_then(|origin| {
        let (dataset, _) = origin.value.rsplit_once('@')?;
        PoolPath::from_pool(dataset.strip_prefix(pool)?.strip_prefix('/')?)
    });
    let shared = shared(row)?;
    // A volume has neither.
    let number = |name: &str| row.get(name).map(|_| row.number(name)).transpose();
    let own = |bytes: u64| Bytes(bytes.saturating_sub(shared));
    Ok(DatasetSeen {
        mark: mark_in(row),
        quota: number("refquota")?.filter(|quota| *quota != 0).map(own),
        used: number("referenced")?.map(own),
        snapshots,
        origin,
    })
}
