//! What was seen on a host, as plain data. "Absent" and "could not look" are different answers: a look that failed
//! is a [`LookFailed`], never an empty result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::error::LookFailed;
use crate::features::{Feature, FeatureSeen};
use crate::health::Health;
use crate::ids::{Incarnation, NodeId, OperationId, RunId, VpsId};
use crate::names::PoolPath;
use crate::persist::own::DeclaredSeen;

/// What a dataset is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The root dataset of a VPS or one of its subdatasets.
    Persistent,
    /// The root of one run.
    Temporary,
    /// A part of a template.
    Template,
    /// What the roots of one VPS are cloned from: its own system, as it was when it was converted.
    Base,
    /// What was, or is to be, the contents of a persistent dataset: a reinstall lets the two change places.
    Replaced,
}

/// The ownership record of a dataset, kept where no guest can write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The node that made it.
    pub node: NodeId,
    /// The VPS and its incarnation; none for a template.
    pub owner: Option<(VpsId, Incarnation)>,
    /// What it is for.
    pub role: Role,
    /// The run that it was made for; only for temporary roots.
    pub run: Option<RunId>,
    /// The name that it was made under.
    pub made_as: PoolPath,
    /// The operation that gave it up for destruction, with proof, before it was moved to the graveyard.
    pub condemned_by: Option<OperationId>,
    /// Of a temporary root: copies of declared files may have changed in it and were not taken back yet
    /// ([`crate::persist::record`]). It is not given up before they were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unharvested: bool,
    /// The reinstall that its contents came with; none where they are the first ones. It tells two datasets apart that
    /// change places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<OperationId>,
}

/// What a look at the ownership record found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkSeen {
    /// A record of our own making, in its place.
    Local(Mark),
    /// A record that came with the data (inherited, received): it proves nothing.
    NotLocal,
    /// No record.
    Unset,
    /// A record is there and cannot be read.
    Unreadable(String),
}

/// One dataset of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetSeen {
    /// Its ownership record.
    pub mark: MarkSeen,
    /// Its quota.
    pub quota: Option<Bytes>,
    /// What counts against the quota.
    pub used: Option<Bytes>,
    /// Snapshots of it by name, whoever made them; empty where a backend keeps snapshots as datasets (btrfs).
    pub snapshots: Vec<String>,
    /// What it was cloned from, where that must stay as long as this does (ZFS).
    pub origin: Option<PoolPath>,
}

/// The pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSeen {
    /// All its datasets, those in the graveyard included; staging areas are left out.
    pub datasets: BTreeMap<PoolPath, DatasetSeen>,
    /// Its size.
    pub capacity: Bytes,
    /// What can still be written.
    pub free: Bytes,
}

/// A sign that something of a VPS is alive, or lies about after it died.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Evidence {
    /// A supervisor process.
    Supervisor {
        /// Its process id.
        pid: i32,
        /// Its run.
        run: RunId,
    },
    /// Processes in a cgroup of ours.
    Processes {
        /// The cgroup, relative to its hierarchy.
        cgroup: String,
        /// How many.
        count: usize,
    },
    /// A cgroup without processes.
    EmptyCgroup {
        /// The cgroup, relative to its hierarchy.
        cgroup: String,
    },
    /// A process that may be one of the guest's, or of the run's, in whose mount namespace a dataset of the VPS is mounted.
    Mounted {
        /// Its process id.
        pid: i32,
        /// The dataset, by its present name.
        dataset: String,
    },
    /// A process of the host itself that holds a copy of a run's mount namespace. It is no guest's, and nobody's to end:
    /// what it holds is not destroyed, and nothing else waits for it.
    Held {
        /// Its process id.
        pid: i32,
        /// The dataset, by its present name.
        dataset: String,
        /// What it runs, for people to read.
        command: String,
    },
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Supervisor { pid, run } => write!(f, "process {pid} supervises run {run}"),
            Self::Processes { cgroup, count } => {
                write!(
                    f,
                    "{count} processes are in cgroup {}",
                    cgroup.escape_debug()
                )
            }
            Self::EmptyCgroup { cgroup } => {
                write!(f, "cgroup {} was left", cgroup.escape_debug())
            }
            Self::Mounted { pid, dataset } => {
                write!(f, "process {pid} has {} mounted", dataset.escape_debug())
            }
            Self::Held {
                pid,
                dataset,
                command,
            } => write!(
                f,
                "process {pid} of the host (`{}`) has {} mounted",
                command.escape_debug(),
                dataset.escape_debug()
            ),
        }
    }
}

