//! From declarations to an ordered list of small complete steps.
//!
//! One sorted pass: a directory's step comes before those of what lies in it, on the storage's side before the root's, and
//! a directory is bound before anything below it is looked at. The Nix module makes parents, then directories, then files,
//! and leaves the mounts to units; what that does differently where declarations overlap is listed in
//! docs/persistence.md, and [`Wanted::like_module`] gives the module's owners and modes.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::declare::{Group, Method, Perms, Problems};
use super::limits;
use super::path::TreePath;
use super::people::People;
use super::unite::{Declaration, Kind, Wanted};

/// Below these the kernel shows what it likes.
const KERNEL: [&str; 3] = ["dev", "proc", "sys"];

/// The files of users and groups. Programs replace them by rename, which a bind mount or a link does not survive.
pub const ACCOUNT_FILES: [&str; 6] = [
    "/etc/group",
    "/etc/gshadow",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/subgid",
    "/etc/subuid",
];

/// Owner and mode in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Who owns it.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode.
    pub mode: u32,
    /// The user or group that nobody knows: then it is root's alone until somebody does.
    pub unknown: Option<String>,
}

/// One step. Paths are whole; the executor chooses nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make the storage's own directory, where only what holds it is mounted.
    Base {
        /// The storage.
        storage: TreePath,
    },
    /// Make a directory in the storage if it is absent. One that is there keeps its owner and mode.
    Store {
        /// The storage.
        storage: TreePath,
        /// The directory, as it is called in the root.
        path: TreePath,
        /// For a new one.
        owner: Owner,
    },
    /// Make a directory in the root if it is absent, and give it the owner and mode of its twin in the storage.
    Mirror {
        /// The storage of the twin.
        storage: TreePath,
        /// The directory.
        path: TreePath,
    },
    /// Make a directory inside of another declaration's if it is absent, so that something can be mounted there. One
    /// that is there is left alone: it is somebody else's, and persistent.
    Point {
        /// The storage of the twin that a new one is like.
        storage: TreePath,
        /// The directory.
        path: TreePath,
    },
    /// Bind a directory of the storage over its twin in the root.
    Bind {
        /// Its declaration.
        declaration: usize,
    },
    /// Bind, link or copy a file.
    Place {
        /// Its declaration.
        declaration: usize,
    },
}

/// What becomes of a declaration without a step of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// It is refused.
    Refused(String),
    /// Its storage is not used.
    Inactive(String),
    /// A declared directory of the same storage holds it.
    Inside(TreePath),
}

/// The steps, and what has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// By number of the declaration.
    pub without: BTreeMap<usize, Without>,
    /// What should be looked at.
    pub problems: Problems,
}

/// Where the wish for a directory comes from, in the order in which the module makes directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    HomeParent,
    Home,
    Parent,
    Explicit,
}

/// One wish for the owner and mode of a directory of one storage.
struct Wish<'a> {
    storage: &'a TreePath,
    home: Option<&'a TreePath>,
    /// Whether a file is what needs the directory.
    of_file: bool,
    perms: Perms,
    /// What counts when the module's order does not: lower is stronger.
    rank: u8,
    order: (Phase, usize),
}

/// All that is known of one path.
#[derive(Default)]
struct Entry<'a> {
    wishes: Vec<Wish<'a>>,
    directory: Option<usize>,
    file: Option<usize>,
}

/// Plans all of `wanted`, but for storages that are `inactive`, for a reason. Pure: equal inputs give equal plans.
pub fn plan(wanted: &Wanted, people: &People, inactive: &BTreeMap<TreePath, String>) -> Plan {
    let mut plan = Plan {
        problems: wanted.problems.clone(),
        ..Plan::default()
    };
    check(wanted, inactive, &mut plan);
    if wanted.strict && plan.problems.any_error() {
        for number in 0..wanted.declarations.len() {
            let why = "something is wrong with the declarations, and they are taken strictly";
            plan.without
                .entry(number)
                .or_insert_with(|| Without::Refused(why.to_owned()));
        }
    }
    let entries = collect(wanted, &mut plan);
    emit(wanted, people, &entries, &mut plan);
    plan
}

