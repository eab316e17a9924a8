//! Why a command did not do its work, and how that is told: once, at the edge.

use std::io::{self, Write as _};
use std::process::ExitCode;

use mayfly_api::{ClientError, ErrorBody, ErrorInfo};
use mayfly_core::error::{Code, Refusal};

use super::screen::escape;

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was refused or failed.
    Error(Box<ErrorInfo>),
    /// Whoever read our output has had enough.
    NobodyReads,
}

impl Failure {
    /// A refusal of the command line itself.
    pub(crate) fn refused(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(code, message, hint).into()
    }

    /// A mistake of this program.
    pub(crate) fn mistake(what: &str) -> Self {
        Self::refused(
            Code::Internal,
            what,
            "this is a mistake in Mayfly; please report it",
        )
    }

    /// Tells it and gives the exit status.
    pub(crate) fn print(self, json: bool) -> ExitCode {
        let Self::Error(info) = self else {
            return ExitCode::SUCCESS;
        };
        // Nothing is left to be done where even this cannot be told.
        let _ = if json {
            let body = ErrorBody { error: *info };
            writeln!(
                io::stdout(),
                "{}",
                serde_json::to_string(&body).unwrap_or_default()
            )
        } else {
            io::stderr().write_all(render(&info).as_bytes())
        };
        ExitCode::FAILURE
    }
}

/// Tells what was typed wrong and ends with status 2; what was not typed wrong (`--help`) is printed with status 0.
pub(crate) fn exit_with_usage(error: &clap::Error) -> ! {
    let as_json = || {
        std::env::args_os()
            .take_while(|word| word != "--")
            .any(|word| word == "--json")
    };
    if !error.use_stderr() || !as_json() {
        error.exit();
    }
    let body = ErrorBody {
        error: usage(&error.render().to_string()),
    };
    let _ = writeln!(
        io::stdout(),
        "{}",
        serde_json::to_string(&body).unwrap_or_default()
    );
    std::process::exit(error.exit_code())
}

/// What clap says for people, in parts: its first paragraph, and its tip or else how the verb is used.
fn usage(text: &str) -> ErrorInfo {
    let mut paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let message = paragraphs.next().unwrap_or_default();
    let message = message.trim_start_matches("error: ").to_owned();
    let rest: Vec<_> = paragraphs.collect();
    let hint = rest
        .iter()
        .find_map(|words| words.strip_prefix("tip: "))
        .or_else(|| {
            rest.iter()
                .map(String::as_str)
                .find(|w| w.starts_with("Usage: "))
        })
        .unwrap_or("see `mayfly --help`")
        .to_owned();
    Refusal::new(Code::Invalid, message, hint).into()
}

fn render(info: &ErrorInfo) -> String {
    let mut text = format!("error: {}\n", escape(&info.message));
    if !info.hint.is_empty() {
        text.push_str(&format!("  next: {}\n", escape(&info.hint)));
    }
    if let Some(operation) = &info.operation {
        text.push_str(&format!("  operation: {operation}\n"));
    }
    text.push_str(&format!("  [{}]\n", info.code));
    text
}

impl From<ErrorInfo> for Failure {
    fn from(info: ErrorInfo) -> Self {
        Self::Error(Box::new(info))
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        ErrorInfo::from(refusal).into()
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        error.into_info().into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::NobodyReads;
        }
        Self::refused(
            Code::HostFailed,
            error.to_string(),
            "mend the cause and try again",
        )
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Refusal>() {
            Ok(refusal) => refusal.into(),
            Err(error) => Self::refused(
                Code::HostFailed,
                format!("{error:#}"),
                "mend the cause and try again",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_object_and_reason_next_step_and_code() {
        let refusal = Refusal::new(
            Code::VpsNotFound,
            "there is no VPS web9",
            "see `mayfly list`",
        );
        let mut info = ErrorInfo::from(refusal);
        assert_eq!(
            render(&info),
            "error: there is no VPS web9\n  next: see `mayfly list`\n  [vps.not_found]\n"
        );
        info.operation = Some("0123456789abcdef0123".parse().unwrap());
        assert!(render(&info).ends_with("  operation: 0123456789abcdef0123\n  [vps.not_found]\n"));
    }

    #[test]
    fn a_usage_error_has_the_same_parts() {
        let said = |line: &str| {
            let words = line.split(' ');
            let error = clap::Parser::try_parse_from(words).map(|_: super::super::Cli| ());
            usage(&error.expect_err(line).render().to_string())
        };
        let info = said("mayfly strat web1");
        assert_eq!(info.code, Code::Invalid);
        assert_eq!(info.message, "unrecognized subcommand 'strat'");
        assert!(info.hint.contains("'start'"), "{}", info.hint);
        let info = said("mayfly create web1");
        assert!(
            info.message.contains("--template <TEMPLATE>"),
            "{}",
            info.message
        );
        assert!(
            info.hint.starts_with("Usage: mayfly create"),
            "{}",
            info.hint
        );
        let info = said("mayfly create web1 --template d12 --memory 2X");
        assert!(
            info.message.contains("`2X` is not a size"),
            "{}",
            info.message
        );
    }

    #[test]
    fn what_a_guest_said_cannot_reach_the_terminal_raw() {
        let info = ErrorInfo::from(Refusal::new(
            Code::VpsStartFailed,
            "init said \x1b[2J\nerror: fake",
            "",
        ));
        assert_eq!(
            render(&info),
            "error: init said \\u{1b}[2J\\nerror: fake\n  [vps.start_failed]\n"
        );
    }

    #[test]
    fn a_chain_of_causes_is_told_once() {
        let error = anyhow::anyhow!("permission denied").context("cannot make /x");
        let Failure::Error(info) = Failure::from(error) else {
            panic!()
        };
        assert_eq!(info.message, "cannot make /x: permission denied");
        let refusal = Refusal::new(Code::NodeExists, "a", "b");
        let Failure::Error(info) = Failure::from(anyhow::Error::from(refusal)) else {
            panic!()
        };
        assert_eq!(info.code, Code::NodeExists);
    }
}
