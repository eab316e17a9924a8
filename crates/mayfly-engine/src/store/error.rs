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
    #[error("changes are kept only from after revision {oldest}")]
    Compacted {
        /// The oldest revision that can be watched from.
        oldest: Revision,
    },
    /// A watch from a revision that there has never been: the state is an older one than the caller knew.
    #[error("revision {asked} was never reached; the state is at {current}")]
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
            Self::Compacted { .. } | Self::NotReached { .. } => {
                "list again and watch from that list's revision".to_owned()
            }
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
    fn another_daemon_is_a_busy_node() {
        let refusal = Refusal::from(StoreError::InUse {
            place: "x".to_owned(),
        });
        assert_eq!(refusal.code, Code::NodeBusy);
    }
}
