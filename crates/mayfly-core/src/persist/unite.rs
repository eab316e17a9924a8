//! The manifest's declarations and the guest's own, as one list.
//!
//! The list is in the order in which the Nix module has it: storages by name, then the users' of each storage, directories
//! before files. What the guest says of a path replaces what the manifest or a preset says of it, and may take it away.

use std::collections::{BTreeMap, BTreeSet};

use super::declare::{
    DirectoryItem, FileItem, Group, Method, Perms, Problems, Settings, SomePerms, Source, Tier,
};
use super::limits;
use super::path::TreePath;
use super::people::People;
use super::presets::Preset;

/// Who declared something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The template's manifest.
    Manifest,
    /// A preset.
    Preset(Preset),
    /// The guest's own file.
    Guest,
}

/// The home that a declaration of a user is relative to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Home {
    /// The directory.
    pub path: TreePath,
    /// The user, for the owner of a home that has to be made.
    pub user: String,
}

/// What is to be done with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory, bound.
    Directory {
        /// Hide the mount from file managers.
        hide: bool,
        /// Let programs have a trash on it.
        trash: bool,
    },
    /// A file.
    File {
        /// How it is made to stay.
        method: Method,
    },
}

impl Kind {
    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

/// One path that is to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Where the real thing lies, under the same path.
    pub storage: TreePath,
    /// The path in the root.
    pub path: TreePath,
    /// What it is.
    pub kind: Kind,
    /// What was said of the directory itself, or of the one that holds the file.
    pub said: SomePerms,
    /// What a directory gets of which nothing is said; also those between the home (or `/`) and it.
    pub default: Perms,
    /// The home, for a declaration of a user.
    pub home: Option<Home>,
    /// What it is worth.
    pub tier: Tier,
    /// Who declared it.
    pub origin: Origin,
    /// Whether the storage's warnings are told.
    pub warnings: bool,
}

/// All that is to stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In the module's order.
    pub declarations: Vec<Declaration>,
    /// Paths that the guest took away again, or whose storage is switched off.
    pub disabled: Vec<TreePath>,
    /// Storages whose accounts are merged into the base's; one at most is right.
    pub accounts: Vec<TreePath>,
    /// Whether owners and modes are to be the module's.
    pub like_module: bool,
    /// Whether anything wrong refuses everything.
    pub strict: bool,
    /// What made no sense.
    pub problems: Problems,
}

impl Wanted {
    /// Whether nothing is declared, and nothing is wrong with that.
    pub fn is_empty(&self) -> bool {
        self.declarations.is_empty() && self.accounts.is_empty() && self.problems.is_empty()
    }
}

/// One storage's settings in effect.
struct Storage<'a> {
    name: &'a TreePath,
    manifest: &'a Settings,
    guest: &'a Settings,
    enabled: bool,
    hide: bool,
    trash: bool,
    warnings: bool,
}

/// Unites both sides. `people` says where homes are.
pub fn unite(manifest: &Source, guest: &Source, people: &People) -> Wanted {
    let nothing = Settings::default();
    let mut wanted = Wanted::default();
    wanted.problems.append(manifest.problems.clone());
    wanted.problems.append(guest.problems.clone());
    let names: BTreeSet<&TreePath> = manifest
        .storages
        .keys()
        .chain(guest.storages.keys())
        .collect();
    let storages: Vec<_> = names
        .into_iter()
        .map(|name| {
            let guest = guest.storages.get(name).unwrap_or(&nothing);
            let manifest = match guest.defaults {
                Some(false) => &nothing,
                _ => manifest.storages.get(name).unwrap_or(&nothing),
            };
            let said =
                |field: fn(&Settings) -> Option<bool>| field(guest).or_else(|| field(manifest));
            Storage {
                name,
                manifest,
                guest,
                enabled: said(|s| s.enable).unwrap_or(true),
                hide: said(|s| s.hide).unwrap_or(false),
                trash: said(|s| s.trash).unwrap_or(false),
                warnings: said(|s| s.warnings).unwrap_or(true),
            }
        })
        .collect();
    let switched = |field: fn(&Settings) -> Option<bool>| {
        storages.iter().any(|s| {
            field(s.guest)
                .or_else(|| field(s.manifest))
                .unwrap_or(false)
        })
    };
    wanted.like_module = switched(|s| s.like_module);
    wanted.strict = switched(|s| s.strict);
    let mut list = List {
        wanted,
        seen: BTreeMap::new(),
        taken_away: taken_away(&storages, people),
    };
    for storage in &storages {
        list.add_system(storage);
    }
    for storage in &storages {
        list.add_users(storage, people);
    }
    let mut wanted = list.wanted;
    if wanted.accounts.len() > 1 {
        let first = wanted.accounts[0].to_string();
        wanted.problems.error(
            "presets",
            format!("accounts are kept in one storage, and {first} is taken"),
        );
        wanted.accounts.truncate(1);
    }
    // Stable: within directories and files the order stays.
    wanted.declarations.sort_by_key(|d| !d.kind.is_directory());
    wanted
}

