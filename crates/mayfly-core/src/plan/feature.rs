//! The feature `impermanence`, on and off. A running VPS is restarted, a stopped one stays stopped.

use super::harvest::before_a_start;
use super::parts::{end_run, record, record_ended, running};
use super::start::{check_boots, start_steps};
use super::{Plan, PlanContext, Step};
use crate::bytes::Bytes;
use crate::documents::{Impermanence, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::ids::RunId;
use crate::observed::{InitSeen, Observed};

/// How long the guest may take to halt, in milliseconds.
const HALT_MS: u64 = 60_000;

/// Refused unless the resulting root would boot.
pub fn plan_set_impermanence(
    doc: &VpsDoc,
    seen: &Observed,
    want: Option<&Impermanence>,
    run: &RunId,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if doc.impermanence.as_ref() == want {
        return Ok(Plan::default());
    }
    match want {
        Some(on) => {
            check_boots(doc, on, seen).map_err(|mut refusal| {
                if refusal.code == Code::VpsWouldNotBoot {
                    refusal.hint = format!(
                        "have all of it done: mayfly impermanence convert {}; or by hand: {}",
                        doc.id, refusal.hint
                    );
                }
                refusal
            })?;
            if on.root_quota_bytes < Bytes::mib(16) {
                let message = format!("a root quota of {} is too small", on.root_quota_bytes);
                return Err(Refusal::new(Code::Invalid, message, "ask for 16M at least"));
            }
        }
        None => check_persistent_boots(doc, seen)?,
    }
    let mut new = record_ended(doc);
    new.impermanence = want.cloned();
    let what = if want.is_some() {
        "impermanence is on"
    } else {
        "impermanence is off"
    };
    if !running(doc, seen) {
        new.run = doc.run.clone();
        new.last_root = doc.last_root.clone();
        new.last_root_base = doc.last_root_base.clone();
        return Ok(Plan {
            steps: vec![record(doc, new, what)],
        });
    }
    let stopped = record_ended(doc);
    let over = Step::Record {
        vps: doc.id,
        what: "the run is over".into(),
        doc: Some(Box::new(stopped.clone())),
    }
    .final_because("the run is over, whatever comes next");
    let mut steps = vec![end_run(doc, HALT_MS, false), over];
    steps.extend(before_a_start(&stopped, seen)?);
    steps.push(record(&stopped, new.clone(), what));
    steps.extend(start_steps(&new, seen, run, ctx)?);
    Ok(Plan { steps })
}

fn check_persistent_boots(doc: &VpsDoc, seen: &Observed) -> Result<(), Refusal> {
    let why = match &seen.init {
        Some(InitSeen::Found) => return Ok(()),
        Some(InitSeen::Missing { path }) => format!("{path} is not there"),
        Some(InitSeen::NotExecutable { what }) => format!("{} is {what}", doc.manifest.init),
        None => {
            return Err(
                LookFailed::new("the init of the root dataset", "it was not looked for").into(),
            );
        }
    };
    Err(Refusal::new(
        Code::VpsWouldNotBoot,
        format!(
            "VPS {} would not boot from its root dataset: {why}",
            doc.title()
        ),
        match &doc.converted {
            Some(_) => format!("go back as it came: mayfly impermanence revert {}", doc.id),
            None => "the root dataset holds data, not a system".to_owned(),
        },
    ))
}
