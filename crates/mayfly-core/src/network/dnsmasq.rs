//! The server of addresses and names: dnsmasq, for this bridge alone.
//!
//! Only cards that the documents know get an address, and always the same; names come from the documents, never from what a
//! guest says that it is called.
//!
//! The bridge's router advertisements say where the way out is, and that addresses are to be asked for (DHCPv6). No card is
//! to make one by itself: what many systems make, for privacy, is another one than the VPS's, and would not pass.

use std::fmt::Write as _;

use super::{NodeNetwork, Plugged};

/// The domain of all VPSes of a node: reserved for private use, so that no name in it is ever asked for elsewhere.
pub const DOMAIN: &str = "mayfly.internal";

pub(super) fn render_config(network: &NodeNetwork) -> String {
    let (subnet, prefix) = (network.subnet, network.prefix);
    format!(
        "\
# Written by mayfly; changes are lost.
bind-dynamic
interface={bridge}
except-interface=lo
no-hosts
domain-needed
bogus-priv
domain={DOMAIN}
local=/{DOMAIN}/
dhcp-range={first},static,{mask},1h
enable-ra
dhcp-range={first6},static,64,{LEASE6}
dhcp-authoritative
dhcp-lease-max=65536
dhcp-no-override
dhcp-ignore-names
dhcp-option=option:router,{gateway}
dhcp-option=option:dns-server,{gateway}
dhcp-option=option6:dns-server,[{gateway6}]
dhcp-option=option6:domain-search,{DOMAIN}
quiet-dhcp
quiet-dhcp6
quiet-ra
",
        bridge = network.bridge,
        first = subnet.address(),
        mask = subnet.mask(),
        gateway = subnet.gateway(),
        first6 = prefix.first(),
        gateway6 = prefix.gateway(),
    )
}

/// Names that are others' already: a VPS may be called so, and is found by its address alone.
const TAKEN: [&str; 2] = ["host", "localhost"];

/// An IPv6 address stays with the client that asked for it last, whatever card it has, until its time is over: what asks as
/// another one after each boot of the VPS waits for so long.
const LEASE6: &str = "5m";

/// Without names: dnsmasq takes some words there for settings.
pub(super) fn render_dhcp_hosts(plugged: &[Plugged<'_>]) -> String {
    plugged.iter().fold(String::new(), |mut text, one| {
        let own = one.own;
        let _ = writeln!(text, "{},{},1h", own.mac, own.ipv4);
        let _ = writeln!(text, "{},[{}],{LEASE6}", own.mac, own.ipv6);
        text
    })
}

pub(super) fn render_names(network: &NodeNetwork, plugged: &[Plugged<'_>]) -> String {
    let mut text = format!("{} host.{DOMAIN}\n", network.subnet.gateway());
    let _ = writeln!(text, "{} host.{DOMAIN}", network.prefix.gateway());
    for one in plugged {
        let name = &one.doc.hostname;
        if TAKEN.contains(&name.as_str()) {
            continue;
        }
        let _ = writeln!(text, "{} {name}.{DOMAIN} {name}", one.own.ipv4);
        let _ = writeln!(text, "{} {name}.{DOMAIN} {name}", one.own.ipv6);
    }
    text
}
