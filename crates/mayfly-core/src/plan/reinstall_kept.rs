//! What reinstalls have put aside: how much of it there may be, how long it is kept, and how it is given up.
//!
//! ```text
//!  expiry:  record │ bury what was kept for its days
//!  forget:  record │ bury what is meant
//! ```
//!
//! Snapshots that others made (ZFS) belong to the contents that they are of: they go aside with them and come back with them.
//! They are the work of somebody whom nobody asked, so what has some is given up by force only, and never by its age.

use super::parts::{bury_data, record};
use super::{Plan, PlanContext, Step};
use crate::bytes::Bytes;
use crate::documents::{PutAside, Replaced, VpsDoc};
use crate::error::{Code, Refusal};
use crate::ids::OperationId;
use crate::names::{DatasetName, PoolPath};
use crate::observed::{Mark, MarkSeen, Observed, PoolSeen, Role};

/// Gives up what was kept for its time, and writes down how long the rest was. What holds something that is not the VPS's own
/// is kept on, and the document says why.
pub fn plan_replaced_age(doc: &VpsDoc, seen: &Observed, boot_ms: u64, ctx: &PlanContext) -> Plan {
    let mut new = doc.clone();
    let (mut gone, mut kept) = (Vec::new(), Vec::new());
    for mut one in std::mem::take(&mut new.replaced) {
        one.kept_ms = one.kept_by(&ctx.boot_id, boot_ms);
        one.counted_boot_id.clone_from(&ctx.boot_id);
        one.counted_boot_ms = boot_ms;
        let is_over = one.kept_ms >= Replaced::KEPT_MS;
        one.held_by = is_over.then(|| held(&one, &seen.pool)).flatten();
        match is_over && one.held_by.is_none() {
            true => gone.push(one),
            false => kept.push(one),
        }
    }
    new.replaced = kept;
    if new == *doc {
        return Plan::default();
    }
    let held: Vec<_> = new
        .replaced
        .iter()
        .filter_map(|one| one.held_by.as_deref())
        .collect();
    let what = match (gone.is_empty(), held.is_empty()) {
        (true, true) => "how long former contents have been kept".to_owned(),
        (true, false) => format!("former contents are kept on: {}", held.join("; ")),
        (false, _) => format!("former contents of {} reinstalls are given up", gone.len()),
    };
    give_up(doc, new, &gone, what, ctx)
}

/// Gives up what the reinstall `by`, and those before it, have put aside.
pub fn plan_reinstall_forget(
    doc: &VpsDoc,
    seen: &Observed,
    (by, force): (&OperationId, bool),
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let Some(last) = doc.replaced.iter().position(|one| one.by == *by) else {
        return Err(Refusal::new(
            Code::Invalid,
            format!(
                "VPS {}: what reinstall {by} replaced is not kept, or not any more",
                doc.title()
            ),
            format!("see `mayfly show {}`", doc.id),
        ));
    };
    let mut new = doc.clone();
    let gone: Vec<Replaced> = new.replaced.drain(..=last).collect();
    for put in gone.iter().flat_map(|one| &one.datasets) {
        check_nothing_below(doc, &put.aside, seen)?;
        if !force {
            check_no_snapshots(&put.aside, "given up", &seen.pool)?;
        }
    }
    let used = gone.iter().map(Replaced::used_bytes);
    let used = used.fold(Bytes(0), Bytes::saturating_add);
    let what = format!(
        "former contents of {} reinstalls are given up: {used}",
        gone.len()
    );
    Ok(give_up(doc, new, &gone, what, ctx))
}

fn give_up(doc: &VpsDoc, new: VpsDoc, gone: &[Replaced], what: String, ctx: &PlanContext) -> Plan {
    let mut steps = vec![record(doc, new, what)];
    let asides = gone.iter().flat_map(|one| &one.datasets);
    steps.extend(asides.map(|put| bury_data(doc, &put.aside, ctx).as_housekeeping()));
    Plan { steps }
}

/// Everything of this VPS that lies beside its datasets, by its marks as seen: what a reinstall put aside, and a base of its
/// own. The executor proves each again.
pub(super) fn bury_asides(doc: &VpsDoc, seen: &Observed, ctx: &PlanContext) -> Vec<Step> {
    let ours = |name: &PoolPath, mark: &Mark| {
        mark.node == ctx.node
            && matches!(mark.role, Role::Replaced | Role::Base)
            && mark.owner == Some((doc.id, doc.incarnation.clone()))
            && mark.made_as == *name
    };
    let all = seen
        .pool
        .datasets
        .iter()
        .filter(|(name, _)| !name.is_grave());
    all.filter(|(name, d)| matches!(&d.mark, MarkSeen::Local(mark) if ours(name, mark)))
        .map(|(name, _)| bury_data(doc, name, ctx))
        .collect()
}

