//! The VPS's own file, and who is who in it: found in the same way by the helper inside and by the daemon outside, each
//! with its own way to read a file.

use std::collections::{BTreeMap, BTreeSet};

use super::declare::Source;
use super::path::TreePath;
use super::people::People;
use super::presets::Preset;
use super::read::{parse_json, parse_toml};

/// Where the own declarations lie, below the storage; the first that is there counts.
pub const FILES: [(&str, Format); 2] = [
    ("/etc/mayfly/persistence.toml", Format::Toml),
    ("/etc/mayfly/persistence.json", Format::Json),
];

/// Where the preset `accounts` keeps its files, below the storage.
pub const ACCOUNTS: &str = "/var/lib/mayfly/accounts";

/// What a declaration file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// The module's structure as JSON.
    Json,
}

/// A declaration file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFile {
    /// Where.
    pub path: TreePath,
    /// What it is written in.
    pub format: Format,
    /// Its text, or why there is none to be used.
    pub text: Result<String, String>,
}

impl OwnFile {
    /// What it declares. A file that cannot be used is a problem, and declares nothing.
    pub fn source(&self) -> Source {
        let mut source = match (&self.text, self.format) {
            (Ok(text), Format::Toml) => parse_toml(text),
            (Ok(text), Format::Json) => parse_json(text),
            (Err(why), _) => {
                let mut source = Source::default();
                source.problems.error("", why.as_str());
                source
            }
        };
        source.problems.come_from(self.path.as_str());
        source
    }
}

/// Looks for the file of `storage`. `read` answers with nothing where nothing is, and says why where something cannot be
/// read.
pub fn find(
    storage: &TreePath,
    mut read: impl FnMut(&TreePath) -> Result<Option<Vec<u8>>, String>,
) -> Option<OwnFile> {
    for (name, format) in FILES {
        let Ok(path) = storage.join(name) else {
            continue;
        };
        let text = match read(&path) {
            Ok(None) => continue,
            Ok(Some(bytes)) => String::from_utf8(bytes)
                .map_err(|_| "it is no UTF-8; nothing of it is read".to_owned()),
            Err(why) => Err(why),
        };
        return Some(OwnFile { path, format, text });
    }
    None
}

/// The storages that either side wants accounts kept in.
pub fn accounts_in(manifest: &Source, own: &Source) -> Vec<TreePath> {
    let of = |source: &Source| -> Vec<TreePath> {
        let wanted = source
            .storages
            .iter()
            .filter(|(_, s)| s.presets.get(&Preset::Accounts) == Some(&true));
        wanted.map(|(path, _)| path.clone()).collect()
    };
    let mut all = of(own);
    all.extend(of(manifest));
    all
}

/// Adds whom the root knows, then what NixOS keeps of numbers in the storage and in the root. What cannot be read names
/// nobody.
pub fn add_people(
    people: &mut People,
    storage: Option<&TreePath>,
    mut read: impl FnMut(&TreePath) -> Option<Vec<u8>>,
) {
    let mut at = |base: &TreePath, name: &str| {
        let bytes = base.join(name).ok().and_then(|path| read(&path));
        bytes.map_or_else(String::new, |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let top = TreePath::top();
    people.add_passwd(&at(&top, "etc/passwd"));
    people.add_group(&at(&top, "etc/group"));
    for base in storage.into_iter().chain([&top]) {
        people.add_uid_map(&at(base, "var/lib/nixos/uid-map"));
        people.add_gid_map(&at(base, "var/lib/nixos/gid-map"));
    }
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// Nothing, or something else, or it cannot be told.
    Neither,
}

/// All of a VPS's declarations that is not in its document, as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeclaredSeen {
    /// Its own file.
    pub own: Option<OwnFile>,
    /// Who is who.
    pub people: People,
    /// Storages in which no dataset is mounted, and why nothing stays there.
    pub inactive: BTreeMap<TreePath, String>,
    /// What is at paths of which nobody said what they are.
    pub found: BTreeMap<TreePath, Found>,
}

/// All storages that either side names.
pub fn storages_of(manifest: &Source, own: &Source) -> BTreeSet<TreePath> {
    let mut all = BTreeSet::new();
    for (name, settings) in manifest.storages.iter().chain(&own.storages) {
        all.insert(settings.storage.clone().unwrap_or_else(|| name.clone()));
        let users = settings.users.values();
        let directories = settings
            .directories
            .iter()
            .chain(users.clone().flat_map(|u| &u.directories));
        all.extend(directories.filter_map(|item| item.storage.clone()));
        let files = settings.files.iter().chain(users.flat_map(|u| &u.files));
        all.extend(files.filter_map(|item| item.storage.clone()));
    }
    all
}
