//! Our tables. Whether they are still as we made them is told by the text that the kernel's rules make: that of right after
//! they were made is remembered, where it has as many rules as were asked for: somebody may have come in between.

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
    let listed = list(&nft, &plan.table);
    *made = (handles(&listed) == asked_for(&plan.firewall)).then(|| Made {
        asked: plan.firewall.clone(),
        listed,
    });
    Ok(true)
}

/// How many things of ours have a handle: tables, chains, sets, rules.
fn handles(listed: &str) -> usize {
    listed.lines().filter(|l| l.contains(" # handle ")).count()
}

/// How many a text asks for that has one thing on a line.
fn asked_for(text: &str) -> usize {
    let mut in_set = false;
    let mut count = 0;
    for line in text.lines().map(str::trim) {
        match line.split(' ').next().unwrap_or_default() {
            "table" | "chain" | "set" => {
                in_set = line.starts_with("set");
                count += usize::from(line.ends_with('{'));
            }
            "" | "}" | "type" | "delete" => {}
            _ => count += usize::from(!in_set),
        }
    }
    count
}

/// Both tables as text, without counters. What is not there, or cannot be listed, is empty: then they are made again, which
/// harms nothing.
fn list(nft: &Tool, table: &str) -> String {
    FAMILIES.iter().fold(String::new(), |mut all, family| {
        let command = Command::new(nft).args(["-a", "-s", "list", "table", family, table]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_counted_by_its_lines() {
        let text = "\
table inet x
delete table inet x
table inet x {
  set own {
    type ifname . ipv4_addr
    elements = {
      \"a\" . 10.0.0.1,
    }
  }
  chain one {
    type filter hook input priority 0; policy accept;
    iifname \"a\" accept
    udp dport { 53, 67 } accept
  }
}
";
        assert_eq!(asked_for(text), 5);
        let listed =
            "table inet x { # handle 1\n\tset own { # handle 1\n\t\ttype ifname . ipv4_addr\n";
        assert_eq!(handles(listed), 2);
    }
}
