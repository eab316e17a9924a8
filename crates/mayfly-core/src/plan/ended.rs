//! What the end of a run calls for.

use super::harvest::harvest;
use super::parts::record_ended;
use super::{Plan, Step};
use crate::documents::{AutostartWhen, Crash, Desired, Lifecycle, OnCrash, VpsDoc};
use crate::ids::RunId;
use crate::run::RunEnd;

/// So many crashes are followed by a new start.
pub const MAX_CRASHES: usize = 3;

/// Within so many milliseconds.
pub const CRASH_WINDOW_MS: u64 = 5 * 60 * 1000;

/// Sweeps up and records. Whether it is started again is read off the document by [`should_start`].
pub fn plan_run_ended(
    doc: &VpsDoc,
    run: &RunId,
    end: &RunEnd,
    boot_ms: u64,
    boot_id: &str,
) -> Plan {
    let current = doc.run.as_ref().is_some_and(|r| r.run == *run);
    // A start that failed has put its record back; it counts where the VPS ought to run and would be started again.
    let failed_start = doc.run.is_none()
        && doc.desired == Desired::Running
        && matches!(end, RunEnd::FailedToStart { .. })
        && !doc.crashes.iter().any(|c| c.run == *run);
    if !current && !failed_start {
        return Plan::default();
    }
    let mut after = record_ended(doc);
    let what = match end {
        RunEnd::PowerOff => {
            after.desired = Desired::Stopped;
            "it has powered itself off"
        }
        RunEnd::Reboot => "it has asked for a reboot",
        RunEnd::HostDown => {
            after.desired = if comes_back(doc) {
                Desired::Running
            } else {
                Desired::Stopped
            };
            "the host went down with it"
        }
        RunEnd::Killed => {
            after.desired = Desired::Stopped;
            "it was killed on request"
        }
        RunEnd::Crashed { .. } | RunEnd::FailedToStart { .. } => {
            let of_late = |c: &Crash| {
                c.boot_id == boot_id && boot_ms.saturating_sub(c.boot_ms) < CRASH_WINDOW_MS
            };
            after.crashes.retain(|c| of_late(c) && c.run != *run);
            after.crashes.push(Crash {
                run: run.clone(),
                boot_id: boot_id.to_owned(),
                boot_ms,
            });
            if doc.on_crash == OnCrash::Stop || after.crashes.len() > MAX_CRASHES {
                after.desired = Desired::Stopped;
            }
            "it has crashed"
        }
    };
    let sweep = Step::EndRun {
        vps: doc.id,
        run: None,
        halt_ms: None,
    }
    .final_because("the run is over");
    let record = Step::Record {
        vps: doc.id,
        what: what.into(),
        doc: Some(Box::new(after)),
    }
    .final_because("the run is over, whatever comes next");
    let root = doc.run.as_ref().map(|run| &run.root);
    // Who sees it stopped finds in the storage what it left. Where that fails now, the next start insists on it.
    let harvest = root.and_then(|root| harvest(doc, root));
    let harvest = harvest.map(Step::as_housekeeping);
    Plan {
        steps: [sweep].into_iter().chain(harvest).chain([record]).collect(),
    }
}

/// Whether a VPS with which the host went down is started when the host is there again.
pub fn comes_back(doc: &VpsDoc) -> bool {
    match doc.autostart.when {
        AutostartWhen::Last => doc.desired == Desired::Running,
        AutostartWhen::On => true,
        AutostartWhen::Off => false,
    }
}

/// Whether the lasting goal calls for a start.
pub fn should_start(doc: &VpsDoc) -> bool {
    doc.lifecycle == Lifecycle::Ready && doc.desired == Desired::Running && doc.run.is_none()
}
