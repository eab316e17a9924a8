//! What is wrong with a node: its pool, what is alive on its host, its state. A pure judgement over what was looked at.
//!
//! A finding has a stable code and an object, and says what it means and either what `--repair` would do or what an operator
//! has to. A repair is one of the few things that can be proven right from what was seen, and each is proven again by
//! whoever carries it out; all else is told. What a look could not see is a finding of its own, never "nothing there".
//! Work that is going on is passed over.

mod judge_host;
mod judge_pool;
mod judge_state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::documents::{OperationDoc, TemplateDoc, VpsDoc};
use crate::error::LookFailed;
use crate::ids::{NodeId, OperationId, RunId, VpsId};
use crate::mirror::{Mirror, MirrorKey};
use crate::names::PoolPath;
use crate::observed::{Evidence, MarkSeen, PoolSeen, Role};
use crate::plan::{Busy, Step};
use crate::run::IdRange;

pub use self::judge_state::is_mirror_of_nothing;

macro_rules! findings {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What kinds of findings there are. Codes never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

findings! {
    /// Something could not be looked at.
    CouldNotLook = "look.failed";
    /// A dataset without a mark.
    Unmarked = "pool.unmarked";
    /// A dataset that a guest, or somebody else, made inside of another one.
    Nested = "pool.nested";
    /// A dataset whose mark came with the data.
    MarkNotLocal = "pool.mark_not_local";
    /// A dataset whose mark cannot be read.
    MarkUnreadable = "pool.mark_unreadable";
    /// A dataset of another node.
    Foreign = "pool.foreign";
    /// A dataset whose mark does not fit it.
    MarkMisfit = "pool.mark_misfit";
    /// Persistent data that no VPS has.
    DataUnknown = "pool.data_unknown";
    /// A temporary root of a VPS that is not known.
    RootUnknown = "pool.root_unknown";
    /// A temporary root that its VPS has done with.
    RootLeft = "pool.root_left";
    /// A template that nothing knows or needs.
    TemplateLeft = "pool.template_left";
    /// Contents that a reinstall put aside, and that the VPS has done with.
    ReplacedLeft = "pool.replaced_left";
    /// Something that a rebuilt state knows nothing of.
    Spared = "pool.spared";
    /// A grave that waits to be destroyed.
    GraveWaits = "pool.grave_waits";
    /// Something in the graveyard that no operation condemned.
    GraveForeign = "pool.grave_foreign";
    /// Something in the staging area.
    Staged = "pool.staged";
    /// A dataset of a VPS that is not in the pool.
    DatasetMissing = "dataset.missing";
    /// A dataset whose quota is not the one that its VPS says.
    QuotaDiffers = "dataset.quota_differs";
    /// A root of a VPS that is not in the pool.
    RootMissing = "root.missing";
    /// A template whose dataset is not in the pool.
    TemplateMissing = "template.missing";
    /// A dataset that some process has mounted, although its VPS does not run.
    MountHeld = "mount.held";
    /// Something of a VPS is alive that no document speaks of.
    RunUnknown = "run.unknown";
    /// A run that is recorded and has nothing alive.
    RunDead = "run.dead";
    /// Records or cgroups of runs of a VPS that is not known.
    RunLeft = "run.left";
    /// Two VPSes, or a VPS and a user of the host, have host ids in common.
    IdsOverlap = "ids.overlap";
    /// The state database cannot be used.
    StateUnreadable = "state.unreadable";
    /// The state database is damaged.
    StateDamaged = "state.damaged";
    /// The state database is older than the pool.
    StateBehind = "state.behind";
    /// A document that cannot be used.
    DocumentBad = "document.bad";
    /// A document that does not fit its key or what it refers to.
    DocumentMisfit = "document.misfit";
    /// An operation that is not over, and that nobody carries out.
    OperationStuck = "operation.stuck";
    /// A VPS that waits for an operator.
    NeedsOperator = "vps.needs_operator";
    /// A document without a mirror.
    MirrorMissing = "mirror.missing";
    /// A mirror that cannot be used.
    MirrorBad = "mirror.bad";
    /// A mirror that is behind its document.
    MirrorBehind = "mirror.behind";
    /// A mirror of something that is not there.
    MirrorLeft = "mirror.left";
    /// The pool's generation is behind the state.
    GenerationBehind = "generation.behind";
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `--repair` does about a finding. Who carries it out proves again that it may be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "repair", rename_all = "snake_case")]
pub enum Repair {
    /// Moves it to the graveyard, from where it is destroyed.
    Bury {
        /// The burial.
        step: Step,
    },
    /// Lets the reaper have what a rebuilt state does not know.
    LetGo {
        /// The dataset.
        dataset: PoolPath,
    },
    /// Destroys what lies in a grave.
    Reap {
        /// The grave.
        grave: PoolPath,
    },
    /// Removes what cut-off calls left in the staging area.
    ClearStaging {
        /// What is to be gone then.
        name: String,
    },
    /// Sets a quota as the document has it.
    SetQuota {
        /// The step.
        step: Step,
    },
    /// Takes a last root that is not there out of the document.
    ForgetLastRoot {
        /// The VPS.
        vps: VpsId,
        /// The root.
        root: PoolPath,
    },
    /// Removes the records of runs that are over, of a VPS that is gone.
    ForgetRuns {
        /// The VPS.
        vps: VpsId,
    },
    /// Puts the document back from its mirror, which is of the same revision.
    RestoreDocument {
        /// Whose.
        key: MirrorKey,
    },
    /// Writes the mirror from its document.
    WriteMirror {
        /// Whose.
        key: MirrorKey,
    },
    /// Removes the mirror.
    RemoveMirror {
        /// Whose.
        key: MirrorKey,
    },
    /// Raises the pool's generation to the state's revision.
    RaiseGeneration,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bury { step } | Self::SetQuota { step } => write!(f, "{step}"),
            Self::LetGo { dataset } => write!(f, "let the reaper destroy {dataset}"),
            Self::Reap { grave } => write!(f, "destroy {grave}"),
            Self::ClearStaging { .. } => f.write_str("remove what records of ours announce there"),
            Self::ForgetLastRoot { vps, root } => {
                write!(f, "take the root {root} out of the document of VPS {vps}")
            }
            Self::ForgetRuns { vps } => write!(f, "remove the records of runs of VPS {vps}"),
            Self::RestoreDocument { key } => write!(f, "put {key} back from its mirror"),
            Self::WriteMirror { key } => write!(f, "write the mirror of {key}"),
            Self::RemoveMirror { key } => write!(f, "remove the mirror of {key}"),
            Self::RaiseGeneration => f.write_str("raise the generation of the pool"),
        }
    }
}

