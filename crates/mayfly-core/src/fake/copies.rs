//! Copies of declared files, in little: each guest with a storage has one, [`COPIED`].

use super::Reach;
use super::runtime::dataset_of;
use super::storage::{not_there, refuse};
use super::tree::Node;
use super::world::{Run, World};
use crate::error::{Code, Refusal};
use crate::names::{GuestPath, PoolPath};
use crate::observed::{Evidence, Mark, MarkSeen};
use crate::persist::record::{DIRECTORY, Taken};
use crate::ports::{HarvestOrder, HostError, HostResult, Outcome};
use crate::run::RunMount;

/// The file that every guest with a storage declares as a copy.
pub const COPIED: &str = "/etc/copied";

/// The last version that a guest wrote of its copy.
#[derive(Clone, Debug)]
pub(super) struct Owed {
    /// The root that it was written in, by identity.
    root: u64,
    path: String,
    text: String,
}

/// A storage, as a dataset and the path in it.
struct Storage {
    dataset: PoolPath,
    below: String,
}

impl Storage {
    /// That of a run with copies.
    fn of_run(run: &Run) -> Option<Self> {
        let spec = run.spec.persistence.as_ref()?;
        let storage = spec.storage.as_ref().filter(|_| spec.temporary_root)?;
        Self::find(&run.spec.mounts, &storage.as_str().parse().ok()?)
    }

    /// The innermost mount that holds `path`.
    fn find(mounts: &[RunMount], path: &GuestPath) -> Option<Self> {
        let holds = |mount: &&RunMount| path.below(&mount.target).is_some();
        let mount = mounts.iter().rfind(holds)?;
        let below = match path.below(&mount.target)? {
            "" => String::new(),
            below => format!("/{below}"),
        };
        Some(Self {
            dataset: dataset_of(&mount.source)?,
            below,
        })
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.below)
    }
}

impl World {
    fn text_at(&self, dataset: &PoolPath, path: &str) -> Option<String> {
        match self.datasets.get(dataset)?.tree.get(path)? {
            Node::File { text, .. } => Some(text.clone()),
            _ => None,
        }
    }

    fn put_text(&mut self, dataset: &PoolPath, path: &str, text: &str) {
        if let Some(dataset) = self.datasets.get_mut(dataset) {
            dataset.tree.put(path, Node::file(text));
        }
    }

    /// What the helper does at a birth: the stored version comes into the root, and that is recorded in the storage, where
    /// records of roots before it are of no use any more.
    pub(super) fn place(&mut self, run: &Run) {
        let (Some(storage), Some(root)) = (Storage::of_run(run), dataset_of(&run.spec.root)) else {
            return;
        };
        let stored = self.text_at(&storage.dataset, &storage.at(COPIED));
        let uid = self.datasets.get(&storage.dataset).map(|d| d.uid);
        if let Some(owed) = uid.and_then(|uid| self.owed.remove(&uid)) {
            if stored.as_ref() != Some(&owed.text) {
                self.catastrophes.push(format!(
                    "run {} of {} began with {stored:?} and not with {:?}",
                    run.run, run.vps, owed.text
                ));
            }
        }
        if let Some(text) = &stored {
            self.put_text(&root, COPIED, text);
        }
        let records = storage.at(DIRECTORY);
        if let Some(dataset) = self.datasets.get_mut(&storage.dataset) {
            let old = |path: &str| path.starts_with(&format!("{records}/"));
            dataset.tree.0.retain(|path, _| !old(path));
        }
        let record = format!("{records}/{}", run.run);
        self.put_text(
            &storage.dataset,
            &record,
            stored.as_deref().unwrap_or_default(),
        );
    }

    /// A guest wrote into its root.
    pub(super) fn note_copy(&mut self, run: &Run, root: u64, inside: &str, text: &str) {
        let Some(storage) = Storage::of_run(run).filter(|_| inside == COPIED) else {
            return;
        };
        if run.view.root == Some(root) {
            if let Some(dataset) = self.datasets.get(&storage.dataset) {
                let owed = Owed {
                    root,
                    path: storage.at(COPIED),
                    text: text.to_owned(),
                };
                self.owed.insert(dataset.uid, owed);
            }
        }
    }

