//! Which network a node is to have, as `mayfly init` is told.

use mayfly_core::documents::NodeDoc;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::network::{BridgeName, DEFAULT_BRIDGE, NodeNetwork, Prefix6, Subnet};
use mayfly_core::ports::{Clock as _, HostResult};
use mayfly_host::clock::HostClock;
use mayfly_host::network::{free_subnet, is_bridge_free};

use crate::node::StateDir;

/// What `mayfly init` is told of the network.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkArgs {
    /// The bridge that VPSes are plugged into; it is made [default: mayfly0]
    #[arg(long, value_name = "NAME", conflicts_with = "no_network")]
    bridge: Option<BridgeName>,
    /// IPv4 addresses of the host and its VPSes [default: one that the host does not use]
    #[arg(long, value_name = "CIDR", conflicts_with = "no_network")]
    subnet: Option<Subnet>,
    /// Do without a network
    #[arg(long)]
    no_network: bool,
}

/// What is wanted.
pub(crate) enum NetworkWish {
    /// None at all.
    None,
    /// One; what is not said is chosen.
    Some {
        bridge: Option<BridgeName>,
        subnet: Option<Subnet>,
    },
}

impl From<NetworkArgs> for NetworkWish {
    fn from(args: NetworkArgs) -> Self {
        match args.no_network {
            true => Self::None,
            false => Self::Some {
                bridge: args.bridge,
                subnet: args.subnet,
            },
        }
    }
}

impl NetworkWish {
    /// The network, with all that was not said chosen so that the host has no use for it yet.
    pub(crate) fn settle(&self) -> HostResult<Option<NodeNetwork>> {
        let Self::Some { bridge, subnet } = self else {
            return Ok(None);
        };
        let bridge = match bridge {
            Some(bridge) => bridge.clone(),
            None => DEFAULT_BRIDGE.parse().expect("a constant name is valid"),
        };
        is_bridge_free(&bridge)?;
        let subnet = free_subnet(*subnet)?;
        let mut random = [0; 7];
        HostClock::new()
            .map_err(|error| mayfly_core::ports::HostError::failed("drawing a prefix", error))?
            .random(&mut random);
        Ok(Some(NodeNetwork {
            bridge,
            subnet,
            prefix: Prefix6::from_random(random),
        }))
    }
}

/// Gives a network to a node that has none, where one is named. That of a node that has one stays.
pub(crate) fn change_network(
    state: &StateDir,
    node: NodeDoc,
    wish: &NetworkWish,
) -> anyhow::Result<NodeDoc> {
    let NetworkWish::Some { bridge, subnet } = wish else {
        return match &node.network {
            None => Ok(node),
            Some(_) => Err(other(&node, "without one")),
        };
    };
    match &node.network {
        Some(own) => {
            let same = bridge.as_ref().is_none_or(|bridge| *bridge == own.bridge)
                && subnet.is_none_or(|subnet| subnet == own.subnet);
            match same {
                true => Ok(node),
                false => Err(other(&node, "with another")),
            }
        }
        None if bridge.is_none() && subnet.is_none() => Ok(node),
        None => {
            let _lock = state.lock()?;
            let network = wish.settle().map_err(Refusal::from)?;
            let node = NodeDoc { network, ..node };
            state.keep(&node)?;
            Ok(node)
        }
    }
}

fn other(node: &NodeDoc, how: &str) -> anyhow::Error {
    Refusal::new(
        Code::NodeExists,
        format!("node {} has a network, and was asked for {how}", node.id),
        "remove it first, while the daemon runs and no VPS does: mayfly network remove",
    )
    .into()
}
