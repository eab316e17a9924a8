//! The bridge. It is ours when it is a bridge and has the card's address that only ours has; a name proves nothing.

use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::network::{BridgeName, Mac, NetworkPlan, NetworkTrace};
use mayfly_core::ports::{HostError, HostResult};
use serde::Deserialize;

use super::{run, tool};
use crate::runner::{Command, RunEnd, Runner, Tool};

/// A link as `ip -j -d address show` tells it.
#[derive(Debug, Deserialize)]
struct Link {
    #[serde(default)]
    address: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    linkinfo: LinkInfo,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Default, Deserialize)]
struct LinkInfo {
    #[serde(default)]
    info_kind: String,
    #[serde(default)]
    info_data: BridgeData,
}

#[derive(Debug, Default, Deserialize)]
struct BridgeData {
    /// Whether it does not learn from what is sent to groups of the link itself, which no rule of ours sees.
    #[serde(default)]
    no_linklocal_learn: u8,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(default)]
    local: String,
    #[serde(default)]
    prefixlen: u8,
}

fn ip() -> HostResult<Tool> {
    Ok(tool("ip", "iproute2")?)
}

fn look(ip: &Tool, bridge: &BridgeName) -> HostResult<Option<Link>> {
    let name = bridge.as_str();
    let command = Command::new(ip).args(["-j", "-d", "address", "show", "dev", name]);
    let what = || format!("the link {name}");
    match Runner::default().run(&command) {
        Ok(told) => {
            let mut links: Vec<Link> = serde_json::from_slice(&told.stdout)
                .map_err(|error| LookFailed::new(what(), error))?;
            Ok(links.pop())
        }
        Err(failure)
            if matches!(failure.end, RunEnd::Status(1))
                && failure.stderr.contains("does not exist") =>
        {
            Ok(None)
        }
        Err(failure) => Err(LookFailed::new(what(), failure).into()),
    }
}

fn is_ours(link: &Link, mac: &Mac) -> bool {
    link.linkinfo.info_kind == "bridge" && link.address == mac.to_string()
}

fn foreign(bridge: &BridgeName) -> HostError {
    Refusal::new(
        Code::NotOurs,
        format!("{bridge} is on the host already, and is not this node's bridge"),
        format!("see what it is: ip -d link show {bridge}; rename it, or make the node with another --bridge"),
    )
    .into()
}

pub(super) fn ensure(plan: &NetworkPlan) -> HostResult<bool> {
    let ip = ip()?;
    let name = plan.bridge.as_str();
    let mut changed = false;
    let mut found = look(&ip, &plan.bridge)?;
    if found.is_none() {
        // Its address is there from the first moment on, so it is never anybody's but ours.
        let mac = plan.bridge_mac.to_string();
        let make = Command::new(&ip)
            .args([
                "link", "add", "name", name, "address", &mac, "type", "bridge",
            ])
            .args(["stp_state", "0", "forward_delay", "0"]);
        run(&format!("making the bridge {name}"), &make)?;
        changed = true;
        // It answers routers of nobody, and guests are no routers.
        for (setting, value) in [("accept_ra", "0"), ("autoconf", "0")] {
            let file = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
            let _ = std::fs::write(file, value);
        }
        found = look(&ip, &plan.bridge)?;
    }
    let Some(link) = found.filter(|link| is_ours(link, &plan.bridge_mac)) else {
        return Err(foreign(&plan.bridge));
    };
    for (address, more) in [(&plan.ipv4, &[][..]), (&plan.ipv6, &["nodad"][..])] {
        let has = |a: &Address| format!("{}/{}", a.local, a.prefixlen) == *address;
        if link.addr_info.iter().any(has) {
            continue;
        }
        let add = Command::new(&ip)
            .args(["address", "replace", address, "dev", name])
            .args(more);
        match run(&format!("giving {address} to {name}"), &add) {
            Ok(_) => changed = true,
            // A kernel without IPv6 has no other way to say so.
            Err(_) if *address == plan.ipv6 && !has_ipv6() => {}
            Err(why) => return Err(why),
        }
    }
    if link.linkinfo.info_data.no_linklocal_learn == 0 {
        let set = Command::new(&ip).args(["link", "set", "dev", name]).args([
            "type",
            "bridge",
            "no_linklocal_learn",
            "1",
        ]);
        run(&format!("having {name} learn from its guests alone"), &set)?;
        changed = true;
    }
    if !link.flags.iter().any(|flag| flag == "UP") {
        let up = Command::new(&ip).args(["link", "set", "dev", name, "up"]);
        run(&format!("switching {name} on"), &up)?;
        changed = true;
    }
    Ok(changed)
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").is_dir()
}

pub(super) fn remove(of: &NetworkTrace) -> HostResult<bool> {
    let ip = ip()?;
    match look(&ip, &of.bridge)? {
        None => Ok(false),
        Some(link) if is_ours(&link, &of.bridge_mac) => {
            let delete = Command::new(&ip).args(["link", "delete", "dev", of.bridge.as_str()]);
            run(&format!("removing the bridge {}", of.bridge), &delete)?;
            Ok(true)
        }
        // It came after ours had gone: nobody's business here.
        Some(_) => Ok(false),
    }
}
