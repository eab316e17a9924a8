//! What a VPS may take of the host: changed at once where it runs, and from its next start on where it does not.

use super::parts::{record, running};
use super::{Plan, Step};
use crate::bytes::Bytes;
use crate::documents::VpsDoc;
use crate::error::{Code, Refusal};
use crate::observed::Observed;
use crate::run::LimitsChange;

/// No init lives on less.
const LEAST_MEMORY: Bytes = Bytes::mib(16);
/// The shortest time that the kernel hands out, of the period that limits are counted in.
const LEAST_CPU_PERCENT: u32 = 1;
/// No init with a few services lives on fewer; the kernel knows no more.
const PROCESSES: std::ops::RangeInclusive<u32> = 16..=4_194_304;

/// Changes limits: all that are given, or none. The host takes them first, so that what is recorded is what holds; it
/// refuses memory below what the VPS cannot give up.
pub fn plan_set(doc: &VpsDoc, seen: &Observed, change: &LimitsChange) -> Result<Plan, Refusal> {
    if *change == LimitsChange::default() {
        return Err(Refusal::new(
            Code::Invalid,
            format!("nothing of VPS {} is to be set", doc.title()),
            format!("name what is: mayfly set {} memory=4G", doc.id),
        ));
    }
    check_limits(change)?;
    let limits = change.of(&doc.limits);
    if limits == doc.limits {
        return Ok(Plan::default());
    }
    let mut steps = Vec::new();
    if let (Some(current), true) = (&doc.run, running(doc, seen)) {
        let set = |limits| Step::SetLimits {
            vps: doc.id,
            run: current.run.clone(),
            limits,
        };
        steps.push(set(limits.clone()).undone_by(set(doc.limits.clone())));
    }
    let mut new = doc.clone();
    new.limits = limits;
    steps.push(record(doc, new, change.to_string()));
    Ok(Plan { steps })
}

/// Limits that a guest can live with and that a kernel knows.
pub(super) fn check_limits(change: &LimitsChange) -> Result<(), Refusal> {
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
