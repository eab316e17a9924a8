//! Completions and man pages, made from the command line itself.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory as _, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Failure};

/// What is said below the options of `mayfly --help` and in mayfly(1).
pub(super) const AFTERWORD: &str = "\
Sizes are written 10G (10 × 2^30 bytes), times 60s or 5m. A VPS is named by its id or its host name.

Exit status: 0 done; 1 refused or failed, with the object, the reason and the next step on standard error (with --json
as {\"error\":{…}} on standard output); 2 what was typed is not understood. `exec` ends with the program's own status.

Environment: MAYFLY_SOCKET names the node's socket where --socket does not; MAYFLY_LOG chooses what `serve` logs.

Files: /var/lib/mayfly is where a node keeps everything unless --state-dir says otherwise; its socket is api.sock in it.";

#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Known,
}

const COMPLETIONS: &str = "\
The Debian package has them where the shells look. By hand:
  mayfly completions bash > /etc/bash_completion.d/mayfly
  mayfly completions zsh > /usr/local/share/zsh/site-functions/_mayfly
  mayfly completions fish > ~/.config/fish/completions/mayfly.fish";

/// The shells that it is tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Known {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Args)]
pub(crate) struct ManualArgs {
    /// The directory; made where it is not there
    dir: PathBuf,
}

/// Prints the completions for a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    io::stdout().write_all(&script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Known) -> Vec<u8> {
    let shell = match shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mayfly", &mut script);
    script
}

/// Writes mayfly(1) and a page for each verb.
pub(crate) fn manual(args: &ManualArgs) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(&args.dir)?;
    let mut command = Cli::command();
    command.build();
    write_pages(&command, &args.dir)?;
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: &Command, dir: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_pages(verb, dir)?;
    }
    Man::new(command.clone())
        .manual("Mayfly")
        .generate_to(dir)?;
    Ok(())
}

#[cfg(test)]
mod tests;
