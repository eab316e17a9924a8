//! What a VPS declares, as it is told from outside: judged by the code that judges it inside, at the next start.

use serde_json::{Map, Value};

use super::declare::Problems;
use super::own::{DeclaredSeen, OwnFile};
use super::path::TreePath;
use super::plan::{Without, plan};
use super::read::parse_value;
use super::unite::{Declaration, unite};

/// One declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// It.
    pub declaration: Declaration,
    /// Why nothing of its own is done for it, where that is so.
    pub without: Option<Without>,
}

impl Listed {
    /// Why it does not stay, as far as that can be seen from outside.
    pub fn trouble(&self) -> Option<&str> {
        match &self.without {
            Some(Without::Refused(why) | Without::Inactive(why)) => Some(why),
            Some(Without::Inside(_)) | None => None,
        }
    }
}

/// All that is declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order in which the module has them.
    pub lines: Vec<Listed>,
    /// Paths that are declared and taken away again.
    pub disabled: Vec<TreePath>,
    /// Where accounts are kept.
    pub accounts: Option<TreePath>,
    /// What makes no sense.
    pub problems: Problems,
}

impl Listing {
    /// The declaration of exactly this path.
    pub fn line(&self, path: &TreePath) -> Option<&Listed> {
        self.lines.iter().find(|l| l.declaration.path == *path)
    }

    /// The declared directory that `path` lies in.
    pub fn around(&self, path: &TreePath) -> Option<&Listed> {
        self.lines.iter().find(|l| {
            let declared = &l.declaration;
            declared.kind.is_directory() && *path != declared.path && path.is_in(&declared.path)
        })
    }
}

/// Unites what the manifest and the own file declare.
pub fn list(manifest: &Map<String, Value>, seen: &DeclaredSeen) -> Listing {
    let manifest = parse_value(&Value::Object(manifest.clone()));
    let own = seen.own.as_ref().map(OwnFile::source).unwrap_or_default();
    let wanted = unite(&manifest, &own, &seen.people);
    let mut plan = plan(&wanted, &seen.people, &seen.inactive);
    Listing {
        disabled: wanted.disabled,
        accounts: wanted.accounts.into_iter().next(),
        problems: plan.problems,
        lines: wanted
            .declarations
            .into_iter()
            .enumerate()
            .map(|(number, declaration)| Listed {
                declaration,
                without: plan.without.remove(&number),
            })
            .collect(),
    }
}
