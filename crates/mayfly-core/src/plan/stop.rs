//! Stop: the run ends, the last root stays unless it is to be discarded.

use super::start::bury_root;
use super::{Plan, PlanContext, PlannedStep, Step};
use crate::documents::{Desired, VpsDoc};
use crate::error::{Code, Refusal};
use crate::observed::Observed;

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

/// Stops it. A VPS that is stopped is refused unless there is something to do: remains, or a last root to discard.
pub fn plan_stop(
    doc: &VpsDoc,
    seen: &Observed,
    timeout_ms: u64,
    force: bool,
    discard: bool,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let idle = doc.run.is_none() && seen.evidence.is_empty() && doc.desired == Desired::Stopped;
    if idle && !(discard && doc.last_root.is_some()) {
        return Err(Refusal::new(
            Code::VpsNotRunning,
            format!("VPS {} is not running", doc.title()),
            format!("start it: mayfly start {}", doc.id),
        ));
    }
    let mut steps = vec![end_run(doc, timeout_ms, force)];
    let mut stopped = record_ended(doc);
    stopped.desired = Desired::Stopped;
    let last = stopped.last_root.clone().filter(|_| discard);
    if last.is_some() {
        stopped.last_root = None;
    }
    if stopped != *doc {
        steps.push(
            Step::Record {
                vps: doc.id,
                what: "it is stopped".into(),
                doc: Some(Box::new(stopped)),
            }
            .final_because("the run is over, whatever comes next"),
        );
    }
    if let Some(root) = last.filter(|root| seen.pool.datasets.contains_key(root)) {
        steps.push(bury_root(doc, &root, ctx).as_housekeeping());
    }
    Ok(Plan { steps })
}
