//! The steps of which plans are made.

mod tell;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::harvest::HarvestPlan;
use super::mounts::{Shown, run_mounts};
use crate::bytes::Bytes;
use crate::documents::{TemplateDoc, VpsDoc};
use crate::features::Features;
use crate::ids::{Incarnation, NodeId, OperationId, RunId, VpsId};
use crate::names::{GuestPath, Hostname, PoolPath, TemplateName};
use crate::network::RunNetwork;
use crate::observed::Role;
use crate::persist;
use crate::ports::{ImportSource, NewDataset, TreePlan};
use crate::remote::PullSource;
use crate::run::{IdRange, Limits, MountSource, PROTOCOL, RunSpec};
use crate::trees::{TakeTo, TakenOut, TreeCopy};

/// A run to be started, with datasets by their names in the pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    /// The node.
    pub node: NodeId,
    /// The VPS.
    pub vps: VpsId,
    /// Which VPS of that number.
    pub incarnation: Incarnation,
    /// The run.
    pub run: RunId,
    /// The guest's host name.
    pub hostname: Hostname,
    /// The dataset at `/`.
    pub root: PoolPath,
    /// Datasets at paths and whether they are read-only, parents before children.
    pub mounts: Vec<Shown>,
    /// Host ids.
    pub ids: IdRange,
    /// Limits.
    pub limits: Limits,
    /// Features.
    #[serde(default, skip_serializing_if = "Features::is_empty")]
    pub features: Features,
    /// The init.
    pub init: GuestPath,
    /// The signal that halts it.
    pub halt_signal: i32,
    /// `/run/mayfly/boot.json`.
    pub boot_report: serde_json::Value,
    /// What is declared to stay.
    #[serde(default)]
    pub persistence: Option<persist::spec::Spec>,
    /// How it is plugged into the network.
    #[serde(default)]
    pub network: Option<RunNetwork>,
}

impl LaunchPlan {
    /// The supervisor's instruction. `source` says where a dataset's contents are; places that belong to the node
    /// (helper, console, mount points to let go of) are filled in by the runtime.
    pub fn to_run_spec(
        &self,
        source: impl Fn(&PoolPath) -> MountSource,
        detach: Vec<String>,
    ) -> RunSpec {
        RunSpec {
            protocol: PROTOCOL,
            node: self.node.clone(),
            vps: self.vps,
            incarnation: self.incarnation.clone(),
            run: self.run.clone(),
            hostname: self.hostname.clone(),
            root: source(&self.root),
            mounts: run_mounts(&self.mounts, &source),
            ids: self.ids,
            limits: self.limits.clone(),
            features: self.features.clone(),
            init: self.init.clone(),
            halt_signal: self.halt_signal,
            boot_report: self.boot_report.clone(),
            persistence: self.persistence.clone(),
            network: self.network.clone(),
            guest_helper: String::new(),
            console_dir: String::new(),
            detach,
        }
    }
}

