//! Stop: the run ends, the last root stays unless it is to be discarded.

use super::harvest::{harvest, is_owed, no_way};
use super::parts::{bury_root, end_run, record_ended};
use super::{Plan, PlanContext, Step};
use crate::documents::{Desired, VpsDoc};
use crate::error::{Code, Refusal};
use crate::observed::{Evidence, Observed};

/// Stops it. A VPS that is stopped is refused unless there is something to do: remains, or a last root to discard.
pub fn plan_stop(
    doc: &VpsDoc,
    seen: &Observed,
    timeout_ms: u64,
    force: bool,
    discard: bool,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    // Who of the host holds a dataset is nothing that a stop could end.
    let remains = |sign: &Evidence| !matches!(sign, Evidence::Held { .. });
    let idle =
        doc.run.is_none() && !seen.evidence.iter().any(remains) && doc.desired == Desired::Stopped;
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
    let owed = stopped.last_root.clone().filter(|root| is_owed(seen, root));
    let last = stopped.last_root.clone().filter(|_| discard);
    if let Some(root) = &owed {
        // Declared files are no part of what is discarded, unless somebody insists.
        let must = discard && !force;
        match harvest(doc, root) {
            Some(step) if must => steps.push(step.final_because("what was taken back stays")),
            // Where it fails now, the next start insists on it.
            Some(step) => steps.push(step.as_housekeeping()),
            None if must => return Err(no_way(doc, root)),
            None => {}
        }
    }
    if last.is_some() {
        stopped.last_root = None;
        stopped.last_root_base = None;
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
        steps.push(bury_root(doc, &root, force, ctx).as_housekeeping());
    }
    Ok(Plan { steps })
}
