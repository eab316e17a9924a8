//! What is known before anything is planned: the declarations of all sides, who is who, and which storages are there.

use std::collections::BTreeMap;

use mayfly_core::persist::declare::Source;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::people::People;
use mayfly_core::persist::report::Report;
use mayfly_core::persist::unite::{Wanted, unite};
use mayfly_core::persist::{limits, own, read};

use super::{Order, accounts, storages};
use crate::tree::Tree;

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
    for storage in own::accounts_in(&manifest, &guest) {
        accounts::add_people(tree, &storage, &mut people);
    }
    own::add_people(&mut people, spec.storage.as_ref(), |path| {
        tree.read(path, limits::ACCOUNT_BYTES).ok().flatten()
    });
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
    let found = own::find(storage, |path| {
        tree.read(path, limits::FILE_BYTES).map_err(Into::into)
    });
    found.map(|file| file.source()).unwrap_or_default()
}
