//! Which address a VPS gets.

use super::{Mac, NodeNetwork, VpsNetwork};
use crate::documents::VpsDoc;
use crate::ids::{NodeId, VpsId};

/// A place in the network for a VPS: its own IPv4 address where it has one of that subnet, or the lowest that no other has,
/// whatever that one is at. None where all are taken.
pub fn free_network(
    node: &NodeId,
    network: &NodeNetwork,
    vps: VpsId,
    others: &[VpsDoc],
) -> Option<VpsNetwork> {
    let taken: std::collections::BTreeSet<_> = others
        .iter()
        .filter(|other| other.id != vps)
        .filter_map(|other| other.network.as_ref().map(|own| own.ipv4))
        .collect();
    let had = others
        .iter()
        .filter(|other| other.id == vps)
        .filter_map(|other| other.network.as_ref())
        .find(|own| own.subnet == network.subnet && !taken.contains(&own.ipv4));
    let ipv4 = match had {
        Some(own) => own.ipv4,
        None => network.subnet.guests().find(|it| !taken.contains(it))?,
    };
    let mac = Mac::of(node, &vps.to_string());
    Some(VpsNetwork {
        mac,
        ipv4,
        subnet: network.subnet,
        ipv6: network.prefix.of_card(mac),
        prefix: network.prefix,
        ports: Vec::new(),
    })
}

/// Whether a VPS has no place in this network: it was made before there was one, or in another.
pub fn needs_address(network: &NodeNetwork, doc: &VpsDoc) -> bool {
    doc.network
        .as_ref()
        .is_none_or(|own| own.subnet != network.subnet || own.prefix != network.prefix)
}
