//! What can go wrong with the state, kept apart by what is to be done about it.

use std::error::Error;

use mayfly_core::error::{Code, Refusal};

use super::{LeaseId, Revision};

/// What a library said about a failure.
type Cause = Box<dyn Error + Send + Sync>;

/// Why the store did not do something. `place` is the file or the address of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a key, or not a prefix. A mistake of the caller.
    #[error("`{key}` is no key of the state: {why}")]
    BadKey {
        /// What was given, escaped.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A transaction that no store takes. A mistake of the caller.
    #[error("the transaction is not one: {why}")]
    BadTxn {
        /// What is wrong with it.
        why: String,
    },
    /// A document that does not parse, or that a newer program wrote.
    #[error("the document {key} cannot be used: {why}")]
    BadDocument {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// The history no longer reaches back that far.
    #[error("what changed up to revision {oldest} is not kept any more")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// A watch from a revision that there has never been: the state is an older one than the caller knew.
    #[error("there has been no revision {asked} yet; the state is at {current}")]
    NotReached {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The lease has ended, or never was.
    #[error("there is no lease {lease}")]
    LeaseNotFound {
        /// The lease.
        lease: LeaseId,
    },
    /// Another process has it.
    #[error("the state in {place} is in use by another process")]
    InUse {
        /// Where.
        place: String,
    },
    /// A newer program wrote it.
    #[error("the state in {place} has schema {found}; this program knows up to {known}")]
    Newer {
        /// Where.
        place: String,
        /// Its schema.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// It is something else than the state of a node.
    #[error("{place} is not the state of a node: {why}")]
    Foreign {
        /// Where.
        place: String,
        /// How that is known.
        why: &'static str,
    },
    /// It cannot be written.
    #[error("the state in {place} is read-only")]
    ReadOnly {
        /// Where.
        place: String,
        /// What was said.
        #[source]
        cause: Cause,
    },
    /// There is no room for it.
    #[error("there is no room for the state in {place}")]
    Full {
        /// Where.
        place: String,
        /// What was said.
        #[source]
        cause: Cause,
    },
    /// It is damaged.
    #[error("the state in {place} is damaged")]
    Corrupt {
        /// Where.
        place: String,
        /// What was said.
        #[source]
        cause: Cause,
    },
    /// The system did not carry out a read or a write.
    #[error("the state in {place} could not be read or written")]
    Io {
        /// Where.
        place: String,
        /// What was said.
        #[source]
        cause: Cause,
    },
}

impl StoreError {
    fn hint(&self) -> String {
        match self {
            Self::BadKey { .. } | Self::BadTxn { .. } | Self::LeaseNotFound { .. } => {
                "this is a mistake in Mayfly; the daemon's log has the details".to_owned()
            }
            Self::BadDocument { .. } => {
                "what it speaks of stays as it is; upgrade Mayfly where a newer one wrote it, else: mayfly fsck --repair".to_owned()
            }
            Self::Compacted { oldest } => format!(
                "see how things are now (mayfly list); changes from then on: mayfly events --since {oldest}"
            ),
            Self::NotReached { current, .. } => format!(
                "what comes from now on: mayfly events --since {current}; where the state was put back or rebuilt, see \
                 how things are now: mayfly list"
            ),
            Self::InUse { .. } => "stop the other daemon: systemctl stop mayfly".to_owned(),
            Self::Newer { place, found, .. } => format!(
                "install the Mayfly that wrote it (schema {found}), or put back what was saved before it: ls {place}.schema-*"
            ),
            Self::Foreign { .. } => {
                "nothing was changed; name the state directory of the node".to_owned()
            }
            Self::ReadOnly { place, .. } => {
                format!("make it writable, then try again: findmnt -T {place}")
            }
            Self::Full { place, .. } => format!("make room, then try again: df -h {place}"),
            Self::Corrupt { place, .. } => {
                format!("rebuild it from the pool: mayfly recover --dry-run; {place} is kept beside the new one")
            }
            Self::Io { place, .. } => {
                format!("look for disk errors (dmesg), then try again: ls -l {place}")
            }
        }
    }
}

impl From<StoreError> for Refusal {
    /// The causes go into the message: a refusal has no chain.
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::InUse { .. } => Code::NodeBusy,
            StoreError::Compacted { .. } => Code::EventsCompacted,
            StoreError::NotReached { .. } => Code::Invalid,
            _ => Code::StateFailed,
        };
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            message.push_str(": ");
            message.push_str(&next.to_string());
            cause = next.source();
        }
        Self::new(code, message, error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_whole_chain_once_and_what_to_do() {
        let error = StoreError::Full {
            place: "/var/lib/mayfly/state.db".to_owned(),
            cause: "database or disk is full".into(),
        };
        let refusal = Refusal::from(error);
        assert_eq!(refusal.code, Code::StateFailed);
        assert_eq!(
            refusal.message,
            "there is no room for the state in /var/lib/mayfly/state.db: database or disk is full"
        );
        assert_eq!(
            refusal.hint,
            "make room, then try again: df -h /var/lib/mayfly/state.db"
        );
    }

    #[test]
    fn who_asks_for_changes_that_are_not_there_is_told_from_where_on_there_are() {
        let lost = Refusal::from(StoreError::Compacted {
            oldest: Revision(7),
        });
        assert_eq!(lost.code, Code::EventsCompacted);
        assert!(lost.message.contains("up to revision 7") && lost.hint.ends_with("--since 7"));
        let early = Refusal::from(StoreError::NotReached {
            asked: Revision(9),
            current: Revision(8),
        });
        assert_eq!(early.code, Code::Invalid);
        assert!(early.message.contains("no revision 9") && early.hint.contains("--since 8"));
    }

    #[test]
    fn another_daemon_is_a_busy_node() {
        let refusal = Refusal::from(StoreError::InUse {
            place: "x".to_owned(),
        });
        assert_eq!(refusal.code, Code::NodeBusy);
    }
}
