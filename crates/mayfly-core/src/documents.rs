//! The documents that a node keeps, as they stand in the state store. Each carries a schema version.
//!
//! One document per VPS holds its datasets and mounts as well, so that one compare-and-set changes all of them.

mod converted;
mod operation;
mod replaced;

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::features::Features;
use crate::ids::{Digest, Incarnation, NodeId, RunId, VpsId};
use crate::names::{DatasetName, GuestPath, Hostname, PoolPath, TemplateName};
use crate::network::{NodeNetwork, SshKeys, VpsNetwork};
use crate::run::{IdRange, Limits};
use crate::template::{Manifest, RootKind};

pub use self::converted::{ConvertWant, Converted};
pub use self::operation::{BY_ITSELF, NewVps, OperationDoc, OperationState, Request};
pub use self::replaced::{PutAside, ReinstallScope, Replaced};

/// The version of all documents that this program writes. 1 knew pools on btrfs only; 2 knew no base that
/// changes; 3 knew no declarations; 4 knew no network and no contents that a reinstall put aside.
pub const SCHEMA: u32 = 5;

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Its id.
    pub id: NodeId,
    /// Where its datasets are.
    pub pool: PoolSpec,
    /// Its network; none of a node that was made without one, or before there was any.
    #[serde(default)]
    pub network: Option<NodeNetwork>,
}

/// A pool, as `--pool` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PoolSpec {
    /// A file with a btrfs of its own.
    Loop {
        /// Absolute path of the file.
        file: String,
        /// Its size when it was made.
        size_bytes: Bytes,
        /// Whether its blocks were left unallocated.
        sparse: bool,
    },
    /// A directory of a mounted btrfs.
    Btrfs {
        /// Absolute path of the directory.
        directory: String,
    },
    /// A dataset of a zpool.
    Zfs {
        /// Its whole name, such as `tank/ct`.
        dataset: String,
    },
}

/// How far a VPS is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Lifecycle {
    /// Being made; it has never run.
    Creating,
    /// There.
    Ready,
    /// Being destroyed; there is no way back.
    Destroying,
    /// An undo could not finish: every change is refused until someone has looked.
    NeedsOperator {
        /// What happened and what to do.
        why: String,
    },
}

/// Whether it ought to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It ought to.
    Running,
    /// It ought not.
    Stopped,
}

/// What happens after a crash of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnCrash {
    /// Start it again, at most 3 times in 5 minutes.
    #[default]
    Restart,
    /// Leave it stopped.
    Stop,
}

impl std::fmt::Display for OnCrash {
    /// The word for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
        })
    }
}

/// Which VPSes are started when the host has booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum AutostartWhen {
    /// One that ran, or ought to have, when the host went down.
    #[default]
    Last,
    /// This one, whether it ran or not.
    On,
    /// Not this one, although it ran.
    Off,
}

impl std::fmt::Display for AutostartWhen {
    /// The word for it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// Whether a VPS is started when the host has booted, and when among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Autostart {
    /// Whether.
    pub when: AutostartWhen,
    /// Higher ones come first: one begins when all those of a higher priority run, or have failed to.
    pub priority: i16,
}

/// A dataset of a VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name; empty for the root dataset.
    pub name: DatasetName,
    /// What it may hold, taken from the VPS's disk space.
    pub quota_bytes: Bytes,
}

/// A dataset at a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Mount {
    /// Which dataset.
    pub dataset: DatasetName,
    /// Where.
    pub path: GuestPath,
    /// Whether guest root is kept from writing.
    pub read_only: bool,
}

/// The feature `impermanence`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impermanence {
    /// What one temporary root may hold beside the template's bytes.
    pub root_quota_bytes: Bytes,
    /// What it is made from.
    pub root_kind: RootKind,
}

/// Whether a base stays what it is when its template gets other contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Track {
    /// It stays.
    #[default]
    Pinned,
    /// Each start takes what the template of that name is then.
    Latest,
}

/// What roots of kind `template` are cloned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The template, by digest: what the next start clones, or, where it follows its template, what the last one did.
    pub template: Digest,
    /// Whether it follows its template.
    #[serde(default)]
    pub track: Track,
    /// The VPS's own system, in the template's place; of a VPS that was converted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<PoolPath>,
}

/// The present run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentRun {
    /// Its id.
    pub run: RunId,
    /// The dataset that is its `/`.
    pub root: PoolPath,
    /// The template that its root was cloned from; none where it was not.
    #[serde(default)]
    pub base: Option<Digest>,
    /// The kernel's boot in which it began.
    pub boot_id: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// What is shown where, where it is a rescue system that runs.
    #[serde(default)]
    pub rescue: Option<Rescue>,
}

