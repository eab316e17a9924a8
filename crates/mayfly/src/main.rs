//! The program: the daemon (`serve`), the supervisor of one run (`supervise`, internal), the confined harvest of one root
//! (`harvest`, internal), the change of one mount of a run (`enter`, internal), a way into a VPS for the helper (`attach`,
//! internal), and the command line.
//!
//! The command line talks to the daemon and to nothing else; only `init`, `serve`,
//! `supervise`, `harvest`, `enter`, `attach`, `recover`, and `fsck` where no daemon runs, touch the host.

mod cli;
mod consoles;
mod fsck;
mod init;
mod network;
mod nixos;
mod node;
mod recover;
mod serve;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Failure, Verb};

/// Where a node keeps everything unless it is told otherwise.
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/mayfly";

fn main() -> ExitCode {
    if let Some(run_dir) = called_to_supervise() {
        mayfly_host::run::supervise::supervise(&run_dir)
    }
    if std::env::args_os().skip(1).eq(["harvest"]) {
        mayfly_host::run::harvest::harvest()
    }
    if let Some(arguments) = called_to_attach() {
        let Err(e) = mayfly_host::run::attach::attach_helper(&arguments);
        return Failure::from(e).print(false);
    }
    if std::env::args_os().skip(1).eq(["enter"]) {
        mayfly_host::run::live::enter()
    }
    let Cli { json, socket, verb } = Cli::try_parse().unwrap_or_else(|e| cli::exit_with_usage(&e));
    let done = match verb {
        // One thread and no runtime: each of them makes namespaces or forks before it does anything else.
        Verb::Supervise(args) => mayfly_host::run::supervise::supervise(&args.run_dir),
        Verb::Harvest => mayfly_host::run::harvest::harvest(),
        Verb::Enter => mayfly_host::run::live::enter(),
        Verb::Init(args) => init::run(args, json).map_err(Failure::from),
        Verb::Serve(args) => serve::run(args).map_err(Failure::from),
        Verb::Completions(args) => cli::completions(&args),
        Verb::Manual(args) => cli::manual(&args),
        Verb::Recover(args) => recover::run(args, json, socket),
        Verb::Nixos(verb) => nixos::run(verb, json),
        Verb::Fsck(args) => fsck::run(args, json, socket),
        verb => cli::run(verb, json, socket),
    };
    done.unwrap_or_else(|failure| failure.print(json))
}

/// The daemon's own call, whose words are another program's.
fn called_to_attach() -> Option<Vec<OsString>> {
    let mut words = std::env::args_os().skip(1);
    (words.next()? == "attach").then(|| words.collect())
}

/// The daemon's own call, which lies on the way of every start: it is understood without the parser of the command line.
fn called_to_supervise() -> Option<PathBuf> {
    let mut words = std::env::args_os().skip(1);
    let (verb, run_dir) = (words.next()?, PathBuf::from(words.next()?));
    let is_it = verb == "supervise" && run_dir.is_absolute() && words.next().is_none();
    is_it.then_some(run_dir)
}
