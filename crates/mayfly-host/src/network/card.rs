//! The host's end of a VPS's card. LXC makes it and takes it away; where LXC was killed, the kernel takes it away some time
//! after the guest's last process.

use std::path::Path;

use mayfly_core::ports::HostResult;

use super::{run, tool};
use crate::runner::Command;

/// Removes a card that a run which is over has left. The name is this node's and this VPS's alone. Nothing of that VPS may be
/// alive.
pub(crate) fn remove_stale_card(card: &str) -> HostResult<()> {
    // Where this cannot be looked at, LXC will say that the name is taken.
    let is_there = || {
        matches!(
            Path::new("/sys/class/net").join(card).try_exists(),
            Ok(true)
        )
    };
    if !is_there() {
        return Ok(());
    }
    let ip = tool("ip", "iproute2")?;
    let delete = Command::new(&ip).args(["link", "delete", "dev", card, "type", "veth"]);
    match run(
        &format!("removing the card {card} of a run that is over"),
        &delete,
    ) {
        // The kernel was faster.
        Err(_) if !is_there() => Ok(()),
        done => done.map(drop),
    }
}
