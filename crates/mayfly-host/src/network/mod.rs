//! The port [`Network`] on this host: a bridge by `ip`, rules by `nft`, addresses and names by `dnsmasq`.
//!
//! The programs of the host are called, not the kernel's own protocol: `nft` is the one way to rules that replaces a table in
//! one transaction, `ip` comes with every host that has it, and each of them says in words what went wrong. Nothing is
//! remembered across daemons but what the kernel and the files say.

mod bridge;
mod card;
mod firewall;
mod forwarding;
mod server;
mod survey;

use std::path::PathBuf;
use std::sync::Mutex;

use mayfly_core::error::{Code, Refusal};
use mayfly_core::network::{Network, NetworkPlan, NetworkTrace};
use mayfly_core::ports::{HostError, HostResult, Outcome};

pub(crate) use self::card::remove_stale_card;
use self::server::Server;
pub use self::survey::{free_subnet, is_bridge_free};
use crate::runner::{Command, Output, Runner, Tool};

/// The network of one node.
pub struct HostNetwork {
    server: Server,
    /// What the kernel said of our rules when they were last made.
    rules: Mutex<Option<firewall::Made>>,
}

impl HostNetwork {
    /// One that keeps its files in `dir`. It must be made before the process enters a mount namespace of its own: what
    /// outlives the daemon is started in the present one, so that it holds nothing of the pool.
    pub fn new(dir: PathBuf) -> std::io::Result<Self> {
        Ok(Self {
            server: Server::new(dir)?,
            rules: Mutex::default(),
        })
    }
}

impl Network for HostNetwork {
    fn apply(&self, plan: &NetworkPlan) -> HostResult<Outcome> {
        let mut rules = self.rules.lock().expect("no thread panics with it");
        let mut changed = false;
        // Rules name bridge and cards and need neither of them: they stand before anything could pass.
        changed |= firewall::ensure(plan, &mut rules)?;
        changed |= bridge::ensure(plan)?;
        changed |= forwarding::ensure(plan)?;
        changed |= self.server.ensure(plan)?;
        Ok(outcome(changed))
    }

    fn remove(&self, of: &NetworkTrace) -> HostResult<Outcome> {
        let mut rules = self.rules.lock().expect("no thread panics with it");
        let mut changed = self.server.remove()?;
        changed |= bridge::remove(of)?;
        *rules = None;
        changed |= firewall::remove(&of.table)?;
        Ok(outcome(changed))
    }
}

fn outcome(changed: bool) -> Outcome {
    match changed {
        true => Outcome::Changed,
        false => Outcome::Unchanged,
    }
}

/// A program, or a refusal that says which package has it.
fn tool(name: &str, package: &str) -> Result<Tool, Refusal> {
    Tool::find(name).map_err(|missing| {
        Refusal::new(
            Code::NetworkUnavailable,
            missing.to_string(),
            format!("apt install {package}"),
        )
    })
}

fn run(what: &str, command: &Command) -> HostResult<Output> {
    Runner::default()
        .run(command)
        .map_err(|failure| HostError::failed(what, failure))
}