/// A rescue system: another template's in a root of its own, with the VPS's datasets in reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Rescue {
    /// The template.
    pub template: TemplateName,
    /// Where the root dataset is; none where it is not shown.
    pub root_at: Option<GuestPath>,
    /// All datasets that are shown, where they are.
    pub mounts: Vec<Mount>,
    /// Datasets that would hide the rescue system at their usual paths, by these.
    pub moved: Vec<GuestPath>,
}

/// A run that crashed, or that was to be started and did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The run; it counts once, however often it is heard of.
    pub run: RunId,
    /// The kernel's boot in which it crashed.
    pub boot_id: String,
    /// When, in milliseconds of that boot's clock.
    pub boot_ms: u64,
}

/// A VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpsDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Its number.
    pub id: VpsId,
    /// Its host name, unique on the node.
    pub hostname: Hostname,
    /// Which VPS of that number.
    pub incarnation: Incarnation,
    /// The node that answers for it.
    pub node: NodeId,
    /// The name of the template that it was made from, or that its base was last set to.
    pub template: TemplateName,
    /// What `/` is or was cloned from.
    pub base: Base,
    /// The manifest of that base.
    pub manifest: Manifest,
    /// Where declared paths really live.
    pub storage: Option<GuestPath>,
    /// Disk space: the quotas of its datasets never exceed it together.
    pub disk_bytes: Bytes,
    /// Its datasets, the root dataset first.
    pub datasets: Vec<Dataset>,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// The feature `impermanence`, where it is on.
    pub impermanence: Option<Impermanence>,
    /// What of the kernel it may use beside what every guest may.
    #[serde(default, skip_serializing_if = "Features::is_empty")]
    pub features: Features,
    /// What it may take of the host.
    pub limits: Limits,
    /// Its host ids.
    pub ids: IdRange,
    /// Its place in the network; none where the node had no network so far.
    #[serde(default)]
    pub network: Option<VpsNetwork>,
    /// Who may log in as root from its first start on.
    #[serde(default)]
    pub ssh_keys: Option<SshKeys>,
    /// How far it is.
    pub lifecycle: Lifecycle,
    /// Whether it ought to run.
    pub desired: Desired,
    /// What happens after a crash.
    pub on_crash: OnCrash,
    /// Whether it is started when the host has booted.
    #[serde(default)]
    pub autostart: Autostart,
    /// Its crashes of late.
    pub crashes: Vec<Crash>,
    /// The present run.
    pub run: Option<CurrentRun>,
    /// The temporary root of the last run, kept until the next start.
    pub last_root: Option<PoolPath>,
    /// The template that the last root was cloned from.
    #[serde(default)]
    pub last_root_base: Option<Digest>,
    /// Reinstalls that can be undone, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<Replaced>,
    /// The conversion that made it impermanent, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converted: Option<Box<Converted>>,
}

impl VpsDoc {
    /// The dataset of that name.
    pub fn dataset(&self, name: &DatasetName) -> Option<&Dataset> {
        self.datasets.iter().find(|d| d.name == *name)
    }

    /// Where a dataset is in the pool.
    pub fn pool_path(&self, name: &DatasetName) -> PoolPath {
        PoolPath::dataset(self.id, name)
    }

    /// Whether each start clones the base.
    pub fn clones_its_base(&self) -> bool {
        self.impermanence
            .as_ref()
            .is_some_and(|on| on.root_kind == RootKind::Template)
    }

    /// The same without what changes with every start and stop: what nothing in the pool could tell, were it lost.
    pub fn lasting(&self) -> Self {
        Self {
            desired: Desired::Stopped,
            crashes: Vec::new(),
            run: None,
            last_root: None,
            last_root_base: None,
            ..self.clone()
        }
    }

    /// How it is shown: number and host name.
    pub fn title(&self) -> String {
        format!("{} ({})", self.id, self.hostname)
    }
}

/// A template of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Its name.
    pub name: TemplateName,
    /// The sha256 of its archive.
    pub digest: Digest,
    /// The bytes of its files.
    pub size_bytes: Bytes,
    /// When it was made, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// What it is.
    pub manifest: Manifest,
}

/// Datasets of this node that a rebuilt state knows nothing of. The reaper leaves them alone until an operator says
/// otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SparedDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Their names.
    pub datasets: std::collections::BTreeSet<PoolPath>,
}
