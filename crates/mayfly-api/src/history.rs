//! What happened to the runs of a VPS.

use mayfly_core::history::{Happened, HistoryDoc, HowEnded};
use mayfly_core::ids::{Digest, OperationId, RunId, VpsId};
use mayfly_core::names::PoolPath;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorInfo;

/// What is remembered of a VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HistoryView {
    /// `/v1/events?since=` goes on from here without a gap.
    pub revision: u64,
    /// The oldest first; so much as is kept.
    pub events: Vec<RunEventView>,
}

/// One thing that happened to a run, or that should have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunEventView {
    /// The VPS.
    pub vps: VpsId,
    /// When, in milliseconds since 1970. A run's end is told when it was noticed.
    pub unix_ms: u64,
    /// What.
    pub what: RunEventKind,
    /// The operation that did it, or that settled it.
    pub operation: OperationId,
    /// What that operation was asked, in words.
    pub verb: String,
    /// Who asked.
    pub by: String,
    /// The run; with `operation_failed` the one that was to begin, where one was.
    pub run: Option<RunId>,
    /// The dataset at its `/`, where it is known.
    pub root: Option<PoolPath>,
    /// The template that its root was cloned from, where it was (`started`).
    pub base: Option<Digest>,
    /// It was started again after the how manieth crash of late (`started`).
    pub after_crash: Option<usize>,
    /// How it ended (`ended`).
    pub how: Option<HowEnded>,
    /// What else is known of its end (`ended`).
    pub detail: Option<String>,
    /// Whether it is started again for that (`ended`).
    pub starts_again: Option<bool>,
    /// The how manieth crash of late it was, where it was one (`ended`).
    pub crash: Option<usize>,
    /// Copies of declared files that were taken back (`copies`).
    pub taken: Option<TakenView>,
    /// Why (`operation_failed`).
    pub error: Option<ErrorInfo>,
}

/// What came of taking copies back from a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakenView {
    /// How many files were taken.
    pub count: usize,
    /// The first of them.
    pub files: Vec<String>,
    /// The first of those that never will be, with the reason.
    pub refused: Vec<String>,
    /// Why not all could be looked at; it is tried again before the next start.
    pub failed: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunEventKind {
    /// A run was begun, and its init was reached.
    Started,
    /// A run is over, or came to nothing.
    Ended,
    /// Copies of declared files were taken back from a root, or could not be.
    Copies,
    /// An operation was refused or failed.
    OperationFailed,
}

impl From<HistoryDoc> for RunEventView {
    fn from(doc: HistoryDoc) -> Self {
        let mut view = Self {
            vps: doc.vps,
            unix_ms: doc.unix_ms,
            what: RunEventKind::OperationFailed,
            operation: doc.operation,
            verb: doc.verb,
            by: doc.by,
            run: None,
            root: None,
            base: None,
            after_crash: None,
            how: None,
            detail: None,
            starts_again: None,
            crash: None,
            taken: None,
            error: None,
        };
        match doc.what {
            Happened::Started {
                run,
                root,
                base,
                after_crash,
            } => Self {
                what: RunEventKind::Started,
                run: Some(run),
                root: Some(root),
                base,
                after_crash,
                ..view
            },
            Happened::Ended {
                run,
                root,
                how,
                detail,
                starts_again,
                crash,
            } => Self {
                what: RunEventKind::Ended,
                run: Some(run),
                root,
                how: Some(how),
                detail,
                starts_again: Some(starts_again),
                crash,
                ..view
            },
            Happened::Copies { run, taken, failed } => Self {
                what: RunEventKind::Copies,
                run: Some(run),
                taken: Some(TakenView {
                    count: taken.count,
                    files: taken.files,
                    refused: taken.refused,
                    failed,
                }),
                ..view
            },
            Happened::Failed { run, error } => {
                view.run = run;
                view.error = Some(ErrorInfo {
                    operation: Some(view.operation.clone()),
                    ..error.into()
                });
                view
            }
        }
    }
}
