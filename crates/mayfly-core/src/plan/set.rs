//! What a VPS is and may take of the host: limits are changed at once where it runs, and from its next start on where it
//! does not; the rest is for later anyway.

use super::bases::rebased;
use super::parts::{record, running};
use super::promises::promised_with_plans;
use super::start::check_there;
use super::{Plan, PlanContext, Step};
use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::documents::VpsDoc;
use crate::error::{Code, Refusal};
use crate::observed::Observed;
use crate::space;

/// No init lives on less.
const LEAST_MEMORY: Bytes = Bytes::mib(16);
/// The shortest time that the kernel hands out, of the period that limits are counted in.
const LEAST_CPU_PERCENT: u32 = 1;
/// No init with a few services lives on fewer; the kernel knows no more.
const PROCESSES: std::ops::RangeInclusive<u32> = 16..=4_194_304;

/// Changes all that is given, or nothing. The host takes limits first, so that what is recorded is what holds; it refuses
/// memory below what the VPS cannot give up. A base holds from the next start on.
pub fn plan_set(
    doc: &VpsDoc,
    seen: &Observed,
    change: &VpsChange,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if *change == VpsChange::default() {
        return Err(Refusal::new(
            Code::Invalid,
            format!("nothing of VPS {} is to be set", doc.title()),
            format!("name what is: mayfly set {} memory=4G", doc.id),
        ));
    }
    check_limits(change)?;
    let new = change.of(&rebased(doc, change, &ctx.templates)?);
    if new.disk_bytes != doc.disk_bytes {
        space::check_disk(doc, new.disk_bytes)?;
        let more = new.disk_bytes.saturating_sub(doc.disk_bytes);
        if more > Bytes(0) {
            space::check_pool(seen.pool.capacity, promised_with_plans(seen), more)?;
        }
    }
    if new == *doc {
        return Ok(Plan::default());
    }
    if new.base.template != doc.base.template {
        check_there(&new, seen)?;
    }
    let limits = new.limits.clone();
    let mut steps = Vec::new();
    if let (Some(current), true, true) = (&doc.run, limits != doc.limits, running(doc, seen)) {
        let set = |limits| Step::SetLimits {
            vps: doc.id,
            run: current.run.clone(),
            limits,
        };
        steps.push(set(limits).undone_by(set(doc.limits.clone())));
    }
    steps.push(record(doc, new, change.to_string()));
    Ok(Plan { steps })
}

/// Limits that a guest can live with and that a kernel knows.
pub(super) fn check_limits(change: &VpsChange) -> Result<(), Refusal> {
    let refuse = |message: String, hint: String| Err(Refusal::new(Code::Invalid, message, hint));
    if let Some(memory) = change.memory_bytes.filter(|m| *m < LEAST_MEMORY) {
        return refuse(
            format!("memory of {memory} is too little for any guest"),
            format!("ask for {LEAST_MEMORY} at least"),
        );
    }
    if change
        .cpu_percent
        .flatten()
        .is_some_and(|p| p < LEAST_CPU_PERCENT)
    {
        return refuse(
            "no CPU time at all is too little for any guest".to_owned(),
            "ask for 0.01 CPUs at least".to_owned(),
        );
    }
    if let Some(processes) = change.processes.filter(|n| !PROCESSES.contains(n)) {
        return refuse(
            format!(
                "{processes} processes are no limit that a guest can live with and a kernel knows"
            ),
            format!("ask for {} to {}", PROCESSES.start(), PROCESSES.end()),
        );
    }
    Ok(())
}
