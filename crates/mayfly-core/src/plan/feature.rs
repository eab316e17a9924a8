//! Features, impermanence among them, and limits that change with them: all of it or nothing. A running VPS is restarted
//! where a feature changes, a stopped one stays stopped.
//!
//! ```text
//!  halt the run │ record what is wanted │ make a root │ launch │ wait for init
//!               └───────── where one of these fails, all of it is put back, and the VPS is started as it was
//! ```

use super::harvest::before_a_start;
use super::parts::{end_run, record, record_ended, running};
use super::set::{check_limits, plan_set};
use super::start::{check_boots, record_over, start_steps};
use super::{Plan, PlanContext};
use crate::bytes::Bytes;
use crate::documents::{Impermanence, Request, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::features::{Features, FeaturesChange, check_features};
use crate::ids::RunId;
use crate::observed::{InitSeen, Observed};

/// How long the guest may take to halt, in milliseconds.
const HALT_MS: u64 = 60_000;

/// Refused unless the resulting root would boot and the host has what is switched on.
pub fn plan_set_features(
    doc: &VpsDoc,
    seen: &Observed,
    change: &FeaturesChange,
    run: &RunId,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    if *change == FeaturesChange::default() {
        return Err(Refusal::new(
            Code::Invalid,
            format!("no feature of VPS {} is to be set", doc.title()),
            format!("name one: mayfly feature set {} tun=on", doc.id),
        ));
    }
    check_limits(&change.limits.as_change())?;
    if !change.needs_restart(doc) {
        return match change.limits.is_nothing() {
            true => Ok(Plan::default()),
            // A run that goes on takes them as it is.
            false => plan_set(doc, seen, &change.limits.as_change(), ctx),
        };
    }
    let wanted = change.of(doc);
    if wanted.impermanence != doc.impermanence {
        check_impermanence(doc, seen, wanted.impermanence.as_ref())?;
    }
    let more: Features = &wanted.features - &doc.features;
    check_features(doc, &more, seen)?;
    if !running(doc, seen) {
        return Ok(Plan {
            steps: vec![record(doc, wanted, change.to_string())],
        });
    }
    let stopped = record_ended(doc);
    let new = change.of(&stopped);
    let mut steps = vec![end_run(doc, HALT_MS, false), record_over(&stopped)];
    steps.extend(before_a_start(&stopped, seen)?);
    steps.push(record(&stopped, new.clone(), change.to_string()));
    steps.extend(start_steps(&new, seen, run, ctx)?);
    Ok(Plan { steps })
}

/// The features for which a request needs to know what the host has.
pub fn needed_features(request: &Request, doc: &VpsDoc) -> Features {
    match request {
        Request::Create { .. }
        | Request::Start { .. }
        | Request::Restart { .. }
        | Request::Rescue { .. }
        | Request::Reinstall { .. }
        | Request::ReinstallUndo { .. }
        | Request::Convert { .. }
        | Request::Revert { .. } => doc.features.clone(),
        Request::SetFeatures { change, .. } => change.features(&doc.features),
        _ => Features::new(),
    }
}

fn check_impermanence(
    doc: &VpsDoc,
    seen: &Observed,
    want: Option<&Impermanence>,
) -> Result<(), Refusal> {
    let Some(on) = want else {
        check_not_converted(doc)?;
        return check_persistent_boots(doc, seen);
    };
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
    Ok(())
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
        "the root dataset holds data, not a system",
    ))
}

/// Refuses to switch off by itself what a conversion switched on together with all else.
fn check_not_converted(doc: &VpsDoc) -> Result<(), Refusal> {
    match &doc.converted {
        None => Ok(()),
        Some(_) => Err(Refusal::new(
            Code::NotConvertible,
            format!(
                "VPS {} was converted, and goes back as a whole",
                doc.title()
            ),
            format!("mayfly impermanence revert {}", doc.id),
        )),
    }
}