/// What is to be done about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "a finding has one, and findings are few"
)]
pub enum Remedy {
    /// `--repair` mends it.
    Repair(Repair),
    /// An operator has to.
    Operator {
        /// What to do.
        hint: String,
    },
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub code: Kind,
    /// What it concerns.
    pub object: String,
    /// What it means.
    pub meaning: String,
    /// What is to be done.
    pub remedy: Remedy,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.object, self.meaning)?;
        match &self.remedy {
            Remedy::Repair(repair) => write!(f, " [repair: {repair}]"),
            Remedy::Operator { hint } => write!(f, " [operator: {hint}]"),
        }
    }
}

/// A document with the revision in which it was put.
#[derive(Clone, Debug)]
pub struct Put<T> {
    /// Its key.
    pub key: String,
    /// The revision.
    pub revision: u64,
    /// What it says.
    pub doc: T,
}

/// A document that cannot be used.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Its key.
    pub key: String,
    /// The revision in which it was put.
    pub revision: u64,
    /// What is wrong with it.
    pub why: String,
}

/// The state.
#[derive(Clone, Debug, Default)]
pub struct StateSeen {
    /// Its revision.
    pub revision: u64,
    /// VPSes.
    pub vpses: Vec<Put<VpsDoc>>,
    /// Templates.
    pub templates: Vec<Put<TemplateDoc>>,
    /// Operations.
    pub operations: Vec<Put<OperationDoc>>,
    /// Documents that cannot be used.
    pub unusable: Vec<Unusable>,
    /// What a rebuilt state knows nothing of.
    pub spared: BTreeSet<PoolPath>,
    /// What the database itself found wrong.
    pub damage: Vec<String>,
}

/// What is alive of one VPS, as far as that could be seen.
pub type SignsSeen = Result<Vec<Evidence>, LookFailed>;

/// Mirrors, each checked.
pub type MirrorsSeen = BTreeMap<MirrorKey, Result<Mirror, String>>;

/// All that was looked at.
#[derive(Clone, Debug)]
pub struct NodeSeen {
    /// Whose.
    pub node: NodeId,
    /// For the names of graves.
    pub operation: OperationId,
    /// The state, or why it cannot be used.
    pub state: Result<StateSeen, String>,
    /// The pool.
    pub pool: Result<PoolSeen, LookFailed>,
    /// The staging area.
    pub staging: Result<Vec<String>, LookFailed>,
    /// Mirrors.
    pub mirrors: Result<MirrorsSeen, LookFailed>,
    /// The pool's generation.
    pub generation: Result<Option<u64>, LookFailed>,
    /// Signs of life by VPS.
    pub signs: Result<BTreeMap<VpsId, SignsSeen>, LookFailed>,
    /// Records of runs.
    pub records: Result<Vec<(VpsId, RunId)>, LookFailed>,
    /// Who holds what, of all datasets.
    pub holders: Result<BTreeMap<PoolPath, Vec<Evidence>>, LookFailed>,
    /// Host ids of others.
    pub reserved: Vec<IdRange>,
    /// Whose work is going on.
    pub busy: Busy,
    /// Whether a daemon serves, which does on its own what is due to be done.
    pub serving: bool,
}

/// What is wrong, in the order of codes and objects.
pub fn judge(seen: &NodeSeen) -> Vec<Finding> {
    let mut found = Vec::new();
    judge_state::judge(seen, &mut found);
    judge_pool::judge(seen, &mut found);
    judge_host::judge(seen, &mut found);
    found.sort_by(|a, b| (a.code, &a.object).cmp(&(b.code, &b.object)));
    found
}

fn find(
    found: &mut Vec<Finding>,
    code: Kind,
    object: impl fmt::Display,
    meaning: impl Into<String>,
    remedy: Remedy,
) {
    found.push(Finding {
        code,
        object: object.to_string(),
        meaning: meaning.into(),
        remedy,
    });
}

fn operator(hint: impl Into<String>) -> Remedy {
    Remedy::Operator { hint: hint.into() }
}

/// What was seen, or a finding that it could not be.
fn looked<'a, T>(found: &mut Vec<Finding>, look: &'a Result<T, LookFailed>) -> Option<&'a T> {
    match look {
        Ok(seen) => Some(seen),
        Err(failed) => {
            let hint = "mend the cause, then look again: mayfly fsck";
            find(
                found,
                Kind::CouldNotLook,
                &failed.what,
                failed.why.clone(),
                operator(hint),
            );
            None
        }
    }
}

/// Whether the documents can be trusted to say what there is.
fn trusted(seen: &NodeSeen) -> Option<&StateSeen> {
    let state = seen.state.as_ref().ok()?;
    let generation = seen.generation.as_ref().ok()?;
    (generation.unwrap_or(0) <= state.revision).then_some(state)
}
