//! What would become of a plan: the same looks as when it is carried out, and nothing is changed.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use mayfly_core::persist::declare::Method;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::plan::{Plan, Step};
use mayfly_core::persist::report::{Fate, How};
use mayfly_core::persist::unite::{Declaration, Kind, Wanted};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::copies::Copies;
use super::files::{Action, decide};
use super::{Outcome, steps};
use crate::tree::{Tree, kind, mount_of, name_of, same};

/// What would become of all declarations that have a step of their own.
pub(super) fn outcomes(
    tree: &Tree,
    wanted: &Wanted,
    plan: &Plan,
    platform: &[TreePath],
    mut copies: Copies,
) -> BTreeMap<usize, Outcome> {
    let unknown = unknown_owners(tree, plan);
    let mut outcomes = BTreeMap::new();
    // What would be mounted before, and hide the root's.
    let mut over: Vec<(&TreePath, TreePath)> = Vec::new();
    for step in &plan.steps {
        let (Step::Bind { declaration } | Step::Place { declaration }) = step else {
            continue;
        };
        let wish = &wanted.declarations[*declaration];
        let stored = wish.path.below(&wish.storage);
        let look = Look {
            tree,
            at: seen_at(&wish.path, &over),
            stored: &stored,
            platform: platform.contains(&wish.path),
        };
        let mut outcome = look
            .outcome(wish, &mut copies)
            .unwrap_or_else(Outcome::refused);
        if wish.kind.is_directory() && outcome.fate == Fate::Applied {
            over.push((&wish.path, stored.clone()));
        }
        let parents = stored.parents();
        let name = parents
            .iter()
            .chain([&stored])
            .find_map(|at| unknown.get(at));
        if let (Some(name), Fate::Applied | Fate::Already) = (name, outcome.fate) {
            outcome.wait_for(name);
        }
        outcomes.insert(*declaration, outcome);
    }
    outcomes
}

/// Directories that would be root's alone for now, and for whose sake.
fn unknown_owners(tree: &Tree, plan: &Plan) -> BTreeMap<TreePath, String> {
    let mut unknown = BTreeMap::new();
    for step in &plan.steps {
        if let Step::Store {
            storage,
            path,
            owner,
        } = step
        {
            let at = path.below(storage);
            if let Some(name) = &owner.unknown {
                let waits = match tree.directory(&at) {
                    Ok(fd) => steps::is_pending(&fd),
                    Err(e) => e == Errno::NOENT,
                };
                if waits {
                    unknown.insert(at, name.clone());
                }
            }
        }
    }
    unknown
}

/// Where what will be at `path` is now: in the storage, where something would be mounted over it.
fn seen_at(path: &TreePath, over: &[(&TreePath, TreePath)]) -> TreePath {
    let inner = over.iter().rev().find(|(at, _)| path.is_in(at));
    let moved = inner.and_then(|(at, stored)| {
        let rest = path.as_str().strip_prefix(at.as_str())?;
        stored.join(rest).ok()
    });
    moved.unwrap_or_else(|| path.clone())
}

/// One declaration, and where to look for it.
struct Look<'a> {
    tree: &'a Tree,
    at: TreePath,
    stored: &'a TreePath,
    platform: bool,
}

impl Look<'_> {
    fn outcome(&self, wish: &Declaration, copies: &mut Copies) -> Result<Outcome, String> {
        let whole = wish.kind.is_directory();
        for side in [self.stored, &self.at] {
            for part in side.parents().iter().chain(whole.then_some(side)) {
                check_directory(self.tree, part)?;
            }
        }
        match wish.kind {
            Kind::Directory { .. } => bound(self.tree, &self.at, self.stored),
            Kind::File {
                method: Method::Copy,
            } => {
                let placed = copies.decide(self.tree, &wish.path, &self.at, self.stored)?;
                let fate = if placed.is_some() {
                    Fate::Applied
                } else {
                    Fate::Already
                };
                Ok(Outcome::done(fate, How::Copy))
            }
            Kind::File { method } => {
                let action = decide(
                    self.tree,
                    &wish.path,
                    &self.at,
                    self.stored,
                    method,
                    self.platform,
                )?;
                Ok(match action {
                    Action::Already(how) => Outcome::done(Fate::Already, how),
                    Action::Bind { .. } => Outcome::done(Fate::Applied, How::Bind),
                    Action::Link { .. } => Outcome::done(Fate::Applied, How::Symlink),
                })
            }
        }
    }
}

/// Refuses what is neither a directory nor absent, and would have to be one.
fn check_directory(tree: &Tree, path: &TreePath) -> Result<(), String> {
    match tree.look(path) {
        Ok(None) => Ok(()),
        Ok(Some(stat)) => match kind(&stat) {
            FileType::Directory => Ok(()),
            FileType::Symlink => Err(format!("the symbolic link {path} is in the way")),
            other => Err(format!("{path} is in the way: it is {}", name_of(other))),
        },
        Err(e) => Err(tree.explain(path, e)),
    }
}

fn bound(tree: &Tree, path: &TreePath, stored: &TreePath) -> Result<Outcome, String> {
    let failed = |e: Errno| format!("{path}: {e}");
    let there = |at: &TreePath| match tree.directory(at) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(tree.explain(at, e)),
    };
    if let Some(to) = there(path)? {
        let target = fstat(&to).map_err(failed)?;
        if let Some(from) = there(stored)? {
            if same(&fstat(&from).map_err(failed)?, &target) {
                return Ok(Outcome::done(Fate::Already, How::Bind));
            }
        }
        if mount_of(to.as_fd()).map_err(failed)?.1 {
            return Err("something else is mounted there".to_owned());
        }
    }
    Ok(Outcome::done(Fate::Applied, How::Bind))
}
