//! Running a program inside a VPS: one of its own, or the helper, which is not among its files.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};

use mayfly_core::ids::{NodeId, VpsId};

use super::paths::{LXC_PATH, container_name};
use super::supervise::find_program;

/// Where programs are looked for in a VPS: NixOS first, where the others do not exist.
pub const GUEST_PATH: &str =
    "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/// How to run the helper with `argv` in a running VPS: by way of `mayfly attach`, which is this `program`.
pub fn attach_helper_command(
    node: &NodeId,
    vps: VpsId,
    (program, helper): (&Path, &Path),
    argv: &[&str],
) -> io::Result<AttachCommand> {
    let mut words = vec![HELPER];
    words.extend(argv);
    let attach = attach_command(node, vps, &[], &words)?;
    let mut args: Vec<OsString> = vec!["attach".into(), helper.into(), attach.program.into()];
    args.extend(attach.args);
    Ok(AttachCommand {
        program: program.to_path_buf(),
        args,
    })
}

/// Stands where the helper's name will be.
const HELPER: &str = "mayfly-guest";

/// Becomes lxc-attach with the helper as an open file that it inherits; the VPS knows no path to it. `arguments` are the
/// helper, lxc-attach and its arguments.
///
/// The file is the host's: nobody in the VPS owns it, so nobody there can write to it.
pub fn attach_helper(arguments: &[OsString]) -> io::Result<Infallible> {
    let [helper, program, arguments @ ..] = arguments else {
        return Err(io::Error::other("this is the daemon's own call"));
    };
    let helper = File::open(helper)?;
    fcntl_setfd(&helper, FdFlags::empty())?;
    let name = format!("/proc/self/fd/{}", helper.as_raw_fd());
    let at = arguments.iter().position(|word| word == "--");
    let arguments = arguments.iter().enumerate().map(|(number, word)| {
        match number > 0 && Some(number - 1) == at && word == HELPER {
            true => OsString::from(&name),
            false => word.clone(),
        }
    });
    #[expect(
        clippy::disallowed_methods,
        reason = "this process becomes the program, with the clear environment that it was given itself"
    )]
    let mut command = Command::new(program);
    Err(command.args(arguments).exec())
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
