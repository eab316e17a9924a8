//! The frames of the two websockets, `exec` and `console`.
//!
//! Text frames are JSON. Binary frames to the server are typed input. Binary frames from `exec` begin with one byte that
//! says where they belong, [`STDOUT`] or [`STDERR`]; binary frames from `console` are what the guest printed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ErrorInfo;

/// The first byte of a frame with standard output; with a terminal, all output.
pub const STDOUT: u8 = 1;
/// The first byte of a frame with standard error.
pub const STDERR: u8 = 2;

fn default_rows() -> u16 {
    24
}

fn default_cols() -> u16 {
    80
}

/// The first frame of `exec`, from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecStart {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it gets a terminal of its own.
    #[serde(default)]
    pub tty: bool,
    /// The terminal's height.
    #[serde(default = "default_rows")]
    pub rows: u16,
    /// The terminal's width.
    #[serde(default = "default_cols")]
    pub cols: u16,
    /// Variables on top of the guest's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// Later text frames of `exec`, from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ExecRequest {
    /// `{"eof":true}`: no more input.
    Eof(bool),
    /// `{"resize":{"rows":24,"cols":80}}`: the terminal's size changed.
    Resize {
        /// Its height.
        rows: u16,
        /// Its width.
        cols: u16,
    },
}

/// The last frame of `exec`, from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecSays {
    /// `{"exit":0}`: the command is over; 128 and more is 128 + the signal that ended it.
    Exit(i32),
    /// `{"error":{…}}`: it was not run.
    Error(ErrorInfo),
}

/// Text frames of `console`, from the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ConsoleRequest {
    /// `{"resize":{"rows":24,"cols":80}}`.
    Resize {
        /// Its height.
        rows: u16,
        /// Its width.
        cols: u16,
    },
}

/// Text frames of `console`, from the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleSays {
    /// `{"note":"…"}`: something to tell that did not come from the guest.
    Note(String),
    /// `{"error":{…}}`: the console ends here.
    Error(ErrorInfo),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_look_as_documented() {
        let start: ExecStart =
            serde_json::from_str(r#"{"command":["id","-u"],"tty":false}"#).unwrap();
        assert_eq!(start.command, ["id", "-u"]);
        assert_eq!((start.rows, start.cols), (24, 80));
        assert_eq!(
            serde_json::to_string(&ExecRequest::Eof(true)).unwrap(),
            r#"{"eof":true}"#
        );
        let resize = r#"{"resize":{"rows":50,"cols":132}}"#;
        assert_eq!(
            serde_json::from_str::<ExecRequest>(resize).unwrap(),
            ExecRequest::Resize {
                rows: 50,
                cols: 132
            }
        );
        assert_eq!(
            serde_json::to_string(&ExecSays::Exit(137)).unwrap(),
            r#"{"exit":137}"#
        );
        assert!(serde_json::from_str::<ExecStart>(r#"{"command":["id"],"user":"root"}"#).is_err());
    }
}
