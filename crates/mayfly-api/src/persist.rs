//! What a VPS declares to stay in a temporary root.

use mayfly_core::names::GuestPath;
use mayfly_core::persist::change::{PathKind, PersistChange};
use mayfly_core::persist::declare::{Method, Problem, Severity, Tier};
use mayfly_core::persist::list::{Listed, Listing};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::plan::Without;
use mayfly_core::persist::report::Summary;
use mayfly_core::persist::unite::{Kind, Origin};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PATCH /v1/vps/{v}/persistence`: paths to declare, and paths to declare no more. All of it, or nothing.
pub type ChangePersistence = PersistChange;

/// All that is declared to stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PersistenceView {
    /// Where declared paths really live.
    pub storage: Option<GuestPath>,
    /// The VPS's own file, where there is one.
    pub file: Option<TreePath>,
    /// Why nothing is done for declarations, where that is so.
    pub inactive: Option<String>,
    /// What holds at the next start.
    pub declarations: Vec<DeclarationView>,
    /// Paths that the template or a preset declares and the VPS's own file takes away, and those of a storage that is
    /// switched off.
    pub disabled: Vec<TreePath>,
    /// The storage that users and groups are kept in, where they are.
    pub accounts: Option<TreePath>,
    /// What of it makes no sense, or should be looked at.
    pub problems: Vec<ProblemView>,
    /// How many more problems there are.
    pub problems_omitted: usize,
    /// What became of the declarations at the start of the present run; none where nothing runs, or where nothing was told.
    pub last_start: Option<Summary>,
}

/// Who declares something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OriginView {
    /// The template's manifest.
    Manifest,
    /// A preset.
    Preset,
    /// The VPS's own file.
    File,
}

/// One path that is declared to stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeclarationView {
    /// The path.
    pub path: TreePath,
    /// What it is.
    pub kind: PathKind,
    /// How a file is made to stay; a directory has no method.
    pub method: Option<Method>,
    /// What it is worth.
    pub tier: Tier,
    /// Where the real thing lies, under the same path.
    pub storage: TreePath,
    /// Who declares it.
    pub origin: OriginView,
    /// The preset, where one declares it.
    pub preset: Option<String>,
    /// The declared directory that it lies in: nothing of its own is done for it.
    pub within: Option<TreePath>,
    /// Why it will not stay, as far as that can be seen from outside.
    pub trouble: Option<String>,
}

/// Something in the declarations that makes no sense. All texts may come from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemView {
    /// Where: a place in the file, or a path.
    pub at: String,
    /// What is wrong.
    pub what: String,
    /// How much it matters.
    pub severity: Severity,
}

impl PersistenceView {
    /// The view of what was found.
    pub fn new(
        storage: Option<GuestPath>,
        file: Option<TreePath>,
        inactive: Option<String>,
        listing: Listing,
        last_start: Option<Summary>,
    ) -> Self {
        let problem = |p: &Problem| ProblemView {
            at: p.at.clone(),
            what: p.what.clone(),
            severity: p.severity,
        };
        Self {
            storage,
            file,
            inactive,
            disabled: listing.disabled,
            accounts: listing.accounts,
            problems: listing.problems.iter().map(problem).collect(),
            problems_omitted: listing.problems.dropped(),
            declarations: listing
                .lines
                .into_iter()
                .map(DeclarationView::from)
                .collect(),
            last_start,
        }
    }
}

impl From<Listed> for DeclarationView {
    fn from(line: Listed) -> Self {
        let trouble = line.trouble().map(str::to_owned);
        let within = match line.without {
            Some(Without::Inside(at)) => Some(at),
            _ => None,
        };
        let declared = line.declaration;
        let (kind, method) = match declared.kind {
            Kind::Directory { .. } => (PathKind::Directory, None),
            Kind::File { method } => (PathKind::File, Some(method)),
        };
        let (origin, preset) = match declared.origin {
            Origin::Manifest => (OriginView::Manifest, None),
            Origin::Preset(preset) => (OriginView::Preset, Some(preset.name().to_owned())),
            Origin::Guest => (OriginView::File, None),
        };
        Self {
            path: declared.path,
            kind,
            method,
            tier: declared.tier,
            storage: declared.storage,
            origin,
            preset,
            within,
            trouble,
        }
    }
}
