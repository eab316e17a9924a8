//! Trees of a fake host that are copied.

use super::storage::{not_there, refuse};
use super::tree::{Node, Tree};
use super::world::World;
use super::{Backend, Reach};
use crate::bytes::Bytes;
use crate::error::Code;
use crate::ports::{Cancel, HostError, HostResult, Outcome};
use crate::trees::{TreeCopied, TreeCopy};

impl World {
    pub(super) fn copy_tree(
        &mut self,
        copy: &TreeCopy,
        cancel: &Cancel,
        reach: Reach,
    ) -> HostResult<TreeCopied> {
        copy.check_from(&self.own_mark(&copy.from)?)?;
        copy.check_to(&self.own_mark(&copy.to)?)?;
        let tree = self.what_is_copied(copy)?;
        let is_full = self.free() < tree.used();
        let Some(to) = self.datasets.get_mut(&copy.to) else {
            return not_there(&copy.to);
        };
        if to.beside.copied.as_ref() == Some(copy) {
            return Ok(TreeCopied {
                outcome: Outcome::Unchanged,
                copied: Bytes(0),
                shared: Bytes(0),
            });
        }
        if !to.tree.0.is_empty() || to.beside.copied.is_some() {
            return Err(copy.filled().into());
        }
        to.beside.copying = Tree::default();
        if cancel.is_set() {
            let action = format!("copying {} of dataset {}", copy.below, copy.from);
            return Err(HostError::failed(action, "it is not wanted any more"));
        }
        if is_full {
            return refuse(Code::PoolFull, format!("no room in {}", copy.to));
        }
        if to.quota.is_some_and(|quota| tree.used() > quota) {
            return Err(copy.too_large().into());
        }
        let bytes = tree.used();
        if reach == Reach::HalfWay {
            to.beside.copying = tree;
        } else {
            to.tree = tree;
            to.beside.copied = Some(copy.clone());
            self.note_if_in_use(&copy.from, "copied");
            self.note_if_in_use(&copy.to, "filled");
            self.deposit_copies(copy);
        }
        let (copied, shared) = match self.backend {
            Backend::Btrfs => (bytes, Bytes(0)),
            Backend::Zfs => (Bytes(0), bytes),
        };
        Ok(TreeCopied {
            outcome: Outcome::Changed,
            copied,
            shared,
        })
    }

    fn what_is_copied(&self, copy: &TreeCopy) -> HostResult<Tree> {
        let Some(from) = self.datasets.get(&copy.from) else {
            return not_there(&copy.from);
        };
        let below = copy.below.as_str();
        let told = format!("{below} of dataset {}", copy.from);
        match (from.tree.barred(below), from.tree.get(below)) {
            (Some(part), _) => {
                let why = format!("{told} cannot be reached: {part} is no directory");
                return refuse(Code::FileRefused, why);
            }
            (None, None) => return refuse(Code::FileNotFound, format!("{told} is not there")),
            (None, Some(Node::Directory)) => {}
            (None, Some(_)) => {
                return refuse(Code::FileRefused, format!("{told} is no directory"));
            }
        }
        let out = copy.left_out()?;
        let mut tree = Tree::default();
        for (path, node) in &from.tree.0 {
            let Some(rest) = inside(path, below) else {
                continue;
            };
            let leaves_out = |one: &String| match inside(rest, &format!("/{one}")) {
                Some("") => !matches!(node, Node::Directory),
                other => other.is_some(),
            };
            if !rest.is_empty() && !out.iter().any(leaves_out) {
                tree.0.insert(rest.to_owned(), node.clone());
            }
        }
        for node in tree.0.values_mut() {
            if let Node::File { own, .. } = node {
                *own = true;
            }
        }
        Ok(tree)
    }

    /// What was put into the one is in the other as well from now on.
    fn deposit_copies(&mut self, copy: &TreeCopy) {
        let uid = |name| self.datasets.get(name).map(|d| d.uid);
        let (Some(from), Some(to)) = (uid(&copy.from), uid(&copy.to)) else {
            return;
        };
        let files = self.ledger.get(&from).map(|deposit| deposit.files.clone());
        let there = self.datasets[&copy.to].tree.clone();
        for (path, text) in files.unwrap_or_default() {
            let rest = inside(&path, copy.below.as_str());
            if let Some(rest) = rest.filter(|rest| there.get(rest).is_some()) {
                self.deposit(to, rest, Some(&text));
            }
        }
    }
}

/// What remains of a path below a directory, with its slash; empty when they are equal.
fn inside<'a>(path: &'a str, directory: &str) -> Option<&'a str> {
    if directory == "/" {
        return Some(path);
    }
    let rest = path.strip_prefix(directory)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}
