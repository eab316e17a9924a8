//! One life of a VPS: what the supervisor is told, what it reports.
//!
//! Both are files in the run's directory, `run.json` and `state.json`; their form is versioned by
//! [`PROTOCOL`], because a supervisor outlives the daemon that started it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::features::Features;
use crate::ids::{Incarnation, NodeId, RunId, VpsId};
use crate::names::{GuestPath, Hostname};
use crate::network::RunNetwork;
use crate::persist;

/// The version of [`RunSpec`], [`RunState`] and the control socket.
pub const PROTOCOL: u32 = 1;

/// A range of host ids that the ids 0.. of one VPS are mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct IdRange {
    /// The host id of the guest's id 0. Also the creator of the guest's user namespace, so that the kernel
    /// charges per-user budgets (inotify, keyrings) to this VPS alone.
    pub first: u32,
    /// How many ids; 2^18 for every VPS.
    pub count: u32,
}

impl IdRange {
    /// Ids that each VPS gets.
    pub const SIZE: u32 = 1 << 18;

    /// Whether the two have an id in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let end = |range: &Self| u64::from(range.first) + u64::from(range.count);
        u64::from(self.first) < end(other) && u64::from(other.first) < end(self)
    }
}

/// What a VPS may take of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Memory, in bytes. None: no limit.
    #[serde(default)]
    pub memory_bytes: Option<Bytes>,
    /// Swap on top of the memory, in bytes.
    #[serde(default)]
    pub swap_bytes: Bytes,
    /// CPU time in hundredths of a CPU: 150 is one CPU and a half. None: no limit.
    #[serde(default)]
    pub cpu_percent: Option<u32>,
    /// Processes and threads. None: no limit.
    #[serde(default)]
    pub processes: Option<u32>,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = VpsChange {
            memory_bytes: self.memory_bytes,
            swap_bytes: Some(self.swap_bytes),
            cpu_percent: Some(self.cpu_percent),
            processes: self.processes,
            ..VpsChange::default()
        };
        all.fmt(f)
    }
}

/// Hundredths of a CPU as a number of CPUs, as it is typed: 150 is `1.5`.
pub fn shown_cpus(percent: u32) -> String {
    match percent % 100 {
        0 => (percent / 100).to_string(),
        rest => format!("{}.{rest:02}", percent / 100)
            .trim_end_matches('0')
            .to_owned(),
    }
}

/// Where the contents of a dataset are found by the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MountSource {
    /// A directory of a file system that is mounted in the daemon's mount namespace (btrfs).
    Directory {
        /// Absolute path of the dataset's `private`.
        path: String,
    },
    /// A dataset that is a file system of its own (ZFS): the supervisor mounts it in the run's mount namespace and shows
    /// its `private`.
    Zfs {
        /// Its whole name, such as `tank/ct/11327`.
        dataset: String,
    },
}

/// One dataset at one path of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunMount {
    /// What is shown.
    pub source: MountSource,
    /// Where; never `/`.
    pub target: GuestPath,
    /// Whether guest root is kept from writing (it must hold against a remount).
    pub read_only: bool,
}

/// All that a supervisor needs to know: it chooses nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// [`PROTOCOL`] of the writer.
    pub protocol: u32,
    /// The node that the run belongs to.
    pub node: NodeId,
    /// The VPS.
    pub vps: VpsId,
    /// Which VPS of that number.
    pub incarnation: Incarnation,
    /// This run.
    pub run: RunId,
    /// The host name that the guest starts with.
    pub hostname: Hostname,
    /// What is shown at `/`.
    pub root: MountSource,
    /// The datasets, in the order in which they are mounted: parents before children.
    pub mounts: Vec<RunMount>,
    /// Host ids of the guest.
    pub ids: IdRange,
    /// Limits at the start.
    pub limits: Limits,
    /// What of the kernel it may use beside what every guest may.
    #[serde(default, skip_serializing_if = "Features::is_empty")]
    pub features: Features,
    /// The program that becomes PID 1 after the helper, looked up inside the guest.
    pub init: GuestPath,
    /// The signal that asks that init to shut down (systemd: SIGRTMIN+3, which is 37).
    pub halt_signal: i32,
    /// What the guest can read in `/run/mayfly/boot.json`.
    pub boot_report: serde_json::Value,
    /// What is declared to stay; none of a supervisor that knew of no such thing.
    #[serde(default)]
    pub persistence: Option<persist::spec::Spec>,
    /// How it is plugged into the network; none where it is not.
    #[serde(default)]
    pub network: Option<RunNetwork>,
    /// Absolute path of the static guest helper on the host.
    pub guest_helper: String,
    /// Absolute path of the directory that keeps the console's ring across runs.
    pub console_dir: String,
    /// Mount points that the run's mount namespace must let go of once its own mounts stand (the pool).
    pub detach: Vec<String>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunPhase {
    /// Namespaces and mounts are being made; the guest's init has not been reached.
    Starting,
    /// The guest's init was executed.
    Running,
    /// The guest has ended; the supervisor has swept up.
    Ended,
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum RunEnd {
    /// The guest powered itself off, or halted when asked to.
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// It was killed because someone asked for that.
    Killed,
    /// The host went down with it.
    HostDown,
    /// Init, lxc-start or the supervisor died without being asked to.
    Crashed {
        /// What is known.
        detail: String,
    },
    /// The guest's init was never reached.
    FailedToStart {
        /// What is known; text from the guest is escaped.
        detail: String,
    },
}

impl RunEnd {
    /// Whether the guest wanted it: then its init was reached and lived, however soon it was.
    pub fn is_the_guests_wish(&self) -> bool {
        matches!(self, Self::PowerOff | Self::Reboot)
    }
}

/// What a supervisor tells: `state.json`, replaced atomically.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunState {
    /// [`PROTOCOL`] of the writer.
    pub protocol: u32,
    /// How far the run is.
    pub phase: RunPhase,
    /// The supervisor's process id.
    pub supervisor_pid: i32,
    /// Field 22 of the supervisor's `/proc/PID/stat`: with the process id it names one process for ever.
    pub supervisor_start_ticks: u64,
    /// The process id of lxc-start.
    pub lxc_pid: Option<i32>,
    /// The process id of the guest's init, as the host sees it.
    pub init_pid: Option<i32>,
    /// From the supervisor's first instruction to the guest's first, in microseconds.
    pub launch_us: Option<u64>,
    /// Why it ended.
    pub end: Option<RunEnd>,
    /// Whether the guest's init ended in order, whoever had wished for it.
    #[serde(default)]
    pub in_order: bool,
    /// When the guest died, in milliseconds since 1970.
    #[serde(default)]
    pub ended_unix_ms: Option<u64>,
    /// The features that the supervisor gave it: one that knows of none gives none, whatever it was told.
    #[serde(default, skip_serializing_if = "Features::is_empty")]
    pub features: Features,
    /// What became of the declarations at its birth, as the guest's side told it.
    #[serde(default)]
    pub persistence: Option<persist::report::Summary>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_written_as_they_are_typed() {
        assert_eq!(
            [200, 150, 5, 125].map(shown_cpus),
            ["2", "1.5", "0.05", "1.25"]
        );
    }
}