/// Refuses what cannot be, and warns.
fn check(wanted: &Wanted, inactive: &BTreeMap<TreePath, String>, plan: &mut Plan) {
    let storages: BTreeSet<&TreePath> = wanted.declarations.iter().map(|d| &d.storage).collect();
    let directories: BTreeSet<&TreePath> = wanted
        .declarations
        .iter()
        .filter(|d| d.kind.is_directory())
        .map(|d| &d.path)
        .collect();
    let mut ids_kept = !wanted.accounts.is_empty();
    let mut warnings = false;
    let mut below = BTreeSet::new();
    for declaration in &wanted.declarations {
        below.extend(declaration.path.parent());
    }
    for (number, declaration) in wanted.declarations.iter().enumerate() {
        warnings |= declaration.warnings;
        ids_kept |= holds_nixos_ids(declaration);
        if let Some(why) = inactive.get(&declaration.storage) {
            plan.without.insert(number, Without::Inactive(why.clone()));
            continue;
        }
        let is_file = !declaration.kind.is_directory();
        let why = refusal(declaration, &storages).or_else(|| {
            let path = &declaration.path;
            if is_file && directories.contains(path) {
                return Some("it is declared as a directory too".to_owned());
            }
            // What follows a path in the sorted list is below it, if anything is.
            let next = below.range(path..).next();
            (is_file && next.is_some_and(|next| next.is_in(path)))
                .then(|| "something below it is declared, and it is declared as a file".to_owned())
        });
        if let Some(why) = why {
            plan.problems.error(declaration.path.as_str(), &why);
            plan.without.insert(number, Without::Refused(why));
        } else if declaration.warnings {
            warn_of(declaration, &mut plan.problems);
        }
    }
    if warnings && !ids_kept && names_accounts(wanted) {
        plan.problems.warn(
            "/var/lib/nixos",
            "neither it nor the preset `accounts` keeps the numbers of users and groups: they may differ at each start",
        );
    }
    if !warnings {
        plan.problems.silence_warnings();
    }
}

fn holds_nixos_ids(declaration: &Declaration) -> bool {
    let kept = TreePath::parse("/var/lib/nixos");
    declaration.kind.is_directory() && kept.is_ok_and(|kept| kept.is_in(&declaration.path))
}

/// Whether any declaration names a user or group that is not a number and not root.
fn names_accounts(wanted: &Wanted) -> bool {
    let named = |name: &String| name != "root" && !name.bytes().all(|b| b.is_ascii_digit());
    wanted.declarations.iter().any(|d| {
        d.home.is_some()
            || d.said.user.as_ref().is_some_and(named)
            || d.said.group.as_ref().is_some_and(named)
    })
}

fn refusal(declaration: &Declaration, storages: &BTreeSet<&TreePath>) -> Option<String> {
    let path = &declaration.path;
    if path.is_top() {
        return Some("`/` itself cannot be declared".to_owned());
    }
    if path
        .names()
        .next()
        .is_some_and(|first| KERNEL.contains(&first))
    {
        return Some("what is there is the kernel's".to_owned());
    }
    if declaration.storage.is_top() {
        return Some("`/` is no storage: it does not stay".to_owned());
    }
    storages.iter().find_map(|storage| {
        if path.is_in(storage) {
            Some(format!(
                "it lies in the storage {storage}, and stays anyway"
            ))
        } else {
            storage
                .is_in(path)
                .then(|| format!("it would hide the storage {storage}"))
        }
    })
}

