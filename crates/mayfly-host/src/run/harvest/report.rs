//! What the helper says it did. Paths and reasons in it are a guest's words: escaped, bounded, and never acted upon.

use std::fmt;

use mayfly_core::persist::limits::TOLD;
use mayfly_core::persist::record::Taken;
use serde::Deserialize;

use crate::run::supervise::bounded;

/// So many reasons are told of a harvest that is not complete.
const REASONS: usize = 3;

/// A harvest that came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// What was taken, and what never will be.
    pub(crate) taken: Taken,
    /// Why not all that is due was taken, where that is so: it may work later.
    pub(crate) incomplete: Option<String>,
}

/// A harvest that came to no end, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed(String);

impl Failed {
    pub(super) fn new(why: String) -> Self {
        Self(bounded(why.trim()))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The helper's words; what it says of each file besides is for people who call it by hand.
#[derive(Deserialize)]
struct Told {
    state: String,
    #[serde(default)]
    why: Option<String>,
    taken: Vec<String>,
    taken_count: usize,
    refused: Vec<String>,
    files: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    path: String,
    what: String,
    #[serde(default)]
    why: Option<String>,
}

/// Reads what the helper printed.
pub(super) fn parse_report(text: &[u8]) -> Result<Report, String> {
    let told: Told = serde_json::from_slice(text)
        .map_err(|e| format!("what the helper says is not understood: {e}"))?;
    let bounded = |texts: &[String]| texts.iter().take(TOLD).map(|text| bounded(text)).collect();
    let taken = Taken {
        files: bounded(&told.taken),
        count: told.taken_count,
        refused: bounded(&told.refused),
    };
    let incomplete = match told.state.as_str() {
        "done" | "none" => None,
        _ => Some(why_incomplete(&told)),
    };
    Ok(Report { taken, incomplete })
}

fn why_incomplete(told: &Told) -> String {
    let failed = told.files.iter().filter(|line| line.what == "failed");
    let reasons = failed.map(|line| match &line.why {
        // Most reasons begin with the path.
        Some(why) if why.contains(&line.path) => bounded(why),
        Some(why) => bounded(&format!("{}: {why}", line.path)),
        None => bounded(&line.path),
    });
    let all: Vec<String> = told
        .why
        .as_deref()
        .map(bounded)
        .into_iter()
        .chain(reasons)
        .take(REASONS)
        .collect();
    if all.is_empty() {
        "not all could be taken".to_owned()
    } else {
        all.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_was_taken_what_never_will_be_and_what_may_be_later() {
        let text = r#"{"version": 1, "state": "incomplete", "taken": ["/etc/a"], "taken_count": 1,
            "refused": ["/etc/c: it is a FIFO"], "files": [
            {"path": "/etc/a", "what": "taken"}, {"path": "/etc/c", "what": "refused", "why": "it is a FIFO"},
            {"path": "/etc/d", "what": "failed", "why": "no space"},
            {"path": "/etc/e", "what": "failed", "why": "/etc/e: an I/O error"},
            {"path": "/etc/f", "what": "a new word"}], "omitted": 1}"#;
        let report = parse_report(text.as_bytes()).unwrap();
        assert_eq!(
            (report.taken.count, &report.taken.files[..]),
            (1, &["/etc/a".to_owned()][..])
        );
        assert_eq!(report.taken.refused, ["/etc/c: it is a FIFO"]);
        let why = report.incomplete.unwrap();
        assert_eq!(why, "/etc/d: no space; /etc/e: an I/O error");
        let nothing = r#""taken": [], "taken_count": 0, "refused": [], "files": []"#;
        let state = |state: &str| {
            parse_report(format!(r#"{{"state": "{state}", "why": "x", {nothing}}}"#).as_bytes())
        };
        for complete in ["done", "none"] {
            assert_eq!(state(complete), Ok(Report::default()));
        }
        for other in ["incomplete", "what is this"] {
            assert_eq!(state(other).unwrap().incomplete.as_deref(), Some("x"));
        }
    }

    #[test]
    fn hostile_words_are_escaped_and_cut() {
        let many = vec!["/a\u{1b}[2J"; 1_000];
        let text = serde_json::json!({"state": "done", "taken": many, "taken_count": 1_000, "refused": many, "files": []});
        let report = parse_report(text.to_string().as_bytes()).unwrap();
        assert_eq!(report.taken.count, 1_000);
        assert_eq!(report.taken.files, vec!["/a\\u{1b}[2J"; TOLD]);
        assert_eq!(report.taken.refused, vec!["/a\\u{1b}[2J"; TOLD]);
        for text in [&b""[..], b"{", b"[]", b"\xff", b"{\"state\": 1}"] {
            assert!(parse_report(text).is_err());
        }
    }
}
