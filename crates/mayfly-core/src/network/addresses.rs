//! Names and addresses of the network, built only by validation: they go into configurations of other programs.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::NodeId;

/// A text that is nothing of the network that was wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {wanted}", got.escape_debug())]
pub struct BadNetwork {
    /// What was given, cut to 60 characters.
    pub got: String,
    /// What was wanted.
    pub wanted: &'static str,
}

fn bad(got: &str, wanted: &'static str) -> BadNetwork {
    BadNetwork {
        got: got.chars().take(60).collect(),
        wanted,
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = BadNetwork;

            fn try_from(text: String) -> Result<Self, BadNetwork> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(it: $name) -> String {
                it.to_string()
            }
        }
    };
}

/// The name of a bridge of the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(utoipa::ToSchema),
    schema(pattern = "^[a-z][a-z0-9_-]{0,14}$")
)]
#[serde(try_from = "String", into = "String")]
pub struct BridgeName(String);
as_text!(BridgeName);

impl BridgeName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BridgeName {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
        if !begins || text.len() > 15 || !text.bytes().all(plain) {
            return Err(bad(
                text,
                "the name of a bridge (1 to 15 of a-z, 0-9, _ and -, a letter first)",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for BridgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network of IPv4 addresses for private use, such as `10.77.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: u32,
    length: u8,
}
as_text!(Subnet);

impl Subnet {
    /// The bits that all its addresses have in common.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The host's address in it: the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first + 1)
    }

    /// Its own address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first)
    }

    /// The address of everybody in it: the last.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from(self.first | !mask(self.length))
    }

    /// The mask that goes with its length.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.length))
    }

    /// The addresses that VPSes may have, lowest first.
    pub(super) fn guests(self) -> impl Iterator<Item = Ipv4Addr> {
        let last = self.first | !mask(self.length);
        (self.first + 2..last).map(Ipv4Addr::from)
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        let shorter = mask(self.length.min(other.length));
        self.first & shorter == other.first & shorter
    }

    /// Any network of addresses, as the host has them: also one that no node may have.
    pub fn of_host(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self {
            first: u32::from(address) & mask(length),
            length,
        }
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(length.min(32)))
        .unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        const WANTED: &str = "a private network for 5 to 16 million VPSes, such as 10.77.0.0/16 (within 10.0.0.0/8, \
                              172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10; /8 to /29)";
        let no = || bad(text, WANTED);
        let (address, length) = text.split_once('/').ok_or_else(no)?;
        let address: Ipv4Addr = address.parse().map_err(|_| no())?;
        let length: u8 = length.parse().map_err(|_| no())?;
        let it = Self::of_host(address, length);
        let shared = Self::of_host(Ipv4Addr::new(100, 64, 0, 0), 10);
        let is_private = address.is_private() || shared.overlaps(Self::of_host(address, 32));
        if !(8..=29).contains(&length) || it.first != u32::from(address) || !is_private {
            return Err(no());
        }
        // A short length may reach beyond what is private.
        let last = Ipv4Addr::from(it.first | !mask(length));
        let still = last.is_private() || shared.overlaps(Self::of_host(last, 32));
        if still { Ok(it) } else { Err(no()) }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length)
    }
}

/// A network of 2^64 IPv6 addresses that is unique and routed nowhere (RFC 4193).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix6(u64);
as_text!(Prefix6);

impl Prefix6 {
    /// The one that random bytes make.
    pub fn from_random(random: [u8; 7]) -> Self {
        let mut bytes = [0xfd; 8];
        bytes[1..].copy_from_slice(&random);
        Self(u64::from_be_bytes(bytes))
    }

    /// What it begins with, as an address.
    pub(super) fn first(self) -> Ipv6Addr {
        self.address(0)
    }

    /// The host's address in it.
    pub fn gateway(self) -> Ipv6Addr {
        self.address(1)
    }

    /// The address that a card makes of it by itself.
    pub(super) fn of_card(self, mac: Mac) -> Ipv6Addr {
        self.address(mac.interface_id())
    }

    fn address(self, interface: u64) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.0) << 64 | u128::from(interface))
    }
}

impl FromStr for Prefix6 {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let no = || bad(text, "an IPv6 network such as fd4d:6179:666c:7900::/64");
        let address: Ipv6Addr = text
            .strip_suffix("/64")
            .ok_or_else(no)?
            .parse()
            .map_err(|_| no())?;
        let bits = u128::from(address);
        if bits >> 120 != 0xfd || bits as u64 != 0 {
            return Err(no());
        }
        Ok(Self((bits >> 64) as u64))
    }
}

impl fmt::Display for Prefix6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.address(0))
    }
}

/// The address of a network card that nobody sells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);
as_text!(Mac);

impl Mac {
    /// That of something of a node: always the same, and another for everything else.
    pub fn of(node: &NodeId, what: &str) -> Self {
        let hash = Sha256::digest(format!("{node}/{what}"));
        // Locally administered, for one receiver.
        let mut bytes = [0x02; 6];
        bytes[1..].copy_from_slice(&hash[..5]);
        Self(bytes)
    }

    /// The lower half of the IPv6 addresses that a card makes by itself (EUI-64).
    fn interface_id(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([a ^ 0x02, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The IPv6 address that a card has on its own wire.
    pub(super) fn link_local(self) -> Ipv6Addr {
        Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(self.interface_id()))
    }
}

impl FromStr for Mac {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let no = || bad(text, "the address of a card, such as 02:4d:61:79:66:6c");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(no)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| no())?;
        }
        match parts.next() {
            None => Ok(Self(bytes)),
            Some(_) => Err(no()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a port is a port of.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(bad(text, "tcp or udp")),
        }
    }
}

/// A port of the host that leads to one of a VPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The port of the host.
    pub host_port: u16,
    /// The port of the VPS.
    pub guest_port: u16,
    /// Of what.
    #[serde(default)]
    pub protocol: Protocol,
}

impl FromStr for Forward {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let no = || bad(text, "a forward such as 8080:80 or 5353:53/udp");
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, protocol)) => (ports, protocol.parse().map_err(|_| no())?),
        };
        let (host, guest) = ports.split_once(':').ok_or_else(no)?;
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        Ok(Self {
            host_port: port(host).ok_or_else(no)?,
            guest_port: port(guest).ok_or_else(no)?,
            protocol,
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}/{}",
            self.host_port, self.guest_port, self.protocol
        )
    }
}
