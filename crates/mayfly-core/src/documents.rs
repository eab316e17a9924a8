//! The documents that a node keeps, as they stand in the state store. Each carries a schema version.
//!
//! One document per VPS holds its datasets and mounts as well, so that one compare-and-set changes all of them.

use serde::{Deserialize, Serialize};

use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::error::Refusal;
use crate::ids::{Digest, Incarnation, NodeId, OperationId, RunId, VpsId};
use crate::names::{DatasetName, GuestPath, Hostname, PoolPath, TemplateName};
use crate::plan::Plan;
use crate::ports::ImportSource;
use crate::run::{IdRange, Limits};
use crate::template::{Manifest, RootKind};

/// The version of all documents that this program writes. 1 knew pools on btrfs only; 2 knew no base that changes.
pub const SCHEMA: u32 = 3;

/// The node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Its id.
    pub id: NodeId,
    /// Where its datasets are.
    pub pool: PoolSpec,
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
    /// What it may take of the host.
    pub limits: Limits,
    /// Its host ids.
    pub ids: IdRange,
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

/// What a new VPS is to be: checked, complete, no choice left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewVps {
    /// The document as it will be once the VPS is there.
    pub doc: VpsDoc,
    /// Which datasets start with contents of the template, in the order of the document.
    pub filled: Vec<DatasetName>,
}

/// A requested change with everything that was drawn for it, so that carrying it out twice gives the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Request {
    /// Make a VPS.
    Create {
        /// What it is to be.
        new: Box<NewVps>,
        /// Whether to start it, and as which run.
        start: Option<RunId>,
    },
    /// Start it.
    Start {
        /// The run to be.
        run: RunId,
    },
    /// Stop it.
    Stop {
        /// How long the guest may take, in milliseconds.
        timeout_ms: u64,
        /// Whether to kill it at once.
        force: bool,
        /// Whether to give up the last root at once.
        discard: bool,
    },
    /// Stop it where it runs, then start it.
    Restart {
        /// The run to be.
        run: RunId,
        /// How long the guest may take, in milliseconds.
        timeout_ms: u64,
        /// Whether to kill it at once.
        force: bool,
    },
    /// Destroy it with all its data.
    Destroy {
        /// Whether to wait until its space is free.
        now: bool,
    },
    /// Settle what the end of a run calls for.
    RunEnded {
        /// The run that ended.
        run: RunId,
        /// Why, as far as is known.
        end: crate::run::RunEnd,
        /// The run to be where it is started again.
        next: RunId,
        /// When it ended, by the host's boot clock.
        boot_ms: u64,
    },
    /// Make a dataset.
    DatasetCreate {
        /// Its name.
        name: DatasetName,
        /// Its quota.
        quota_bytes: Bytes,
        /// Where to mount it.
        mount: Option<GuestPath>,
    },
    /// Change a dataset's quota.
    DatasetSet {
        /// Its name.
        name: DatasetName,
        /// Its quota.
        quota_bytes: Bytes,
    },
    /// Destroy a dataset with its data.
    DatasetDestroy {
        /// Its name.
        name: DatasetName,
        /// Whether its mounts go with it.
        force: bool,
    },
    /// Show a dataset at a path.
    MountAdd {
        /// The mount.
        mount: Mount,
    },
    /// Show it no more.
    MountRemove {
        /// Where.
        path: GuestPath,
    },
    /// Change what it is.
    Set {
        /// What is to be another. Before the third schema that were its limits alone.
        #[serde(alias = "limits")]
        change: VpsChange,
    },
    /// Switch impermanence on (or change it) or off.
    SetImpermanence {
        /// What it is to be; none switches it off.
        want: Option<Impermanence>,
        /// The run to be where the VPS runs.
        run: RunId,
    },
    /// Build a template.
    TemplateBuild {
        /// The recipe: a built-in one's name or the absolute path of a file.
        recipe: String,
        /// The name that the template gets.
        name: TemplateName,
        /// The package mirror; none for the host's own.
        mirror: Option<String>,
        /// Whether a template of that name gets these contents.
        #[serde(default)]
        replace: bool,
    },
    /// Make a template of archives.
    TemplateImport {
        /// The archives.
        source: ImportSource,
        /// The name that the template gets.
        name: TemplateName,
        /// Whether a template of that name gets these contents.
        replace: bool,
    },
    /// Remove a template.
    TemplateRemove {
        /// Its name.
        name: TemplateName,
    },
}

impl Request {
    /// The word for it.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Restart { .. } => "restart",
            Self::Destroy { .. } => "destroy",
            Self::RunEnded { .. } => "run ended",
            Self::DatasetCreate { .. } => "dataset create",
            Self::DatasetSet { .. } => "dataset set",
            Self::DatasetDestroy { .. } => "dataset destroy",
            Self::MountAdd { .. } => "mount add",
            Self::MountRemove { .. } => "mount remove",
            Self::Set { .. } => "set",
            Self::SetImpermanence { .. } => "feature set",
            Self::TemplateBuild { .. } => "template build",
            Self::TemplateImport { .. } => "template import",
            Self::TemplateRemove { .. } => "template remove",
        }
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Waiting for its turn.
    Queued,
    /// Being carried out.
    Running,
    /// A step failed; what was done is being put back.
    Undoing,
    /// Done.
    Done,
    /// Refused or failed; what it had done was put back.
    Failed,
    /// Given up because somebody asked for that; what it had done was put back.
    Cancelled,
}

impl OperationState {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// Who asks where nobody did: the goal of a VPS, or the end of a run.
pub const BY_ITSELF: &str = "mayfly";

/// One requested change and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationDoc {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Its id.
    pub id: OperationId,
    /// The VPS that it changes; none for templates.
    pub vps: Option<VpsId>,
    /// What was asked.
    pub request: Request,
    /// Who asked: `uid 0`, `mayfly`.
    pub by: String,
    /// How far it is.
    pub state: OperationState,
    /// When it was asked, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it was over, in milliseconds since 1970.
    pub ended_unix_ms: Option<u64>,
    /// What it was decided to do; none before it had its turn.
    pub plan: Option<Plan>,
    /// Steps of the plan that are done.
    pub steps_done: usize,
    /// Steps that no undo reaches any more.
    #[serde(default)]
    pub undo_down_to: usize,
    /// How long each of those took, in milliseconds; what was done again after a crash counts from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps_ms: Vec<u64>,
    /// Who asked for it to be given up. It is, before its next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    /// What it is at, in words.
    pub progress: String,
    /// Why it failed, or was given up.
    pub error: Option<Refusal>,
}
