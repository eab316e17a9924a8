//! What happened to the runs of a VPS, and how much of it is remembered.
//!
//! An operation that comes to its end may have begun a run, ended one, or failed. [`happened`] reads that off the
//! operation, the VPS's document as it is then, and what is remembered already; the engine writes it together with the
//! operation's end, so each thing is told once, whatever died in between. Nothing here is said by a guest but the details of
//! how a run ended, which are cut to a length.

use serde::{Deserialize, Serialize};

use crate::documents::{
    BY_ITSELF, CurrentRun, OperationDoc, OperationState, Request, SCHEMA, VpsDoc,
};
use crate::error::Refusal;
use crate::ids::{Digest, Incarnation, OperationId, RunId, VpsId};
use crate::names::PoolPath;
use crate::persist::record::Taken;
use crate::plan::{Plan, Step, should_start};
use crate::run::RunEnd;

/// So much is remembered of a VPS.
pub const KEEP: usize = 64;

/// So many operations that failed are remembered: whoever asks for the impossible every minute pushes no run out.
pub const KEEP_FAILURES: usize = 24;

/// So many files are named in one entry.
const KEEP_FILES: usize = 8;

/// A longer detail or message is cut.
const TEXT_CHARS: usize = 600;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// The VPS.
    pub vps: VpsId,
    /// Which VPS of that number.
    pub incarnation: Incarnation,
    /// When, in milliseconds since 1970: the end of a run is when it was noticed.
    pub unix_ms: u64,
    /// The operation that did it, or that settled it.
    pub operation: OperationId,
    /// What that operation was asked to do, in words.
    pub verb: String,
    /// Who asked.
    pub by: String,
    /// What happened.
    pub what: Happened,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happened {
    /// A run was begun, and its init was reached.
    Started {
        /// The run.
        run: RunId,
        /// The dataset at its `/`.
        root: PoolPath,
        /// The template that the root was cloned from; none where it was not.
        base: Option<Digest>,
        /// The how manieth crash of late it was started again after; none where it was not that.
        after_crash: Option<usize>,
    },
    /// A run is over, or came to nothing.
    Ended {
        /// The run.
        run: RunId,
        /// The dataset that was at its `/`, as far as that is remembered.
        root: Option<PoolPath>,
        /// How it ended.
        how: HowEnded,
        /// What else is known.
        detail: Option<String>,
        /// Whether it is started again for that.
        starts_again: bool,
        /// The how manieth crash of late it was; none where it was none.
        crash: Option<usize>,
    },
    /// Copies of declared files were taken back from a root, or could not be.
    Copies {
        /// The run whose root it was.
        run: RunId,
        /// What came of it, so much of it as is told.
        taken: Taken,
        /// Why not all could be looked at; it is tried again before the next start.
        failed: Option<String>,
    },
    /// An operation was refused or failed.
    Failed {
        /// The run that it was to begin.
        run: Option<RunId>,
        /// Why.
        error: Refusal,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HowEnded {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// It was killed on request.
    Killed,
    /// The host went down with it.
    HostDown,
    /// Init, lxc-start or the supervisor died without being asked to.
    Crashed,
    /// The guest's init was never reached.
    FailedToStart,
    /// An operation ended it.
    Stopped,
    /// It was found to be over by an operation that was about something else.
    FoundOver,
}

impl HowEnded {
    fn of(end: &RunEnd) -> (Self, Option<&str>) {
        match end {
            RunEnd::PowerOff => (Self::PowerOff, None),
            RunEnd::Reboot => (Self::Reboot, None),
            RunEnd::Killed => (Self::Killed, None),
            RunEnd::HostDown => (Self::HostDown, None),
            RunEnd::Crashed { detail } => (Self::Crashed, Some(detail)),
            RunEnd::FailedToStart { detail } => (Self::FailedToStart, Some(detail)),
        }
    }

    fn is_a_crash(self) -> bool {
        matches!(self, Self::Crashed | Self::FailedToStart)
    }
}

/// Whether an operation that is over may have something to remember.
pub fn is_worth_a_look(op: &OperationDoc) -> bool {
    let step = |planned: &crate::plan::PlannedStep| {
        matches!(planned.step, Step::Launch { .. } | Step::EndRun { .. })
    };
    op.state != OperationState::Done || op.plan.iter().flat_map(|plan| &plan.steps).any(step)
}

/// What an operation that is over has made happen. `now` is the VPS as it is now, `past` what is remembered of it, in order.
pub fn happened(op: &OperationDoc, now: &VpsDoc, past: &[HistoryDoc]) -> Vec<HistoryDoc> {
    let mut all = Vec::new();
    all.extend(ended(op, now, past));
    all.extend(failed(op, past));
    all.extend(started(op, now, past));
    let entry = |what: Happened| HistoryDoc {
        schema: SCHEMA,
        vps: now.id,
        incarnation: now.incarnation.clone(),
        unix_ms: match (&what, &op.request) {
            (Happened::Ended { .. }, Request::RunEnded { .. }) => op.created_unix_ms,
            _ => op.ended_unix_ms.unwrap_or(op.created_unix_ms),
        },
        operation: op.id.clone(),
        verb: op.request.verb().to_owned(),
        by: op.by.clone(),
        what,
    };
    all.into_iter().map(entry).collect()
}

/// The end of the run that a destroyed VPS had: nothing of such a VPS is remembered, but whoever follows is told.
pub fn ended_by_destroy(op: &OperationDoc) -> Option<HistoryDoc> {
    let (Request::Destroy { .. }, OperationState::Done) = (&op.request, op.state) else {
        return None;
    };
    let going = recorded(op.plan.as_ref()?).find_map(|doc| Some((doc, doc.run.as_ref()?)));
    let (doc, run) = going?;
    Some(HistoryDoc {
        schema: SCHEMA,
        vps: doc.id,
        incarnation: doc.incarnation.clone(),
        unix_ms: op.ended_unix_ms.unwrap_or(op.created_unix_ms),
        operation: op.id.clone(),
        verb: op.request.verb().to_owned(),
        by: op.by.clone(),
        what: Happened::Ended {
            run: run.run.clone(),
            root: Some(run.root.clone()),
            how: HowEnded::Stopped,
            detail: None,
            starts_again: false,
            crash: None,
        },
    })
}

/// What came of taking copies back from the root of `run`; none where there is nothing to tell, or that was told last.
pub fn copies(
    run: &RunId,
    result: Result<&Taken, &Refusal>,
    past: &[HistoryDoc],
) -> Option<Happened> {
    let few = |texts: &[String]| {
        texts
            .iter()
            .take(KEEP_FILES)
            .map(|text| cut(text))
            .collect()
    };
    let what = match result {
        Ok(taken) if taken.count == 0 && taken.refused.is_empty() => return None,
        Ok(taken) => Happened::Copies {
            run: run.clone(),
            taken: Taken {
                files: few(&taken.files),
                count: taken.count,
                refused: few(&taken.refused),
            },
            failed: None,
        },
        Err(refusal) => Happened::Copies {
            run: run.clone(),
            taken: Taken::default(),
            failed: Some(cut(&refusal.message)),
        },
    };
    let again = past
        .iter()
        .rev()
        .find(|entry| matches!(entry.what, Happened::Copies { .. }));
    (again.is_none_or(|last| last.what != what)).then_some(what)
}

/// Which of `past` (in order) are to be forgotten so that `new` can be remembered.
pub fn forgotten(past: &[HistoryDoc], new: &[HistoryDoc]) -> Vec<usize> {
    let is_failure = |entry: &HistoryDoc| matches!(entry.what, Happened::Failed { .. });
    let failures = past.iter().chain(new).filter(|e| is_failure(e)).count();
    let mut spare_failures = failures.saturating_sub(KEEP_FAILURES);
    let mut gone: Vec<usize> = Vec::new();
    for (at, entry) in past.iter().enumerate() {
        if spare_failures > 0 && is_failure(entry) {
            spare_failures -= 1;
            gone.push(at);
        }
    }
    let mut spare = (past.len() + new.len()).saturating_sub(KEEP + gone.len());
    for at in 0..past.len() {
        if spare > 0 && !gone.contains(&at) {
            spare -= 1;
            gone.push(at);
        }
    }
    gone.sort_unstable();
    gone
}

fn recorded(plan: &Plan) -> impl Iterator<Item = &VpsDoc> {
    plan.steps.iter().filter_map(|planned| match &planned.step {
        Step::Record { doc, .. } => doc.as_deref(),
        _ => None,
    })
}

/// The end of a run.
fn ended(op: &OperationDoc, now: &VpsDoc, past: &[HistoryDoc]) -> Option<Happened> {
    let plan = op.plan.as_ref()?;
    if let Request::RunEnded { run, end, .. } = &op.request {
        if op.state != OperationState::Done {
            return None;
        }
        let after = recorded(plan).last()?;
        let (how, detail) = HowEnded::of(end);
        return Some(Happened::Ended {
            run: run.clone(),
            root: root_of(past, run),
            how,
            detail: detail.filter(|text| !text.is_empty()).map(cut),
            starts_again: should_start(after),
            crash: how.is_a_crash().then_some(after.crashes.len()),
        });
    }
    let by_us = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::EndRun { run, .. } => run.as_ref(),
        _ => None,
    });
    let open = open_run(past).or_else(|| by_us.filter(|run| !has_ended(past, run)));
    let run = open?;
    if now.run.as_ref().is_some_and(|going| going.run == *run) {
        return None;
    }
    Some(Happened::Ended {
        run: run.clone(),
        root: root_of(past, run),
        how: if by_us == Some(run) {
            HowEnded::Stopped
        } else {
            HowEnded::FoundOver
        },
        detail: None,
        starts_again: false,
        crash: None,
    })
}

