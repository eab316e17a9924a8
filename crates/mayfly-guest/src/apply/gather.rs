//! What is known before anything is planned: the declarations of all sides, who is who, and which storages are there.

use std::collections::BTreeMap;

use mayfly_core::persist::declare::Source;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::people::People;
use mayfly_core::persist::report::Report;
use mayfly_core::persist::unite::{Wanted, unite};
use mayfly_core::persist::{limits, read};

use super::{Order, accounts, storages};
use crate::tree::Tree;

type Parse = fn(&str) -> Source;

/// Where the guest's own declarations lie, below the storage.
const FILES: [(&str, Parse); 2] = [
    ("/etc/mayfly/persistence.toml", read::parse_toml),
    ("/etc/mayfly/persistence.json", read::parse_json),
];

/// All of it.
pub(super) struct Gathered {
    pub(super) wanted: Wanted,
    pub(super) people: People,
    /// Storages that are not used, and why.
    pub(super) inactive: BTreeMap<TreePath, String>,
    /// The storage in which is recorded what is placed, and what was declared.
    pub(super) records: Option<TreePath>,
}

/// Gathers it, or says why there is nothing to be done.
pub(super) fn gather(order: &Order<'_>, tree: &Tree) -> Result<Gathered, Box<Report>> {
    let spec = order.spec;
    let main = spec
        .storage
        .as_ref()
        .map(|storage| (storage, storages::judge(tree, storage)));
    let manifest = read::parse_value(&spec.manifest);
    let guest = match (&order.by_hand, &main) {
        (Some(source), _) => source.clone(),
        (None, Some((storage, Ok(())))) => guest_file(tree, storage),
        _ => Source::default(),
    };
    // The manifest says where accounts are kept before anybody is looked up.
    let mut people = People::new();
    for storage in accounts::storages(&manifest, &guest) {
        accounts::add_people(tree, &storage, &mut people);
    }
    add_people(tree, spec.storage.as_ref(), &mut people);
    let mut wanted = unite(&manifest, &guest, &people);
    wanted.like_module |= spec.like_module;
    wanted.strict |= spec.strict;
    let (inactive, strange) = storages::inactive(tree, &wanted);
    if spec.storage.is_none() && wanted.is_empty() {
        let why = "there is no storage, and nothing is declared";
        return Err(Box::new(Report::inactive(why)));
    }
    if let Some((storage, Err(storages::Why::Unknown(why)))) = &main {
        wanted.problems.error(storage.as_str(), why.as_str());
    }
    for (storage, why) in &strange {
        wanted.problems.error(storage.as_str(), why.as_str());
    }
    if let Some(report) = nothing_to_do(&wanted, main.as_ref(), &inactive) {
        return Err(Box::new(report));
    }
    let records = match &main {
        Some((storage, Ok(()))) => Some((*storage).clone()),
        _ => {
            let mut all = wanted
                .declarations
                .iter()
                .map(|d| &d.storage)
                .chain(&wanted.accounts);
            all.find(|storage| !inactive.contains_key(*storage))
                .cloned()
        }
    };
    Ok(Gathered {
        wanted,
        people,
        inactive,
        records,
    })
}

/// The report of a run in which no storage is another dataset than `/` (SPEC P9).
fn nothing_to_do(
    wanted: &Wanted,
    main: Option<&(&TreePath, Result<(), storages::Why>)>,
    inactive: &BTreeMap<TreePath, String>,
) -> Option<Report> {
    let all = wanted
        .declarations
        .iter()
        .all(|d| inactive.contains_key(&d.storage));
    let unknown = matches!(main, Some((_, Err(storages::Why::Unknown(_)))));
    if !all || unknown {
        return None;
    }
    if let Some((_, Err(storages::Why::NotApart(why)))) = main {
        return Some(Report::inactive(why.clone()));
    }
    if wanted.problems.any_error() {
        return None;
    }
    inactive.values().next().map(Report::inactive)
}

/// The guest's own declarations. A file that cannot be read is a problem; the manifest's count all the same.
fn guest_file(tree: &Tree, storage: &TreePath) -> Source {
    for (name, parse) in FILES {
        let Ok(path) = storage.join(name) else {
            continue;
        };
        let mut source = match tree.read(&path, limits::FILE_BYTES) {
            Ok(None) => continue,
            Ok(Some(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => parse(&text),
                Err(_) => trouble("it is no UTF-8; nothing of it is read".to_owned()),
            },
            Err(why) => trouble(why.into()),
        };
        source.problems.come_from(path.as_str());
        return source;
    }
    Source::default()
}

fn trouble(why: String) -> Source {
    let mut source = Source::default();
    source.problems.error("", why);
    source
}

/// passwd and group of the root, then what NixOS keeps of numbers.
fn add_people(tree: &Tree, storage: Option<&TreePath>, people: &mut People) {
    let text = |path: &TreePath| {
        let bytes = tree.read(path, limits::ACCOUNT_BYTES).ok().flatten();
        bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let at = |base: &TreePath, name: &str| {
        base.join(name)
            .ok()
            .and_then(|path| text(&path))
            .unwrap_or_default()
    };
    people.add_passwd(&at(&TreePath::top(), "etc/passwd"));
    people.add_group(&at(&TreePath::top(), "etc/group"));
    for base in storage.into_iter().chain([&TreePath::top()]) {
        people.add_uid_map(&at(base, "var/lib/nixos/uid-map"));
        people.add_gid_map(&at(base, "var/lib/nixos/gid-map"));
    }
}