/// The paths that the guest takes away, by storage and kind.
fn taken_away(storages: &[Storage<'_>], people: &People) -> BTreeSet<(TreePath, bool)> {
    let mut all = BTreeSet::new();
    for storage in storages {
        let mut add = |base: &TreePath, path: &str, directory: bool| {
            if let Ok(path) = base.join(path) {
                all.insert((path, directory));
            }
        };
        let mut side = |base: &TreePath, directories: &[DirectoryItem], files: &[FileItem]| {
            directories
                .iter()
                .filter(|d| !d.enable)
                .for_each(|d| add(base, &d.directory, true));
            files
                .iter()
                .filter(|f| !f.enable)
                .for_each(|f| add(base, &f.file, false));
        };
        side(
            &TreePath::top(),
            &storage.guest.directories,
            &storage.guest.files,
        );
        for (name, user) in &storage.guest.users {
            side(
                &home_of(name, user.home.as_ref(), people),
                &user.directories,
                &user.files,
            );
        }
    }
    all
}

pub(super) fn home_of(name: &str, said: Option<&TreePath>, people: &People) -> TreePath {
    said.cloned()
        .or_else(|| people.home(name))
        .unwrap_or_else(|| match name {
            "root" => TreePath::parse("root").unwrap_or_else(|_| TreePath::top()),
            _ => TreePath::parse("home")
                .and_then(|h| h.join(name))
                .unwrap_or_else(|_| TreePath::top()),
        })
}

struct List {
    wanted: Wanted,
    /// Who declared a path first, for the paths of each kind.
    seen: BTreeMap<(TreePath, bool), usize>,
    taken_away: BTreeSet<(TreePath, bool)>,
}

/// One side of one storage, or of one user of it.
struct Side<'a> {
    directories: &'a [DirectoryItem],
    files: &'a [FileItem],
    origin: Origin,
}

impl List {
    fn add_system(&mut self, storage: &Storage<'_>) {
        let presets: Vec<(Preset, Settings)> = Preset::ALL
            .into_iter()
            .filter(|preset| {
                let said = |s: &Settings| s.presets.get(preset).copied();
                said(storage.guest)
                    .or_else(|| said(storage.manifest))
                    .unwrap_or(false)
            })
            .map(|preset| (preset, preset.settings()))
            .collect();
        if storage.enabled
            && presets
                .iter()
                .any(|(preset, _)| *preset == Preset::Accounts)
        {
            self.wanted.accounts.push(storage.name.clone());
        }
        // The guest's own come first, so that they are the ones that count.
        let mut sides = vec![
            side(
                &storage.guest.directories,
                &storage.guest.files,
                Origin::Guest,
            ),
            side(
                &storage.manifest.directories,
                &storage.manifest.files,
                Origin::Manifest,
            ),
        ];
        sides.extend(
            presets
                .iter()
                .map(|(p, s)| side(&s.directories, &s.files, Origin::Preset(*p))),
        );
        for side in &sides {
            self.add_side(storage, side, None, &Perms::root());
        }
    }

