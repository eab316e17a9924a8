//! Programs in VPSes and their consoles, as the host has them.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mayfly_core::documents::VpsDoc;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::NodeId;
use mayfly_host::run::attach::{self, GUEST_PATH, attach_command, attach_helper_command};
use mayfly_host::run::client;
use mayfly_host::run::paths::RunDir;
use mayfly_host::run::ring::read_ring;
use mayfly_host::run::runtime::LxcRuntime;
use mayfly_server::{AttachCommand, Consoles};

/// Consoles of this host.
pub(crate) struct HostConsoles {
    node: NodeId,
    runtime: Arc<LxcRuntime>,
}

impl HostConsoles {
    /// The consoles of a node's runs.
    pub(crate) fn new(node: NodeId, runtime: Arc<LxcRuntime>) -> Self {
        Self { node, runtime }
    }

    fn run_dir(&self, doc: &VpsDoc) -> Option<RunDir> {
        doc.run
            .as_ref()
            .map(|run| self.runtime.run_dir(doc.id, &run.run))
    }
}

impl Consoles for HostConsoles {
    fn attach(
        &self,
        doc: &VpsDoc,
        command: &[String],
        env: &BTreeMap<String, String>,
        _tty: bool,
    ) -> Result<AttachCommand, Refusal> {
        let environment = guest_environment(env);
        let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
        let argv: Vec<&str> = command.iter().map(String::as_str).collect();
        ready(attach_command(&self.node, doc.id, &environment, &argv))
    }

    fn attach_helper(&self, doc: &VpsDoc, arguments: &[&str]) -> Result<AttachCommand, Refusal> {
        let programs = self.runtime.programs();
        ready(attach_helper_command(
            &self.node, doc.id, programs, arguments,
        ))
    }

    fn console_socket(&self, doc: &VpsDoc) -> Option<PathBuf> {
        Some(self.run_dir(doc)?.console_socket())
    }

    fn console_log(&self, doc: &VpsDoc) -> Result<Vec<u8>, Refusal> {
        let dir = self.runtime.console_dir(doc.id);
        read_ring(&dir).map_err(|e| {
            Refusal::new(
                Code::CouldNotLook,
                format!("the console of VPS {} cannot be read: {e}", doc.title()),
                format!("look at {}", dir.display()),
            )
        })
    }

    fn resize(&self, doc: &VpsDoc, rows: u16, cols: u16) -> Result<(), Refusal> {
        let Some(dir) = self.run_dir(doc) else {
            return Ok(());
        };
        match client::resize(&dir, rows, cols) {
            Ok(_) => Ok(()),
            Err(e) => Err(Refusal::new(
                Code::HostFailed,
                format!("the console of VPS {} was not resized: {e}", doc.title()),
                "open it again",
            )),
        }
    }
}

fn ready(command: io::Result<attach::AttachCommand>) -> Result<AttachCommand, Refusal> {
    let command = command.map_err(|e| {
        Refusal::new(
            Code::HostUnsuitable,
            format!("lxc-attach cannot be run: {e}"),
            "install it: apt install lxc",
        )
    })?;
    Ok(AttachCommand {
        program: command.program,
        args: command.args,
        env: Vec::new(),
    })
}

/// `NAME=value`, with what every program may count on.
fn guest_environment(wanted: &BTreeMap<String, String>) -> Vec<String> {
    let mut all: BTreeMap<&str, &str> = [
        ("HOME", "/root"),
        ("PATH", GUEST_PATH),
        ("USER", "root"),
        ("LOGNAME", "root"),
    ]
    .into();
    all.extend(
        wanted
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );
    all.into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_beats_the_defaults() {
        let wanted = [
            ("PATH".to_owned(), "/bin".to_owned()),
            ("TERM".to_owned(), "xterm".to_owned()),
        ]
        .into();
        assert_eq!(
            guest_environment(&wanted),
            [
                "HOME=/root",
                "LOGNAME=root",
                "PATH=/bin",
                "TERM=xterm",
                "USER=root"
            ]
        );
    }
}
