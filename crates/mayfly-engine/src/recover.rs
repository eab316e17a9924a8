//! What the engine does when it starts: it looks at the host, finishes what was begun, and settles what has happened
//! meanwhile. It trusts what it sees over what was written.

use std::sync::atomic::Ordering;

use mayfly_core::documents::{OperationDoc, VpsDoc};
use mayfly_core::error::Refusal;
use mayfly_core::ids::{OperationId, RunId, VpsId};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::Evidence;
use mayfly_core::plan::{Step, comes_back, should_start};
use mayfly_core::run::{RunEnd, RunPhase};

use crate::autostart::BootQueue;
use crate::engine::Engine;
use crate::keys;
use crate::lanes::Lane;
use crate::store::{BadDoc, Txn, TypedStore, Write};

/// So many operations that are over are remembered.
const KEEP_OPERATIONS: usize = 1000;

/// So many of what is forgotten are one transaction, which is synced.
const PRUNED_AT_ONCE: usize = 100;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Operations that go on.
    pub resumed: Vec<OperationId>,
    /// Runs that are alive.
    pub alive: usize,
    /// Runs that were over.
    pub ended: usize,
    /// What is left alone, and why.
    pub reports: Vec<String>,
}

impl Engine {
    /// Looks at the host and puts into the lanes what has to be done. Nothing is carried out yet.
    pub fn recover(&self) -> Result<Recovered, Refusal> {
        if let Some(held) = self.settle_generation()? {
            // Nothing is cleared away, gone on with, settled or started: see `held`.
            let mut reports = vec![format!("{}: {}", held.message, held.hint)];
            reports.extend(self.pool()?.reports);
            return Ok(Recovered {
                reports,
                ..Recovered::default()
            });
        }
        let mut out = Recovered {
            reports: self.deps().storage.clear_staging()?,
            ..Recovered::default()
        };
        out.reports.extend(self.give_addresses()?);
        let listed = self
            .deps()
            .store
            .list_docs::<OperationDoc>(keys::OPERATIONS)?;
        self.inner
            .unknown_work
            .store(!listed.bad.is_empty(), Ordering::SeqCst);
        out.reports.extend(listed.bad.iter().map(BadDoc::told));
        let mut operations: Vec<_> = listed.docs.into_iter().map(|found| found.doc).collect();
        operations.retain(|op| !op.state.is_over());
        // Ids of one millisecond are in no order, and the clock may have been set back: what was begun of a lane goes on
        // before what has no plan yet, or its plan would be one for a VPS of the past.
        operations.sort_by_key(|op| op.plan.is_none());
        for op in operations {
            out.resumed.push(op.id.clone());
            self.enqueue(Lane::of(op.vps), op.id);
        }
        self.prune_operations()?;
        let vpses = self.vpses()?;
        let busy = self.inner.lanes.busy();
        let is_idle = |doc: &&VpsDoc| doc.run.is_none() && !busy.vpses.contains(&doc.id);
        let idle: Vec<VpsDoc> = vpses.iter().filter(is_idle).cloned().collect();
        let mut boot = BootQueue::default();
        for doc in self.note_boot(&idle)? {
            boot.add(&doc);
        }
        for doc in &vpses {
            // What goes on first may start the very run that looks dead now: the end is judged again in its turn.
            if doc.run.is_some() || !busy.vpses.contains(&doc.id) {
                // One VPS that cannot be looked at keeps no other from its due.
                if let Err(why) = self.recover_vps(doc, &mut boot, &mut out) {
                    out.reports.push(format!("VPS {}: {why}", doc.title()));
                }
            }
        }
        self.begin_boot(boot)?;
        for id in self.deps().runtime.vpses_with_evidence()? {
            if !vpses.iter().any(|v| v.id == id) {
                out.reports.push(format!(
                    "VPS {id}: something of it is alive or lies about, and there is no record of it"
                ));
            }
        }
        out.reports.extend(self.pool()?.reports);
        self.wake_reaper();
        Ok(out)
    }

    pub(crate) fn recover_vps(
        &self,
        doc: &VpsDoc,
        boot: &mut BootQueue,
        out: &mut Recovered,
    ) -> Result<(), Refusal> {
        let Some(run) = &doc.run else {
            if should_start(doc) {
                boot.add(doc);
            }
            return Ok(());
        };
        if self.is_going_on(doc.id, &run.run)? {
            self.deps().runtime.watch(doc.id, &run.run)?;
            out.alive += 1;
            return Ok(());
        }
        let written = self
            .deps()
            .runtime
            .state(doc.id, &run.run)?
            .and_then(|s| s.end);
        let end = match written {
            Some(end) => end,
            None if run.boot_id != self.deps().clock.boot_id() => RunEnd::HostDown,
            None => RunEnd::Crashed {
                detail: "its supervisor was gone when the daemon started".into(),
            },
        };
        if end == RunEnd::HostDown && comes_back(doc) {
            boot.add(doc);
        }
        self.submit_run_ended(doc.id, run.run.clone(), end)?;
        out.ended += 1;
        Ok(())
    }

    /// Whether a run has a supervisor that has not come to its end.
    pub(crate) fn is_going_on(&self, vps: VpsId, run: &RunId) -> Result<bool, Refusal> {
        let signs = self.deps().runtime.evidence(vps)?;
        if !signs
            .iter()
            .any(|sign| matches!(sign, Evidence::Supervisor { run: of, .. } if of == run))
        {
            return Ok(false);
        }
        let state = self.deps().runtime.state(vps, run)?;
        Ok(state.is_none_or(|state| state.phase != RunPhase::Ended))
    }

    pub(crate) fn prune_operations(&self) -> Result<(), Refusal> {
        let mut over = self
            .deps()
            .store
            .list_docs::<OperationDoc>(keys::OPERATIONS)?
            .docs;
        over.retain(|op| op.doc.state.is_over());
        // By the store's own order: ids begin with the time of a clock that may have been set back.
        over.sort_by_key(|op| op.create_revision);
        let surplus = over.len().saturating_sub(KEEP_OPERATIONS);
        // Few at a time: who wants to write meanwhile waits for one of them.
        for some in over[..surplus].chunks(PRUNED_AT_ONCE) {
            let writes = some.iter().map(|op| Write::Delete(op.key.clone()));
            self.commit(Txn {
                conditions: Vec::new(),
                writes: writes.collect(),
            })?;
        }
        Ok(())
    }

    /// Moves one leftover to the graveyard; answers with its grave.
    pub(crate) fn bury_leftover(
        &self,
        step: &Step,
        id: &OperationId,
    ) -> Result<Option<PoolPath>, Refusal> {
        match step {
            Step::BuryTemplate { dataset, grave } => {
                self.bury_template_leftover(dataset, grave, id)?
            }
            _ => self.perform(step, id)?,
        };
        match step {
            Step::BuryRoot { grave, .. }
            | Step::BuryData { grave, .. }
            | Step::BuryTemplate { grave, .. } => Ok(Some(grave.clone())),
            _ => Ok(None),
        }
    }
}
