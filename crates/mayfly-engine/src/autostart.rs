//! What is started when a daemon starts, in order and not all at once.
//!
//! Higher priorities come first, then lower numbers. So many starts are under way at the same time as the machine has
//! processors, and one of a lower priority begins when all of a higher one are over: their init was reached, or they
//! have failed. An operator who stops a VPS that still waits takes it out.
//!
//! The queue is in memory. What it holds is in the documents as well ("it ought to run"), so a daemon that dies leaves
//! the rest to the next.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::documents::{AutostartWhen, BY_ITSELF, SCHEMA, VpsDoc};
use mayfly_core::error::Refusal;
use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::plan::should_start;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::intent::Intent;
use crate::keys;
use crate::store::{Txn, TypedStore, Write};

/// The boot of the host that a daemon of this node has seen.
#[derive(Debug, Serialize, Deserialize)]
struct BootDoc {
    schema: u32,
    boot_id: String,
}

/// Starts that wait, and those that are under way.
#[derive(Debug, Default)]
pub(crate) struct BootQueue {
    /// By what comes first: the priority turned round, and the number.
    waiting: BTreeSet<(i32, VpsId)>,
    under_way: BTreeMap<VpsId, (OperationId, i32)>,
}

impl BootQueue {
    pub(crate) fn add(&mut self, doc: &VpsDoc) {
        self.waiting
            .insert((-i32::from(doc.autostart.priority), doc.id));
    }

    fn has(&self, vps: VpsId) -> bool {
        self.under_way.contains_key(&vps) || self.waiting.iter().any(|(_, id)| *id == vps)
    }

    /// The next one, where there is room for it and nothing of a higher priority is under way.
    fn take(&mut self, most: usize) -> Option<(i32, VpsId)> {
        let next = self.waiting.first()?;
        let lower = self.under_way.values().any(|(_, order)| *order < next.0);
        if lower || self.under_way.len() >= most {
            return None;
        }
        self.waiting.pop_first()
    }
}

/// So many starts at the same time.
fn most_at_once() -> usize {
    std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 16)
}

impl Engine {
    /// Notes that the host was booted since a daemon last looked; answers with the stopped VPSes that are started for
    /// it. `idle` are those without a run and without an operation.
    pub(crate) fn note_boot(&self, idle: &[VpsDoc]) -> Result<Vec<VpsDoc>, Refusal> {
        let boot_id = self.deps().clock.boot_id();
        let seen = self.deps().store.get_doc::<BootDoc>(keys::BOOT)?;
        if seen.is_some_and(|found| found.doc.boot_id == boot_id) {
            return Ok(Vec::new());
        }
        let mut called: Vec<VpsDoc> = idle
            .iter()
            .filter(|doc| doc.autostart.when == AutostartWhen::On)
            .cloned()
            .collect();
        let boot = BootDoc {
            schema: SCHEMA,
            boot_id,
        };
        let mut writes = vec![Write::put_doc(keys::BOOT, &boot)?];
        for doc in &mut called {
            // Written, so that the next daemon goes on where this one dies.
            doc.desired = mayfly_core::documents::Desired::Running;
            writes.push(Write::put_doc(keys::vps(doc.id), doc)?);
        }
        self.commit(Txn {
            conditions: Vec::new(),
            writes,
        })?;
        called.retain(should_start);
        Ok(called)
    }

    fn boot_queue(&self) -> std::sync::MutexGuard<'_, BootQueue> {
        self.inner.boot.lock().expect("no thread panics with it")
    }

    /// Whether the start of a VPS is the queue's business.
    pub(crate) fn is_in_boot_queue(&self, vps: VpsId) -> bool {
        self.boot_queue().has(vps)
    }

    /// Takes what is to be started, and begins.
    pub(crate) fn begin_boot(&self, mut queue: BootQueue) -> Result<(), Refusal> {
        self.boot_queue().waiting.append(&mut queue.waiting);
        self.boot_on()
    }

    /// An operation is over: where it was a start of the queue, the next one has its turn.
    pub(crate) fn boot_goes_on(&self, vps: Option<VpsId>, id: &OperationId) {
        {
            let mut queue = self.boot_queue();
            match vps.and_then(|vps| queue.under_way.get(&vps).map(|(op, _)| (vps, op == id))) {
                Some((vps, true)) => drop(queue.under_way.remove(&vps)),
                _ => return,
            }
        }
        if let Err(why) = self.boot_on() {
            tracing::error!(%why, "a VPS that ought to run could not be started");
        }
    }

    fn boot_on(&self) -> Result<(), Refusal> {
        loop {
            // Held until the operation is known: it may be over before this thread has noted it.
            let mut queue = self.boot_queue();
            let Some((order, vps)) = queue.take(most_at_once()) else {
                return Ok(());
            };
            let doc = match self.vps_by_id(vps) {
                Ok(Some(doc)) => doc,
                Ok(None) => continue,
                Err(why) => {
                    queue.waiting.insert((order, vps));
                    return Err(why);
                }
            };
            // The end of its last run may not be settled yet; that is done before in the same lane.
            if doc.run.is_none() && !should_start(&doc) {
                continue;
            }
            match self.submit(Some(vps), Intent::Start, BY_ITSELF) {
                Ok(op) => drop(queue.under_way.insert(vps, (op.id, order))),
                Err(why) => tracing::error!(%vps, %why, "it could not be started"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(all: &[(i16, u32)]) -> BootQueue {
        let mut queue = BootQueue::default();
        for (priority, id) in all {
            queue
                .waiting
                .insert((-i32::from(*priority), VpsId::try_from(*id).unwrap()));
        }
        queue
    }

    fn begin(queue: &mut BootQueue, most: usize) -> Option<u32> {
        let (order, vps) = queue.take(most)?;
        let op = OperationId::at(u64::from(vps.get()), [0; 4]);
        queue.under_way.insert(vps, (op, order));
        Some(vps.get())
    }

    #[test]
    fn higher_priorities_come_first_and_lower_ones_wait_for_them() {
        let mut queue = queue(&[(0, 100), (10, 103), (10, 102), (-5, 101), (10, 104)]);
        assert_eq!(begin(&mut queue, 2), Some(102));
        assert_eq!(begin(&mut queue, 2), Some(103));
        assert_eq!(begin(&mut queue, 2), None, "two are enough");
        queue.under_way.remove(&102.try_into().unwrap());
        assert_eq!(begin(&mut queue, 2), Some(104));
        queue.under_way.remove(&103.try_into().unwrap());
        assert_eq!(
            begin(&mut queue, 2),
            None,
            "one of a higher priority is not over"
        );
        queue.under_way.remove(&104.try_into().unwrap());
        assert_eq!(begin(&mut queue, 2), Some(100));
        assert_eq!(begin(&mut queue, 2), None);
        assert!(queue.has(101.try_into().unwrap()) && queue.has(100.try_into().unwrap()));
        queue.under_way.clear();
        assert_eq!(begin(&mut queue, 2), Some(101));
        assert_eq!(begin(&mut queue, 2), None);
    }
}