/// One complete instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// End whatever of the VPS is alive and prove that it is over.
    EndRun {
        /// The VPS.
        vps: VpsId,
        /// The run to ask first; none when there is nothing that could be asked.
        run: Option<RunId>,
        /// How long the guest may take to halt, in milliseconds; none to kill it at once.
        halt_ms: Option<u64>,
    },
    /// Make a dataset.
    CreateDataset {
        /// Name, mark, quota, origin.
        new: NewDataset,
    },
    /// Change a quota.
    SetQuota {
        /// The dataset.
        dataset: PoolPath,
        /// Its new quota.
        quota_bytes: Bytes,
    },
    /// Put directories, links and files into a dataset's tree.
    PrepareTree {
        /// The dataset.
        dataset: PoolPath,
        /// What must be there.
        tree: TreePlan,
    },
    /// Write the VPS's document.
    Record {
        /// The VPS.
        vps: VpsId,
        /// What changes, in words.
        what: String,
        /// The new document; none removes it.
        doc: Option<Box<VpsDoc>>,
    },
    /// Change the limits of a run that goes on; one that is over has none.
    SetLimits {
        /// The VPS.
        vps: VpsId,
        /// The run.
        run: RunId,
        /// All its limits, as they are to be.
        limits: Limits,
    },
    /// Show a dataset in a run that goes on; one that is over shows nothing.
    ShowMount {
        /// The VPS.
        vps: VpsId,
        /// The run.
        run: RunId,
        /// The dataset, where, and whether read-only.
        mount: Shown,
    },
    /// Show it there no more.
    HideMount {
        /// The VPS.
        vps: VpsId,
        /// The run.
        run: RunId,
        /// The dataset, where, and whether read-only.
        mount: Shown,
    },
    /// Start the supervisor.
    Launch {
        /// The run.
        launch: Box<LaunchPlan>,
    },
    /// Wait until the guest's init was executed and stays alive.
    AwaitInit {
        /// The VPS.
        vps: VpsId,
        /// The run.
        run: RunId,
        /// The deadline, in milliseconds.
        deadline_ms: u64,
    },
    /// Take back what changed of the copies in the root of a run that is over.
    Harvest {
        /// The root, and what is needed for it.
        harvest: Box<HarvestPlan>,
    },
    /// Move a temporary root to the graveyard, with proof.
    BuryRoot {
        /// The VPS that it belonged to.
        vps: VpsId,
        /// Which VPS of that number.
        incarnation: Incarnation,
        /// The root.
        root: PoolPath,
        /// Its grave.
        grave: PoolPath,
        /// Whether copies that were not taken back are given up with it.
        #[serde(default)]
        give_up: bool,
    },
    /// Move persistent data to the graveyard, with proof, because its destruction was confirmed.
    BuryData {
        /// The VPS that it belonged to.
        vps: VpsId,
        /// Which VPS of that number.
        incarnation: Incarnation,
        /// The dataset; those below it go with it.
        dataset: PoolPath,
        /// Its grave.
        grave: PoolPath,
    },
    /// Let a dataset and contents that lie aside change places.
    Exchange {
        /// The VPS that both belong to.
        vps: VpsId,
        /// Which VPS of that number.
        incarnation: Incarnation,
        /// The dataset; what lies below it stays there.
        dataset: PoolPath,
        /// The name of what is not its contents.
        aside: PoolPath,
        /// The reinstall whose contents the dataset gets; none for the first ones.
        contents: Option<OperationId>,
        /// What the contents hold that give way.
        used_bytes: Bytes,
    },
    /// Copy contents into a dataset that was made for them.
    CopyTree {
        /// What, and where to.
        copy: TreeCopy,
    },
    /// Take a directory out of a dataset's tree, put it back, or destroy it.
    TakeOut {
        /// The directory.
        what: TakenOut,
        /// What becomes of it.
        to: TakeTo,
    },
    /// Wait until a guest is as well as it was before.
    AwaitHealth {
        /// The VPS.
        vps: VpsId,
        /// The run.
        run: RunId,
        /// Units that had failed before.
        before: BTreeSet<String>,
        /// The deadline, in milliseconds.
        deadline_ms: u64,
    },
    /// Move a template to the graveyard, with proof.
    BuryTemplate {
        /// The dataset of its base tree; its other parts go with it.
        dataset: PoolPath,
        /// Its grave.
        grave: PoolPath,
    },
    /// Remove the records of runs that are over.
    ForgetRuns {
        /// The VPS.
        vps: VpsId,
        /// The run whose record stays.
        keep: Option<RunId>,
        /// Whether the console's ring goes too.
        console: bool,
    },
    /// Destroy what lies in these graves before the operation ends.
    Reap {
        /// The graves.
        graves: Vec<PoolPath>,
    },
    /// Build a template, put it into the pool and record it.
    BuildTemplate {
        /// The recipe.
        recipe: String,
        /// The name that it gets.
        name: TemplateName,
        /// The package mirror.
        mirror: Option<String>,
    },
    /// Import a template, put it into the pool and record it.
    ImportTemplate {
        /// The archives.
        source: ImportSource,
        /// The name that it gets.
        name: TemplateName,
    },
    /// Pull an image from a server, make a template of it and record that.
    PullTemplate {
        /// The image.
        source: PullSource,
        /// The name that it gets.
        name: TemplateName,
    },
    /// Write a template's document.
    RecordTemplate {
        /// Its name.
        name: TemplateName,
        /// The new document; none removes it.
        doc: Option<Box<TemplateDoc>>,
    },
}

/// The kinds of steps; the crash tests go through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the step of the same name")]
pub enum StepKind {
    EndRun,
    CreateDataset,
    SetQuota,
    PrepareTree,
    Record,
    SetLimits,
    ShowMount,
    HideMount,
    Launch,
    AwaitInit,
    Harvest,
    BuryRoot,
    BuryData,
    Exchange,
    CopyTree,
    TakeOut,
    AwaitHealth,
    BuryTemplate,
    ForgetRuns,
    Reap,
    BuildTemplate,
    ImportTemplate,
    PullTemplate,
    RecordTemplate,
}

impl StepKind {
    /// Every kind.
    pub const ALL: [Self; 24] = [
        Self::EndRun,
        Self::CreateDataset,
        Self::SetQuota,
        Self::PrepareTree,
        Self::Record,
        Self::SetLimits,
        Self::ShowMount,
        Self::HideMount,
        Self::Launch,
        Self::AwaitInit,
        Self::Harvest,
        Self::BuryRoot,
        Self::BuryData,
        Self::Exchange,
        Self::CopyTree,
        Self::TakeOut,
        Self::AwaitHealth,
        Self::BuryTemplate,
        Self::ForgetRuns,
        Self::Reap,
        Self::BuildTemplate,
        Self::ImportTemplate,
        Self::PullTemplate,
        Self::RecordTemplate,
    ];

