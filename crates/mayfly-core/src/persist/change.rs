//! A wish to change what a VPS declares in its own file.

use serde::{Deserialize, Serialize};

use super::declare::{Method, Tier};
use super::path::TreePath;

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// A directory.
    Directory,
    /// A file.
    File,
}

impl PathKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
        }
    }
}

/// A path that is to stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct AddPath {
    /// The path.
    pub path: TreePath,
    /// What it is; none where that is to be seen in the present or the last root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PathKind>,
    /// What it is worth; none for `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// How a file is made to stay; none for `auto`. Only a file has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
}

impl AddPath {
    /// What it is, as far as it was said.
    pub fn kind(&self) -> Option<PathKind> {
        self.kind.or(self.method.map(|_| PathKind::File))
    }
}

/// All of it, or nothing: paths to declare, and paths that are to be declared no more. It holds from the next start on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PersistChange {
    /// Paths that are to stay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<AddPath>,
    /// Paths that are to stay no more. What is stored for them is not touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<TreePath>,
}

impl PersistChange {
    /// The word for it.
    pub fn verb(&self) -> &'static str {
        match (self.add.is_empty(), self.remove.is_empty()) {
            (_, true) => "persist add",
            (true, false) => "persist remove",
            (false, false) => "persist change",
        }
    }
}