    /// Versions that were in a root that is given up, and that no storage has.
    pub(super) fn lost_copies(&self) -> Vec<String> {
        let lives = |root: u64| {
            let mut all = self.datasets.iter();
            all.any(|(name, d)| d.uid == root && !name.is_grave())
        };
        let of = |(uid, owed): (&u64, &Owed)| {
            let (name, dataset) = self.datasets.iter().find(|(_, d)| d.uid == *uid)?;
            let stored = dataset.tree.get(&owed.path);
            let is_there = matches!(stored, Some(Node::File { text, .. }) if *text == owed.text);
            (!is_there && !lives(owed.root) && !name.is_grave())
                .then(|| format!("{name}: {} was never {:?}", owed.path, owed.text))
        };
        self.owed.iter().filter_map(of).collect()
    }

    pub(super) fn harvest(&mut self, order: &HarvestOrder, reach: Reach) -> HostResult<Taken> {
        self.can_look(&format!("evidence of {}", order.vps))?;
        let action = format!("harvesting run {} of {}", order.run, order.vps);
        let storage = Storage::find(&order.mounts, &order.storage);
        let (Some(storage), Some(root)) = (storage, dataset_of(&order.root)) else {
            return Err(HostError::failed(action, "its storage is not mounted"));
        };
        let concerns = |s: &&Evidence| s.is_alive() && s.concerns(order.vps, &order.run, &root);
        if let Some(sign) = self.evidence(order.vps).iter().find(concerns) {
            let message = format!("something of VPS {} is alive: {sign}", order.vps);
            return Err(Refusal::new(Code::StillAlive, message, "end it").into());
        }
        for dataset in [&storage.dataset, &root] {
            if !self.datasets.contains_key(dataset) {
                return Err(HostError::failed(action, format!("there is no {dataset}")));
            }
        }
        if self.full {
            return Err(HostError::failed(action, "no space left"));
        }
        let record = storage.at(&format!("{DIRECTORY}/{}", order.run));
        let Some(placed) = self.text_at(&storage.dataset, &record) else {
            return Ok(Taken::default());
        };
        let mut taken = Taken::default();
        if let Some(text) = self.text_at(&root, COPIED).filter(|text| *text != placed) {
            self.put_text(&storage.dataset, &storage.at(COPIED), &text);
            taken.count = 1;
            taken.files.push(COPIED.to_owned());
        }
        if reach == Reach::Whole {
            if let Some(dataset) = self.datasets.get_mut(&storage.dataset) {
                dataset.tree.0.remove(&record);
            }
        }
        Ok(taken)
    }

    pub(super) fn mark_harvested(&mut self, root: &PoolPath) -> HostResult<Outcome> {
        let mark = self.own_mark(root)?;
        if !mark.unharvested {
            return Ok(Outcome::Unchanged);
        }
        let dataset = self.datasets.get_mut(root);
        let dataset = dataset.map_or_else(|| not_there(root), Ok)?;
        dataset.mark = MarkSeen::Local(Mark {
            unharvested: false,
            ..mark
        });
        Ok(Outcome::Changed)
    }

    /// A plain file, with nothing but directories on the way.
    pub(super) fn read_file(
        &self,
        name: &PoolPath,
        path: &GuestPath,
        limit: usize,
    ) -> HostResult<Option<Vec<u8>>> {
        let Some(dataset) = self.datasets.get(name) else {
            return not_there(name);
        };
        let whole = path.as_str();
        let above = whole.match_indices('/').map(|(at, _)| &whole[..at]);
        let in_the_way = above.filter(|part| !part.is_empty()).find(|part| {
            let there = dataset.tree.get(part);
            there.is_some_and(|node| !matches!(node, Node::Directory))
        });
        if let Some(part) = in_the_way {
            return refuse(Code::Invalid, format!("{part} is no directory"));
        }
        match dataset.tree.get(whole) {
            None => Ok(None),
            Some(Node::File { text, .. }) if text.len() <= limit => {
                Ok(Some(text.clone().into_bytes()))
            }
            Some(Node::File { .. }) => refuse(
                Code::Invalid,
                format!("{path} is longer than {limit} bytes"),
            ),
            Some(_) => refuse(Code::Invalid, format!("{path} is no regular file")),
        }
    }
}
