//! The verb `apply`: what is declared to stay is put into a new root, before its init runs.
//!
//! ```text
//! spec (host) ─┐                                        ┌ storages   which of them are other datasets
//! persistence.toml (guest) ─ gather ─ plan (mayfly-core) ┤ steps      directories, bind mounts
//! passwd, uid-map (guest) ─┘                            ├ files      bound, linked
//!                                                       ├ copies     placed, and recorded (records) for the harvest
//!                                                       ├ accounts   merged into the base's
//!                                                       ├ history    what was ever declared
//!                                                       └ foresee    instead of all these: what would become of it
//! ```
//!
//! Nothing here stops a boot: each trouble becomes a line of the report. The tree is its owner's and may be prepared to do
//! harm, so everything goes through [`Tree`], in bounds that `mayfly_core::persist::limits` sets.

mod accounts;
mod copies;
mod files;
mod foresee;
mod gather;
mod history;
mod options;
mod records;
mod steps;
mod storages;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use mayfly_core::persist::declare::{Problems, Source};
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::plan::{Plan, Without, plan};
use mayfly_core::persist::report::{Fate, How, Line, Report, State, VERSION};
use mayfly_core::persist::spec::Spec;
use mayfly_core::persist::unite::Wanted;

pub(crate) use records::{read_record, record_path, remove_record, write_record};

use self::copies::Copies;
use self::gather::{Gathered, gather};
use crate::tree::Tree;

/// What is to be applied, and how.
pub(crate) struct Order<'a> {
    /// The run, and what the host says of it.
    pub(crate) spec: &'a Spec,
    /// The root.
    pub(crate) root: &'a Path,
    /// Declarations in the place of the storage's own, for a root that was born before: somebody applies them by hand.
    pub(crate) by_hand: Option<Source>,
    /// Nothing is changed, and the report says what would be.
    pub(crate) dry_run: bool,
}

impl<'a> Order<'a> {
    /// What is due when `root` is born.
    pub(crate) fn birth(spec: &'a Spec, root: &'a Path) -> Self {
        Self {
            spec,
            root,
            by_hand: None,
            dry_run: false,
        }
    }
}

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

    /// It stays, in a directory that is root's alone as long as nobody knows `name`.
    fn wait_for(&mut self, name: &str) {
        self.fate = Fate::Pending;
        self.why = Some(format!(
            "nobody knows {name}: until then its directory is root's alone"
        ));
    }
}

/// Carries out `order`.
pub(crate) fn apply(order: &Order<'_>) -> Report {
    let begun = Instant::now();
    let mut report = if let Some(why) = &order.spec.inactive {
        Report::inactive(why)
    } else if order.spec.temporary_root {
        apply_to_temporary(order)
    } else {
        Report::inactive("`/` is not a temporary root: what is in it stays anyway")
    };
    report.took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.fit();
    report
}

fn apply_to_temporary(order: &Order<'_>) -> Report {
    let tree = match Tree::at(order.root) {
        Ok(tree) => tree,
        Err(e) => {
            let root = order.root.display();
            return Report::inactive(format!("the root {root} cannot be opened: {e}"));
        }
    };
    let gathered = match gather(order, &tree) {
        Ok(gathered) => gathered,
        Err(report) => return *report,
    };
    let plan = plan(&gathered.wanted, &gathered.people, &gathered.inactive);
    let mut problems = plan.problems.clone();
    let outcomes = if order.dry_run {
        let copies = Copies::new(gathered.records.clone(), &order.spec.run);
        foresee::outcomes(&tree, &gathered.wanted, &plan, &order.spec.platform, copies)
    } else {
        carry_out(order, &tree, &gathered, &plan, &mut problems)
    };
    report(&gathered.wanted, &plan, &outcomes, &problems)
}

/// Takes all steps, and what else is done at a birth.
fn carry_out(
    order: &Order<'_>,
    tree: &Tree,
    gathered: &Gathered,
    plan: &Plan,
    problems: &mut Problems,
) -> BTreeMap<usize, Outcome> {
    let wanted = &gathered.wanted;
    let is_birth = order.by_hand.is_none();
    if let Some(storage) = gathered.records.as_ref().filter(|_| is_birth) {
        records::prune_records(tree, storage, &order.spec.run, problems);
    }
    let copies = Copies::new(gathered.records.clone(), &order.spec.run);
    let mut run = steps::Run::new(tree, wanted, &order.spec.platform, copies);
    if let Some(storage) = wanted
        .accounts
        .first()
        .filter(|storage| !gathered.inactive.contains_key(*storage))
    {
        accounts::merge(tree, storage, problems, &mut run.copies);
    }
    for step in &plan.steps {
        run.take(step);
    }
    run.finish(problems);
    if let Some(storage) = gathered.records.as_ref().filter(|_| is_birth) {
        history::keep(tree, storage, wanted, problems);
    }
    run.outcomes
}

fn report(
    wanted: &Wanted,
    plan: &Plan,
    outcomes: &BTreeMap<usize, Outcome>,
    problems: &Problems,
) -> Report {
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
