//! Our tables. Whether they are still as we made them is told by the text that the kernel's rules make: that of right after
//! they were made is remembered, whatever it is.

use mayfly_core::network::NetworkPlan;
use mayfly_core::ports::HostResult;

use super::{run, tool};
use crate::runner::{Command, Runner, Tool};

/// What was asked of the kernel, and what it said then.
pub(super) struct Made {
    asked: String,
    listed: String,
}

const FAMILIES: [&str; 2] = ["inet", "bridge"];

fn nft() -> HostResult<Tool> {
    Ok(tool("nft", "nftables")?)
}

pub(super) fn ensure(plan: &NetworkPlan, made: &mut Option<Made>) -> HostResult<bool> {
    let nft = nft()?;
    if let Some(before) = made.as_ref() {
        if before.asked == plan.firewall && list(&nft, &plan.table) == before.listed {
            return Ok(false);
        }
    }
    let replace = Command::new(&nft)
        .args(["-f", "-"])
        .input(plan.firewall.as_bytes());
    run("setting up the rules of the network", &replace)?;
    *made = Some(Made {
        asked: plan.firewall.clone(),
        listed: list(&nft, &plan.table),
    });
    Ok(true)
}

/// Both tables as text, without counters. What is not there, or cannot be listed, is empty: then they are made again, which
/// harms nothing.
fn list(nft: &Tool, table: &str) -> String {
    FAMILIES.iter().fold(String::new(), |mut all, family| {
        let command = Command::new(nft).args(["-s", "list", "table", family, table]);
        if let Ok(listed) = Runner::default().run(&command) {
            all.push_str(&listed.text());
        }
        all
    })
}

pub(super) fn remove(table: &str) -> HostResult<bool> {
    let nft = nft()?;
    let was_there = !list(&nft, table).is_empty();
    // The first line of each makes that the second cannot fail.
    let text =
        FAMILIES.map(|family| format!("table {family} {table}\ndelete table {family} {table}\n"));
    let command = Command::new(&nft).args(["-f", "-"]).input(text.concat());
    run("removing the rules of the network", &command)?;
    Ok(was_there)
}
