//! What the process is told, on standard input, and what it answers, on standard output: JSON.

use std::io::{self, Read};

use mayfly_core::names::GuestPath;
use mayfly_core::run::{IdRange, MountSource};
use serde::{Deserialize, Serialize};

/// The version that is written and understood: both are the same program, unless it was replaced meanwhile.
const VERSION: u32 = 1;
/// An order names one mount; more is none.
const LIMIT: u64 = 1 << 20;

/// One mount of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    version: u32,
    /// The process that asks; without it nobody wants this.
    pub(crate) parent: i32,
    /// The guest's init, as its supervisor wrote it down.
    pub(crate) init: i32,
    /// What the paths of its cgroups have in them, so that no other process is taken for it.
    pub(crate) cgroup: String,
    /// Host ids of the guest.
    pub(crate) ids: IdRange,
    /// The dataset.
    pub(crate) source: MountSource,
    /// Where it is shown.
    pub(crate) target: GuestPath,
    /// Whether guest root is kept from writing.
    pub(crate) read_only: bool,
    /// What is to be done.
    pub(crate) act: Act,
}

/// What is to be done with a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Act {
    /// Show it.
    Show {},
    /// Hide it.
    Hide {
        /// The run's supervisor, and where its own mount namespace has the dataset from the start on.
        let_go: Option<(i32, String)>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// It is so now.
    Changed {},
    /// It was so already.
    Unchanged {},
    /// The guest is over.
    Over {},
    /// Something of the guest's is in the way.
    Refused {
        /// What.
        why: String,
    },
}

impl Order {
    pub(crate) fn new(
        (init, cgroup, ids): (i32, String, IdRange),
        source: MountSource,
        (target, read_only): (GuestPath, bool),
        act: Act,
    ) -> Self {
        Self {
            version: VERSION,
            parent: rustix::process::getpid().as_raw_pid(),
            init,
            cgroup,
            ids,
            source,
            target,
            read_only,
            act,
        }
    }

    pub(super) fn read(from: impl Read) -> io::Result<Self> {
        let mut text = Vec::new();
        from.take(LIMIT).read_to_end(&mut text)?;
        let order: Self = serde_json::from_slice(&text)
            .map_err(|e| io::Error::other(format!("the order is not understood: {e}")))?;
        match order.version {
            VERSION => Ok(order),
            found => Err(io::Error::other(format!(
                "the order has version {found}, this program speaks {VERSION}: it was replaced, restart the daemon"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_back_and_another_version_does_not() {
        let source = MountSource::Zfs {
            dataset: "tank/ct/11327/nix".into(),
        };
        let ids = IdRange {
            first: 1 << 20,
            count: IdRange::SIZE,
        };
        let target = "/nix".parse().unwrap();
        let order = Order::new((7, "x".into(), ids), source, (target, true), Act::Show {});
        let text = serde_json::to_string(&order).unwrap();
        assert_eq!(Order::read(text.as_bytes()).unwrap(), order);
        let other = text.replace("\"version\":1", "\"version\":2");
        assert!(
            Order::read(other.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("version 2")
        );
        assert!(Order::read(&b"{}"[..]).is_err());
    }
}
