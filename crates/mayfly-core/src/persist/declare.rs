//! What may be declared, as it is used: typed, with every path whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits;
use super::path::TreePath;
use super::presets::Preset;

/// How a file is made to stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A bind mount where the stored file exists, else a symbolic link to where it will be.
    #[default]
    Auto,
    /// A symbolic link.
    Symlink,
    /// A copy at birth, taken back when it has changed.
    Copy,
}

/// What a declared path is worth (SPEC P6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Kept and backed up.
    #[default]
    Data,
    /// Kept, not backed up.
    Cache,
    /// Never reported as loss.
    Ignore,
}

/// The group of a directory that has to be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// A name or a number.
    Named(String),
    /// The primary group of a user.
    PrimaryOf(String),
}

/// Who owns a directory that has to be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Perms {
    /// A name or a number.
    pub user: String,
    /// Its group.
    pub group: Group,
    /// The bits of its mode.
    pub mode: u32,
}

impl Perms {
    /// What a directory gets of which nothing is said.
    pub fn root() -> Self {
        Self {
            user: "root".to_owned(),
            group: Group::Named("root".to_owned()),
            mode: 0o755,
        }
    }
}

/// The owner and the mode of a directory as far as they were said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SomePerms {
    /// A name or a number.
    pub user: Option<String>,
    /// A name or a number.
    pub group: Option<String>,
    /// The bits of its mode.
    pub mode: Option<u32>,
}

impl SomePerms {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and `default` where nothing was said.
    pub fn or(&self, default: &Perms) -> Perms {
        Perms {
            user: self.user.clone().unwrap_or_else(|| default.user.clone()),
            group: self
                .group
                .clone()
                .map_or_else(|| default.group.clone(), Group::Named),
            mode: self.mode.unwrap_or(default.mode),
        }
    }
}

/// One entry of `directories`, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryItem {
    /// The path, relative to the home or to `/`.
    pub directory: String,
    /// What was said of its owner and mode.
    pub perms: SomePerms,
    /// Another storage than the one that it stands under.
    pub storage: Option<TreePath>,
    /// Instead of the storage's `hideMounts`.
    pub hide: Option<bool>,
    /// Instead of the storage's `allowTrash`.
    pub trash: Option<bool>,
    /// What it is worth.
    pub tier: Tier,
    /// False takes away what the manifest or a preset declares.
    pub enable: bool,
}

/// One entry of `files`, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileItem {
    /// The path, relative to the home or to `/`.
    pub file: String,
    /// What was said of the directory that holds it.
    pub parent: SomePerms,
    /// Another storage than the one that it stands under.
    pub storage: Option<TreePath>,
    /// How it is made to stay.
    pub method: Method,
    /// What it is worth.
    pub tier: Tier,
    /// False takes away what the manifest or a preset declares.
    pub enable: bool,
}

/// The declarations of one user, relative to the home.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSettings {
    /// The home, where it is not the one in passwd.
    pub home: Option<TreePath>,
    /// Directories to keep.
    pub directories: Vec<DirectoryItem>,
    /// Files to keep.
    pub files: Vec<FileItem>,
}

/// What is said of one storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether any of it counts.
    pub enable: Option<bool>,
    /// Where the storage is, when that is not its name.
    pub storage: Option<TreePath>,
    /// Whether bind mounts are hidden from file managers.
    pub hide: Option<bool>,
    /// Whether programs may have a trash on bind mounts.
    pub trash: Option<bool>,
    /// Whether warnings are told.
    pub warnings: Option<bool>,
    /// Whether what the manifest declares for this storage counts.
    pub defaults: Option<bool>,
    /// Take the module's order for owners and modes; of one storage, it means all.
    pub like_module: Option<bool>,
    /// Refuse all where anything is wrong; of one storage, it means all.
    pub strict: Option<bool>,
    /// Ready-made declarations: taken, or (false) taken away again.
    pub presets: BTreeMap<Preset, bool>,
    /// Directories to keep.
    pub directories: Vec<DirectoryItem>,
    /// Files to keep.
    pub files: Vec<FileItem>,
    /// The same for users' homes.
    pub users: BTreeMap<String, UserSettings>,
}

/// Everything that one side declares: storage to settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// By storage, in the order in which Nix has the names of a set.
    pub storages: BTreeMap<TreePath, Settings>,
    /// What made no sense, and is left out.
    pub problems: Problems,
}

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something declared is not done.
    Error,
    /// Something should be looked at; `enableWarnings = false` silences it.
    Warning,
}

/// Something in a declaration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where: keys and numbers of the file, or a path.
    pub at: String,
    /// What is wrong, for a person.
    pub what: String,
    /// How much it matters.
    pub severity: Severity,
}

/// Problems, so many as anybody reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    dropped: usize,
}

impl Problems {
    /// Adds one that means that something declared is not done.
    pub fn error(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.add(at.into(), what.into(), Severity::Error);
    }

    /// Adds one that should be looked at.
    pub fn warn(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.add(at.into(), what.into(), Severity::Warning);
    }

    fn add(&mut self, at: String, what: String, severity: Severity) {
        if self.kept.len() < limits::PROBLEMS {
            self.kept.push(Problem {
                at: cut(&at),
                what: cut(&what),
                severity,
            });
        } else {
            self.dropped += 1;
        }
    }

    /// Takes over all of `others`.
    pub fn append(&mut self, others: Self) {
        self.dropped += others.dropped;
        for problem in others.kept {
            self.add(problem.at, problem.what, problem.severity);
        }
    }

    /// Says of all where they come from.
    pub fn come_from(&mut self, file: &str) {
        for problem in &mut self.kept {
            problem.at = cut(&if problem.at.is_empty() {
                file.to_owned()
            } else {
                format!("{file}: {}", problem.at)
            });
        }
    }

    /// Those that were kept.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.kept.iter()
    }

    /// How many more there were.
    pub fn dropped(&self) -> usize {
        self.dropped
    }

    /// Whether something declared is not done.
    pub fn any_error(&self) -> bool {
        self.dropped != 0 || self.kept.iter().any(|p| p.severity == Severity::Error)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.dropped == 0
    }

    /// Leaves out what only should be looked at.
    pub fn silence_warnings(&mut self) {
        self.kept.retain(|p| p.severity == Severity::Error);
    }
}

/// A text of a guest, cut to what a line of a report holds.
pub(crate) fn cut(text: &str) -> String {
    let mut end = text.len().min(400);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == text.len() {
        text.to_owned()
    } else {
        format!("{}…", &text[..end])
    }
}
