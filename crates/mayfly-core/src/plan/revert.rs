//! Back from a conversion: a persistent root with the same data (SPEC C3).
//!
//! The root dataset, which was the storage, is `/` again. A NixOS-shaped VPS keeps its store in a dataset and its root dataset
//! at the storage's path too, where its configuration looks for it. What was declared to stay is where it always was.

use super::convert::{HALT_MS, awaiting_health, give_up};
use super::harvest::before_a_start;
use super::parts::{bury_data, end_run, record, record_ended, running};
use super::start::{end_remains, record_over, start_steps};
use super::{Plan, PlanContext};
use crate::documents::{Converted, Mount, VpsDoc};
use crate::error::{Code, LookFailed, Refusal};
use crate::ids::RunId;
use crate::names::{DatasetName, GuestPath};
use crate::observed::{InitSeen, Observed};
use crate::ports::Assembly;
use crate::template::RootKind;

/// Makes it persistent again. One that runs is restarted, and has to be as well as it was.
pub fn plan_revert(
    doc: &VpsDoc,
    seen: &Observed,
    run: &RunId,
    ctx: &PlanContext,
) -> Result<Plan, Refusal> {
    let was = conversion(doc)?;
    check_boots(doc, seen)?;
    let stopped = record_ended(doc);
    let is_running = running(doc, seen);
    let mut steps = Vec::new();
    // Planned for after the conversion, and not done yet.
    steps.extend(was.taken_out.clone().map(give_up));
    steps.push(match is_running {
        true => end_run(doc, HALT_MS, false),
        false => end_remains(doc),
    });
    if stopped != *doc {
        steps.push(record_over(&stopped));
    }
    // It goes into the storage, which is none afterwards.
    steps.extend(before_a_start(&stopped, seen)?);
    let new = reverted(&stopped, was);
    steps.push(record(
        &stopped,
        new.clone(),
        "reverted: impermanence is off",
    ));
    if is_running {
        let start = start_steps(&new, seen, run, ctx)?;
        steps.extend(match &seen.health {
            Some(Ok(health)) => awaiting_health(start, health.failed.clone()),
            _ => start,
        });
    }
    let own = doc.base.own.as_ref();
    steps.extend(own.map(|own| bury_data(doc, own, ctx).as_housekeeping()));
    Ok(Plan { steps })
}

/// The datasets as the guest would see them afterwards, and its init.
pub(super) fn revert_probe(doc: &VpsDoc) -> Option<(Assembly, GuestPath)> {
    let new = reverted(doc, conversion(doc).ok()?);
    let place = |mount: Mount| (doc.pool_path(&mount.dataset), mount.path);
    let mounts = super::mounts::mount_order(&new.mounts);
    let assembly = Assembly {
        root: Some(doc.pool_path(&DatasetName::root())),
        mounts: mounts.into_iter().map(place).collect(),
    };
    Some((assembly, new.manifest.init))
}

fn conversion(doc: &VpsDoc) -> Result<&Converted, Refusal> {
    let refuse = |why: &str, cure: String| {
        let message = format!("VPS {} cannot be reverted: {why}", doc.title());
        Err(Refusal::new(Code::NotConvertible, message, cure))
    };
    match (&doc.impermanence, &doc.converted) {
        (Some(_), Some(was)) => Ok(was),
        (None, _) => refuse(
            "its root is persistent",
            format!("see `mayfly feature list {}`", doc.id),
        ),
        (Some(_), None) => refuse(
            "it was not converted, so its root dataset holds what is kept and no system",
            format!(
                "where a system was put there by hand: mayfly feature set {} impermanence=off",
                doc.id
            ),
        ),
    }
}

fn reverted(stopped: &VpsDoc, was: &Converted) -> VpsDoc {
    let mut new = stopped.clone();
    let kind = new.impermanence.take().map(|on| on.root_kind);
    new.template = was.template.clone();
    new.base = was.base.clone();
    new.manifest = was.manifest.clone();
    new.converted = None;
    if kind == Some(RootKind::Template) {
        let storage = new.storage.clone();
        let came = |mount: &Mount| {
            let is_there = Some(&mount.path) == storage.as_ref() && mount.dataset.is_root();
            is_there && !was.mounts.iter().any(|before| before.path == mount.path)
        };
        new.mounts.retain(|mount| !came(mount));
    }
    new.storage = was.storage.clone();
    new
}

fn check_boots(doc: &VpsDoc, seen: &Observed) -> Result<(), Refusal> {
    let why = match &seen.init {
        Some(InitSeen::Found) => return Ok(()),
        Some(InitSeen::Missing { path }) => format!("{path} is not there"),
        Some(InitSeen::NotExecutable { what }) => format!("its init is {what}"),
        None => {
            let what = "the init of the root dataset";
            return Err(LookFailed::new(what, "it was not looked for").into());
        }
    };
    Err(Refusal::new(
        Code::VpsWouldNotBoot,
        format!(
            "VPS {} would not boot from its root dataset: {why}",
            doc.title()
        ),
        "put the system back below the storage's path, from inside; nothing was changed",
    ))
}
