//! Disk space of a VPS: each dataset takes its quota from it, and the sum never exceeds it.

use crate::bytes::Bytes;
use crate::documents::{Dataset, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::DatasetName;

/// Disk space that no dataset has taken.
pub fn unassigned(doc: &VpsDoc) -> Bytes {
    doc.disk_bytes.saturating_sub(total(&doc.datasets))
}

/// The quotas of these datasets together.
pub fn total(datasets: &[Dataset]) -> Bytes {
    datasets
        .iter()
        .fold(Bytes(0), |sum, d| sum.saturating_add(d.quota_bytes))
}

/// Refuses where `want` for the dataset `name` (new, or there already) does not fit.
pub fn check_fits(doc: &VpsDoc, name: &DatasetName, want: Bytes) -> Result<(), Refusal> {
    let had = doc.dataset(name).map_or(Bytes(0), |d| d.quota_bytes);
    let free = unassigned(doc).saturating_add(had);
    if want <= free {
        return Ok(());
    }
    let largest = doc
        .datasets
        .iter()
        .filter(|d| d.name != *name)
        .max_by_key(|d| d.quota_bytes);
    let missing = want.saturating_sub(free);
    let hint = match largest {
        Some(d) if d.quota_bytes >= missing.saturating_add(Bytes::mib(64)) => format!(
            "shrink another dataset first: mayfly dataset set {} quota={}",
            shown(doc, &d.name),
            typed(d.quota_bytes.saturating_sub(missing))
        ),
        _ => format!("ask for {} at most", typed(free)),
    };
    Err(Refusal::new(
        Code::DiskSpace,
        format!(
            "VPS {}: dataset {} wants {want}, and {free} of its disk space of {} are free",
            doc.title(),
            shown(doc, name),
            doc.disk_bytes
        ),
        hint,
    ))
}

/// Refuses disk space below what the datasets have of it.
pub fn check_disk(doc: &VpsDoc, disk: Bytes) -> Result<(), Refusal> {
    let taken = total(&doc.datasets);
    if taken <= disk {
        return Ok(());
    }
    let missing = taken.saturating_sub(disk);
    let largest = doc.datasets.iter().max_by_key(|d| d.quota_bytes);
    let hint = match largest {
        Some(d) if d.quota_bytes >= missing.saturating_add(Bytes::mib(64)) => format!(
            "shrink one first: mayfly dataset set {} quota={}",
            shown(doc, &d.name),
            typed(d.quota_bytes.saturating_sub(missing))
        ),
        _ => format!(
            "shrink or destroy datasets first, see `mayfly dataset list {}`; or ask for {}M at least",
            doc.id,
            taken.0.div_ceil(1 << 20)
        ),
    };
    Err(Refusal::new(
        Code::DiskSpace,
        format!(
            "VPS {}: its datasets have quotas of {taken} together, more than disk space of {disk}; {} of the {} that it \
             has are free",
            doc.title(),
            unassigned(doc),
            doc.disk_bytes
        ),
        hint,
    ))
}

/// A dataset as a person writes it: `11327` or `11327/nix`.
pub fn shown(doc: &VpsDoc, name: &DatasetName) -> String {
    if name.is_root() {
        doc.id.to_string()
    } else {
        format!("{}/{name}", doc.id)
    }
}

/// Rounded down, as it can be typed: whole units only.
fn typed(bytes: Bytes) -> String {
    let mib = bytes.0 >> 20;
    if mib % 1024 == 0 {
        format!("{}G", mib / 1024)
    } else {
        format!("{mib}M")
    }
}

/// All quotas of a pool together may be at most twice its capacity.
pub fn check_pool(capacity: Bytes, assigned: Bytes, more: Bytes) -> Result<(), Refusal> {
    let after = assigned.saturating_add(more);
    if u128::from(after.0) <= u128::from(capacity.0) * 2 {
        return Ok(());
    }
    Err(Refusal::new(
        Code::PoolFull,
        format!(
            "the pool has {capacity}; quotas of {assigned} are promised already, and {more} more would be over 200 %"
        ),
        "ask for less disk space, or enlarge the pool",
    ))
}
