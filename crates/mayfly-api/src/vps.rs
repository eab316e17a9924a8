//! VPSes, their datasets, mounts and features.

use mayfly_core::bytes::Bytes;
use mayfly_core::change::VpsChange;
use mayfly_core::documents::{
    Autostart, Desired, Lifecycle, OnCrash, ReinstallScope, Replaced, Rescue, Track, VpsDoc,
};
use mayfly_core::features::Features;
use mayfly_core::ids::{Digest, Incarnation, OperationId, RunId, VpsId};
use mayfly_core::names::{DatasetName, GuestPath, Hostname, PoolPath, TemplateName};
use mayfly_core::network::{SshKeys, VpsNetwork};
use mayfly_core::persist::report::Summary;
use mayfly_core::plan::RESCUE_ROOT;
use mayfly_core::run::{IdRange, Limits, RunPhase, RunState};
use mayfly_core::template::RootKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::conversion::ConvertedView;
mod features;

pub use self::features::{FeatureState, FeatureView, SetFeatures, SetImpermanence};

/// `POST /v1/vps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVps {
    /// From which template.
    pub template: TemplateName,
    /// Its host name; none for `vps<id>`.
    #[serde(default)]
    pub hostname: Option<Hostname>,
    /// Its number; none for the lowest free one.
    #[serde(default)]
    pub id: Option<VpsId>,
    /// Disk space.
    #[serde(default)]
    pub disk_bytes: Option<Bytes>,
    /// Memory.
    #[serde(default)]
    pub memory_bytes: Option<Bytes>,
    /// CPU time in hundredths of a CPU.
    #[serde(default)]
    pub cpu_percent: Option<u32>,
    /// Whether impermanence is on whatever the template says.
    #[serde(default)]
    pub impermanence: bool,
    /// The other features that are on.
    #[serde(default)]
    pub features: Features,
    /// Public keys that may log in as root, one a line.
    #[serde(default)]
    pub ssh_keys: Option<SshKeys>,
    /// Whether to start it.
    #[serde(default)]
    pub start: bool,
}

/// How long a guest may take to halt where nothing was said.
fn default_timeout_ms() -> u64 {
    60_000
}

/// `POST /v1/vps/{v}/stop`. The body may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopVps {
    /// How long the guest may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Whether to kill it at once.
    #[serde(default)]
    pub force: bool,
    /// Whether to give up the last root at once.
    #[serde(default)]
    pub discard: bool,
}

impl Default for StopVps {
    fn default() -> Self {
        Self {
            timeout_ms: default_timeout_ms(),
            force: false,
            discard: false,
        }
    }
}

/// `POST /v1/vps/{v}/restart`. The body may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestartVps {
    /// How long the guest may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Whether to kill it at once.
    #[serde(default)]
    pub force: bool,
}

impl Default for RestartVps {
    fn default() -> Self {
        Self {
            timeout_ms: default_timeout_ms(),
            force: false,
        }
    }
}

/// `POST /v1/vps/{v}/rescue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RescueVps {
    /// The template whose system boots.
    pub template: TemplateName,
    /// Where the root dataset is in it; null to leave it out.
    #[serde(default = "rescue_root")]
    pub root_at: Option<GuestPath>,
}

/// `POST /v1/vps/{v}/reinstall`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReinstallVps {
    /// The template whose contents it gets.
    pub template: TemplateName,
    /// What is replaced. An impermanent VPS needs it said; any other has only the system.
    #[serde(default)]
    pub scope: Option<ReinstallScope>,
}

/// Former contents that a reinstall put aside, until an undo or the end of their time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplacedView {
    /// The reinstall.
    pub operation: OperationId,
    /// What it replaced.
    pub scope: ReinstallScope,
    /// The template that the VPS was of.
    pub template: TemplateName,
    /// The same by its digest.
    pub base: Digest,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// For how long a host that runs still keeps it, in milliseconds, as last counted.
    pub kept_for_ms: u64,
    /// What it held when it was put aside.
    pub used_bytes: Bytes,
    /// Where it is in the pool.
    pub datasets: Vec<PoolPath>,
    /// Why it is kept beyond its days, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

impl From<Replaced> for ReplacedView {
    fn from(one: Replaced) -> Self {
        Self {
            used_bytes: one.used_bytes(),
            kept_for_ms: Replaced::KEPT_MS.saturating_sub(one.kept_ms),
            operation: one.by,
            scope: one.scope,
            template: one.template,
            base: one.base.template,
            at_unix_ms: one.at_unix_ms,
            held_by: one.held_by,
            datasets: one.datasets.into_iter().map(|put| put.aside).collect(),
        }
    }
}

