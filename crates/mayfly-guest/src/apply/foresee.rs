//! What would become of a plan: the same looks as when it is carried out, and nothing is changed.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;

use mayfly_core::persist::declare::Method;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::plan::{Owner, Plan, Step};
use mayfly_core::persist::report::{Fate, How};
use mayfly_core::persist::unite::{Declaration, Kind, Wanted};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use super::Outcome;
use super::copies::Copies;
use super::files::{Action, decide};
use super::steps::{self, Broken};
use crate::tree::{Tree, kind, mount_of, name_of, same};

/// What would become of all declarations that have a step of their own.
pub(super) fn outcomes(
    tree: &Tree,
    wanted: &Wanted,
    plan: &Plan,
    platform: &[TreePath],
    copies: Copies,
) -> BTreeMap<usize, Outcome> {
    let mut foresight = Foresight {
        tree,
        broken: Broken::default(),
        unknown: BTreeMap::new(),
        over: Vec::new(),
        copies,
    };
    let mut outcomes = BTreeMap::new();
    for step in &plan.steps {
        match step {
            Step::Base { storage } => foresight.see_base(storage),
            Step::Store {
                storage,
                path,
                owner,
            } => foresight.see_stored(&path.below(storage), owner),
            Step::Mirror { storage, path } | Step::Point { storage, path } => {
                foresight.see_twin(&path.below(storage), path);
            }
            Step::Bind { declaration } | Step::Place { declaration } => {
                let wish = &wanted.declarations[*declaration];
                let outcome = foresight.outcome(wish, platform.contains(&wish.path));
                outcomes.insert(*declaration, outcome);
            }
        }
    }
    outcomes
}

/// What is known of the steps so far.
struct Foresight<'a> {
    tree: &'a Tree,
    broken: Broken,
    /// Directories that would be root's alone for now, and for whose sake.
    unknown: BTreeMap<TreePath, String>,
    /// What would be mounted, where, and hide the root's: outer before inner.
    over: Vec<(TreePath, TreePath)>,
    copies: Copies,
}

impl Foresight<'_> {
    fn see_base(&mut self, storage: &TreePath) {
        for part in storage.parents().iter().chain([storage]) {
            if let Err(why) = check_directory(self.tree, part) {
                return self.broken.add(storage, why);
            }
        }
    }

    fn see_stored(&mut self, at: &TreePath, owner: &Owner) {
        let seen = self.broken.refuse(at);
        if let Err(why) = seen.and_then(|()| check_directory(self.tree, at)) {
            return self.broken.add(at, why);
        }
        if let Some(name) = &owner.unknown {
            let waits = match self.tree.directory(at) {
                Ok(fd) => steps::is_pending(&fd),
                Err(e) => e == Errno::NOENT,
            };
            if waits {
                self.unknown.insert(at.clone(), name.clone());
            }
        }
    }

    fn see_twin(&mut self, twin: &TreePath, path: &TreePath) {
        let seen = self
            .broken
            .refuse(twin)
            .and_then(|()| self.broken.refuse(path));
        let at = self.seen_at(path);
        if let Err(why) = seen.and_then(|()| check_directory(self.tree, &at)) {
            self.broken.add(path, why);
        }
    }

    /// Where what will be at `path` is now: in the storage, where something would be mounted over it.
    fn seen_at(&self, path: &TreePath) -> TreePath {
        let inner = self.over.iter().rev().find(|(at, _)| path.is_in(at));
        let moved = inner.and_then(|(at, stored)| {
            let rest = path.as_str().strip_prefix(at.as_str())?;
            stored.join(rest).ok()
        });
        moved.unwrap_or_else(|| path.clone())
    }

    fn outcome(&mut self, wish: &Declaration, platform: bool) -> Outcome {
        let stored = wish.path.below(&wish.storage);
        let mut outcome = self
            .decide(wish, &stored, platform)
            .unwrap_or_else(Outcome::refused);
        let parents = stored.parents();
        let name = parents
            .iter()
            .chain([&stored])
            .find_map(|at| self.unknown.get(at));
        if wish.kind.is_directory() && outcome.fate == Fate::Applied {
            self.over.push((wish.path.clone(), stored.clone()));
        }
        if let (Some(name), Fate::Applied | Fate::Already) = (name, outcome.fate) {
            outcome.wait_for(name);
        }
        outcome
    }

    fn decide(
        &mut self,
        wish: &Declaration,
        stored: &TreePath,
        platform: bool,
    ) -> Result<Outcome, String> {
        let (tree, path) = (self.tree, &wish.path);
        self.broken.refuse(stored)?;
        self.broken.refuse(path)?;
        let at = self.seen_at(path);
        match wish.kind {
            Kind::Directory { .. } => bound(tree, &at, stored),
            Kind::File {
                method: Method::Copy,
            } => {
                let fate = match self.copies.decide(tree, path, &at, stored)? {
                    Some(_) => Fate::Applied,
                    None => Fate::Already,
                };
                Ok(Outcome::done(fate, How::Copy))
            }
            Kind::File { method } => Ok(match decide(tree, path, &at, stored, method, platform)? {
                Action::Already(how) => Outcome::done(Fate::Already, how),
                Action::Bind { .. } => Outcome::done(Fate::Applied, How::Bind),
                Action::Link { .. } => Outcome::done(Fate::Applied, How::Symlink),
            }),
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