fn failed(op: &OperationDoc, past: &[HistoryDoc]) -> Option<Happened> {
    let error = match (&op.error, op.state) {
        (Some(error), state) if state != OperationState::Done => error,
        _ => return None,
    };
    let failed = Happened::Failed {
        run: op.plan.as_ref().and_then(launched),
        error: Refusal {
            code: error.code,
            message: cut(&error.message),
            hint: cut(&error.hint),
        },
    };
    // What is tried again for ever is told once.
    let again = past.last().is_some_and(|last| {
        let same = match (&last.what, &failed) {
            (Happened::Failed { error: one, .. }, Happened::Failed { error: other, .. }) => {
                one == other
            }
            _ => false,
        };
        same && last.by == op.by && last.verb == op.request.verb()
    });
    (!again).then_some(failed)
}

fn started(op: &OperationDoc, now: &VpsDoc, past: &[HistoryDoc]) -> Option<Happened> {
    let current: &CurrentRun = now.run.as_ref()?;
    let by_this = op.plan.as_ref().and_then(launched).as_ref() == Some(&current.run);
    if op.state != OperationState::Done || !by_this {
        return None;
    }
    let last_crash = past.iter().rev().find_map(|entry| match &entry.what {
        Happened::Ended {
            run,
            starts_again: true,
            crash,
            ..
        } => Some((run, *crash)),
        Happened::Ended { .. } | Happened::Started { .. } => Some((&current.run, None)),
        Happened::Failed { .. } | Happened::Copies { .. } => None,
    });
    Some(Happened::Started {
        run: current.run.clone(),
        root: current.root.clone(),
        base: current.base.clone(),
        after_crash: last_crash
            .filter(|_| op.by == BY_ITSELF)
            .and_then(|(_, n)| n),
    })
}

/// The run that a plan begins.
fn launched(plan: &Plan) -> Option<RunId> {
    plan.steps.iter().find_map(|planned| match &planned.step {
        Step::Launch { launch } => Some(launch.run.clone()),
        _ => None,
    })
}

/// The last run that was begun, where its end is not remembered.
fn open_run(past: &[HistoryDoc]) -> Option<&RunId> {
    let last = past.iter().rev().find_map(|entry| match &entry.what {
        Happened::Started { run, .. } => Some(run),
        _ => None,
    });
    last.filter(|run| !has_ended(past, run))
}

fn has_ended(past: &[HistoryDoc], of: &RunId) -> bool {
    past.iter()
        .any(|entry| matches!(&entry.what, Happened::Ended { run, .. } if run == of))
}

fn root_of(past: &[HistoryDoc], of: &RunId) -> Option<PoolPath> {
    past.iter().rev().find_map(|entry| match &entry.what {
        Happened::Started { run, root, .. } if run == of => Some(root.clone()),
        _ => None,
    })
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_CHARS) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}
