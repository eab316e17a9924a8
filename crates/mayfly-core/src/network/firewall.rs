//! What may pass, as the text of two tables of nftables that are nobody else's.
//!
//! `inet`: the host's own side (what guests reach of the host, ports of the host that lead to guests, the way out).
//! What is sent to groups of the link itself goes around the bridge, with the card as where it came from: it gets nowhere.
//! `bridge`: each card may speak as itself alone. A card that is in no set may say nothing, so a table that is older than a
//! VPS shuts it out and lets nothing through.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use super::{Forward, NodeNetwork, Plugged};

/// One transaction: both tables are there afterwards as they are written here, or as they were.
pub(super) fn render(
    table: &str,
    cards: &str,
    network: &NodeNetwork,
    plugged: &[Plugged<'_>],
) -> String {
    let mut text = String::with_capacity(4096);
    for family in ["inet", "bridge"] {
        // The first line makes that the second cannot fail.
        let _ = writeln!(
            text,
            "table {family} {table}\ndelete table {family} {table}"
        );
    }
    host_side(&mut text, table, cards, network, plugged);
    guests_side(&mut text, table, cards, plugged);
    text
}

fn host_side(
    text: &mut String,
    table: &str,
    cards: &str,
    network: &NodeNetwork,
    plugged: &[Plugged<'_>],
) {
    let bridge = &network.bridge;
    let (subnet, prefix) = (network.subnet, network.prefix);
    let forwards = forwards(plugged);
    let _ = write!(
        text,
        r#"table inet {table} {{
  chain around_the_bridge {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{cards}*" drop
  }}
  chain from_outside {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump ports
  }}
  chain from_host {{
    type nat hook output priority -100; policy accept;
    oifname "lo" ip daddr 127.0.0.0/8 accept
    oifname "lo" ip6 daddr ::1 accept
    fib daddr type local jump ports
  }}
  chain ports {{
    ip daddr {gateway} accept
    ip6 daddr {{ {gateway6}, fe80::/10 }} accept
{forwards}  }}
  chain way_out {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
    ip6 saddr {prefix} oifname != "{bridge}" masquerade
    ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade
    ip6 saddr {prefix} oifname "{bridge}" ct status dnat masquerade
  }}
  chain through {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" oifname "{bridge}" accept
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" ct status dnat accept
    oifname "{bridge}" drop
    iifname "{bridge}" ip saddr {subnet} accept
    iifname "{bridge}" ip6 saddr {prefix} accept
    iifname "{bridge}" drop
  }}
  chain to_host {{
    type filter hook input priority filter; policy accept;
    iifname != "{bridge}" accept
    ct state established,related accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    udp dport {{ 53, 67, 547 }} accept
    tcp dport 53 accept
    drop
  }}
}}
"#,
        gateway = subnet.gateway(),
        gateway6 = prefix.gateway(),
    );
}

