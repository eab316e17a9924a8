//! The helper that runs as the first process of every VPS.
//!
//! `mayfly-guest init -- /sbin/init` takes over what the host left in `/dev/.mayfly`, removes every trace of it,
//! finds the VPS's own init inside the VPS, and becomes it. It is one static file and allocates little: the loader
//! and the libraries of the VPS may not exist yet.
//!
//! Trouble with the boot report never stops a boot. No init does, and the host is told why.

mod handover;
mod init;
mod sys;

use std::process::ExitCode;

/// What is printed when the arguments make no sense.
const USAGE: &str = "\
usage: mayfly-guest init -- PROGRAM [ARG...]   become PROGRAM as the first process of a VPS
(there is no verb `apply` yet: declared paths are not applied by this helper)";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let verb = arguments.first().and_then(|verb| verb.to_str());
    match (verb, arguments.get(1).and_then(|dashes| dashes.to_str())) {
        (Some("init"), Some("--")) if arguments.len() > 2 => init::run(&arguments[2..]),
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