/// Refuses one reinstall more than can be kept.
pub(super) fn check_bound(doc: &VpsDoc) -> Result<(), Refusal> {
    if doc.replaced.len() < Replaced::AT_MOST {
        return Ok(());
    }
    Err(Refusal::new(
        Code::ReinstallsKept,
        format!(
            "VPS {} was reinstalled {} times, and what it had before each is kept: {} in all",
            doc.title(),
            doc.replaced.len(),
            doc.replaced
                .iter()
                .map(Replaced::used_bytes)
                .fold(Bytes(0), Bytes::saturating_add)
        ),
        format!(
            "to give that up: mayfly reinstall {id} --forget; to go back: mayfly reinstall {id} --undo",
            id = doc.id
        ),
    ))
}

/// Refuses a dataset whose contents are to be put aside while it holds something that is not the VPS's own.
pub(super) fn check_below(
    doc: &VpsDoc,
    name: &DatasetName,
    seen: &Observed,
) -> Result<(), Refusal> {
    let place = doc.pool_path(name);
    let ours = |below: &PoolPath| {
        doc.datasets
            .iter()
            .any(|d| doc.pool_path(&d.name) == *below)
    };
    let mut below = seen.pool.datasets.keys().filter(|one| one.is_below(&place));
    match below.find(|below| !ours(below)) {
        None => Ok(()),
        Some(below) => Err(holds(doc, &place, below)),
    }
}

fn check_nothing_below(doc: &VpsDoc, place: &PoolPath, seen: &Observed) -> Result<(), Refusal> {
    let mut below = seen.pool.datasets.keys().filter(|one| one.is_below(place));
    below
        .next()
        .map_or(Ok(()), |below| Err(holds(doc, place, below)))
}

/// Refuses an undo that would take snapshots of the contents that give way.
pub(super) fn check_gives_way(
    doc: &VpsDoc,
    put: &PutAside,
    by: &OperationId,
    seen: &Observed,
) -> Result<(), Refusal> {
    let new = |name: &PoolPath| {
        let mark = seen.pool.datasets.get(name).map(|d| &d.mark);
        matches!(mark, Some(MarkSeen::Local(mark)) if mark.contents.as_ref() == Some(by))
    };
    let places = [doc.pool_path(&put.dataset), put.aside.clone()];
    let gives_way = places.iter().find(|name| new(name));
    gives_way.map_or(Ok(()), |name| {
        check_no_snapshots(name, "destroyed", &seen.pool)
    })
}

fn check_no_snapshots(name: &PoolPath, is_to_be: &str, pool: &PoolSeen) -> Result<(), Refusal> {
    match snapshots_of(name, pool) {
        None => Ok(()),
        Some(snapshots) => Err(Refusal::new(
            Code::DatasetInUse,
            format!("contents that are to be {is_to_be} would take snapshots along: {snapshots}"),
            "remove them first where they are not needed, or --force",
        )),
    }
}

fn snapshots_of(name: &PoolPath, pool: &PoolSeen) -> Option<String> {
    let snapshots = &pool.datasets.get(name)?.snapshots;
    let first = snapshots.first()?;
    Some(match snapshots.len() {
        1 => format!("{name} has a snapshot, {}", first.escape_debug()),
        many => format!(
            "{name} has {many} snapshots, such as {}",
            first.escape_debug()
        ),
    })
}

/// Why former contents are kept beyond their days.
fn held(one: &Replaced, pool: &PoolSeen) -> Option<String> {
    one.datasets.iter().find_map(|put| {
        let mut below = pool
            .datasets
            .keys()
            .filter(|name| name.is_below(&put.aside));
        let holds = below
            .next()
            .map(|below| format!("{} holds dataset {below}", put.aside));
        snapshots_of(&put.aside, pool).or(holds)
    })
}

fn holds(doc: &VpsDoc, place: &PoolPath, below: &PoolPath) -> Refusal {
    Refusal::new(
        Code::NotOurs,
        format!(
            "dataset {place} holds dataset {below}, which VPS {} does not know",
            doc.title()
        ),
        "move that dataset out of the VPS's, then try again",
    )
}