fn warn_of(declaration: &Declaration, problems: &mut Problems) {
    let copied = matches!(
        declaration.kind,
        Kind::File {
            method: Method::Copy
        } | Kind::Directory { .. }
    );
    if !copied && ACCOUNT_FILES.contains(&declaration.path.as_str()) {
        problems.warn(
            declaration.path.as_str(),
            "programs replace this file by rename, which fails on a mount and breaks a link: use method = \"copy\", or the preset `accounts`",
        );
    }
}

/// What each path is wished to be, by path.
fn collect<'a>(wanted: &'a Wanted, plan: &mut Plan) -> BTreeMap<TreePath, Entry<'a>> {
    let mut entries: BTreeMap<TreePath, Entry<'a>> = BTreeMap::new();
    let mut wishes = 0;
    for (number, declaration) in wanted.declarations.iter().enumerate() {
        if plan.without.contains_key(&number) {
            continue;
        }
        let new = wishes_of(number, declaration, wanted.like_module);
        wishes += new.len();
        if wishes > limits::DIRECTORIES {
            let why = "all declarations together need more than 20000 directories";
            plan.problems.error(declaration.path.as_str(), why);
            plan.without
                .insert(number, Without::Refused(why.to_owned()));
            continue;
        }
        for (path, wish) in new {
            entries.entry(path).or_default().wishes.push(wish);
        }
        let entry = entries.entry(declaration.path.clone()).or_default();
        match declaration.kind {
            Kind::Directory { .. } => entry.directory = Some(number),
            Kind::File { .. } => entry.file = Some(number),
        }
    }
    entries
}

/// The directories that one declaration needs, and how they are to be.
fn wishes_of(
    number: usize,
    declaration: &Declaration,
    like_module: bool,
) -> Vec<(TreePath, Wish<'_>)> {
    let mut wishes = Vec::new();
    let of_file = !declaration.kind.is_directory();
    let home = declaration.home.as_ref().map(|home| &home.path);
    let mut add = |path: TreePath, perms: Perms, rank, phase| {
        // A home is made as if it were no user's.
        let home = home.filter(|_| phase > Phase::Home);
        let (storage, order) = (&declaration.storage, (phase, number));
        wishes.push((
            path,
            Wish {
                storage,
                home,
                of_file: of_file && phase == Phase::Explicit,
                perms,
                rank,
                order,
            },
        ));
    };
    let own = declaration.said.or(&declaration.default);
    let (explicit, rank) = if declaration.kind.is_directory() {
        (Some(declaration.path.clone()), 0)
    } else {
        (
            declaration.path.parent(),
            if declaration.said.is_empty() { 3 } else { 1 },
        )
    };
    let Some(explicit) = explicit.filter(|path| !path.is_top()) else {
        return wishes;
    };
    if let Some(home) = home.filter(|home| !home.is_top()) {
        for parent in home.parents() {
            add(parent, Perms::root(), 3, Phase::HomeParent);
        }
        // Of the module, whoever owns what is declared in a home owns the home.
        let user = match &declaration.home {
            Some(of) if !like_module => of.user.clone(),
            _ => own.user.clone(),
        };
        let group = Group::PrimaryOf(user.clone());
        add(
            home.clone(),
            Perms {
                user,
                group,
                mode: 0o700,
            },
            2,
            Phase::Home,
        );
    }
    for parent in explicit.parents() {
        if home.is_none_or(|home| parent.is_in(home) && parent != *home) {
            add(parent, declaration.default.clone(), 3, Phase::Parent);
        }
    }
    add(explicit, own, rank, Phase::Explicit);
    wishes
}

