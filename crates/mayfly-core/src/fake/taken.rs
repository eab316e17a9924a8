//! What lies beside the tree of a dataset of a fake host, and directories that are taken out of the tree.

use std::collections::BTreeMap;

use super::Reach;
use super::storage::not_there;
use super::tree::{Node, Tree};
use super::world::World;
use crate::bytes::Bytes;
use crate::error::Code;
use crate::ids::OperationId;
use crate::ports::{HostResult, Outcome};
use crate::trees::{TakeTo, TakenOut, TreeCopy};

/// What lies beside a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Beside {
    /// A copy that was cut off.
    pub(super) copying: Tree,
    /// What the contents are a copy of.
    pub(super) copied: Option<TreeCopy>,
    /// Directories that were taken out.
    taken: BTreeMap<OperationId, Taken>,
}

#[derive(Clone, Debug)]
struct Taken {
    /// Where it was.
    path: String,
    tree: Tree,
}

impl Beside {
    pub(super) fn used(&self) -> Bytes {
        let taken = self.taken.values().map(|taken| taken.tree.used());
        taken.fold(self.copying.used(), Bytes::saturating_add)
    }

    /// What was at this path of the dataset before it was taken out.
    pub(super) fn taken_at(&self, path: &str) -> Option<&Node> {
        let inside = |taken: &'_ Taken| Some(path.strip_prefix(&taken.path)?.to_owned());
        self.taken
            .values()
            .find_map(|taken| taken.tree.get(&inside(taken)?))
    }
}

impl Tree {
    /// Takes away all that lies below a directory.
    fn split_below(&mut self, directory: &str) -> Self {
        let under = format!("{directory}/");
        let mut below = Self::default();
        self.0.retain(|path, node| {
            let Some(rest) = path.strip_prefix(&under) else {
                return true;
            };
            below.0.insert(format!("/{rest}"), node.clone());
            false
        });
        below
    }

    /// The first thing on the way to a path that is there and no directory.
    pub(super) fn barred(&self, path: &str) -> Option<String> {
        let ends = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
        let mut on_the_way = ends.filter(|part| {
            self.get(part)
                .is_some_and(|node| !matches!(node, Node::Directory))
        });
        on_the_way.next().map(str::to_owned)
    }
}

impl World {
    pub(super) fn take_out(
        &mut self,
        what: &TakenOut,
        to: TakeTo,
        reach: Reach,
    ) -> HostResult<Outcome> {
        let name = &what.dataset;
        what.check(&self.own_mark(name)?)?;
        let Some(mut dataset) = self.datasets.remove(name) else {
            return not_there(name);
        };
        let (tree, taken) = (&mut dataset.tree, &mut dataset.beside.taken);
        let done = match to {
            TakeTo::Aside => aside(tree, taken, what),
            TakeTo::Back => back(tree, taken, what),
            TakeTo::Nothing if reach == Reach::Whole => {
                Ok(taken.remove(&what.by).map(|gone| (gone.path, gone.tree)))
            }
            TakeTo::Nothing => {
                let half = taken.get_mut(&what.by);
                Ok(half.map(|half| (half.path.clone(), std::mem::take(&mut half.tree))))
            }
        };
        let uid = dataset.uid;
        self.datasets.insert(name.clone(), dataset);
        let Some((path, gone)) = done? else {
            return Ok(Outcome::Unchanged);
        };
        match to {
            TakeTo::Aside | TakeTo::Back => {
                self.note_if_in_use(name, &format!("changed at {path}"));
            }
            TakeTo::Nothing => {
                self.forget_copied(uid, &path, &gone);
                self.late.push((self.boot_ms + 30_000, gone.used()));
            }
        }
        Ok(Outcome::Changed)
    }

    /// Data that is destroyed here has to be somewhere else: the deposit ends where it is, and is a loss where it is not.
    fn forget_copied(&mut self, uid: u64, path: &str, gone: &Tree) {
        let elsewhere = |inside: &str, node: &Node| {
            let others = self.datasets.iter().filter(|(name, _)| !name.is_grave());
            let mut trees = others.filter(|(_, d)| d.uid != uid).map(|(_, d)| &d.tree);
            trees.any(|tree| tree.get(inside) == Some(node))
        };
        let copied: Vec<String> = gone
            .0
            .iter()
            .filter(|(inside, node)| elsewhere(inside, node))
            .map(|(inside, _)| format!("{path}{inside}"))
            .collect();
        if let Some(deposit) = self.ledger.get_mut(&uid) {
            deposit.files.retain(|file, _| !copied.contains(file));
        }
    }
}

/// Where something was or is, and what it was.
type Moved = Option<(String, Tree)>;

fn aside(
    tree: &mut Tree,
    taken: &mut BTreeMap<OperationId, Taken>,
    what: &TakenOut,
) -> HostResult<Moved> {
    let path = what.path.as_str();
    if taken.contains_key(&what.by) {
        return Ok(None);
    }
    if let Some(part) = tree.barred(path) {
        let why = format!("cannot be reached: {part} is no directory");
        return Err(what.refusal(Code::FileRefused, &why).into());
    }
    match tree.get(path) {
        None => return Err(what.refusal(Code::FileNotFound, "is not there").into()),
        Some(Node::Directory) => {}
        Some(_) => {
            return Err(what.refusal(Code::FileRefused, "is no directory").into());
        }
    }
    let below = tree.split_below(path);
    tree.0.remove(path);
    let one = Taken {
        path: path.to_owned(),
        tree: below.clone(),
    };
    taken.insert(what.by.clone(), one);
    Ok(Some((path.to_owned(), below)))
}

fn back(
    tree: &mut Tree,
    taken: &mut BTreeMap<OperationId, Taken>,
    what: &TakenOut,
) -> HostResult<Moved> {
    let path = what.path.as_str();
    if !taken.contains_key(&what.by) {
        return Ok(None);
    }
    if let Some(part) = tree.barred(path) {
        let why = format!("cannot be reached: {part} is no directory");
        return Err(what.refusal(Code::FileRefused, &why).into());
    }
    let under = format!("{path}/");
    let is_free = match tree.get(path) {
        None => true,
        Some(Node::Directory) => !tree.0.keys().any(|one| one.starts_with(&under)),
        Some(_) => false,
    };
    if !is_free {
        let why = "is something else now, and no empty directory";
        return Err(what.refusal(Code::FileRefused, why).into());
    }
    let Some(one) = taken.remove(&what.by) else {
        return Ok(None);
    };
    tree.put(path, Node::Directory);
    for (inside, node) in &one.tree.0 {
        tree.put(&format!("{path}{inside}"), node.clone());
    }
    Ok(Some((path.to_owned(), one.tree)))
}
