//! Declared files that are copied at birth, and recorded for the harvest.

use std::collections::BTreeMap;

use mayfly_core::persist::limits;
use mayfly_core::persist::path::TreePath;
use mayfly_core::persist::record::{Content, Placed, Record, VERSION};
use mayfly_core::persist::report::{Fate, How};

use super::Outcome;
use super::files::replaceable;
use super::records::{read_record, record_path, write_record};
use crate::content::{Found, find, put};
use crate::tree::Tree;

/// All copies of one root.
#[derive(Default)]
pub(crate) struct Copies {
    /// The storage that has the records, and the run.
    place: Option<(TreePath, String)>,
    /// What is placed, or why nothing may be; read when it is needed.
    placed: Option<Result<BTreeMap<TreePath, Placed>, String>>,
    changed: bool,
    bytes: u64,
}

impl Copies {
    /// Those of `run`, recorded in a storage.
    pub(super) fn new(storage: Option<TreePath>, run: &str) -> Self {
        Self {
            place: storage.map(|storage| (storage, run.to_owned())),
            ..Self::default()
        }
    }

    /// What was placed in this root before. Where that cannot be known nothing is placed: it could be an old file over a
    /// new one.
    pub(super) fn ready(&mut self, tree: &Tree) -> Result<&mut BTreeMap<TreePath, Placed>, String> {
        let place = &self.place;
        let placed = self.placed.get_or_insert_with(|| {
            let (storage, run) = place
                .as_ref()
                .ok_or("there is no storage to record it in")?;
            let at = record_path(storage, run)?;
            let files = read_record(tree, &at, run)?
                .into_iter()
                .flat_map(|record| record.files);
            Ok(files.map(|file| (file.path.clone(), file)).collect())
        });
        placed
            .as_mut()
            .map_err(|why| format!("what was placed before is not known: {why}"))
    }

    /// Whether this root has `path` from an earlier application.
    pub(super) fn has(&self, path: &TreePath) -> bool {
        matches!(&self.placed, Some(Ok(placed)) if placed.contains_key(path))
    }

    /// Records what lies at `path` now as placed.
    pub(super) fn note(&mut self, path: &TreePath, stored: &TreePath, content: Content) {
        if let Some(Ok(placed)) = &mut self.placed {
            let new = Placed {
                path: path.clone(),
                stored: stored.clone(),
                content,
            };
            placed.insert(path.clone(), new);
            self.changed = true;
        }
    }

    /// What is to be placed at `path`, which may be nothing; none where it was placed before. What is in the way is looked
    /// for at `at`, which is `path` where all that is to be mounted over it is.
    pub(super) fn decide(
        &mut self,
        tree: &Tree,
        path: &TreePath,
        at: &TreePath,
        stored: &TreePath,
    ) -> Result<Option<Found>, String> {
        self.ready(tree)?;
        if self.has(path) {
            return Ok(None);
        }
        let kept = find(tree, stored)?;
        if kept.content != Content::Absent {
            self.bytes += kept.size();
            if self.bytes > limits::COPY_TOTAL_BYTES {
                return Err("all copies together are larger than 256 MiB".to_owned());
            }
            replaceable(tree, at)?;
        }
        Ok(Some(kept))
    }

    /// Places one file. What the base has there is replaced: a declaration counts for more.
    pub(super) fn place(
        &mut self,
        tree: &Tree,
        path: &TreePath,
        stored: &TreePath,
    ) -> Result<Outcome, String> {
        let Some(kept) = self.decide(tree, path, path, stored)? else {
            return Ok(Outcome::done(Fate::Already, How::Copy));
        };
        let content = if kept.content == Content::Absent {
            // What the base has is what a change is seen against.
            find(tree, path)?.content
        } else {
            let parent = path.parent().unwrap_or_else(TreePath::top);
            let parent = tree
                .directory(&parent)
                .map_err(|e| tree.explain(&parent, e))?;
            put(&kept, stored, &parent, path.name(), false, || Ok(()))?;
            kept.content
        };
        self.note(path, stored, content);
        Ok(Outcome::done(Fate::Applied, How::Copy))
    }

    /// Writes the record, if there is anything new in it.
    pub(super) fn write_record(&self, tree: &Tree) -> Result<(), String> {
        let (Some((storage, run)), Some(Ok(placed)), true) =
            (&self.place, &self.placed, self.changed)
        else {
            return Ok(());
        };
        let files = placed.values().cloned().collect();
        let record = Record {
            version: VERSION,
            run: run.clone(),
            files,
        };
        write_record(tree, &record_path(storage, run)?, &record)
    }
}
