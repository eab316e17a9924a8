//! Copies of declared files, in little: each guest with a storage has one, [`COPIED`].

use super::Reach;
use super::runtime::dataset_of;
use super::tree::Node;
use super::world::{Run, World};
use crate::error::{Code, Refusal};
use crate::names::{GuestPath, PoolPath};
use crate::persist::record::{DIRECTORY, Taken};
use crate::ports::{HarvestOrder, HostError, HostResult};
use crate::run::RunMount;

/// The file that every guest with a storage declares as a copy.
pub const COPIED: &str = "/etc/copied";

/// A storage, as a dataset and the path in it.
struct Storage {
    dataset: PoolPath,
    below: String,
}

impl Storage {
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
        let Some(spec) = &run.spec.persistence else {
            return;
        };
        let storage = spec.storage.as_ref().filter(|_| spec.temporary_root);
        let storage = storage.and_then(|path| path.as_str().parse().ok());
        let storage = storage.and_then(|path| Storage::find(&run.spec.mounts, &path));
        let (Some(storage), Some(root)) = (storage, dataset_of(&run.spec.root)) else {
            return;
        };
        let stored = self.text_at(&storage.dataset, &storage.at(COPIED));
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

    pub(super) fn harvest(&mut self, order: &HarvestOrder, reach: Reach) -> HostResult<Taken> {
        self.can_look(&format!("evidence of {}", order.vps))?;
        if let Some(sign) = self.evidence(order.vps).iter().find(|s| s.is_alive()) {
            let message = format!("something of VPS {} is alive: {sign}", order.vps);
            return Err(Refusal::new(Code::StillAlive, message, "end it").into());
        }
        let action = format!("harvesting run {} of {}", order.run, order.vps);
        let storage = Storage::find(&order.mounts, &order.storage);
        let (Some(storage), Some(root)) = (storage, dataset_of(&order.root)) else {
            return Err(HostError::failed(action, "its storage is not mounted"));
        };
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
}
