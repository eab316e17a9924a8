//! Reports for a person: a line a declaration, and every text of a guest escaped.

use std::fmt::Write as _;

use mayfly_core::persist::declare::{Problem, Severity};
use mayfly_core::persist::report::{Fate, How, Line, Report, State};

/// A report of `apply`.
pub(crate) fn report(report: &Report, dry_run: bool) -> String {
    let mut text = String::new();
    if dry_run {
        text.push_str("nothing is changed; this is what would become of it\n");
    }
    if let Some(why) = &report.why {
        let _ = writeln!(text, "{}: {}", state(report.state), escape(why));
        return text;
    }
    for line in &report.declarations {
        text.push_str(&declaration(line));
    }
    for problem in &report.problems {
        text.push_str(&self::problem(problem));
    }
    let more = report.omitted + report.problems_omitted;
    if more > 0 {
        let _ = writeln!(text, "{more} more");
    }
    let summary = report.summary();
    let _ = writeln!(
        text,
        "{}: {} stay, {} do not",
        state(report.state),
        summary.staying,
        summary.troubled
    );
    text
}

fn declaration(line: &Line) -> String {
    let fate = match line.fate {
        Fate::Applied => "applied",
        Fate::Already => "already",
        Fate::Pending => "pending",
        Fate::Refused => "refused",
        Fate::Inactive => "inactive",
    };
    let how = match line.how {
        Some(How::Bind) => "bind",
        Some(How::Symlink) => "symlink",
        Some(How::Copy) => "copy",
        Some(How::Inside) => "inside",
        None => "-",
    };
    let why = line.why.as_deref().map(|why| format!(": {why}"));
    let path = format!("{}{}", line.path, why.unwrap_or_default());
    format!("{fate:<8} {how:<7} {}\n", escape(&path))
}

/// One problem.
pub(crate) fn problem(problem: &Problem) -> String {
    let severity = match problem.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let text = match problem.at.as_str() {
        "" => problem.what.clone(),
        at => format!("{at}: {}", problem.what),
    };
    format!("{severity}: {}\n", escape(&text))
}

fn state(state: State) -> &'static str {
    match state {
        State::Applied => "applied",
        State::Degraded => "degraded",
        State::Inactive => "inactive",
    }
}

/// Leaves nothing in a text that a terminal takes for more than text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric() {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_default());
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::persist::declare::Tier;

    #[test]
    fn a_report_is_a_line_a_declaration_and_changes_no_terminal() {
        let line = |path: &str, fate, how, why: Option<&str>| Line {
            path: path.to_owned(),
            storage: "/persistent".to_owned(),
            directory: true,
            tier: Tier::Data,
            fate,
            how,
            why: why.map(str::to_owned),
        };
        let mut all = Report::unknown("");
        all.why = None;
        all.declarations = vec![
            line("/var/log", Fate::Applied, Some(How::Bind), None),
            line(
                "/žluť \u{202e}x",
                Fate::Refused,
                None,
                Some("a\u{1b}[2J\nb"),
            ),
        ];
        all.problems = vec![Problem {
            at: "/persistent.files[0]".to_owned(),
            what: "it must be a path".to_owned(),
            severity: Severity::Warning,
        }];
        let expected = "\
applied  bind    /var/log
refused  -       /žluť \\u{202e}x: a\\u{1b}[2J\\nb
warning: /persistent.files[0]: it must be a path
degraded: 1 stay, 1 do not
";
        assert_eq!(report(&all, false), expected);
        assert!(report(&all, true).starts_with("nothing is changed"));
        let why = Report::inactive("no storage");
        assert_eq!(report(&why, false), "inactive: no storage\n");
    }
}
