//! What happened to the runs of VPSes, kept beside the documents: one small document for each thing.
//!
//! It is written with the end of the operation that it comes from, in the same transaction: nothing is told twice, nothing
//! is missed, and no start waits for another write. It goes with its VPS, and bears its incarnation in the key, so a new
//! VPS of the same number never sees it. It is not mirrored in the pool: a rebuilt state remembers nothing.

use mayfly_core::documents::{BY_ITSELF, OperationDoc, SCHEMA, VpsDoc};
use mayfly_core::error::Refusal;
use mayfly_core::history::{HistoryDoc, KEEP, copies, forgotten, happened, is_worth_a_look};
use mayfly_core::ids::{OperationId, RunId, VpsId};
use mayfly_core::persist::record::Taken;

use crate::engine::Engine;
use crate::keys;
use crate::store::{Doc, Txn, TypedStore, Write};

/// What is remembered of a VPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The state's revision at which this is all: [`Engine::changes`] goes on from there.
    pub revision: u64,
    /// The oldest first.
    pub entries: Vec<HistoryDoc>,
}

impl Engine {
    /// What is remembered of a VPS. What a newer program wrote is left out.
    pub fn history(&self, doc: &VpsDoc) -> Result<History, Refusal> {
        let listed = self.deps().store.list_docs(&keys::history_of(doc))?;
        Ok(History {
            revision: listed.revision.0,
            entries: listed.docs.into_iter().map(|found| found.doc).collect(),
        })
    }

    /// The revision in which this VPS came to be; older changes under its number are those of another.
    pub fn came_to_be(&self, doc: &VpsDoc) -> Result<Option<u64>, Refusal> {
        let found: Option<Doc<VpsDoc>> = self.deps().store.get_doc(&keys::vps(doc.id))?;
        let same = found.filter(|found| found.doc.incarnation == doc.incarnation);
        Ok(same.map(|found| found.create_revision.0))
    }

    /// Journals that an operation is over, and remembers what it has made happen.
    pub(crate) fn journal_end(&self, op: &OperationDoc) -> Result<(), Refusal> {
        let mut writes = self.history_writes(op)?;
        writes.push(Write::put_doc(keys::operation(&op.id), op)?);
        self.commit(Txn {
            conditions: Vec::new(),
            writes,
        })?;
        self.tell_waiters();
        Ok(())
    }

    fn history_writes(&self, op: &OperationDoc) -> Result<Vec<Write>, Refusal> {
        let Some(id) = op.vps.filter(|_| is_worth_a_look(op)) else {
            return Ok(Vec::new());
        };
        let store = &*self.deps().store;
        let Some(doc) = self.vps_by_id(id)? else {
            let left = store.range(&keys::history(id))?.entries;
            return Ok(left
                .into_iter()
                .take(MOST)
                .map(|e| Write::Delete(e.key))
                .collect());
        };
        self.remembered(&doc, |past| happened(op, &doc, past))
    }

    /// Remembers what came of taking copies back from a root, at once: the operation that did it may go on for long.
    pub(crate) fn remember_copies(
        &self,
        id: VpsId,
        run: &RunId,
        op: &OperationId,
        result: Result<&Taken, &Refusal>,
    ) -> Result<(), Refusal> {
        let Some(doc) = self.vps_by_id(id)? else {
            return Ok(());
        };
        let found: Option<Doc<OperationDoc>> = self.deps().store.get_doc(&keys::operation(op))?;
        // The reaper's work has an id and no document.
        let (verb, by) = found.map_or_else(
            || ("harvest".to_owned(), BY_ITSELF.to_owned()),
            |found| (found.doc.request.verb().to_owned(), found.doc.by),
        );
        let entry = |what| HistoryDoc {
            schema: SCHEMA,
            vps: id,
            incarnation: doc.incarnation.clone(),
            unix_ms: self.deps().clock.unix_ms(),
            operation: op.clone(),
            verb,
            by,
            what,
        };
        let writes = self.remembered(&doc, |past| {
            copies(run, result, past).map(entry).into_iter().collect()
        })?;
        if !writes.is_empty() {
            self.commit(Txn {
                conditions: Vec::new(),
                writes,
            })?;
        }
        Ok(())
    }

    /// The writes that add to what is remembered of a VPS, and forget what is too much.
    fn remembered(
        &self,
        doc: &VpsDoc,
        new: impl FnOnce(&[HistoryDoc]) -> Vec<HistoryDoc>,
    ) -> Result<Vec<Write>, Refusal> {
        let ours = keys::history_of(doc);
        let listed = self.deps().store.list_docs::<HistoryDoc>(&ours)?;
        let (past_keys, past): (Vec<_>, Vec<_>) = listed
            .docs
            .into_iter()
            .map(|found| (found.key, found.doc))
            .unzip();
        let new = new(&past);
        let number = |key: &str| key.rsplit('/').next().and_then(|n| n.parse::<u64>().ok());
        let bad_keys: Vec<String> = listed.bad.into_iter().map(|bad| bad.key).collect();
        let all_keys = past_keys.iter().chain(&bad_keys);
        let mut next = all_keys.filter_map(|key| number(key)).max().unwrap_or(0);
        let mut writes = Vec::new();
        for entry in &new {
            next += 1;
            writes.push(Write::put_doc(format!("{ours}{next:012}"), entry)?);
        }
        if new.is_empty() {
            return Ok(writes);
        }
        let gone = forgotten(&past, &new)
            .into_iter()
            .map(|at| past_keys[at].clone());
        // What cannot be read does not add up for ever.
        let spare = bad_keys.len().saturating_sub(KEEP);
        let gone = gone.chain(bad_keys.into_iter().take(spare));
        writes.extend(gone.take(MOST).map(Write::Delete));
        Ok(writes)
    }
}

/// So much is forgotten in one transaction; there is hardly ever more than one.
const MOST: usize = 100;
