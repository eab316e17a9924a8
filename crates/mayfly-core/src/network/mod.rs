//! The network of a node: one bridge, an address of each kind for every VPS for its whole life, and what may pass.
//!
//! Pure: [`network_plan`] turns the documents of a node into one [`NetworkPlan`], all text of it included; the port
//! [`Network`] makes the host so, again and again. See `docs/network.md` for what it means to a guest.

mod addresses;
mod allocate;
mod dnsmasq;
mod firewall;
mod port;
mod ssh_keys;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::addresses::{BadNetwork, BridgeName, Forward, Mac, Prefix6, Protocol, Subnet};
pub use self::allocate::{free_network, needs_address};
pub use self::dnsmasq::DOMAIN;
pub use self::port::Network;
pub use self::ssh_keys::SshKeys;
use crate::documents::{NodeDoc, VpsDoc};
use crate::ids::{NodeId, VpsId};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The bridge of a node where nothing was said.
pub const DEFAULT_BRIDGE: &str = "mayfly0";

/// Subnets that are tried, in this order, where nothing was said.
pub const DEFAULT_SUBNETS: [&str; 4] = [
    "10.77.0.0/16",
    "10.177.0.0/16",
    "172.29.0.0/16",
    "192.168.176.0/20",
];

/// The network of a node, as `init` made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeNetwork {
    /// The bridge that VPSes are plugged into.
    pub bridge: BridgeName,
    /// IPv4 addresses; the first is the host's.
    pub subnet: Subnet,
    /// IPv6 addresses, drawn at random; the first is the host's.
    pub prefix: Prefix6,
}

/// The place of a VPS in the network, kept for its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VpsNetwork {
    /// The address of its network card.
    pub mac: Mac,
    /// Its IPv4 address.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub ipv4: Ipv4Addr,
    /// The subnet that this is one of.
    pub subnet: Subnet,
    /// Its IPv6 address, which is the one that its card makes of the prefix by itself.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub ipv6: Ipv6Addr,
    /// The prefix that this is one of.
    pub prefix: Prefix6,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub ports: Vec<Forward>,
}

/// What a supervisor needs to plug a run into the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNetwork {
    /// The bridge.
    pub bridge: BridgeName,
    /// The card's name on the host.
    pub card: String,
    /// The card's address.
    pub mac: Mac,
    /// Its address with the length of the subnet.
    pub ipv4: String,
    /// What is for everybody in the subnet.
    pub ipv4_broadcast: Ipv4Addr,
    /// The way out.
    pub ipv4_gateway: Ipv4Addr,
    /// Its address with the length of the prefix.
    pub ipv6: String,
    /// The way out.
    pub ipv6_gateway: Ipv6Addr,
}

impl RunNetwork {
    /// The plug of that VPS; none where it has no place in the network, or one in another that was here before.
    pub fn of(node: &NodeId, network: &NodeNetwork, doc: &VpsDoc) -> Option<Self> {
        let own = doc.network.as_ref()?;
        if (own.subnet, own.prefix) != (network.subnet, network.prefix) {
            return None;
        }
        Some(Self {
            bridge: network.bridge.clone(),
            card: card_name(node, doc.id),
            mac: own.mac,
            ipv4: format!("{}/{}", own.ipv4, own.subnet.length()),
            ipv4_broadcast: own.subnet.broadcast(),
            ipv4_gateway: own.subnet.gateway(),
            ipv6: format!("{}/64", own.ipv6),
            ipv6_gateway: own.prefix.gateway(),
        })
    }
}

/// The name on the host of a VPS's card: what the kernel allows are 15 characters. The first six say which node's it is.
pub fn card_name(node: &NodeId, vps: VpsId) -> String {
    format!("{}{vps}", card_prefix(node))
}

/// What the names of all cards of a node begin with. Of the node's id there is room for 46656 differences: enough for
/// those that share a machine.
fn card_prefix(node: &NodeId) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut drawn = u64::from_str_radix(node.as_str(), 16).unwrap_or(0);
    let mut prefix = String::from("mf");
    for _ in 0..3 {
        prefix.push(char::from(DIGITS[(drawn % 36) as usize]));
        drawn /= 36;
    }
    prefix.push('-');
    prefix
}

/// All that the host must have for the network of a node. Equal documents give equal plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPlan {
    /// The name of our tables.
    pub table: String,
    /// The bridge.
    pub bridge: BridgeName,
    /// Its address as a card, which no other bridge has: what says that it is ours.
    pub bridge_mac: Mac,
    /// The host's IPv4 address in it, with the length of the subnet.
    pub ipv4: String,
    /// The host's IPv6 address in it, with the length of the prefix.
    pub ipv6: String,
    /// Both tables, as one transaction that replaces what they were.
    pub firewall: String,
    /// The configuration of the server of addresses and names, but for the places of its files.
    pub dnsmasq: String,
    /// Which card gets which address.
    pub dhcp_hosts: String,
    /// Which name has which addresses.
    pub names: String,
}

/// What of a node's network is its own by name alone: enough to remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkTrace {
    /// The name of our tables.
    pub table: String,
    /// The bridge.
    pub bridge: BridgeName,
    /// What says that it is ours.
    pub bridge_mac: Mac,
}

impl NetworkTrace {
    /// That of a node.
    pub fn of(node: &NodeId, network: &NodeNetwork) -> Self {
        Self {
            table: table_name(node),
            bridge: network.bridge.clone(),
            bridge_mac: Mac::of(node, "bridge"),
        }
    }
}

fn table_name(node: &NodeId) -> String {
    format!("mayfly_{node}")
}

/// What the host must have so that these VPSes have their network. Only those with a place in the node's present network
/// count.
pub fn network_plan(node: &NodeId, network: &NodeNetwork, vpses: &[VpsDoc]) -> NetworkPlan {
    let mut plugged: Vec<Plugged<'_>> = vpses
        .iter()
        .filter_map(|doc| {
            let own = doc.network.as_ref()?;
            let here = own.subnet == network.subnet && own.prefix == network.prefix;
            here.then(|| Plugged {
                doc,
                own,
                card: card_name(node, doc.id),
            })
        })
        .collect();
    plugged.sort_by_key(|one| one.doc.id);
    let trace = NetworkTrace::of(node, network);
    NetworkPlan {
        ipv4: format!("{}/{}", network.subnet.gateway(), network.subnet.length()),
        ipv6: format!("{}/64", network.prefix.gateway()),
        firewall: firewall::render(&trace.table, &card_prefix(node), network, &plugged),
        dnsmasq: dnsmasq::render_config(network),
        dhcp_hosts: dnsmasq::render_dhcp_hosts(&plugged),
        names: dnsmasq::render_names(network, &plugged),
        table: trace.table,
        bridge: trace.bridge,
        bridge_mac: trace.bridge_mac,
    }
}

/// A VPS with its place in the network.
struct Plugged<'a> {
    doc: &'a VpsDoc,
    own: &'a VpsNetwork,
    card: String,
}

impl NodeDoc {
    /// The same without a network.
    pub fn without_network(&self) -> Self {
        Self {
            network: None,
            ..self.clone()
        }
    }
}
