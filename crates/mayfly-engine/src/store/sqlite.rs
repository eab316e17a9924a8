//! The store of one machine: a SQLite file, one connection, one process.
//!
//! A committed transaction is on the disk (write-ahead log, `synchronous=FULL`). The file is locked for as long as the
//! store is open, and the kernel lets go of the lock when the process dies. That lock is one of POSIX: a process that
//! has the store open must never open and close the file by other means (a copy, a checksum), which would drop it.
//!
//! Readers never write: what a lease held that has ended is left out of what they see, and is removed by the next
//! transaction or watch. So a full or read-only disk leaves the state readable.

mod open;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};

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

struct Inner {
    conn: Connection,
    /// Every lease of the file. When they end is known here alone.
    leases: BTreeMap<LeaseId, Lease>,
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
}

/// The store in a SQLite file.
pub struct SqliteStore {
    inner: Mutex<Inner>,
    changed: Condvar,
    clock: Monotonic,
    history: u64,
    place: String,
}

impl SqliteStore {
    /// Opens the store in that file (mode 0600), or makes it; its directory must be there. One of an older schema is
    /// brought up to date after a copy was saved beside it. Waits 2 s for another process to let go of it.
    pub fn open(path: &Path, clock: Monotonic) -> Result<Self, StoreError> {
        Self::open_with_history(path, clock, HISTORY)
    }

    /// As [`SqliteStore::open`], remembering that many revisions.
    pub fn open_with_history(
        path: &Path,
        clock: Monotonic,
        history: u64,
    ) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        let conn = open::open(path, open::SCHEMAS)?;
        let now = clock();
        let leases = leases(&conn, now).map_err(|cause| store_error(&place, cause))?;
        let inner = Mutex::new(Inner { conn, leases });
        Ok(Self {
            inner,
            changed: Condvar::new(),
            clock,
            history,
            place,
        })
    }

    /// Makes a store in a new file, with these documents at a revision of this or above, and closes it. When this returns
    /// the file is whole, alone, and on the disk. One that is there is refused.
    pub fn make(path: &Path, revision: Revision, writes: Vec<Write>) -> Result<(), StoreError> {
        let place = path.display().to_string();
        let exists = std::fs::symlink_metadata(path).is_ok();
        if exists {
            return Err(StoreError::Foreign {
                place,
                why: "there is a file already",
            });
        }
        let store = Self::open(path, std::sync::Arc::new(|| Duration::ZERO))?;
        {
            let inner = store.lock();
            let begin = "UPDATE store SET revision = ?1, compacted = ?1";
            inner
                .conn
                .execute(begin, [revision.0])
                .map_err(store.at())?;
        }
        for part in writes.chunks(64) {
            store.txn(Txn {
                conditions: Vec::new(),
                writes: part.to_vec(),
            })?;
        }
        {
            // Without a log beside it, so that it can be moved.
            let inner = store.lock();
            inner
                .conn
                .pragma_update(None, "journal_mode", "DELETE")
                .map_err(store.at())?;
        }
        drop(store);
        let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|cause| StoreError::Io {
            place,
            cause: Box::new(cause),
        })
    }

    /// A panic elsewhere leaves no half a change: the transaction was rolled back when it was dropped.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        |cause| store_error(&self.place, cause)
    }

    /// Removes what leases held that have ended.
    fn expire(&self, inner: &mut Inner) -> Result<(), StoreError> {
        let now = (self.clock)();
        let due = inner.leases.iter().filter(|(_, lease)| lease.ends <= now);
        for lease in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end_lease(inner, lease)?;
        }
        Ok(())
    }

    fn end_lease(&self, inner: &mut Inner, lease: LeaseId) -> Result<(), StoreError> {
        end_lease(&mut inner.conn, lease, self.history).map_err(self.at())?;
        inner.leases.remove(&lease);
        self.changed.notify_all();
        Ok(())
    }
}

