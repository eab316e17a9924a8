//! What of the host's addresses and names is free, for a new network.

use std::net::Ipv4Addr;

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::network::{BridgeName, DEFAULT_SUBNETS, Subnet};
use mayfly_core::ports::HostResult;
use serde::Deserialize;

use super::{run, tool};
use crate::runner::Command;

#[derive(Debug, Deserialize)]
struct Route {
    #[serde(default)]
    dst: String,
}

/// The networks that the host has routes to. The way to everywhere else is none of them.
fn routed() -> HostResult<Vec<Subnet>> {
    let ip = tool("ip", "iproute2")?;
    let command = Command::new(&ip).args(["-j", "-4", "route", "show", "table", "all"]);
    let told = run("looking at the host's routes", &command)?;
    let routes: Vec<Route> = serde_json::from_slice(&told.stdout)
        .map_err(|error| LookFailed::new("the host's routes", error))?;
    Ok(parse_routes(routes.iter().map(|route| route.dst.as_str())))
}

fn parse_routes<'a>(targets: impl Iterator<Item = &'a str>) -> Vec<Subnet> {
    targets
        .filter_map(|text| {
            let (address, length) = text.split_once('/').unwrap_or((text, "32"));
            let address: Ipv4Addr = address.parse().ok()?;
            Some(Subnet::of_host(address, length.parse().ok()?))
        })
        .collect()
}

/// A subnet that the host has no route into: the one that is wanted, or the first default that is free.
pub fn free_subnet(wanted: Option<Subnet>) -> HostResult<Subnet> {
    let routed = routed()?;
    let clash = |subnet: &Subnet| routed.iter().find(|route| route.overlaps(*subnet));
    if let Some(subnet) = wanted {
        return match clash(&subnet) {
            None => Ok(subnet),
            Some(route) => Err(Refusal::new(
                Code::HostUnsuitable,
                format!("the host uses {route} itself, which is within {subnet} or around it"),
                "choose another --subnet; see `ip route show table all`",
            )
            .into()),
        };
    }
    let free = DEFAULT_SUBNETS
        .iter()
        .filter_map(|text| text.parse().ok())
        .find(|subnet| clash(subnet).is_none());
    free.ok_or_else(|| {
        Refusal::new(
            Code::HostUnsuitable,
            format!(
                "the host uses addresses of each of {} itself",
                DEFAULT_SUBNETS.join(", ")
            ),
            "name a free one: --subnet, or do without: --no-network",
        )
        .into()
    })
}

/// Refuses a bridge whose name the host has given already.
pub fn is_bridge_free(bridge: &BridgeName) -> HostResult<()> {
    let ip = tool("ip", "iproute2")?;
    let command = Command::new(&ip).args(["-o", "link", "show"]);
    let told = run("looking at the host's links", &command)?.text();
    let is_it = |line: &str| {
        let name = line.split(": ").nth(1).unwrap_or_default();
        name.split('@').next() == Some(bridge.as_str())
    };
    if told.lines().any(is_it) {
        return Err(Refusal::new(
            Code::HostUnsuitable,
            format!("the host has a link that is called {bridge} already"),
            "choose another name: --bridge; or do without: --no-network",
        )
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_everywhere_is_no_clash() {
        let routes = [
            "default",
            "10.77.3.0/24",
            "127.0.0.1",
            "broken/x",
            "192.168.1.7",
        ];
        let parsed = parse_routes(routes.into_iter());
        let shown: Vec<String> = parsed.iter().map(Subnet::to_string).collect();
        assert_eq!(shown, ["10.77.3.0/24", "127.0.0.1/32", "192.168.1.7/32"]);
    }
}