    /// The name of the crash point at this step: `launch` means "before it", `launch.done` "after it, before the
    /// journal says so" (which is one with it for `record`). A step without a point does not compile.
    pub fn crash_point(self) -> &'static str {
        match self {
            Self::EndRun => "end_run",
            Self::CreateDataset => "create_dataset",
            Self::SetQuota => "set_quota",
            Self::PrepareTree => "prepare_tree",
            Self::Record => "record",
            Self::SetLimits => "set_limits",
            Self::ShowMount => "show_mount",
            Self::HideMount => "hide_mount",
            Self::Launch => "launch",
            Self::AwaitInit => "await_init",
            Self::Harvest => "harvest",
            Self::BuryRoot => "bury_root",
            Self::BuryData => "bury_data",
            Self::Exchange => "exchange",
            Self::CopyTree => "copy_tree",
            Self::TakeOut => "take_out",
            Self::AwaitHealth => "await_health",
            Self::BuryTemplate => "bury_template",
            Self::ForgetRuns => "forget_runs",
            Self::Reap => "reap",
            Self::BuildTemplate => "build_template",
            Self::ImportTemplate => "import_template",
            Self::PullTemplate => "pull_template",
            Self::RecordTemplate => "record_template",
        }
    }
}

impl Step {
    /// Its kind.
    pub fn kind(&self) -> StepKind {
        match self {
            Self::EndRun { .. } => StepKind::EndRun,
            Self::CreateDataset { .. } => StepKind::CreateDataset,
            Self::SetQuota { .. } => StepKind::SetQuota,
            Self::PrepareTree { .. } => StepKind::PrepareTree,
            Self::Record { .. } => StepKind::Record,
            Self::SetLimits { .. } => StepKind::SetLimits,
            Self::ShowMount { .. } => StepKind::ShowMount,
            Self::HideMount { .. } => StepKind::HideMount,
            Self::Launch { .. } => StepKind::Launch,
            Self::AwaitInit { .. } => StepKind::AwaitInit,
            Self::Harvest { .. } => StepKind::Harvest,
            Self::BuryRoot { .. } => StepKind::BuryRoot,
            Self::BuryData { .. } => StepKind::BuryData,
            Self::Exchange { .. } => StepKind::Exchange,
            Self::CopyTree { .. } => StepKind::CopyTree,
            Self::TakeOut { .. } => StepKind::TakeOut,
            Self::AwaitHealth { .. } => StepKind::AwaitHealth,
            Self::BuryTemplate { .. } => StepKind::BuryTemplate,
            Self::ForgetRuns { .. } => StepKind::ForgetRuns,
            Self::Reap { .. } => StepKind::Reap,
            Self::BuildTemplate { .. } => StepKind::BuildTemplate,
            Self::ImportTemplate { .. } => StepKind::ImportTemplate,
            Self::PullTemplate { .. } => StepKind::PullTemplate,
            Self::RecordTemplate { .. } => StepKind::RecordTemplate,
        }
    }

    /// Whether the journal may stay behind this step until the next one that it may not: a crash then has it done again,
    /// and the steps after it. So it is for what a restart of the plan at this place only looks at once more, and whose
    /// undo is not needed where nobody comes to it again: what it made is a leftover that proves itself, or is nothing.
    ///
    /// A run that was launched stands in the document of its VPS by then (that is journalled at once), so that no end of a
    /// run can be done again over it.
    pub fn is_journalled_later(&self) -> bool {
        match self {
            Self::EndRun { .. } | Self::PrepareTree { .. } | Self::Launch { .. } => true,
            Self::AwaitInit { .. } | Self::Harvest { .. } | Self::ForgetRuns { .. } => true,
            Self::CreateDataset { new } => new.mark.role == Role::Temporary,
            Self::SetQuota { .. }
            | Self::Record { .. }
            | Self::SetLimits { .. }
            | Self::ShowMount { .. }
            | Self::HideMount { .. }
            | Self::BuryRoot { .. }
            | Self::BuryData { .. }
            | Self::Exchange { .. }
            | Self::CopyTree { .. }
            | Self::TakeOut { .. }
            | Self::AwaitHealth { .. }
            | Self::BuryTemplate { .. }
            | Self::Reap { .. }
            | Self::BuildTemplate { .. }
            | Self::ImportTemplate { .. }
            | Self::PullTemplate { .. }
            | Self::RecordTemplate { .. } => false,
        }
    }

    /// This step with its undo.
    pub fn undone_by(self, undo: Step) -> PlannedStep {
        PlannedStep {
            step: self,
            undo: Undo::Step(Box::new(undo)),
        }
    }

    /// This step as one that may be left to whoever looks after leftovers.
    pub fn as_housekeeping(self) -> PlannedStep {
        PlannedStep {
            step: self,
            undo: Undo::Housekeeping,
        }
    }

    /// This step without an undo, and why.
    pub fn final_because(self, why: &str) -> PlannedStep {
        PlannedStep {
            step: self,
            undo: Undo::None {
                why: why.to_owned(),
            },
        }
    }
}

/// How a step is put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undo {
    /// By this step.
    Step(Box<Step>),
    /// Not at all.
    None {
        /// Why that is right.
        why: String,
    },
    /// Not at all, and its failure is no failure of the operation: what matters is done, and whoever looks after
    /// leftovers does the rest.
    Housekeeping,
}

/// A step and how it is put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// The step.
    pub step: Step,
    /// How it is put back when it, or a later one, fails.
    pub undo: Undo,
}
