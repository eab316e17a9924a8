//! The server of addresses and names: dnsmasq, for this bridge alone.
//!
//! Only cards that the documents know get an address, and always the same; names come from the documents, never from what a
//! guest says that it is called.

use std::fmt::Write as _;

use super::{NodeNetwork, Plugged};

/// The domain of all VPSes of a node: reserved for private use, so that no name in it is ever asked for elsewhere.
pub const DOMAIN: &str = "mayfly.internal";

pub(super) fn render_config(network: &NodeNetwork) -> String {
    let subnet = network.subnet;
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
dhcp-authoritative
dhcp-no-override
dhcp-ignore-names
dhcp-option=option:router,{gateway}
dhcp-option=option:dns-server,{gateway}
quiet-dhcp
",
        bridge = network.bridge,
        first = subnet.address(),
        mask = subnet.mask(),
        gateway = subnet.gateway(),
    )
}

/// Names that are others' already: a VPS may be called so, and is found by its address alone.
const TAKEN: [&str; 2] = ["host", "localhost"];

/// Without names: dnsmasq takes some words there for settings.
pub(super) fn render_dhcp_hosts(plugged: &[Plugged<'_>]) -> String {
    plugged.iter().fold(String::new(), |mut text, one| {
        let own = one.own;
        let _ = writeln!(text, "{},{},1h", own.mac, own.ipv4);
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
