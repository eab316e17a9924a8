//! A password of a VPS.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use mayfly_api::SetPassword;
use mayfly_core::error::Code;

use super::files::fate;
use super::terminal::Silent;
use super::words::parse_vps;
use super::{Context, Failure};

const AFTERWORD: &str = "\
The password is asked for twice on a terminal; elsewhere it is the first line of standard input.";

/// A password is no longer than a line of the VPS's own `chpasswd`.
const LINE_BYTES: u64 = 4096;

#[derive(Debug, Args)]
#[command(after_help = AFTERWORD)]
pub(crate) struct PasswdArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// Whose
    #[arg(long, default_value = "root")]
    user: String,
}

pub(super) async fn run(context: &Context, args: PasswdArgs) -> Result<ExitCode, Failure> {
    let password = match io::stdin().is_terminal() {
        true => {
            let first = ask("New password: ")?;
            if ask("The same again: ")? != first {
                return Err(Failure::refused(
                    Code::Invalid,
                    "the two are not the same",
                    "try again",
                ));
            }
            first
        }
        false => read_line()?,
    };
    let wish = SetPassword {
        user: args.user,
        password,
    };
    let set = context.client.set_password(&args.vps, &wish).await?;
    context.screen.show(&set, |set| {
        let mut text = format!("the password of {} is set\n", super::escape(&set.user));
        text.push_str(&fate(set.stays, &set.why));
        if !set.stays {
            text.push_str("  to keep it, keep users and groups: see docs/persistence.md, `accounts`; on NixOS set it in the configuration\n");
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal, which shows nothing of what is typed.
fn ask(prompt: &str) -> Result<String, Failure> {
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let silent = Silent::enter()?;
    let line = read_line();
    drop(silent);
    writeln!(stderr)?;
    line
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().lock().take(LINE_BYTES).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