/// A port is one VPS's: where two documents name it, the lower number has it.
fn forwards(plugged: &[Plugged<'_>]) -> String {
    let mut taken = std::collections::BTreeSet::new();
    let mut text = String::new();
    for one in plugged {
        for forward in &one.own.ports {
            let Forward {
                host_port,
                guest_port,
                protocol,
            } = forward;
            if taken.insert((*protocol, *host_port)) {
                let (v4, v6) = (one.own.ipv4, one.own.ipv6);
                let _ = writeln!(
                    text,
                    "    {protocol} dport {host_port} dnat ip to {v4}:{guest_port}\n    \
                     {protocol} dport {host_port} dnat ip6 to [{v6}]:{guest_port}"
                );
            }
        }
    }
    text
}

/// What a client of DHCPv6 may say: solicit, request, confirm, renew, rebind, information-request. Who declines or releases an
/// address may name another's, and who relays speaks for others. Of a fragment without that byte nothing is known.
const ASKS: &str = "1, 3, 4, 5, 6, 11";

fn guests_side(text: &mut String, table: &str, cards: &str, plugged: &[Plugged<'_>]) {
    let macs = set(plugged, |one| vec![one.own.mac.to_string()]);
    let ip4 = set(plugged, |one| vec![one.own.ipv4.to_string()]);
    let ip6 = set(plugged, |one| own_ip6(one).map(|a| a.to_string()).to_vec());
    let (clients, neighbours) = (clients(plugged), neighbours(plugged));
    let _ = write!(
        text,
        r#"table bridge {table} {{
  set macs {{
    type ifname . ether_addr
{macs}  }}
  set own4 {{
    type ifname . ipv4_addr
{ip4}  }}
  set own6 {{
    type ifname . ipv6_addr
{ip6}  }}
  chain from_guest {{
    type filter hook prerouting priority -300; policy accept;
    iifname != "{cards}*" accept
    iifname . ether saddr != @macs drop
    ether type arp jump arp_from_guest
    ether type ip jump ip4_from_guest
    ether type ip6 jump ip6_from_guest
    drop
  }}
  chain to_bridge {{
    type filter hook input priority -300; policy accept;
    iifname "{cards}*" ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop
  }}
  chain arp_from_guest {{
    iifname . arp saddr ether != @macs drop
    arp operation request arp saddr ip 0.0.0.0 iifname . arp daddr ip @own4 accept
    iifname . arp saddr ip @own4 accept
    drop
  }}
  chain ip4_from_guest {{
    udp sport 67 drop
    udp dport 68 drop
    udp dport 67 jump dhcp_from_guest
    ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
    iifname . ip saddr @own4 accept
    drop
  }}
  chain dhcp_from_guest {{
{clients}    drop
  }}
  chain ip6_from_guest {{
    icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    udp sport 547 drop
    udp dport 546 drop
    udp dport 547 jump dhcp6_from_guest
    icmpv6 type nd-neighbor-advert jump neighbours
    ip6 saddr :: icmpv6 type nd-neighbor-solicit jump neighbours
    ip6 saddr :: icmpv6 type {{ nd-neighbor-solicit, nd-router-solicit, mld2-listener-report }} accept
    iifname . ip6 saddr @own6 accept
    drop
  }}
  chain dhcp6_from_guest {{
    @th,64,8 {{ {ASKS} }} return
    drop
  }}
  chain neighbours {{
{neighbours}    drop
  }}
}}
"#
    );
}

fn own_ip6(one: &Plugged<'_>) -> [Ipv6Addr; 2] {
    [one.own.ipv6, one.own.mac.link_local()]
}

fn set(plugged: &[Plugged<'_>], values: impl Fn(&Plugged<'_>) -> Vec<String>) -> String {
    if plugged.is_empty() {
        return String::new();
    }
    let mut text = String::from("    elements = {\n");
    for one in plugged {
        for value in values(one) {
            let _ = writeln!(text, "      \"{}\" . {value},", one.card);
        }
    }
    text.push_str("    }\n");
    text
}

/// Who asks for an address may ask in the name of its own card only, or it could give up another's: the card's address in the
/// message is the 6 bytes after the first 36 of the datagram.
fn clients(plugged: &[Plugged<'_>]) -> String {
    plugged.iter().fold(String::new(), |mut text, one| {
        let mac = one.own.mac.to_string().replace(':', "");
        let _ = writeln!(
            text,
            "    iifname \"{}\" @th,288,48 0x{mac} return",
            one.card
        );
        text
    })
}

/// Who says, or asks before it takes an address, where that lives may name its own only. The address is the 16 bytes after the first 8 of the
/// message; older versions of nft have no name for it.
fn neighbours(plugged: &[Plugged<'_>]) -> String {
    plugged.iter().fold(String::new(), |mut text, one| {
        for address in own_ip6(one) {
            let _ = writeln!(
                text,
                "    iifname \"{}\" @th,64,128 {:#034x} return",
                one.card,
                u128::from(address)
            );
        }
        text
    })
}