fn rescue_root() -> Option<GuestPath> {
    RESCUE_ROOT.parse().ok()
}

/// `PATCH /v1/vps/{v}`: absent means unchanged. All of it is changed, or nothing.
pub type SetVps = VpsChange;

/// `POST /v1/vps/{v}/datasets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDataset {
    /// Its name below the VPS.
    pub name: DatasetName,
    /// Its quota, taken from the VPS's disk space.
    pub quota_bytes: Bytes,
    /// Where to mount it.
    #[serde(default)]
    pub mount: Option<GuestPath>,
}

/// `PATCH /v1/vps/{v}/datasets/{name}`; the root dataset is named `-`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetDataset {
    /// Its quota.
    pub quota_bytes: Bytes,
}

/// `POST /v1/vps/{v}/mounts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddMount {
    /// Which dataset; empty for the root dataset.
    #[serde(default)]
    pub dataset: DatasetName,
    /// Where.
    pub path: GuestPath,
    /// Whether guest root is kept from writing.
    #[serde(default)]
    pub read_only: bool,
}

/// What a VPS is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VpsState {
    /// It is being made.
    Creating,
    /// It does not run.
    Stopped,
    /// The guest's init has not been reached.
    Starting,
    /// The guest's init was executed.
    Running,
    /// The guest has ended or is to end, and the run is not over yet.
    Stopping,
    /// It is being destroyed.
    Destroying,
    /// Every change is refused until someone has looked.
    NeedsOperator,
    /// It could not be found out; the notes say why.
    Unknown,
}

impl VpsState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Destroying => "destroying",
            Self::NeedsOperator => "needs operator",
            Self::Unknown => "unknown",
        }
    }

    fn of(doc: &VpsDoc, run: Option<&RunState>) -> Self {
        match (&doc.lifecycle, &doc.run, run.map(|r| r.phase)) {
            (Lifecycle::NeedsOperator { .. }, _, _) => Self::NeedsOperator,
            (Lifecycle::Creating, None, _) => Self::Creating,
            (Lifecycle::Destroying, _, _) => Self::Destroying,
            (_, None, _) => Self::Stopped,
            (_, Some(_), None | Some(RunPhase::Starting)) => Self::Starting,
            (_, Some(_), Some(RunPhase::Ended)) => Self::Stopping,
            (_, Some(_), Some(RunPhase::Running)) if doc.desired == Desired::Stopped => {
                Self::Stopping
            }
            (_, Some(_), Some(RunPhase::Running)) => Self::Running,
        }
    }
}

/// What roots of kind `template` are cloned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BaseView {
    /// The template, by digest.
    pub template: Digest,
    /// Whether each start takes what the template of that name is then.
    pub track: Track,
    /// The VPS's own former system, where roots are cloned from that and not from the template.
    #[serde(default)]
    pub own: Option<PoolPath>,
}

/// The feature `impermanence`, where it is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImpermanenceView {
    /// What one temporary root may hold beside the template's bytes.
    pub root_quota_bytes: Bytes,
    /// What it is made from.
    pub root_kind: RootKind,
}

/// A dataset of a VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatasetView {
    /// Its name below the VPS; empty for the root dataset.
    pub name: DatasetName,
    /// Where it is in the pool.
    pub dataset: PoolPath,
    /// What it may hold.
    pub quota_bytes: Bytes,
    /// What counts against the quota; none where that was not looked up or is not known.
    #[serde(default)]
    pub used_bytes: Option<Bytes>,
    /// Where it is mounted.
    pub mounted_at: Vec<GuestPath>,
}

/// A dataset at a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MountView {
    /// Which dataset; empty for the root dataset.
    pub dataset: DatasetName,
    /// Where.
    pub path: GuestPath,
    /// Whether guest root is kept from writing.
    pub read_only: bool,
}

/// The present run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// Its id.
    pub id: RunId,
    /// The dataset that is its `/`.
    pub root: PoolPath,
    /// The template that it was cloned from; none where it was not.
    pub base: Option<Digest>,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How far it is; none before its supervisor said anything.
    pub phase: Option<RunPhase>,
    /// The process id of the guest's init on the host.
    pub init_pid: Option<i32>,
    /// From the supervisor's first instruction to the guest's first, in microseconds.
    pub launch_us: Option<u64>,
    /// What is shown where, where it is a rescue system that runs.
    #[serde(default)]
    pub rescue: Option<Rescue>,
}