fn emit(
    wanted: &Wanted,
    people: &People,
    entries: &BTreeMap<TreePath, Entry<'_>>,
    plan: &mut Plan,
) {
    let storages: BTreeSet<&TreePath> = entries
        .values()
        .flat_map(|e| &e.wishes)
        .map(|w| w.storage)
        .collect();
    let files = entries
        .values()
        .filter_map(|e| e.file)
        .map(|n| &wanted.declarations[n].storage);
    for storage in storages.into_iter().chain(files).collect::<BTreeSet<_>>() {
        plan.steps.push(Step::Base {
            storage: storage.clone(),
        });
    }
    // Declared directories that hold the present path, outermost first.
    let mut over: Vec<(&TreePath, &TreePath)> = Vec::new();
    for (path, entry) in entries {
        while over.last().is_some_and(|(at, _)| !path.is_in(at)) {
            over.pop();
        }
        let cover = over.last().copied();
        emit_directories(path, entry, cover, people, wanted.like_module, plan);
        for number in entry.directory.into_iter().chain(entry.file) {
            let declaration = &wanted.declarations[number];
            match cover {
                Some((at, storage)) if *storage == declaration.storage => {
                    plan.without.insert(number, Without::Inside(at.clone()));
                }
                _ if declaration.kind.is_directory() => {
                    plan.steps.push(Step::Bind {
                        declaration: number,
                    });
                    over.push((path, &declaration.storage));
                }
                _ => plan.steps.push(Step::Place {
                    declaration: number,
                }),
            }
        }
    }
}

/// The steps that make one directory on both sides.
fn emit_directories(
    path: &TreePath,
    entry: &Entry<'_>,
    cover: Option<(&TreePath, &TreePath)>,
    people: &People,
    like_module: bool,
    plan: &mut Plan,
) {
    let mut chosen: BTreeMap<&TreePath, &Wish<'_>> = BTreeMap::new();
    for wish in &entry.wishes {
        let key = |w: &Wish<'_>| (if like_module { 0 } else { w.rank }, w.order);
        let best = chosen.entry(wish.storage).or_insert(wish);
        if key(wish) < key(best) {
            *best = wish;
        }
    }
    for (storage, wish) in &chosen {
        plan.steps.push(Step::Store {
            storage: (*storage).clone(),
            path: path.clone(),
            owner: resolve(&wish.perms, people),
        });
    }
    // Of several storages the module lets the last one have its way with the root's directory. It says each thing once,
    // where it came first.
    let mut said = HashSet::new();
    let mut last: Option<&Wish<'_>> = None;
    for wish in &entry.wishes {
        let first = said.insert((
            wish.order.0,
            wish.of_file,
            wish.storage,
            wish.home,
            &wish.perms,
        ));
        if first && last.is_none_or(|last| wish.order > last.order) {
            last = Some(wish);
        }
    }
    let Some(last) = last else {
        return;
    };
    // A declared directory looks like what is mounted on it; on a repeated run it is that already.
    let own = entry.directory.and_then(|number| {
        entry
            .wishes
            .iter()
            .find(|w| w.order == (Phase::Explicit, number))
    });
    let storage = own.unwrap_or(last).storage.clone();
    match cover {
        None => plan.steps.push(Step::Mirror {
            storage,
            path: path.clone(),
        }),
        Some((_, covering)) => {
            if let Some(wish) = entry.wishes.iter().find(|wish| wish.storage != covering) {
                let storage = wish.storage.clone();
                plan.steps.push(Step::Point {
                    storage,
                    path: path.clone(),
                });
            }
        }
    }
}

fn resolve(perms: &Perms, people: &People) -> Owner {
    let uid = people.uid(&perms.user);
    let (gid, group) = match &perms.group {
        Group::Named(name) => (people.gid(name), name.clone()),
        Group::PrimaryOf(user) => (people.primary(user), format!("the primary group of {user}")),
    };
    match (uid, gid) {
        (Some(uid), Some(gid)) => Owner {
            uid,
            gid,
            mode: perms.mode,
            unknown: None,
        },
        (None, _) => Owner {
            uid: 0,
            gid: 0,
            mode: 0o700,
            unknown: Some(perms.user.clone()),
        },
        (_, None) => Owner {
            uid: 0,
            gid: 0,
            mode: 0o700,
            unknown: Some(group),
        },
    }
}

#[cfg(test)]
mod tests;
