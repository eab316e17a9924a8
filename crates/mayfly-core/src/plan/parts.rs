//! Steps and judgements that several plans share.

use super::{PlanContext, PlannedStep, Step};
use crate::bytes::Bytes;
use crate::documents::{Dataset, VpsDoc};
use crate::error::{Code, Refusal};
use crate::names::{DatasetName, PoolPath};
use crate::observed::{Mark, Observed, Role};
use crate::ports::{NewDataset, Origin};
use crate::space::shown;

/// Writes `new`; the undo writes `old` back.
pub(super) fn record(old: &VpsDoc, new: VpsDoc, what: impl Into<String>) -> super::PlannedStep {
    let what = what.into();
    let undo = Step::Record {
        vps: old.id,
        what: format!("as it was before: {what}"),
        doc: Some(Box::new(old.clone())),
    };
    Step::Record {
        vps: new.id,
        what,
        doc: Some(Box::new(new)),
    }
    .undone_by(undo)
}

/// Whether there is a run that is, or may be, going on.
pub(super) fn running(doc: &VpsDoc, seen: &Observed) -> bool {
    doc.run.is_some() && seen.is_alive()
}

/// The document of a VPS whose run is over: a temporary root becomes the last root.
pub(super) fn record_ended(doc: &VpsDoc) -> VpsDoc {
    let mut stopped = doc.clone();
    if let Some(run) = stopped.run.take() {
        if run.root.named_temporary_root().is_some() {
            stopped.last_root = Some(run.root);
            stopped.last_root_base = run.base;
        }
    }
    stopped
}

/// Ends the run, politely unless forced.
pub(super) fn end_run(doc: &VpsDoc, timeout_ms: u64, force: bool) -> PlannedStep {
    let run = doc.run.as_ref().map(|r| r.run.clone());
    Step::EndRun {
        vps: doc.id,
        run,
        halt_ms: (!force).then_some(timeout_ms),
    }
    .final_because(
        "a guest that was halted cannot be resumed; where it ought to run it is started again",
    )
}

pub(super) fn no_such_dataset(doc: &VpsDoc, name: &DatasetName) -> Refusal {
    Refusal::new(
        Code::DatasetNotFound,
        format!("VPS {} has no dataset {}", doc.title(), shown(doc, name)),
        format!("see `mayfly dataset list {}`", doc.id),
    )
}

/// Makes one persistent dataset; the undo condemns and buries it.
pub(super) fn create_dataset(
    doc: &VpsDoc,
    dataset: &Dataset,
    origin: Origin,
    ctx: &PlanContext,
) -> PlannedStep {
    let name = doc.pool_path(&dataset.name);
    let mark = Mark {
        node: ctx.node.clone(),
        owner: Some((doc.id, doc.incarnation.clone())),
        role: Role::Persistent,
        run: None,
        made_as: name.clone(),
        condemned_by: None,
        unharvested: false,
        contents: None,
    };
    let undo = bury_data(doc, &name, ctx);
    Step::CreateDataset {
        new: NewDataset {
            name,
            mark,
            quota: Some(dataset.quota_bytes),
            origin,
        },
    }
    .undone_by(undo)
}

/// Condemns a persistent dataset and moves it to the graveyard.
pub(super) fn bury_data(doc: &VpsDoc, name: &PoolPath, ctx: &PlanContext) -> Step {
    Step::BuryData {
        vps: doc.id,
        incarnation: doc.incarnation.clone(),
        dataset: name.clone(),
        grave: PoolPath::grave(&format!(
            "{}.{}",
            name.as_str().replace('/', ":"),
            ctx.operation
        )),
    }
}

/// Moves a temporary root of this VPS to the graveyard; with `give_up` also one with copies that were not taken back.
pub(super) fn bury_root(doc: &VpsDoc, root: &PoolPath, give_up: bool, ctx: &PlanContext) -> Step {
    Step::BuryRoot {
        give_up,
        vps: doc.id,
        incarnation: doc.incarnation.clone(),
        root: root.clone(),
        grave: PoolPath::grave(&format!("{}.{}", root.as_str(), ctx.operation)),
    }
}

/// Temporary roots that this incarnation no longer needs, judged by their marks as seen; the executor proves each
/// again at the time of the burial.
pub(super) fn old_roots(
    doc: &VpsDoc,
    seen: &Observed,
    but: &PoolPath,
    give_up: bool,
    ctx: &PlanContext,
) -> Vec<Step> {
    use crate::observed::MarkSeen;
    seen.pool
        .datasets
        .iter()
        .filter(|(name, d)| {
            let ours = match &d.mark {
                MarkSeen::Local(m) => {
                    m.node == ctx.node
                        && m.role == Role::Temporary
                        && m.owner == Some((doc.id, doc.incarnation.clone()))
                        && m.made_as == **name
                        && m.run.is_some()
                }
                _ => false,
            };
            // What lies below a root goes with it, and stays with it.
            let alone = name.named_root_of_a_run().is_some();
            ours && alone && *name != but && !name.is_grave()
        })
        .map(|(name, _)| bury_root(doc, name, give_up, ctx))
        .collect()
}

pub(super) fn check_quota(quota: Bytes) -> Result<(), Refusal> {
    if quota >= Bytes::mib(16) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Invalid,
        format!("a quota of {quota} is too small"),
        "ask for 16M at least",
    ))
}
