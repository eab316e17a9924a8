//! What is asked for, and how far it is.

use serde::{Deserialize, Serialize};

use super::{ConvertWant, Mount, ReinstallScope, VpsDoc};
use crate::bytes::Bytes;
use crate::change::VpsChange;
use crate::error::Refusal;
use crate::features::FeaturesChange;
use crate::ids::{OperationId, RunId, VpsId};
use crate::names::{DatasetName, GuestPath, TemplateName};
use crate::network::{Forward, Protocol};
use crate::persist::change::PersistChange;
use crate::plan::Plan;
use crate::ports::ImportSource;
use crate::remote::PullSource;

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
    /// Boot another system with its datasets in reach.
    Rescue {
        /// The run to be.
        run: RunId,
        /// The template that boots.
        template: TemplateName,
        /// Where the root dataset is shown, where it is.
        root_at: Option<GuestPath>,
    },
    /// Replace contents by those of a template.
    Reinstall {
        /// The template.
        template: TemplateName,
        /// What is replaced; none where there is only the system.
        scope: Option<ReinstallScope>,
        /// The run to be where the VPS runs.
        run: RunId,
        /// When it was asked, by the host's boot clock.
        boot_ms: u64,
    },
    /// Put back what the last reinstall replaced.
    ReinstallUndo {
        /// The reinstall that is meant.
        by: OperationId,
        /// Whether snapshots of what gives way go with it.
        #[serde(default)]
        force: bool,
        /// The run to be where the VPS runs.
        run: RunId,
    },
    /// Give up what reinstalls have put aside.
    ReinstallForget {
        /// The last of the reinstalls that are meant; those before it are, too.
        by: OperationId,
        /// Whether snapshots of it go with it.
        force: bool,
    },
    /// See to the age of what reinstalls put aside.
    ReplacedAge {
        /// When it was asked, by the host's boot clock.
        boot_ms: u64,
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
    /// Have a port of the host lead to it.
    PortAdd {
        /// Which, and where to.
        forward: Forward,
    },
    /// Have it lead there no more.
    PortRemove {
        /// The port of the host.
        host_port: u16,
        /// Of what.
        protocol: Protocol,
    },
    /// Change what it is.
    Set {
        /// What is to be another. Before the third schema that were its limits alone.
        #[serde(alias = "limits")]
        change: VpsChange,
    },
    /// Change what it declares to stay.
    PersistChange {
        /// Paths to declare, and paths to declare no more.
        change: PersistChange,
    },
    /// Switch features, and change limits with them. Before there were others, impermanence was the only feature.
    #[serde(alias = "set_impermanence")]
    SetFeatures {
        /// What is to be another.
        #[serde(flatten)]
        change: FeaturesChange,
        /// The run to be where the VPS runs.
        run: RunId,
    },
    /// Make a persistent VPS impermanent, with everything that takes.
    Convert {
        /// What is asked of it.
        want: Box<ConvertWant>,
        /// The run to be.
        run: RunId,
    },
    /// Do what is left when a conversion is done.
    ConvertRest {},
    /// Make one that was converted persistent again.
    Revert {
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
    /// Make a template of a server's image.
    TemplatePull {
        /// The image.
        source: PullSource,
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
            Self::Rescue { .. } => "rescue",
            Self::Reinstall { .. } => "reinstall",
            Self::ReinstallUndo { .. } => "reinstall undo",
            Self::ReinstallForget { .. } => "reinstall forget",
            Self::ReplacedAge { .. } => "reinstall expiry",
            Self::RunEnded { .. } => "run ended",
            Self::DatasetCreate { .. } => "dataset create",
            Self::DatasetSet { .. } => "dataset set",
            Self::DatasetDestroy { .. } => "dataset destroy",
            Self::MountAdd { .. } => "mount add",
            Self::MountRemove { .. } => "mount remove",
            Self::PortAdd { .. } => "port add",
            Self::PortRemove { .. } => "port remove",
            Self::Set { .. } => "set",
            Self::PersistChange { change } => change.verb(),
            Self::SetFeatures { .. } => "feature set",
            Self::Convert { .. } => "impermanence convert",
            Self::ConvertRest {} => "impermanence rest",
            Self::Revert { .. } => "impermanence revert",
            Self::TemplateBuild { .. } => "template build",
            Self::TemplateImport { .. } => "template import",
            Self::TemplatePull { .. } => "template pull",
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
    /// [`SCHEMA`](super::SCHEMA) of the writer.
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
    /// What is to be read when it is over: what was copied, and so on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What it is at, in words.
    pub progress: String,
    /// Why it failed, or was given up.
    pub error: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_version_asked_of_impermanence_is_read_as_it_was_meant() {
        let read = |want: &str| {
            let text = format!(r#"{{"kind":"set_impermanence","want":{want},"run":"c5a8b7"}}"#);
            match serde_json::from_str(&text).unwrap() {
                Request::SetFeatures { change, .. } => change,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(read("null").impermanence, Some(None));
        let on = read(r#"{"root_quota_bytes":1073741824,"root_kind":"empty"}"#);
        assert!(matches!(on.impermanence, Some(Some(_))));
        assert!(on.switches.is_empty() && on.limits.is_nothing());
        let other = Request::SetFeatures {
            change: FeaturesChange {
                switches: [(crate::features::Feature::Tun, true)].into(),
                ..on
            },
            run: "c5a8b7".parse().unwrap(),
        };
        let text = serde_json::to_string(&other).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), other);
    }
}