impl Store for SqliteStore {
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        let inner = self.lock();
        let entry = entry(&inner.conn, key).map_err(self.at())?;
        let now = (self.clock)();
        Ok(entry.filter(|entry| inner.is_visible(entry, now)))
    }

    fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let (from, to) = check_prefix(prefix)?;
        let inner = self.lock();
        let revision = head(&inner.conn).map_err(self.at())?.revision;
        let mut entries = entries(&inner.conn, from, &to).map_err(self.at())?;
        let now = (self.clock)();
        entries.retain(|entry| inner.is_visible(entry, now));
        Ok(Snapshot { revision, entries })
    }

    fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        check_txn(&txn)?;
        let mut inner = self.lock();
        self.expire(&mut inner)?;
        if let Some(lease) = txn
            .writes
            .iter()
            .filter_map(Write::lease)
            .find(|id| !inner.leases.contains_key(id))
        {
            return Err(StoreError::LeaseNotFound { lease });
        }
        let outcome = commit(&mut inner.conn, &txn, self.history).map_err(self.at())?;
        self.changed.notify_all();
        Ok(outcome)
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        let inner = self.lock();
        let mut query = inner
            .conn
            .prepare("PRAGMA integrity_check(20)")
            .map_err(self.at())?;
        let rows = query
            .query_map([], |row| row.get::<_, String>(0))
            .map_err(self.at())?;
        let mut told = rows
            .collect::<rusqlite::Result<Vec<_>>>()
            .map_err(self.at())?;
        told.retain(|line| line != "ok");
        Ok(told)
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
            self.expire(&mut inner)?;
            let head = head(&inner.conn).map_err(self.at())?;
            if after > head.revision {
                return Err(StoreError::NotReached {
                    asked: after,
                    current: head.revision,
                });
            }
            if after < head.compacted {
                return Err(StoreError::Compacted {
                    oldest: head.compacted,
                });
            }
            let (changes, up_to) = if after == head.revision {
                (Vec::new(), None)
            } else {
                changes(&inner.conn, after, from, &to).map_err(self.at())?
            };
            let left = timeout.saturating_sub(begun.elapsed());
            if !changes.is_empty() || left.is_zero() {
                return Ok(Watched {
                    revision: up_to.unwrap_or(head.revision),
                    changes,
                });
            }
            after = head.revision;
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
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        inner
            .conn
            .execute("INSERT INTO leases (ttl_ms) VALUES (?1)", [ttl_ms])
            .map_err(self.at())?;
        let id = LeaseId(inner.conn.last_insert_rowid().unsigned_abs());
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
        self.expire(&mut inner)?;
        if !inner.leases.contains_key(&lease) {
            return Err(StoreError::LeaseNotFound { lease });
        }
        self.end_lease(&mut inner, lease)
    }
}

/// Where the history begins and ends.
struct Head {
    revision: Revision,
    compacted: Revision,
}

fn head(conn: &Connection) -> rusqlite::Result<Head> {
    let mut query = conn.prepare_cached("SELECT revision, compacted FROM store")?;
    query.query_row([], |row| {
        Ok(Head {
            revision: Revision(row.get(0)?),
            compacted: Revision(row.get(1)?),
        })
    })
}

fn leases(conn: &Connection, now: Duration) -> rusqlite::Result<BTreeMap<LeaseId, Lease>> {
    let mut query = conn.prepare("SELECT id, ttl_ms FROM leases")?;
    let rows = query.query_map([], |row| {
        let ttl = Duration::from_millis(row.get(1)?);
        Ok((
            LeaseId(row.get(0)?),
            Lease {
                ttl,
                ends: now.saturating_add(ttl),
            },
        ))
    })?;
    rows.collect()
}

fn entry_of(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        value: row.get(1)?,
        create_revision: Revision(row.get(2)?),
        mod_revision: Revision(row.get(3)?),
        lease: row.get::<_, Option<u64>>(4)?.map(LeaseId),
    })
}

fn entry(conn: &Connection, key: &str) -> rusqlite::Result<Option<Entry>> {
    let mut query = conn.prepare_cached(
        "SELECT key, value, create_revision, mod_revision, lease FROM entries WHERE key = ?1",
    )?;
    query.query_row([key], entry_of).optional()
}

fn entries(conn: &Connection, from: &str, to: &str) -> rusqlite::Result<Vec<Entry>> {
    let mut query = conn.prepare_cached(
        "SELECT key, value, create_revision, mod_revision, lease FROM entries
         WHERE key >= ?1 AND key < ?2 ORDER BY key",
    )?;
    query.query_map([from, to], entry_of)?.collect()
}

fn changes(
    conn: &Connection,
    after: Revision,
    from: &str,
    to: &str,
) -> rusqlite::Result<(Vec<Change>, Option<Revision>)> {
    let mut query = conn.prepare_cached(
        "SELECT revision, key, value FROM history
         WHERE revision > ?1 AND key >= ?2 AND key < ?3 ORDER BY revision, id",
    )?;
    let rows = query.query_map(params![after.0, from, to], |row| {
        Ok(Change {
            revision: Revision(row.get(0)?),
            key: row.get(1)?,
            value: row.get(2)?,
        })
    })?;
    first_of(rows)
}

