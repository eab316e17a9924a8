//! What changes, as it happens.

use std::process::ExitCode;

use clap::Args;
use mayfly_api::{EventLine, EventView};

use super::screen::escape;
use super::words::parse_vps;
use super::{Context, Failure, history, operation};

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Begin after this revision [default: now]
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
    /// Only what concerns this VPS, by id or host name: itself, its operations, its runs
    #[arg(long, value_parser = parse_vps)]
    vps: Option<String>,
}

pub(super) async fn run(context: &Context, args: EventsArgs) -> Result<ExitCode, Failure> {
    let mut lines = context
        .client
        .events(args.since, args.vps.as_deref())
        .await?;
    while let Some(line) = lines.next_line().await? {
        let event = match serde_json::from_str(&line) {
            Ok(EventLine::Last(body)) => return Err(body.error.into()),
            Ok(EventLine::Event(event)) => Some(event),
            // A newer node may have more to tell.
            Err(_) => None,
        };
        if context.screen.json {
            context.screen.print(&format!("{line}\n"))?;
            continue;
        }
        let shown = event.map_or_else(|| escape(&line), |event| render(&event));
        context.screen.print(&format!("{shown}\n"))?;
    }
    Err(ended())
}

/// The stream has no end of its own.
pub(super) fn ended() -> Failure {
    Failure::refused(
        mayfly_core::error::Code::NodeUnreachable,
        "the node ended the stream of events",
        "see whether it still runs: mayfly status",
    )
}

fn render(event: &EventView) -> String {
    if let Some(run) = &event.run {
        return escape(&format!(
            "{}  VPS {}  {}",
            event.revision,
            run.vps,
            history::sentence(run)
        ));
    }
    let mut text = format!("{}  {} {}", event.revision, event.kind, event.name);
    if event.removed {
        text.push_str("  removed");
    }
    if let Some(vps) = &event.vps {
        text.push_str(&format!("  {}  {}", vps.hostname, vps.state.as_str()));
    }
    if let Some(op) = &event.operation {
        let vps = op.vps.map(|vps| format!(" {vps}")).unwrap_or_default();
        text.push_str(&format!(
            "  {}{vps}  {}",
            op.verb,
            operation::state(op.state)
        ));
        if !op.lines.is_empty() {
            text.push_str(&format!("  {}/{}", op.steps_done, op.lines.len()));
        }
        if !op.state.is_over() && !op.progress.is_empty() {
            text.push_str(&format!("  {}", op.progress));
        }
        if let Some(error) = &op.error {
            text.push_str(&format!("  {}: {}", error.code, error.message));
        }
    }
    escape(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut event = EventView {
            revision: 7,
            kind: "operation".into(),
            name: "0a".into(),
            removed: false,
            vps: None,
            template: None,
            operation: serde_json::from_value(serde_json::json!({
                "id": "0".repeat(20), "vps": 100, "verb": "start", "by": "uid 0", "state": "running",
                "created_unix_ms": 1, "ended_unix_ms": null, "lines": ["a", "b"], "steps_done": 1, "progress": "b\n",
                "error": null
            }))
            .unwrap(),
            run: None,
        };
        assert_eq!(
            render(&event),
            "7  operation 0a  start 100  running  1/2  b\\n"
        );
        let op = event.operation.as_mut().unwrap();
        op.state = mayfly_core::documents::OperationState::Failed;
        op.error = serde_json::from_value(serde_json::json!({
            "code": "vps.would_not_boot", "message": "it leads to \u{1b}]0;x\u{7}\n", "hint": "look"
        }))
        .unwrap();
        assert_eq!(
            render(&event),
            "7  operation 0a  start 100  failed  1/2  vps.would_not_boot: it leads to \\u{1b}]0;x\\u{7}\\n"
        );
        event.operation = None;
        event.removed = true;
        assert_eq!(render(&event), "7  operation 0a  removed");
    }
}
