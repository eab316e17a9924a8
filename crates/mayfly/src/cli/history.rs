//! What happened to the runs of a VPS, in sentences.

use mayfly_api::{OperationView, RunEventKind, RunEventView};
use mayfly_core::history::HowEnded;
use mayfly_core::plan::MAX_CRASHES;

use super::screen::escape;
use super::table::moment;

/// One thing that happened, with its time, on one harmless line.
pub(super) fn line(event: &RunEventView) -> String {
    escape(&format!("{}  {}", moment(event.unix_ms), sentence(event)))
}

/// That an operation has failed, where it has.
pub(super) fn failure(op: &OperationView) -> Option<RunEventView> {
    let error = op.error.clone().filter(|_| op.state.is_over())?;
    Some(RunEventView {
        vps: op.vps?,
        unix_ms: op.ended_unix_ms.unwrap_or(op.created_unix_ms),
        what: RunEventKind::OperationFailed,
        operation: op.id.clone(),
        verb: op.verb.clone(),
        by: op.by.clone(),
        run: None,
        root: None,
        base: None,
        after_crash: None,
        how: None,
        detail: None,
        starts_again: None,
        crash: None,
        taken: None,
        error: Some(error),
    })
}

/// What happened. Not harmless yet: a detail may be a guest's.
pub(super) fn sentence(event: &RunEventView) -> String {
    let RunEventView { verb, by, .. } = event;
    let run = event
        .run
        .as_ref()
        .map_or_else(|| "a run".to_owned(), |run| format!("run {run}"));
    match event.what {
        RunEventKind::Started => {
            let root = event
                .root
                .as_ref()
                .map_or_else(String::new, |root| format!(" with {root} at /"));
            match event.after_crash {
                Some(n) => format!("{run} started again{root}, after crash {n} of {MAX_CRASHES}"),
                None => format!("{run} started{root} ({verb} by {by})"),
            }
        }
        RunEventKind::Ended => format!("{run} ended: {}", how_it_ended(event)),
        RunEventKind::Copies => format!("of {run}: {}", taken_back(event)),
        RunEventKind::OperationFailed => {
            let why = event
                .error
                .as_ref()
                .map_or_else(String::new, |e| format!(": {}: {}", e.code, e.message));
            format!("{verb} by {by} failed{why}")
        }
    }
}

fn taken_back(event: &RunEventView) -> String {
    let Some(taken) = &event.taken else {
        return "copies were taken back".to_owned();
    };
    if let Some(why) = &taken.failed {
        return format!("{why}; it is tried again before the next start");
    }
    let mut text = match (taken.count, taken.files.join(", ")) {
        (0, _) => "no copy was taken back".to_owned(),
        (1, files) => format!("1 copy was taken back: {files}"),
        (n, files) => {
            let more = if n > taken.files.len() { ", …" } else { "" };
            format!("{n} copies were taken back: {files}{more}")
        }
    };
    if !taken.refused.is_empty() {
        text.push_str(&format!("; not taken: {}", taken.refused.join("; ")));
    }
    text
}

fn how_it_ended(event: &RunEventView) -> String {
    let how = match event.how {
        Some(HowEnded::PowerOff) => "it powered itself off".to_owned(),
        Some(HowEnded::Reboot) => "it asked for a reboot".to_owned(),
        Some(HowEnded::Killed) => "it was killed on request".to_owned(),
        Some(HowEnded::HostDown) => "the host went down with it".to_owned(),
        Some(HowEnded::Crashed) => "it crashed".to_owned(),
        Some(HowEnded::FailedToStart) => "it did not start".to_owned(),
        Some(HowEnded::Stopped) => format!("stopped ({} by {})", event.verb, event.by),
        Some(HowEnded::FoundOver) => format!("found to be over ({} by {})", event.verb, event.by),
        None => "it is over".to_owned(),
    };
    let mut text = how;
    if let Some(detail) = &event.detail {
        text.push_str(&format!(" ({detail})"));
    }
    if let Some(n) = event.crash.filter(|n| *n > 0) {
        text.push_str(&format!(", crash {n} in 5 minutes"));
    }
    match (event.starts_again, event.crash) {
        (Some(true), _) => text.push_str("; it is started again"),
        (Some(false), Some(_)) => text.push_str("; it stays stopped"),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(more: serde_json::Value) -> RunEventView {
        let mut value = json!({
            "vps": 100, "unix_ms": 1_763_837_000_000_u64, "what": "ended", "operation": "0".repeat(20),
            "verb": "run ended", "by": "mayfly", "run": "c5a8b7"
        });
        let fields = value.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_event_is_a_sentence_with_its_time() {
        let at = "2025-11-22 18:43:20Z  ";
        for (more, text) in [
            (
                json!({"what": "started", "root": "100.impermanence-c5a8b7", "verb": "create", "by": "uid 0"}),
                "run c5a8b7 started with 100.impermanence-c5a8b7 at / (create by uid 0)",
            ),
            (
                json!({"what": "started", "root": "100", "verb": "start", "after_crash": 2}),
                "run c5a8b7 started again with 100 at /, after crash 2 of 3",
            ),
            (
                json!({"how": "reboot", "starts_again": true}),
                "run c5a8b7 ended: it asked for a reboot; it is started again",
            ),
            (
                json!({"how": "power_off", "starts_again": false}),
                "run c5a8b7 ended: it powered itself off",
            ),
            (
                json!({"how": "stopped", "verb": "stop", "by": "uid 0", "starts_again": false}),
                "run c5a8b7 ended: stopped (stop by uid 0)",
            ),
            (
                json!({"how": "crashed", "detail": "init \u{1b}[2J\n", "starts_again": false, "crash": 4}),
                "run c5a8b7 ended: it crashed (init \\u{1b}[2J\\n), crash 4 in 5 minutes; it stays stopped",
            ),
            (
                json!({"what": "copies", "taken": {"count": 9, "files": ["/etc/a", "/etc/b"], "refused": ["/etc/c is a FIFO"]}}),
                "of run c5a8b7: 9 copies were taken back: /etc/a, /etc/b, …; not taken: /etc/c is a FIFO",
            ),
            (
                json!({"what": "copies", "taken": {"count": 0, "files": [], "refused": [], "failed": "no space"}}),
                "of run c5a8b7: no space; it is tried again before the next start",
            ),
            (
                json!({"what": "operation_failed", "verb": "start", "by": "uid 0", "run": null,
                       "error": {"code": "vps.running", "message": "VPS 100 (web1) is running", "hint": "x"}}),
                "start by uid 0 failed: vps.running: VPS 100 (web1) is running",
            ),
        ] {
            assert_eq!(line(&event(more)), format!("{at}{text}"));
        }
    }
}