    fn add_users(&mut self, storage: &Storage<'_>, people: &People) {
        let names: BTreeSet<&String> = storage
            .guest
            .users
            .keys()
            .chain(storage.manifest.users.keys())
            .collect();
        for name in names {
            let (guest, manifest) = (
                storage.guest.users.get(name),
                storage.manifest.users.get(name),
            );
            let said = |u: Option<&super::declare::UserSettings>| u.and_then(|u| u.home.clone());
            let home = Home {
                path: home_of(
                    name,
                    said(guest).or_else(|| said(manifest)).as_ref(),
                    people,
                ),
                user: name.clone(),
            };
            let default = Perms {
                user: name.clone(),
                group: Group::PrimaryOf(name.clone()),
                mode: 0o755,
            };
            for (user, origin) in [(guest, Origin::Guest), (manifest, Origin::Manifest)] {
                if let Some(user) = user {
                    let side = side(&user.directories, &user.files, origin);
                    self.add_side(storage, &side, Some(&home), &default);
                }
            }
        }
    }

    fn add_side(
        &mut self,
        storage: &Storage<'_>,
        side: &Side<'_>,
        home: Option<&Home>,
        default: &Perms,
    ) {
        let base = home.map_or_else(TreePath::top, |home| home.path.clone());
        let place = |own: &Option<TreePath>| {
            own.clone()
                .or_else(|| storage.guest.storage.clone())
                .or_else(|| storage.manifest.storage.clone())
                .unwrap_or_else(|| storage.name.clone())
        };
        let make = |kind, said: &SomePerms, own: &Option<TreePath>, tier, path| Declaration {
            storage: place(own),
            path,
            kind,
            said: said.clone(),
            default: default.clone(),
            home: home.cloned(),
            tier,
            origin: side.origin,
            warnings: storage.warnings,
        };
        for item in side.directories.iter().filter(|item| item.enable) {
            let kind = Kind::Directory {
                hide: item.hide.unwrap_or(storage.hide),
                trash: item.trash.unwrap_or(storage.trash),
            };
            match base.join(&item.directory) {
                Ok(path) => self.add(
                    make(kind, &item.perms, &item.storage, item.tier, path),
                    storage.enabled,
                ),
                Err(why) => self.wanted.problems.error(&item.directory, why),
            }
        }
        for item in side.files.iter().filter(|item| item.enable) {
            let kind = Kind::File {
                method: item.method,
            };
            match base.join(&item.file) {
                Ok(path) => self.add(
                    make(kind, &item.parent, &item.storage, item.tier, path),
                    storage.enabled,
                ),
                Err(why) => self.wanted.problems.error(&item.file, why),
            }
        }
    }

    fn add(&mut self, new: Declaration, enabled: bool) {
        let key = (new.path.clone(), new.kind.is_directory());
        let taken_away = new.origin != Origin::Guest && self.taken_away.contains(&key);
        if !enabled || taken_away {
            self.wanted.disabled.push(new.path);
            return;
        }
        if let Some(first) = self.seen.get(&key) {
            let first = &self.wanted.declarations[*first];
            // The other origin's is what the guest's replaces; within one it is said twice.
            if first.origin == new.origin {
                let what = if *first == new {
                    "it is declared twice".to_owned()
                } else if first.storage == new.storage {
                    "it is declared twice, differently; the first counts".to_owned()
                } else {
                    format!("it is declared in {} too; the first counts", first.storage)
                };
                if first.storage == new.storage {
                    self.wanted.problems.warn(new.path.as_str(), what);
                } else {
                    self.wanted.problems.error(new.path.as_str(), what);
                }
            }
            return;
        }
        if self.wanted.declarations.len() == limits::DECLARATIONS {
            self.wanted
                .problems
                .error(new.path.as_str(), "there are more than 4096 declarations");
            return;
        }
        self.seen.insert(key, self.wanted.declarations.len());
        self.wanted.declarations.push(new);
    }
}

fn side<'a>(directories: &'a [DirectoryItem], files: &'a [FileItem], origin: Origin) -> Side<'a> {
    Side {
        directories,
        files,
        origin,
    }
}
