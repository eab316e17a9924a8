//! Operations.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use mayfly_api::{OperationFilter, OperationView};
use mayfly_core::documents::OperationState;

use super::change::{until_over, watch};
use super::screen::escape;
use super::table::{facts, moment, or_dash, table};
use super::words::parse_vps;
use super::{Context, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum OperationVerb {
    /// The operations that are remembered, the oldest first
    List {
        /// Only those of this VPS, by id or host name
        #[arg(long, value_name = "VPS", value_parser = parse_vps)]
        vps: Option<String>,
        /// Only those that are queued, running, undoing, done, failed or cancelled
        #[arg(long, value_parser = parse_state)]
        state: Option<OperationState>,
        /// Only the newest of them, so many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
    },
    /// One operation with its plan
    Show {
        /// Its id, or the beginning of it
        operation: String,
    },
    /// Wait until it is over
    Watch {
        /// Its id, or the beginning of it
        operation: String,
    },
    /// Give it up and put back what it has done
    Cancel {
        /// Its id, or the beginning of it
        operation: String,
    },
}

pub(super) async fn run(context: &Context, verb: OperationVerb) -> Result<ExitCode, Failure> {
    match verb {
        OperationVerb::List { vps, state, limit } => {
            let which = OperationFilter { vps, state, limit };
            let all = context.client.operations(&which).await?;
            context.screen.show(&all, |all| render_list(all))?;
        }
        OperationVerb::Show { operation } => {
            context.screen.show(
                &context.client.operation(&operation, Duration::ZERO).await?,
                render_one,
            )?;
        }
        OperationVerb::Watch { operation } => {
            let operation = context.client.operation(&operation, Duration::ZERO).await?;
            let operation = watch(context, operation).await?;
            context.screen.show(&operation, |op| {
                format!("operation {} ({}) is done\n", op.id, escape(&op.verb))
            })?;
        }
        OperationVerb::Cancel { operation } => {
            let operation = context.client.cancel(&operation).await?;
            let operation = until_over(context, operation).await?;
            if operation.state != OperationState::Cancelled {
                return Err(watch(context, operation).await.err().unwrap_or_else(|| {
                    Failure::mistake("the operation was to be cancelled and is done")
                }));
            }
            context.screen.show(&operation, |op| {
                format!("operation {} ({}) is cancelled\n", op.id, escape(&op.verb))
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The word for a state.
pub(super) fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Queued => "queued",
        OperationState::Running => "running",
        OperationState::Undoing => "undoing",
        OperationState::Done => "done",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

fn parse_state(text: &str) -> Result<OperationState, String> {
    let all = [
        OperationState::Queued,
        OperationState::Running,
        OperationState::Undoing,
        OperationState::Done,
        OperationState::Failed,
        OperationState::Cancelled,
    ];
    let known = || all.map(state).join(", ");
    let found = all.into_iter().find(|one| state(*one) == text);
    found.ok_or_else(|| format!("write one of {}", known()))
}

fn render_list(all: &[OperationView]) -> String {
    let rows: Vec<_> = all
        .iter()
        .map(|op| {
            let told = match &op.error {
                Some(error) => error.message.clone(),
                None if op.state.is_over() => String::new(),
                None => op.progress.clone(),
            };
            vec![
                op.id.to_string(),
                moment(op.created_unix_ms),
                or_dash(op.vps),
                op.verb.clone(),
                state(op.state).to_owned(),
                told,
            ]
        })
        .collect();
    table(&["id", "asked", "vps", "what", "state", "progress"], &rows)
}

fn render_one(op: &OperationView) -> String {
    let mut rows = vec![
        ("id", op.id.to_string()),
        ("what", op.verb.clone()),
        ("vps", or_dash(op.vps)),
        (
            "asked",
            format!("{} by {}", moment(op.created_unix_ms), op.by),
        ),
        ("state", state(op.state).to_owned()),
    ];
    if let Some(ended) = op.ended_unix_ms {
        rows.push((
            "over",
            format!(
                "{}, after {} ms",
                moment(ended),
                ended.saturating_sub(op.created_unix_ms)
            ),
        ));
    }
    if let Some(by) = &op.cancelled_by {
        rows.push(("cancelled by", by.clone()));
    }
    if !op.state.is_over() {
        rows.push(("progress", op.progress.clone()));
    }
    if let Some(error) = &op.error {
        rows.push(("error", error.message.clone()));
        rows.push(("next", error.hint.clone()));
        rows.push(("code", error.code.to_string()));
    }
    let mut text = facts(&rows);
    for (index, line) in op.lines.iter().enumerate() {
        let mark = if index < op.steps_done { "done" } else { "" };
        let took = match op.steps_ms.get(index) {
            Some(ms) if index < op.steps_done => format!("  ({ms} ms)"),
            _ => String::new(),
        };
        let line = format!("{mark:4}  {:>2}. {}{took}", index + 1, escape(line));
        text.push_str(&format!("{}{}\n", if index == 0 { "\n" } else { "" }, line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation() -> OperationView {
        serde_json::from_value(serde_json::json!({
            "id": "019ab0c4d5e6f7a8b9c0", "vps": 100, "verb": "start", "by": "uid 0", "state": "failed",
            "created_unix_ms": 1_763_837_000_000_u64, "ended_unix_ms": 1_763_837_000_250_u64,
            "lines": ["make dataset 100.impermanence-c5a8b7", "start the supervisor"], "steps_done": 1, "steps_ms": [12, 7],
            "progress": "put back",
            "error": {
                "code": "vps.start_failed", "message": "VPS 100 did not start: no init", "hint": "see `mayfly logs 100`",
                "operation": "019ab0c4d5e6f7a8b9c0"
            }
        }))
        .unwrap()
    }

    #[test]
    fn operations_are_a_table() {
        assert_eq!(
            render_list(&[operation()]),
            "\
ID                    ASKED                 VPS  WHAT   STATE   PROGRESS
019ab0c4d5e6f7a8b9c0  2025-11-22 18:43:20Z  100  start  failed  VPS 100 did not start: no init
"
        );
    }

    #[test]
    fn one_operation_shows_its_plan_and_why_it_failed() {
        assert_eq!(
            render_one(&operation()),
            "\
id:     019ab0c4d5e6f7a8b9c0
what:   start
vps:    100
asked:  2025-11-22 18:43:20Z by uid 0
state:  failed
over:   2025-11-22 18:43:20Z, after 250 ms
error:  VPS 100 did not start: no init
next:   see `mayfly logs 100`
code:   vps.start_failed

done   1. make dataset 100.impermanence-c5a8b7  (12 ms)
       2. start the supervisor
"
        );
    }
}
