//! The control socket: one JSON request per line, one JSON answer per line.
//!
//! Requests: `{"stop":{"timeout_ms":60000,"force":false}}`, `{"resize":{"rows":24,"cols":80}}`, `{"status":{}}`,
//! `{"wait":{"phase":"running"}}`. The version is the `protocol` field of `state.json`.

use mayfly_core::run::{RunPhase, RunState};
use serde::{Deserialize, Serialize};

/// Neither a request nor an answer is longer.
pub(crate) const LINE_LIMIT: usize = 64 << 10;

/// What the daemon asks of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// End the run: the halt signal, then SIGKILL when the time is up; SIGKILL at once with `force`. Answered at once.
    Stop { timeout_ms: u64, force: bool },
    /// Set the size of the console.
    Resize { rows: u16, cols: u16 },
    /// Tell the state.
    Status {},
    /// Answer when the run has come so far, or further. At the end the connection is closed, after `state.json` was
    /// written.
    Wait { phase: RunPhase },
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Done, or begun; and how things are.
    Ok(Box<RunState>),
    /// Not done, and why.
    Error(String),
}

/// Whether `now` is `wanted` or later.
pub(crate) fn reached(now: RunPhase, wanted: RunPhase) -> bool {
    let order = |phase| match phase {
        RunPhase::Starting => 0,
        RunPhase::Running => 1,
        RunPhase::Ended => 2,
    };
    order(now) >= order(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_as_documented() {
        let read = |text| serde_json::from_str::<Request>(text).unwrap();
        assert_eq!(
            read(r#"{"stop":{"timeout_ms":60000,"force":false}}"#),
            Request::Stop {
                timeout_ms: 60000,
                force: false
            }
        );
        assert_eq!(
            read(r#"{"resize":{"rows":24,"cols":80}}"#),
            Request::Resize { rows: 24, cols: 80 }
        );
        assert_eq!(read(r#"{"status":{}}"#), Request::Status {});
        assert_eq!(
            read(r#"{"wait":{"phase":"running"}}"#),
            Request::Wait {
                phase: RunPhase::Running
            }
        );
    }

    #[test]
    fn the_end_counts_as_having_run() {
        assert!(reached(RunPhase::Ended, RunPhase::Running));
        assert!(!reached(RunPhase::Starting, RunPhase::Running));
    }
}