/// Carries a transaction out. What is dropped before its commit is rolled back.
fn commit(conn: &mut Connection, txn: &Txn, history: u64) -> rusqlite::Result<TxnOutcome> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for condition in &txn.conditions {
        let seen = tx
            .prepare_cached("SELECT mod_revision FROM entries WHERE key = ?1")?
            .query_row([condition.key()], |row| row.get(0).map(Revision))
            .optional()?;
        if !condition.holds(seen) {
            return Ok(TxnOutcome::Conflict {
                key: condition.key().to_owned(),
            });
        }
    }
    let before = head(&tx)?.revision;
    let next = Revision(before.0 + 1);
    let mut changed = false;
    for write in &txn.writes {
        changed |= match write.value() {
            Some(value) => put(&tx, next, write.key(), value, write.lease())?,
            None => delete(&tx, next, write.key())?,
        };
    }
    if !changed {
        return Ok(TxnOutcome::Committed(before));
    }
    advance(&tx, next, history)?;
    tx.commit()?;
    Ok(TxnOutcome::Committed(next))
}

fn end_lease(conn: &mut Connection, lease: LeaseId, history: u64) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let next = Revision(head(&tx)?.revision.0 + 1);
    let held = tx
        .prepare_cached("SELECT key FROM entries WHERE lease = ?1 ORDER BY key")?
        .query_map([lease.0], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<String>>>()?;
    for key in &held {
        delete(&tx, next, key)?;
    }
    if !held.is_empty() {
        advance(&tx, next, history)?;
    }
    tx.execute("DELETE FROM leases WHERE id = ?1", [lease.0])?;
    tx.commit()
}

fn put(
    tx: &Transaction<'_>,
    revision: Revision,
    key: &str,
    value: &str,
    lease: Option<LeaseId>,
) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "INSERT INTO entries (key, value, create_revision, mod_revision, lease)
         VALUES (?1, ?2, ?3, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET
             value = excluded.value, mod_revision = excluded.mod_revision, lease = excluded.lease",
    )?
    .execute(params![key, value, revision.0, lease.map(|lease| lease.0)])?;
    record(tx, revision, key, Some(value))?;
    Ok(true)
}

fn delete(tx: &Transaction<'_>, revision: Revision, key: &str) -> rusqlite::Result<bool> {
    let removed = tx
        .prepare_cached("DELETE FROM entries WHERE key = ?1")?
        .execute([key])?;
    if removed > 0 {
        record(tx, revision, key, None)?;
    }
    Ok(removed > 0)
}

fn record(
    tx: &Transaction<'_>,
    revision: Revision,
    key: &str,
    value: Option<&str>,
) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO history (revision, key, value) VALUES (?1, ?2, ?3)")?
        .execute(params![revision.0, key, value])?;
    Ok(())
}

/// Makes `revision` the store's, and forgets what is older than the history.
fn advance(tx: &Transaction<'_>, revision: Revision, history: u64) -> rusqlite::Result<()> {
    let compacted = head(tx)?
        .compacted
        .0
        .max(revision.0.saturating_sub(history));
    tx.prepare_cached("UPDATE store SET revision = ?1, compacted = ?2")?
        .execute([revision.0, compacted])?;
    tx.prepare_cached("DELETE FROM history WHERE revision <= ?1")?
        .execute([compacted])?;
    Ok(())
}

/// The one place where failures of SQLite are told apart.
fn store_error(place: &str, error: rusqlite::Error) -> StoreError {
    use rusqlite::Error;
    let code = error.sqlite_error_code();
    // A row that is not of the shape that this program writes.
    let misshapen = matches!(
        error,
        Error::QueryReturnedNoRows
            | Error::InvalidColumnType(..)
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
    );
    let place = place.to_owned();
    // SQLite's own words say what the code says, which the library would add once more as the cause.
    let cause = match error {
        Error::SqliteFailure(code, words) => {
            let words = words.unwrap_or_else(|| code.to_string());
            format!("{words} (SQLite {})", code.extended_code).into()
        }
        other => other.into(),
    };
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::InUse { place },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { place, cause },
        Some(ErrorCode::DiskFull) => StoreError::Full { place, cause },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { place, cause }
        }
        _ if misshapen => StoreError::Corrupt { place, cause },
        _ => StoreError::Io { place, cause },
    }
}

#[cfg(test)]
mod tests;
