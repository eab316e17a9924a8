//! Running a program inside a VPS.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use mayfly_core::ids::{NodeId, VpsId};

use super::paths::{LXC_PATH, container_name};
use super::supervise::find_program;

/// A command line that runs a program in the VPS: in its namespaces and cgroups, under its seccomp policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachCommand {
    /// Absolute path of lxc-attach.
    pub program: PathBuf,
    /// Its arguments, the program to run included.
    pub args: Vec<OsString>,
}

/// How to run `argv` in a running VPS with a cleared environment. `environment` holds `NAME=value`.
///
/// Run it with an empty environment of its own.
pub fn attach_command(
    node: &NodeId,
    vps: VpsId,
    environment: &[&str],
    argv: &[&str],
) -> io::Result<AttachCommand> {
    Ok(AttachCommand {
        program: find_program("lxc-attach")?,
        args: render_arguments(node, vps, environment, argv),
    })
}

fn render_arguments(
    node: &NodeId,
    vps: VpsId,
    environment: &[&str],
    argv: &[&str],
) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![
        "-P".into(),
        LXC_PATH.into(),
        "-n".into(),
        container_name(node, vps).into(),
    ];
    args.push("--clear-env".into());
    for one in environment {
        args.push("-v".into());
        args.push(one.into());
    }
    args.push("--".into());
    args.extend(argv.iter().map(OsString::from));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_program_is_taken_for_an_option() {
        let node = "0123456789abcdef".parse().unwrap();
        let args = render_arguments(
            &node,
            11327.try_into().unwrap(),
            &["TERM=xterm"],
            &["-x", "--", "y"],
        );
        let shown: Vec<_> = args.iter().map(|a| a.to_str().unwrap()).collect();
        assert_eq!(
            shown,
            [
                "-P",
                "/run",
                "-n",
                "mayfly-0123456789abcdef-11327",
                "--clear-env",
                "-v",
                "TERM=xterm",
                "--",
                "-x",
                "--",
                "y"
            ]
        );
    }
}
