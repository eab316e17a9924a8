//! The state store: JSON documents under keys, with revisions.
//!
//! A key is `/`-separated text (`/vps/11327`), a value is the text of one JSON document. The store has one revision,
//! which every transaction that changes something raises by one; each key knows the revision in which it was made and
//! the one in which it last changed. The whole engine stands on five things: read, list, compare-and-set, watch, lease.
//!
//! [`SqliteStore`] keeps them in one file of one machine, [`MemoryStore`] in memory for tests; the semantics are those
//! that etcd can give too. One contract suite runs on all of them.
//!
//! It must never know what a document means: [`TypedStore`] is the only place where one is parsed.

mod bound;
mod check;
#[cfg(test)]
mod contract;
mod error;
mod memory;
mod sqlite;
mod typed;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use self::error::StoreError;
pub use self::memory::MemoryStore;
pub use self::sqlite::SqliteStore;
pub use self::typed::{BadDoc, Doc, Docs, TypedStore};

/// How many revisions a store remembers for [`Store::watch`], unless it was told otherwise.
pub const HISTORY: u64 = 10_000;

/// The time since some fixed moment; it never goes back. Leases are measured by it.
pub type Monotonic = Arc<dyn Fn() -> Duration + Send + Sync>;

/// A state of the store. The first transaction makes revision 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A lease. Its number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The JSON text.
    pub value: String,
    /// When the key came to be; a key that was deleted and put again has a new one.
    pub create_revision: Revision,
    /// When it was last put.
    pub mod_revision: Revision,
    /// With which lease it goes away.
    pub lease: Option<LeaseId>,
}

/// All keys below a prefix at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision at that moment. A watch from here on misses nothing and repeats nothing.
    pub revision: Revision,
    /// The entries, sorted by the bytes of their keys.
    pub entries: Vec<Entry>,
}

/// What must be so for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent(String),
    /// The key is there and was last put in that revision.
    AtRevision(String, Revision),
    /// The key is there.
    Exists(String),
}

impl Condition {
    /// The key that it looks at.
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::AtRevision(key, _) | Self::Exists(key) => key,
        }
    }

    /// Whether it holds, given the revision in which the key was last put.
    fn holds(&self, seen: Option<Revision>) -> bool {
        match self {
            Self::Absent(_) => seen.is_none(),
            Self::AtRevision(_, wanted) => seen == Some(*wanted),
            Self::Exists(_) => seen.is_some(),
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key to a JSON text; a lease that it had no longer holds it.
    Put(String, String),
    /// Sets a key to a JSON text until the lease ends.
    PutLeased(String, String, LeaseId),
    /// Removes a key. One that is not there is no change.
    Delete(String),
}

impl Write {
    /// The key that it changes.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::PutLeased(key, _, _) | Self::Delete(key) => key,
        }
    }

    /// The new value; none for a delete.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Put(_, value) | Self::PutLeased(_, value, _) => Some(value),
            Self::Delete(_) => None,
        }
    }

    /// The lease that it needs.
    fn lease(&self) -> Option<LeaseId> {
        match self {
            Self::PutLeased(_, _, lease) => Some(*lease),
            Self::Put(..) | Self::Delete(_) => None,
        }
    }
}

/// Changes that are carried out together, or not at all where a condition does not hold. It writes no key twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must be so.
    pub conditions: Vec<Condition>,
    /// What is to be changed.
    pub writes: Vec<Write>,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// It was carried out and is durable. The revision is the new one, or the old one where nothing had to change.
    Committed(Revision),
    /// Nothing was changed: the condition on this key, the first such in order, does not hold.
    Conflict {
        /// The key.
        key: String,
    },
}

/// One key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// In which revision. All changes of one transaction share it.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The value since then; none where it was removed.
    pub value: Option<String>,
}

/// What a watch saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Every change up to here was looked at: the next watch goes on after it. It moves on, too, while nothing below
    /// the prefix changes; who kept to the revision of the last change would fall out of the history. It stays behind
    /// the store's where there was more than is given at once.
    pub revision: Revision,
    /// The changes, in the order in which they were made; a transaction is never cut in two.
    pub changes: Vec<Change>,
}

/// Where documents are kept. Every call is atomic and may be made from any thread.
///
/// Prefixes begin and end with `/` and take whole segments: `/vps/1/` covers `/vps/1/run`, but neither `/vps/1` nor
/// `/vps/11`; `/` covers everything.
pub trait Store: Send + Sync {
    /// The entry under a key; `None` when it is certain that there is none.
    fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// All entries below a prefix, at one moment.
    fn range(&self, prefix: &str) -> Result<Snapshot, StoreError>;

    /// Carries a transaction out. [`TxnOutcome::Committed`] means durable. After [`StoreError::Io`] it is not known
    /// whether the transaction stands: read again. After any other error it does not.
    fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Looks the whole store over; answers with what is wrong with it, in words.
    fn check(&self) -> Result<Vec<String>, StoreError>;

    /// Waits up to `timeout` for changes below a prefix that were made after a revision; none when there were none. No
    /// more are given at once than have about 64 KiB of values, and one transaction at least.
    /// [`StoreError::Compacted`] means that changes may have been missed: list again and watch from that snapshot.
    fn watch(
        &self,
        prefix: &str,
        after: Revision,
        timeout: Duration,
    ) -> Result<Watched, StoreError>;

    /// Makes a lease that ends after `ttl` without [`Store::keep_alive`]. Its keys are then gone for every reader, and
    /// removed with a change by the next transaction or watch. A store that is opened again gives every lease its
    /// whole time anew.
    fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Gives a lease its whole time anew. One that has ended is [`StoreError::LeaseNotFound`].
    fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease now and removes its keys, in one revision.
    fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}
