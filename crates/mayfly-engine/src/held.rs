//! The state that is older than the pool.
//!
//! Whoever puts an old copy of the state database back gives the daemon a past in which it believes. What would it do?
//!
//! - The reaper would destroy the last root of a VPS, and a template, that came to be after the copy: no document of the
//!   copy speaks of them, and their marks prove that they are ours.
//! - An operation that the copy has in the middle of its journal would go on, although it came to its end long ago. Its
//!   undo could take away what a create had made and a guest has filled since, with every proof that it needs.
//! - A run that the copy knows and that is over would be settled: what is alive of the VPS would be swept, and that is the
//!   run that the copy does not know. Then it would start the VPS on another root, or one that was stopped meanwhile.
//! - A new VPS would get the number, or the host ids, of one that the copy does not know: two VPSes with one range of ids
//!   can read each other's files wherever one of them breaks out.
//! - Documents would be written on top of the copy's, and their mirrors, the only witnesses of what is lost, replaced.
//!
//! Persistent data that no document speaks of is left alone in any case, and so is a root on which something is alive. That
//! is not enough. So the pool bears a *generation*: the revision of the last transaction of the state, raised after each
//! commit and in the order of the pool's own changes. The database commits first, so it is never behind the generation,
//! whatever dies when. A database that is behind is an old copy, or lost what it had said was on the disk.
//!
//! A pool that was itself put back to an earlier time, or lost its last seconds with the power, has a generation below the
//! database: that is the ordinary case, and the database knows all that such a pool holds. A copy whose revision is the
//! pool's generation or higher knows all that the pool had been told when it was last written, so it is no danger either.
//!
//! While the state is behind, or it cannot be told whether it is, the daemon *holds*: it tells what it sees and changes
//! nothing, neither on the host nor in the state nor in the mirrors. VPSes run on; consoles and `exec` work. `mayfly recover`
//! rebuilds the state from the mirrors and the marks, with a revision above the generation.
//!
//! A rebuilt state does not know everything either: temporary roots that no mirror speaks of, templates without one. They
//! are *spared*: a document names them, and the reaper leaves them alone until an operator lets go of them with
//! `mayfly fsck --repair`.

use std::collections::BTreeSet;

use mayfly_core::documents::SparedDoc;
use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::PoolPath;

use crate::engine::Engine;
use crate::keys;
use crate::store::{Txn, TxnOutcome, TypedStore};

/// Whether a state of this revision may be trusted over a pool of this generation.
pub fn refuse_older(revision: u64, generation: Option<u64>) -> Option<Refusal> {
    let generation = generation.filter(|generation| *generation > revision)?;
    Some(Refusal::new(
        Code::StateBehind,
        format!(
            "the state database is at revision {revision} and the pool at {generation}: an older copy of it was put back, \
             or it lost what was written to it; nothing is changed or destroyed until that is settled"
        ),
        RECOVER,
    ))
}

const RECOVER: &str = "stop the daemon and rebuild the state from the pool: mayfly recover --dry-run, then mayfly recover";

impl Engine {
    /// Compares the state with the pool, and brings what the pool knows of it up to date. Answers with the reason where
    /// nothing may be changed.
    pub(crate) fn settle_generation(&self) -> Result<Option<Refusal>, Refusal> {
        let held = self.compare_generation()?;
        if held.is_none() {
            let revision = self.state_revision()?;
            if self.deps().storage.generation()? < Some(revision) {
                self.raise_generation(revision);
            }
            self.adopt_mirrors();
        }
        Ok(held)
    }

    pub(crate) fn state_revision(&self) -> Result<u64, Refusal> {
        Ok(self.deps().store.range(keys::VPSES)?.revision.0)
    }

    /// Compares the state with the pool, and holds where it is behind.
    pub(crate) fn compare_generation(&self) -> Result<Option<Refusal>, Refusal> {
        let revision = self.state_revision()?;
        let held = match self.deps().storage.generation() {
            Ok(generation) => refuse_older(revision, generation),
            Err(failed) => Some(Refusal::new(
                Code::StateBehind,
                format!(
                    "{failed}: it cannot be told whether the state database is older than the pool"
                ),
                RECOVER,
            )),
        };
        *self.inner.held.lock().expect("no thread panics with it") = held.clone();
        Ok(held)
    }

    /// Why nothing is changed, where that is so.
    pub fn held(&self) -> Option<Refusal> {
        self.inner
            .held
            .lock()
            .expect("no thread panics with it")
            .clone()
    }

    pub(crate) fn refuse_if_held(&self) -> Result<(), Refusal> {
        self.held().map_or(Ok(()), Err)
    }

    /// Every change of the state goes through here: the pool learns of it after the commit.
    pub(crate) fn commit(&self, txn: Txn) -> Result<TxnOutcome, Refusal> {
        self.refuse_if_held()?;
        let outcome = self.deps().store.txn(txn)?;
        if let TxnOutcome::Committed(revision) = outcome {
            self.raise_generation(revision.0);
            self.wake_mirrors();
        }
        Ok(outcome)
    }

    /// What the reaper leaves alone because a rebuilt state does not know it.
    pub(crate) fn spared(&self) -> Result<BTreeSet<PoolPath>, Refusal> {
        let found = self.deps().store.get_doc::<SparedDoc>(keys::SPARED)?;
        Ok(found.map(|found| found.doc.datasets).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_state_behind_the_pool_is_not_trusted() {
        assert_eq!(refuse_older(0, None), None);
        assert_eq!(refuse_older(7, Some(7)), None);
        assert_eq!(refuse_older(8, Some(7)), None);
        let refusal = refuse_older(6, Some(7)).unwrap();
        assert_eq!(refusal.code, Code::StateBehind);
        assert!(refusal.message.contains("revision 6 and the pool at 7"));
        assert!(refusal.hint.contains("mayfly recover"));
    }
}
