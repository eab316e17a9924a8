//! The verb `apply`: what is declared to stay is put into a new root, before its init runs.
//!
//! ```text
//! spec (host) ─┐                                       ┌ storages   which of them are other datasets
//! persistence.toml (guest) ─ unite ─ plan (mayfly-core) ┤ steps      directories, bind mounts
//! passwd, uid-map (guest) ─┘                           ├ files      bound, linked
//!                                                      ├ copies     placed, and recorded (records) for the harvest
//!                                                      └ accounts   merged into the base's
//! ```
//!
//! Nothing here stops a boot: each trouble becomes a line of the report. The tree is its owner's and may be prepared to do
//! harm, so everything goes through [`Tree`], in bounds that `mayfly_core::persist::limits` sets.

mod accounts;
mod copies;
mod files;
mod history;
mod options;
mod records;
mod steps;
mod storages;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use mayfly_core::persist::declare::Source;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::people::People;
use mayfly_core::persist::plan::{Without, plan};
use mayfly_core::persist::report::{Fate, How, Line, Report, State, VERSION};
use mayfly_core::persist::spec::Spec;
use mayfly_core::persist::unite::{Wanted, unite};
use mayfly_core::persist::{limits, read};

pub(crate) use records::{read_record, record_path, remove_record, write_record};

use crate::tree::Tree;

type Parse = fn(&str) -> Source;

/// Where the guest's own declarations lie, below the storage.
const FILES: [(&str, Parse); 2] = [
    ("/etc/mayfly/persistence.toml", read::parse_toml),
    ("/etc/mayfly/persistence.json", read::parse_json),
];

/// What became of one declaration.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    fate: Fate,
    how: Option<How>,
    why: Option<String>,
}

impl Outcome {
    fn done(fate: Fate, how: How) -> Self {
        Self {
            fate,
            how: Some(how),
            why: None,
        }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self {
            fate: Fate::Refused,
            how: None,
            why: Some(why.into()),
        }
    }
}

/// Applies `spec` to the root at `root`.
pub(crate) fn apply(spec: &Spec, root: &Path) -> Report {
    let begun = Instant::now();
    let mut report = if let Some(why) = &spec.inactive {
        Report::inactive(why)
    } else if spec.temporary_root {
        apply_to_temporary(spec, root)
    } else {
        Report::inactive("`/` is not a temporary root: what is in it stays anyway")
    };
    report.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.fit();
    report
}

fn apply_to_temporary(spec: &Spec, root: &Path) -> Report {
    let tree = match Tree::at(root) {
        Ok(tree) => tree,
        Err(e) => {
            return Report::inactive(format!("the root {} cannot be opened: {e}", root.display()));
        }
    };
    let main = spec
        .storage
        .as_ref()
        .map(|storage| (storage, storages::judge(&tree, storage)));
    let manifest = read::parse_value(&spec.manifest);
    let guest = match &main {
        Some((storage, Ok(()))) => guest_file(&tree, storage),
        _ => Source::default(),
    };
    // The manifest says where accounts are kept before anybody is looked up.
    let mut people = People::new();
    for storage in accounts::storages(&manifest, &guest) {
        accounts::add_people(&tree, &storage, &mut people);
    }
    add_people(&tree, spec.storage.as_ref(), &mut people);
    let mut wanted = unite(&manifest, &guest, &people);
    wanted.like_module |= spec.like_module;
    wanted.strict |= spec.strict;
    let (inactive, strange) = storages::inactive(&tree, &wanted);
    if spec.storage.is_none() && wanted.is_empty() {
        return Report::inactive("there is no storage, and nothing is declared");
    }
    if let Some((storage, Err(storages::Why::Unknown(why)))) = &main {
        wanted.problems.error(storage.as_str(), why.as_str());
    }
    for (storage, why) in &strange {
        wanted.problems.error(storage.as_str(), why.as_str());
    }
    if let Some(report) = nothing_to_do(&wanted, main.as_ref(), &inactive) {
        return report;
    }
    let plan = plan(&wanted, &people, &inactive);
    let mut run = steps::Run::new(&tree, &wanted, &spec.platform);
    let mut problems = plan.problems.clone();
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
    if let Some(storage) = &records {
        records::prune_records(&tree, storage, &spec.run, &mut problems);
    }
    run.copies.keep_records_in(records.clone(), &spec.run);
    if let Some(storage) = wanted
        .accounts
        .first()
        .filter(|storage| !inactive.contains_key(*storage))
    {
        accounts::merge(&tree, storage, &mut problems, &mut run.copies);
    }
    for step in &plan.steps {
        run.take(step);
    }
    run.finish(&mut problems);
    if let Some(storage) = &records {
        history::keep(&tree, storage, &wanted, &mut problems);
    }
    let outcomes = &run.outcomes;
    // A directory that did not come to stay keeps nothing of what lies in it.
    let lost: BTreeMap<&TreePath, &str> = outcomes
        .iter()
        .filter(|(number, o)| {
            o.fate == Fate::Refused && wanted.declarations[**number].kind.is_directory()
        })
        .map(|(number, o)| {
            (
                &wanted.declarations[*number].path,
                o.why.as_deref().unwrap_or("it does not stay"),
            )
        })
        .collect();
    let lines: Vec<Line> = wanted
        .declarations
        .iter()
        .enumerate()
        .map(|(number, declaration)| {
            let outcome = outcomes.get(&number).cloned();
            let outcome = outcome.unwrap_or_else(|| without(plan.without.get(&number), &lost));
            Line {
                path: declaration.path.to_string(),
                storage: declaration.storage.to_string(),
                directory: declaration.kind.is_directory(),
                tier: declaration.tier,
                fate: outcome.fate,
                how: outcome.how,
                why: outcome.why,
            }
        })
        .collect();
    let bad = |line: &Line| matches!(line.fate, Fate::Refused | Fate::Inactive | Fate::Pending);
    let degraded = problems.any_error() || lines.iter().any(bad);
    Report {
        version: VERSION,
        state: if degraded {
            State::Degraded
        } else {
            State::Applied
        },
        why: None,
        declarations: lines,
        omitted: 0,
        disabled: wanted.disabled.iter().map(TreePath::to_string).collect(),
        problems_omitted: problems.dropped(),
        problems: problems.iter().cloned().collect(),
        took_ms: 0,
    }
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

fn without(without: Option<&Without>, lost: &BTreeMap<&TreePath, &str>) -> Outcome {
    match without {
        Some(Without::Inside(at)) if lost.contains_key(at) => Outcome::refused(format!(
            "it lies in {at}, which does not stay: {}",
            lost[at]
        )),
        Some(Without::Inside(at)) => {
            let why = Some(format!("it lies in {at}, which stays"));
            Outcome {
                fate: Fate::Already,
                how: Some(How::Inside),
                why,
            }
        }
        Some(Without::Inactive(why)) => Outcome {
            fate: Fate::Inactive,
            how: None,
            why: Some(why.clone()),
        },
        Some(Without::Refused(why)) => Outcome::refused(why),
        None => Outcome::refused("nothing was done for it"),
    }
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
