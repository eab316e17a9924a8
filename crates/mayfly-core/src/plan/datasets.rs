//! Datasets of a VPS that is there: make, resize, destroy.

use super::live::{Live, refuse_remains};
use super::mounts::{check_mount, mount_order};
use super::parts::{bury_data, check_quota, create_dataset, no_such_dataset, record};
use super::promises::promised_with_plans;
use super::{Plan, PlanContext, Step};
use crate::bytes::Bytes;
use crate::documents::{Dataset, Mount, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::{DatasetName, GuestPath};
use crate::observed::Observed;
use crate::ports::Origin;
use crate::space::{self, shown};

/// Makes a dataset, also while the VPS runs, and mounts it at once where that is asked for.
pub fn plan_dataset_create(
    doc: &VpsDoc,
    seen: &Observed,
    name: &DatasetName,
    quota: Bytes,
    mount: Option<&GuestPath>,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if name.is_root() || doc.dataset(name).is_some() {
        return Err(Refusal::new(
            Code::DatasetExists,
            format!(
                "VPS {} has a dataset {} already",
                doc.title(),
                shown(doc, name)
            ),
            format!("see `mayfly dataset list {}`", doc.id),
        ));
    }
    match name.parent() {
        Some(parent) if doc.dataset(&parent).is_none() => {
            return Err(no_such_dataset(doc, &parent));
        }
        _ => {}
    }
    check_quota(quota)?;
    space::check_fits(doc, name, quota)?;
    space::check_pool(seen.pool.capacity, promised_with_plans(seen), quota)?;
    if seen.pool.datasets.contains_key(&doc.pool_path(name)) {
        return Err(Refusal::new(
            Code::NotOurs,
            format!(
                "dataset {} is in the pool already, and VPS {} does not know it",
                doc.pool_path(name),
                doc.title()
            ),
            "choose another name, or move that dataset out of the pool",
        ));
    }
    let dataset = Dataset {
        name: name.clone(),
        quota_bytes: quota,
    };
    let mut new = doc.clone();
    new.datasets.push(dataset.clone());
    let mut live = None;
    let mut what = format!("dataset {} with quota {quota}", shown(doc, name));
    if let Some(path) = mount {
        let mount = Mount {
            dataset: name.clone(),
            path: path.clone(),
            read_only: false,
        };
        check_mount(&new, &mount)?;
        live = Live::to_add(doc, seen, &mount, ctx)?;
        if let Some(live) = &live {
            live.note_shown(&mut new, &mount.path);
        }
        new.mounts.push(mount);
        new.mounts = mount_order(&new.mounts);
        what = format!("{what}, mounted at {path}");
    }
    // Recorded first: a dataset that could not be made needs no burial.
    let make = create_dataset(doc, &dataset, Origin::Empty, ctx);
    let mut steps = vec![record(doc, new, what), make];
    steps.extend(live.iter().map(|live| live.show(doc)));
    Ok(Plan { steps })
}

/// Changes a quota, also while the VPS runs. The host refuses one below what is used.
pub fn plan_dataset_set(
    doc: &VpsDoc,
    seen: &Observed,
    name: &DatasetName,
    quota: Bytes,
) -> Result<Plan, Refusal> {
    let Some(had) = doc.dataset(name) else {
        return Err(no_such_dataset(doc, name));
    };
    check_quota(quota)?;
    space::check_fits(doc, name, quota)?;
    let more = quota.saturating_sub(had.quota_bytes);
    if more > Bytes(0) {
        space::check_pool(seen.pool.capacity, promised_with_plans(seen), more)?;
    }
    let dataset = doc.pool_path(name);
    let used = seen
        .pool
        .datasets
        .get(&dataset)
        .and_then(|d| d.used)
        .unwrap_or_default();
    if used > quota {
        return Err(Refusal::new(
            Code::QuotaBelowUse,
            format!(
                "dataset {} holds {used}, more than a quota of {quota}",
                shown(doc, name)
            ),
            format!(
                "delete data in it, or ask for {}M at least",
                used.0.div_ceil(1 << 20)
            ),
        ));
    }
    let mut new = doc.clone();
    for d in new.datasets.iter_mut().filter(|d| d.name == *name) {
        d.quota_bytes = quota;
    }
    let undo = Step::SetQuota {
        dataset: dataset.clone(),
        quota_bytes: had.quota_bytes,
    };
    Ok(Plan {
        steps: vec![
            Step::SetQuota {
                dataset,
                quota_bytes: quota,
            }
            .undone_by(undo),
            record(
                doc,
                new,
                format!("dataset {} has quota {quota}", shown(doc, name)),
            ),
        ],
    })
}

/// Destroys a dataset with its data. Refused while it is mounted or has snapshots, unless forced; and in any case while a VPS
/// that runs shows it. The burial asks for a proof that nobody has it mounted any more.
pub fn plan_dataset_destroy(
    doc: &VpsDoc,
    seen: &Observed,
    name: &DatasetName,
    force: bool,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if name.is_root() {
        return Err(Refusal::new(
            Code::DatasetInUse,
            format!(
                "{} is the root dataset of VPS {}",
                shown(doc, name),
                doc.title()
            ),
            format!("to destroy the whole VPS: mayfly destroy {}", doc.id),
        ));
    }
    if doc.dataset(name).is_none() {
        return Err(no_such_dataset(doc, name));
    }
    if let Some(below) = doc.datasets.iter().find(|d| d.name.is_below(name)) {
        return Err(Refusal::new(
            Code::DatasetInUse,
            format!(
                "dataset {} holds dataset {}",
                shown(doc, name),
                shown(doc, &below.name)
            ),
            format!(
                "destroy that first: mayfly dataset destroy {}",
                shown(doc, &below.name)
            ),
        ));
    }
    let dataset = doc.pool_path(name);
    if let Some(below) = seen.pool.datasets.keys().find(|one| one.is_below(&dataset)) {
        return Err(Refusal::new(
            Code::NotOurs,
            format!(
                "dataset {} holds dataset {below}, which VPS {} does not know",
                shown(doc, name),
                doc.title()
            ),
            "move that dataset out of the VPS's, then try again",
        ));
    }
    if let Some(mount) = doc.mounts.iter().find(|m| m.dataset == *name) {
        if !force {
            return Err(Refusal::new(
                Code::DatasetInUse,
                format!("dataset {} is mounted at {}", shown(doc, name), mount.path),
                format!("mayfly mount remove {} {}, or --force", doc.id, mount.path),
            ));
        }
    }
    let snapshots = seen
        .pool
        .datasets
        .get(&dataset)
        .map_or(&[][..], |seen| &seen.snapshots);
    if let (Some(first), false) = (snapshots.first(), force) {
        return Err(Refusal::new(
            Code::DatasetInUse,
            format!(
                "dataset {} has {} snapshots that would go with it, such as {}",
                shown(doc, name),
                snapshots.len(),
                first.escape_debug()
            ),
            "remove them first where they are not needed, or --force",
        ));
    }
    refuse_shown(doc, seen, name)?;
    let mut new = doc.clone();
    new.datasets.retain(|d| d.name != *name);
    new.mounts.retain(|m| m.dataset != *name);
    let bury = bury_data(doc, &dataset, ctx);
    Ok(Plan {
        steps: vec![
            record(
                doc,
                new,
                format!("dataset {} is destroyed", shown(doc, name)),
            ),
            bury.final_because("it was confirmed"),
        ],
    })
}

/// A guest that runs goes on without a dataset that it does not have; what it has is not taken from it for good.
fn refuse_shown(doc: &VpsDoc, seen: &Observed, name: &DatasetName) -> Result<(), Refusal> {
    refuse_remains(doc, seen)?;
    let rescue = doc.run.as_ref().and_then(|run| run.rescue.as_ref());
    let in_rescue = rescue.map_or(&[][..], |rescue| &rescue.mounts);
    let mut shown_at = doc.mounts.iter().chain(in_rescue);
    match shown_at.find(|m| m.dataset == *name) {
        Some(mount) if seen.is_alive() => Err(Refusal::new(
            Code::VpsRunning,
            format!(
                "VPS {} is running with dataset {} at {}",
                doc.title(),
                shown(doc, name),
                mount.path
            ),
            format!("mayfly mount remove {} {}", doc.id, mount.path),
        )),
        _ => Ok(()),
    }
}
