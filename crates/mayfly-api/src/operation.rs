//! Operations and plans.

use mayfly_core::documents::{OperationDoc, OperationState};
use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::plan::Plan;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorInfo;

/// What happens to a change where another one of the same VPS, or of templates, is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IfBusy {
    /// It waits for its turn.
    #[default]
    Wait,
    /// It is refused with `vps.busy`, naming the one that is first.
    Refuse,
}

/// Which operations are asked for; what is not given does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationFilter {
    /// Those of this VPS, by number or host name.
    pub vps: Option<String>,
    /// Those that are this far.
    pub state: Option<OperationState>,
    /// So many at most, the newest of them.
    pub limit: Option<usize>,
}

/// One requested change and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    /// Its id.
    pub id: OperationId,
    /// The VPS that it changes; none for templates.
    pub vps: Option<VpsId>,
    /// What was asked, in words: `start`, `dataset create`.
    pub verb: String,
    /// Who asked.
    pub by: String,
    /// How far it is.
    pub state: OperationState,
    /// When it was asked, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it was over, in milliseconds since 1970.
    pub ended_unix_ms: Option<u64>,
    /// The plan as lines to read, one a step; empty before it had its turn.
    pub lines: Vec<String>,
    /// Steps of the plan that are done.
    pub steps_done: usize,
    /// How long each of those took, in milliseconds.
    #[serde(default)]
    pub steps_ms: Vec<u64>,
    /// Who asked for it to be given up.
    #[serde(default)]
    pub cancelled_by: Option<String>,
    /// What is to be read when it is over: what was copied, and so on.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What it is at, in words.
    pub progress: String,
    /// Why it failed.
    pub error: Option<ErrorInfo>,
}

impl From<OperationDoc> for OperationView {
    fn from(doc: OperationDoc) -> Self {
        let error = doc.error.map(|refusal| ErrorInfo {
            operation: Some(doc.id.clone()),
            ..refusal.into()
        });
        Self {
            id: doc.id,
            vps: doc.vps,
            verb: doc.request.verb().to_owned(),
            by: doc.by,
            state: doc.state,
            created_unix_ms: doc.created_unix_ms,
            ended_unix_ms: doc.ended_unix_ms,
            lines: doc.plan.map(|plan| plan.lines()).unwrap_or_default(),
            steps_done: doc.steps_done,
            steps_ms: doc.steps_ms,
            cancelled_by: doc.cancelled_by,
            notes: doc.notes,
            progress: doc.progress,
            error,
        }
    }
}

/// What a change would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// To read, one a step.
    pub lines: Vec<String>,
    /// The very steps that would be carried out.
    pub steps: Vec<serde_json::Value>,
}

/// The answer to a change with `?dry_run=true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanBody {
    /// The plan.
    pub plan: PlanView,
}

impl From<&Plan> for PlanBody {
    fn from(plan: &Plan) -> Self {
        let steps = plan
            .steps
            .iter()
            .map(|s| serde_json::to_value(s).expect("a step is plain data"))
            .collect();
        Self {
            plan: PlanView {
                lines: plan.lines(),
                steps,
            },
        }
    }
}
