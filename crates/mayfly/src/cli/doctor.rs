//! What a VPS should be asked about before its next start loses something.

use std::process::ExitCode;

use mayfly_api::DoctorView;
use mayfly_core::doctor::{Finding, Severity};

use super::screen::escape;
use super::{Context, Failure};

pub(super) const ABOUT: &str = "\
Nothing is changed, and nothing of a NixOS configuration is evaluated: it is read as far as it is literal, and
what would have to be evaluated is told with file and line. The exit status is 0 where there is an answer, whatever
was found.";

pub(super) async fn run(context: &Context, vps: &str) -> Result<ExitCode, Failure> {
    let found = context.client.doctor(vps).await?;
    context.screen.show(&found, render)?;
    Ok(ExitCode::SUCCESS)
}

fn render(view: &DoctorView) -> String {
    let mut text = String::new();
    if let Some(directory) = &view.configuration {
        let files = view.files.join(", ");
        text.push_str(&escape(&format!("read in {directory}: {files}")));
        text.push('\n');
    }
    for Finding {
        severity,
        object,
        reason,
        hint,
        ..
    } in &view.findings
    {
        let word = match severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Unknown => "unknown",
            Severity::Note => "note",
        };
        text.push_str(&format!("{word}: {}: {}\n", escape(object), escape(reason)));
        text.push_str(&format!("  next: {}\n", escape(hint)));
    }
    if view.findings.is_empty() {
        text.push_str("nothing to be told\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use mayfly_core::doctor::Topic;

    use super::*;

    #[test]
    fn a_finding_is_told_with_place_reason_and_next_step() {
        let mut view = DoctorView {
            id: 11327.try_into().unwrap(),
            hostname: "web".parse().unwrap(),
            impermanent: true,
            configuration: Some("/persistent/etc/nixos".into()),
            files: vec!["flake.nix".into(), "configuration.nix".into()],
            findings: vec![Finding {
                severity: Severity::Unknown,
                topic: Topic::NeedsEvaluation,
                object: "configuration.nix:4".into(),
                reason: "environment.persistence.\"\u{1b}]0;x\" needs evaluation".into(),
                hint: "see inside".into(),
            }],
        };
        assert_eq!(
            render(&view),
            "\
read in /persistent/etc/nixos: flake.nix, configuration.nix
unknown: configuration.nix:4: environment.persistence.\"\\u{1b}]0;x\" needs evaluation
  next: see inside
"
        );
        (view.findings, view.configuration) = (Vec::new(), None);
        assert_eq!(render(&view), "nothing to be told\n");
    }
}