impl Evidence {
    /// Whether this may concern the temporary root `root` of `run`. Only what clearly belongs to another run of the
    /// VPS does not; whatever cannot be told apart does.
    pub fn concerns(&self, vps: VpsId, run: &RunId, root: &PoolPath) -> bool {
        match self {
            Self::Supervisor { run: other, .. } => other == run,
            Self::Processes { cgroup, .. } | Self::EmptyCgroup { cgroup } => {
                let prefix = format!("{vps}.");
                let named = cgroup
                    .split('/')
                    .find_map(|part| part.strip_prefix(&prefix)?.parse::<RunId>().ok());
                named.is_none_or(|other| other == *run)
            }
            Self::Mounted { dataset, .. } | Self::Held { dataset, .. } => {
                // The VPS's own number names its persistent datasets, which are no part of a temporary root.
                let number = vps.to_string();
                let another = dataset.split('/').any(|part| {
                    let other = |p: PoolPath| p != *root && p.named_root_of_a_run().is_some();
                    part == number || PoolPath::from_pool(part).is_some_and(other)
                });
                !another
            }
        }
    }

    /// Whether this may concern `name`, contents that a reinstall put aside: no run has those, so what counts is a mount
    /// that is not clearly one of something else.
    pub fn concerns_replaced(&self, vps: VpsId, name: &PoolPath) -> bool {
        match self {
            Self::Supervisor { .. } | Self::Processes { .. } | Self::EmptyCgroup { .. } => false,
            Self::Mounted { dataset, .. } | Self::Held { dataset, .. } => {
                let number = vps.to_string();
                let another = dataset.split('/').any(|part| {
                    let root = |p: PoolPath| p.named_root_of_a_run().is_some();
                    part == number || PoolPath::from_pool(part).is_some_and(root)
                });
                !another || dataset.split('/').any(|part| part == name.as_str())
            }
        }
    }

    /// Whether this means that something of the VPS is alive, not only that something was left lying or is held.
    pub fn is_alive(&self) -> bool {
        match self {
            Self::Supervisor { .. } | Self::Processes { .. } | Self::Mounted { .. } => true,
            Self::EmptyCgroup { .. } | Self::Held { .. } => false,
        }
    }
}

/// What a look for the init of an assembled root found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitSeen {
    /// It resolves to an executable file.
    Found,
    /// A link or file on the way is not there.
    Missing {
        /// The path that was not there.
        path: String,
    },
    /// It is something that cannot be executed.
    NotExecutable {
        /// What it is.
        what: String,
    },
}

/// All that a plan for one VPS may depend on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The pool.
    pub pool: PoolSeen,
    /// Quotas that plans of others, which are under way, are about to promise.
    pub pending: Bytes,
    /// Signs of life of this VPS.
    pub evidence: Vec<Evidence>,
    /// The init of the root that is about to be started, where the plan needs to know.
    pub init: Option<InitSeen>,
    /// How the guest is, where the plan needs to know.
    pub health: Option<Result<Health, LookFailed>>,
    /// What the host has for features, where the plan needs to know.
    pub features: BTreeMap<Feature, FeatureSeen>,
    /// What the VPS declares, where the plan needs to know.
    pub declared: Option<DeclaredSeen>,
}

impl Observed {
    /// Whether anything of the VPS is alive.
    pub fn is_alive(&self) -> bool {
        self.evidence.iter().any(Evidence::is_alive)
    }
}
