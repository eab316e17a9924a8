//! The helper that runs as the first process of every VPS.
//!
//! `mayfly-guest init -- /sbin/init` takes over what the host left in `/dev/.mayfly`, removes every trace of it,
//! applies what is declared to stay, finds the VPS's own init inside the VPS, and becomes it. It is one static file: the
//! loader and the libraries of the VPS may not exist yet.
//!
//! Trouble with the boot report or with declarations never stops a boot. No init does, and the host is told why.
//!
//! `mayfly-guest apply` puts what is declared to stay into a new root ([`apply`]), and `mayfly-guest harvest` takes back
//! what was placed as a copy and has changed ([`harvest`]). Both work on any tree, and take its owner for hostile. Who
//! writes declarations has `apply --dry-run` and `check`.
//!
//! `mayfly-guest put` and `get` carry a file into a running VPS, and out of it ([`files`]).

mod apply;
mod attributes;
mod child;
mod content;
mod files;
mod given;
mod handover;
mod harvest;
mod init;
mod sys;
mod text;
mod tree;
mod verbs;

use std::process::ExitCode;

/// What is printed when the arguments make no sense.
const USAGE: &str = "\
usage: mayfly-guest init -- PROGRAM [ARG...]   become PROGRAM as the first process of a VPS
       mayfly-guest apply [--spec FILE.toml|.json|.nix] [--root DIR] [--dry-run] [--json]
                                               put what is declared to stay into a root
       mayfly-guest check --spec FILE          read declarations, and tell what is wrong with them
       mayfly-guest harvest --root DIR --storage PATH --run ID [--at PATH=DIR]...
                            [--when running|ended|crashed:SECONDS]
                                               take back copies that have changed
       mayfly-guest put --path PATH [--name NAME] [--mode OCTAL] [--mode-if-new OCTAL] [--owner UID:GID]
                                               write the pieces on standard input into a file, whole or not at all
       mayfly-guest get --path PATH            write a line about a file, and then the file, to standard output";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let verb = arguments.first().and_then(|verb| verb.to_str());
    match (verb, arguments.get(1).and_then(|dashes| dashes.to_str())) {
        (Some("init"), Some("--")) if arguments.len() > 2 => init::run(&arguments[2..]),
        (Some("apply"), _) => verbs::run_apply(&arguments[1..]),
        (Some("check"), _) => verbs::run_check(&arguments[1..]),
        (Some("harvest"), _) => verbs::run_harvest(&arguments[1..]),
        (Some("put"), _) => verbs::run_put(&arguments[1..]),
        (Some("get"), _) => verbs::run_get(&arguments[1..]),
        (Some("help" | "--help" | "-h"), _) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
