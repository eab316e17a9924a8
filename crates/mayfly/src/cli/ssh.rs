//! Logging in to a VPS as root, by SSH.
//!
//! Its host key is taken when it is seen first and insisted on later, under the name of its incarnation: a new VPS of an old
//! number or address is another machine.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use mayfly_api::VpsState;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::network::SshKeys;

use super::words::parse_vps;
use super::{Context, Failure};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  mayfly ssh web\n  mayfly ssh web -- journalctl -b\n\nThe VPS needs an SSH server and one of your \
                  keys: mayfly create --ssh-key FILE."
)]
pub(crate) struct SshArgs {
    /// Id or host name
    #[arg(value_parser = parse_vps)]
    vps: String,
    /// What to run there [default: a shell]
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Reads a file of public keys.
pub(super) fn read_keys(file: &str) -> Result<SshKeys, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    text.parse::<SshKeys>().map_err(|error| error.to_string())
}

pub(super) async fn run(context: &Context, args: SshArgs) -> Result<ExitCode, Failure> {
    let vps = context.client.vps(&args.vps).await?;
    let Some(own) = &vps.network else {
        return Err(Refusal::new(
            Code::NetworkAbsent,
            format!("VPS {} ({}) has no address", vps.id, vps.hostname),
            format!(
                "the node has no network; a shell without one: mayfly exec {} -- bash",
                vps.id
            ),
        )
        .into());
    };
    if vps.state != VpsState::Running {
        return Err(Refusal::new(
            Code::VpsNotRunning,
            format!("VPS {} ({}) does not run", vps.id, vps.hostname),
            format!("mayfly start {}", vps.id),
        )
        .into());
    }
    let mut ssh = ssh_command();
    ssh.arg("-o").arg("StrictHostKeyChecking=accept-new");
    ssh.arg("-o").arg("ConnectTimeout=10");
    ssh.arg("-o")
        .arg(format!("HostKeyAlias=mayfly-{}", vps.incarnation));
    if let Some(known) = known_hosts(context.client.socket(), vps.incarnation.as_str()) {
        ssh.arg("-o").arg(format!("UserKnownHostsFile={known}"));
    }
    ssh.arg(format!("root@{}", own.ipv4));
    if !args.command.is_empty() {
        ssh.arg("--").args(&args.command);
    }
    // Only a failure comes back.
    let error = ssh.exec();
    Err(Refusal::new(
        Code::HostUnsuitable,
        format!("ssh cannot be run: {error}"),
        "apt install openssh-client",
    )
    .into())
}

#[allow(
    clippy::disallowed_methods,
    reason = "this process becomes the program; nothing is run beside it"
)]
fn ssh_command() -> std::process::Command {
    std::process::Command::new("ssh")
}

/// Where the key is kept: with the node, where whoever asks may write there; else in the person's own file.
fn known_hosts(socket: &Path, incarnation: &str) -> Option<String> {
    let dir = socket.parent()?.join("ssh");
    std::fs::create_dir_all(&dir).ok()?;
    let file = dir.join(incarnation);
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(&file)
        .ok()?;
    let text = file.to_str()?;
    // The value is words to ssh.
    (!text.contains([' ', '"', '%', '$'])).then(|| text.to_owned())
}
