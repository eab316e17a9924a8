//! What a caller asks for, before anything was drawn or looked up for it.

use mayfly_core::bytes::Bytes;
use mayfly_core::change::VpsChange;
use mayfly_core::documents::{Impermanence, Mount, ReinstallScope, VpsDoc};
use mayfly_core::features::{FeaturesChange, LimitsChange, Switches};
use mayfly_core::ids::OperationId;
use mayfly_core::names::{DatasetName, GuestPath, TemplateName};
use mayfly_core::network::{Forward, Protocol};
use mayfly_core::persist::change::PersistChange;
use mayfly_core::plan::{CreateInput, NewVpsDefaults};
use mayfly_core::ports::ImportSource;
use mayfly_core::remote::PullSource;
use mayfly_core::template::RootKind;

/// What happens to a change where another one is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfBusy {
    /// It waits for its turn.
    #[default]
    Wait,
    /// It is refused, naming the one that is first.
    Refuse,
}

/// What is asked of a conversion; what is not given is chosen.
#[derive(Clone, Debug, Default)]
pub struct ConvertIntent {
    /// What one temporary root may hold.
    pub root_quota: Option<Bytes>,
    /// What it is made from.
    pub root_kind: Option<RootKind>,
    /// Where the root dataset is shown from then on.
    pub storage: Option<GuestPath>,
    /// The quota of the dataset that gets the Nix store.
    pub nix_quota: Option<Bytes>,
    /// Directories that stay, besides what is declared anyway.
    pub keep: Vec<GuestPath>,
}

/// Features and limits that are to be others. What is not given stays as it is.
#[derive(Clone, Debug, Default)]
pub struct FeaturesWish {
    /// Impermanence.
    pub impermanence: Option<ImpermanenceWish>,
    /// The other features.
    pub switches: Switches,
    /// What it may take of the host.
    pub limits: LimitsChange,
}

/// Impermanence, as it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImpermanenceWish {
    /// On, or changed. What is not given stays as it is, or comes from the template.
    On {
        /// What one temporary root may hold.
        root_quota: Option<Bytes>,
        /// What it is made from.
        root_kind: Option<RootKind>,
    },
    /// Off.
    Off,
}

impl FeaturesWish {
    /// The change of a VPS that it means, complete.
    pub(crate) fn of(self, doc: &VpsDoc) -> FeaturesChange {
        let had = doc.impermanence.as_ref();
        let impermanence = self.impermanence.map(|wish| match wish {
            ImpermanenceWish::Off => None,
            ImpermanenceWish::On {
                root_quota,
                root_kind,
            } => Some(Impermanence {
                root_quota_bytes: root_quota
                    .or(had.map(|had| had.root_quota_bytes))
                    .unwrap_or(NewVpsDefaults::ROOT_QUOTA),
                root_kind: root_kind
                    .or(had.map(|had| had.root_kind))
                    .unwrap_or(doc.manifest.root_kind),
            }),
        });
        FeaturesChange {
            impermanence,
            switches: self.switches,
            limits: self.limits,
        }
    }
}

/// A change that a caller asks for. Names are checked already; whether the change is possible is for the planner.
#[derive(Clone, Debug)]
pub enum Intent {
    /// Make a VPS from a template.
    Create {
        /// What was typed.
        input: CreateInput,
        /// From which template.
        template: TemplateName,
        /// Whether to start it.
        start: bool,
    },
    /// Start it.
    Start,
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
        /// How long the guest may take, in milliseconds.
        timeout_ms: u64,
        /// Whether to kill it at once.
        force: bool,
    },
    /// Boot another system with its datasets in reach.
    Rescue {
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
    },
    /// Put back what the last reinstall replaced.
    ReinstallUndo {
        /// The reinstall that is meant: asked for twice, it is not done to the one before.
        by: OperationId,
        /// Whether snapshots of what gives way go with it.
        force: bool,
    },
    /// Give up what reinstalls have put aside.
    ReinstallForget {
        /// The last of the reinstalls that are meant: one that came since is not.
        by: OperationId,
        /// Whether snapshots of it go with it.
        force: bool,
    },
    /// Destroy it with all its data.
    Destroy {
        /// Whether to wait until its space is free.
        now: bool,
    },
    /// Make a dataset.
    DatasetCreate {
        /// Its name.
        name: DatasetName,
        /// Its quota.
        quota: Bytes,
        /// Where to mount it.
        mount: Option<GuestPath>,
    },
    /// Change a quota.
    DatasetSet {
        /// The dataset.
        name: DatasetName,
        /// Its quota.
        quota: Bytes,
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
    /// Change what it declares to stay.
    PersistChange {
        /// Paths to declare, and paths to declare no more.
        change: PersistChange,
    },
    /// Change what it is.
    Set {
        /// What is to be another.
        change: VpsChange,
    },
    /// Switch features, and change limits with them.
    SetFeatures {
        /// What is to be another.
        wish: FeaturesWish,
    },
    /// Make a persistent VPS impermanent, with everything that takes.
    Convert(ConvertIntent),
    /// Make one that was converted persistent again.
    Revert,
    /// Build a template.
    TemplateBuild {
        /// A built-in recipe's name or the absolute path of a file.
        recipe: String,
        /// The template's name.
        name: TemplateName,
        /// The package mirror.
        mirror: Option<String>,
        /// Whether a template of that name gets these contents.
        replace: bool,
    },
    /// Make a template of archives.
    TemplateImport {
        /// The archives.
        source: ImportSource,
        /// The template's name.
        name: TemplateName,
        /// Whether a template of that name gets these contents.
        replace: bool,
    },
    /// Make a template of a server's image.
    TemplatePull {
        /// The image.
        source: PullSource,
        /// The template's name.
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