/// A VPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VpsView {
    /// Its number.
    pub id: VpsId,
    /// Its host name.
    pub hostname: Hostname,
    /// What it is doing.
    pub state: VpsState,
    /// Why it needs an operator, and what to do.
    pub why: Option<String>,
    /// Whether it ought to run.
    pub desired: Desired,
    /// What happens after a crash.
    pub on_crash: OnCrash,
    /// Whether it is started when the host has booted.
    #[serde(default)]
    pub autostart: Autostart,
    /// The name of the template that it was made from, or that its base was last set to.
    pub template: TemplateName,
    /// What roots are cloned from.
    pub base: BaseView,
    /// The feature `impermanence`, where it is on.
    pub impermanence: Option<ImpermanenceView>,
    /// The other features that are on.
    #[serde(default)]
    pub features: Features,
    /// Where declared paths really live.
    pub storage: Option<GuestPath>,
    /// Disk space.
    pub disk_bytes: Bytes,
    /// What of it no dataset has.
    pub disk_unassigned_bytes: Bytes,
    /// Its datasets, the root dataset first.
    pub datasets: Vec<DatasetView>,
    /// Its mounts, parents before children.
    pub mounts: Vec<MountView>,
    /// What it may take of the host.
    pub limits: Limits,
    /// Its host ids.
    pub ids: IdRange,
    /// Its place in the network; none where it has none.
    #[serde(default)]
    pub network: Option<VpsNetwork>,
    /// Which VPS of that number.
    pub incarnation: Incarnation,
    /// The present run.
    pub run: Option<RunView>,
    /// What became of the declared paths at the start of the present run; none where that was not told.
    #[serde(default)]
    pub persistence: Option<Summary>,
    /// The temporary root of the last run, kept until the next start.
    pub last_root: Option<PoolPath>,
    /// The template that the last root was cloned from; none where it was not.
    pub last_root_base: Option<Digest>,
    /// Reinstalls that can be undone, the oldest first.
    #[serde(default)]
    pub replaced: Vec<ReplacedView>,
    /// The conversion that made it impermanent, where one did.
    #[serde(default)]
    pub converted: Option<ConvertedView>,
    /// What could not be found out.
    pub notes: Vec<String>,
}

impl VpsView {
    /// The view of a document with what its supervisor said last. Nothing is known of the pool.
    pub fn new(doc: VpsDoc, run: Option<&RunState>) -> Self {
        let state = VpsState::of(&doc, run);
        let assigned = doc
            .datasets
            .iter()
            .fold(Bytes(0), |sum, d| sum.saturating_add(d.quota_bytes));
        let datasets = doc
            .datasets
            .iter()
            .map(|d| DatasetView {
                name: d.name.clone(),
                dataset: doc.pool_path(&d.name),
                quota_bytes: d.quota_bytes,
                used_bytes: None,
                mounted_at: doc
                    .mounts
                    .iter()
                    .filter(|m| m.dataset == d.name)
                    .map(|m| m.path.clone())
                    .collect(),
            })
            .collect();
        let why = match doc.lifecycle {
            Lifecycle::NeedsOperator { why } => Some(why),
            _ => None,
        };
        Self {
            id: doc.id,
            hostname: doc.hostname,
            state,
            why,
            desired: doc.desired,
            on_crash: doc.on_crash,
            autostart: doc.autostart,
            template: doc.template,
            base: BaseView {
                template: doc.base.template,
                track: doc.base.track,
                own: doc.base.own,
            },
            features: doc.features,
            impermanence: doc.impermanence.map(|i| ImpermanenceView {
                root_quota_bytes: i.root_quota_bytes,
                root_kind: i.root_kind,
            }),
            storage: doc.storage,
            disk_bytes: doc.disk_bytes,
            disk_unassigned_bytes: doc.disk_bytes.saturating_sub(assigned),
            datasets,
            mounts: doc
                .mounts
                .into_iter()
                .map(|m| MountView {
                    dataset: m.dataset,
                    path: m.path,
                    read_only: m.read_only,
                })
                .collect(),
            limits: doc.limits,
            ids: doc.ids,
            network: doc.network,
            incarnation: doc.incarnation,
            run: doc.run.map(|current| RunView {
                id: current.run,
                root: current.root,
                base: current.base,
                started_unix_ms: current.started_unix_ms,
                phase: run.map(|r| r.phase),
                init_pid: run.and_then(|r| r.init_pid),
                launch_us: run.and_then(|r| r.launch_us),
                rescue: current.rescue,
            }),
            persistence: run.and_then(|r| r.persistence.clone()),
            last_root: doc.last_root,
            last_root_base: doc.last_root_base,
            replaced: doc.replaced.into_iter().map(ReplacedView::from).collect(),
            converted: doc.converted.map(|one| (*one).into()),
            notes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
