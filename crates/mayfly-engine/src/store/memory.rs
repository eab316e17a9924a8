//! A store in memory, with the semantics of the others: for tests and for the fake host. What is kept here outlives an
//! engine that a test ends, as long as the test holds the store.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bound::first_of;
use super::check::{check_key, check_prefix, check_txn};
use super::{
    Change, Entry, HISTORY, LeaseId, Monotonic, Revision, Snapshot, Store, StoreError, Txn,
    TxnOutcome, Watched, Write,
};

struct Lease {
    ttl: Duration,
    ends: Duration,
}

#[derive(Default)]
struct Inner {
    revision: u64,
    entries: BTreeMap<String, Entry>,
    changes: VecDeque<Change>,
    /// Changes of this revision and of older ones are forgotten.
    compacted: u64,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
}

impl Inner {
    fn is_alive(&self, lease: LeaseId, now: Duration) -> bool {
        self.leases
            .get(&lease)
            .is_some_and(|lease| now < lease.ends)
    }

    fn is_visible(&self, entry: &Entry, now: Duration) -> bool {
        entry.lease.is_none_or(|lease| self.is_alive(lease, now))
    }

    /// Carries out writes whose conditions hold.
    fn apply(&mut self, writes: Vec<Write>, history: u64) {
        let next = Revision(self.revision + 1);
        let before = self.changes.len();
        for write in writes {
            let lease = write.lease();
            match write {
                Write::Delete(key) => {
                    if self.entries.remove(&key).is_some() {
                        self.changes.push_back(Change {
                            revision: next,
                            key,
                            value: None,
                        });
                    }
                }
                Write::Put(key, value) | Write::PutLeased(key, value, _) => {
                    let create_revision = self
                        .entries
                        .get(&key)
                        .map_or(next, |entry| entry.create_revision);
                    let entry = Entry {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision,
                        mod_revision: next,
                        lease,
                    };
                    self.entries.insert(key.clone(), entry);
                    self.changes.push_back(Change {
                        revision: next,
                        key,
                        value: Some(value),
                    });
                }
            }
        }
        if self.changes.len() == before {
            return;
        }
        self.revision = next.0;
        self.compacted = self.compacted.max(self.revision.saturating_sub(history));
        while self
            .changes
            .front()
            .is_some_and(|change| change.revision.0 <= self.compacted)
        {
            self.changes.pop_front();
        }
    }

    fn end_lease(&mut self, lease: LeaseId, history: u64) {
        let held = self
            .entries
            .values()
            .filter(|entry| entry.lease == Some(lease));
        let deletes = held.map(|entry| Write::Delete(entry.key.clone())).collect();
        self.apply(deletes, history);
        self.leases.remove(&lease);
    }
}

/// The store in memory.
pub struct MemoryStore {
    inner: Mutex<Inner>,
    changed: Condvar,
    clock: Monotonic,
    history: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(clock: Monotonic) -> Self {
        Self::with_history(clock, HISTORY)
    }

    /// An empty store that remembers that many revisions.
    pub fn with_history(clock: Monotonic, history: u64) -> Self {
        Self {
            inner: Mutex::default(),
            changed: Condvar::new(),
            clock,
            history,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what leases held that have ended.
    fn expire(&self, inner: &mut Inner) {
        let now = (self.clock)();
        let due = inner.leases.iter().filter(|(_, lease)| lease.ends <= now);
        for lease in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            inner.end_lease(lease, self.history);
            self.changed.notify_all();
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let inner = self.lock();
        let now = (self.clock)();
        let entry = inner
            .entries
            .get(key)
            .filter(|entry| inner.is_visible(entry, now));
        Ok(entry.cloned())
    }

    fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let (from, to) = check_prefix(prefix)?;
        let inner = self.lock();
        let now = (self.clock)();
        let bounds = (Bound::Included(from), Bound::Excluded(to.as_str()));
        let below = inner
            .entries
            .range::<str, _>(bounds)
            .map(|(_, entry)| entry);
        let entries = below
            .filter(|entry| inner.is_visible(entry, now))
            .cloned()
            .collect();
        Ok(Snapshot {
            revision: Revision(inner.revision),
            entries,
        })
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        check_txn(&txn)?;
        let mut inner = self.lock();
        self.expire(&mut inner);
        if let Some(lease) = txn
            .writes
            .iter()
            .filter_map(Write::lease)
            .find(|id| !inner.leases.contains_key(id))
        {
            return Err(StoreError::LeaseNotFound { lease });
        }
        for condition in &txn.conditions {
            let seen = inner
                .entries
                .get(condition.key())
                .map(|entry| entry.mod_revision);
            if !condition.holds(seen) {
                return Ok(TxnOutcome::Conflict {
                    key: condition.key().to_owned(),
                });
            }
        }
        inner.apply(txn.writes, self.history);
        self.changed.notify_all();
        Ok(TxnOutcome::Committed(Revision(inner.revision)))
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Watched, StoreError> {
        let (from, to) = check_prefix(prefix)?;
        let begun = Instant::now();
        let mut after = after;
        let mut inner = self.lock();
        loop {
            self.expire(&mut inner);
            let revision = Revision(inner.revision);
            if after > revision {
                return Err(StoreError::NotReached {
                    asked: after,
                    current: revision,
                });
            }
            if after.0 < inner.compacted {
                return Err(StoreError::Compacted {
                    oldest: Revision(inner.compacted),
                });
            }
            let first = inner
                .changes
                .partition_point(|change| change.revision <= after);
            let below = |change: &&Change| *from <= *change.key && *change.key < *to;
            let changes = inner.changes.range(first..).filter(below).cloned();
            let Ok((changes, up_to)) = first_of(changes.map(Ok::<_, Infallible>));
            let left = timeout.saturating_sub(begun.elapsed());
            if !changes.is_empty() || left.is_zero() {
                return Ok(Watched {
                    revision: up_to.unwrap_or(revision),
                    changes,
                });
            }
            after = revision;
            let now = (self.clock)();
            let next_end = inner
                .leases
                .values()
                .map(|lease| lease.ends.saturating_sub(now))
                .min();
            let wait = next_end.map_or(left, |end| left.min(end));
            (inner, _) = self
                .changed
                .wait_timeout(inner, wait)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut inner = self.lock();
        inner.last_lease += 1;
        let id = LeaseId(inner.last_lease);
        let ends = (self.clock)().saturating_add(ttl);
        inner.leases.insert(id, Lease { ttl, ends });
        // A watcher that waits must learn of an end that comes before the one it knew.
        self.changed.notify_all();
        Ok(id)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut inner = self.lock();
        let now = (self.clock)();
        if !inner.is_alive(lease, now) {
            return Err(StoreError::LeaseNotFound { lease });
        }
        if let Some(held) = inner.leases.get_mut(&lease) {
            held.ends = now.saturating_add(held.ttl);
        }
        Ok(())
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut inner = self.lock();
        self.expire(&mut inner);
        if !inner.leases.contains_key(&lease) {
            return Err(StoreError::LeaseNotFound { lease });
        }
        inner.end_lease(lease, self.history);
        self.changed.notify_all();
        Ok(())
    }
}
