//! Looks the node over, and mends what can be proven. What is wrong is judged in [`mayfly_core::fsck`].
//!
//! Between two looks of one check the world moves on: only what was found by every one of several looks is told. A repair
//! looks once more while no new work can begin, and does what that last look still finds; every step that destroys gets its
//! proof as ever. Cut off anywhere, a repair leaves what it left, and the next one goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mayfly_core::documents::{OperationDoc, SparedDoc, TemplateDoc, VpsDoc};
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::fsck::{Finding, NodeSeen, Put, Remedy, Repair, StateSeen, Unusable, judge};
use mayfly_core::ids::VpsId;
use mayfly_core::mirror::MirrorKey;
use mayfly_core::names::PoolPath;
use mayfly_core::plan::Step;

use crate::engine::Engine;
use crate::keys;
use crate::store::{BadDoc, Condition, Docs, StoreError, Txn, TxnOutcome, TypedStore, Write};

/// So many looks must find the same while a daemon serves.
const LOOKS: u32 = 3;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(500);

/// What was found, and what was done.
#[derive(Clone, Debug, Default)]
pub struct FsckReport {
    /// What is wrong, after what was mended.
    pub findings: Vec<Finding>,
    /// What was wrong and is mended.
    pub mended: Vec<Finding>,
    /// What should have been mended, and why it was not.
    pub failed: Vec<(Finding, Refusal)>,
}

impl Engine {
    /// Looks the node over; with `repair` mends what it can.
    pub fn fsck(&self, repair: bool) -> Result<FsckReport, Refusal> {
        self.fsck_where(None, repair)
    }

    /// The same where the state cannot be used, for this reason. Nothing can be mended then.
    pub fn fsck_without_state(&self, why: &Refusal) -> Result<FsckReport, Refusal> {
        self.fsck_where(Some(why), false)
    }

    fn fsck_where(&self, no_state: Option<&Refusal>, repair: bool) -> Result<FsckReport, Refusal> {
        if self.has_threads() {
            // What is due anyhow is no finding.
            self.reap_due()?;
            self.mirror_once();
        } else if no_state.is_none() {
            self.compare_generation()?;
        }
        let mut report = FsckReport::default();
        let found = self.find(no_state)?;
        // While the state is held only `mayfly recover` changes anything.
        if !repair || self.held().is_some() {
            report.findings = found;
            return Ok(report);
        }
        self.mend(&found, &mut report);
        report.findings = self.find(no_state)?;
        Ok(report)
    }

    /// What several looks agree on; one is enough where nothing else is at work.
    fn find(&self, no_state: Option<&Refusal>) -> Result<Vec<Finding>, Refusal> {
        let mut found = judge(&self.look_over(no_state)?);
        if self.has_threads() {
            for _ in 1..LOOKS {
                if found.is_empty() {
                    break;
                }
                std::thread::sleep(PAUSE);
                let again = judge(&self.look_over(no_state)?);
                let same = |one: &Finding| {
                    again
                        .iter()
                        .any(|other| other.code == one.code && other.object == one.object)
                };
                found.retain(same);
            }
        }
        Ok(found)
    }

    pub(crate) fn look_over(&self, no_state: Option<&Refusal>) -> Result<NodeSeen, Refusal> {
        let deps = self.deps();
        // Busy before and after: work that begins or ends meanwhile is passed over.
        let mut busy = self.inner.lanes.busy();
        let pool = deps.storage.observe();
        let staging = deps.storage.staging();
        let mirrors = self
            .read_mirrors()
            .map_err(|why| LookFailed::new("the mirrors", why));
        let generation = deps.storage.generation();
        let records = deps.runtime.records();
        let signs = self.signs();
        let datasets: Vec<PoolPath> = pool
            .iter()
            .flat_map(|pool| pool.datasets.keys().cloned())
            .collect();
        let holders = if datasets.is_empty() {
            Ok(BTreeMap::new())
        } else {
            deps.runtime.holders(&datasets)
        };
        let state = match no_state {
            Some(why) => Err(why.message.clone()),
            None => self
                .state_seen()
                .map_err(|error| Refusal::from(error).message),
        };
        let later = self.inner.lanes.busy();
        busy.vpses.extend(later.vpses);
        busy.templates |= later.templates;
        Ok(NodeSeen {
            node: self.node().id.clone(),
            operation: self.fresh_operation_id(),
            state,
            pool,
            staging,
            mirrors,
            generation,
            signs,
            records,
            holders,
            reserved: deps.reserved.clone(),
            busy,
            serving: self.has_threads(),
        })
    }

    fn signs(&self) -> Result<BTreeMap<VpsId, mayfly_core::fsck::SignsSeen>, LookFailed> {
        let runtime = &self.deps().runtime;
        let mut all: BTreeSet<VpsId> = runtime.vpses_with_evidence()?.into_iter().collect();
        // One that is recorded as running and of which there is nothing at all.
        let running = self
            .vpses()
            .unwrap_or_default()
            .into_iter()
            .filter(|vps| vps.run.is_some());
        all.extend(running.map(|vps| vps.id));
        Ok(all
            .into_iter()
            .map(|vps| (vps, runtime.evidence(vps)))
            .collect())
    }

    fn state_seen(&self) -> Result<StateSeen, StoreError> {
        fn put<T>(listed: Docs<T>, bad: &mut Vec<Unusable>) -> Vec<Put<T>> {
            bad.extend(listed.bad.into_iter().map(
                |BadDoc {
                     key,
                     why,
                     mod_revision,
                 }| Unusable {
                    key,
                    revision: mod_revision.0,
                    why,
                },
            ));
            let one = |found: crate::store::Doc<T>| Put {
                key: found.key,
                revision: found.mod_revision.0,
                doc: found.doc,
            };
            listed.docs.into_iter().map(one).collect()
        }
        let store = &*self.deps().store;
        let mut unusable = Vec::new();
        // The revision of the first look: the pool's generation was read before it, so it is no higher.
        let vpses = store.list_docs::<VpsDoc>(keys::VPSES)?;
        let revision = vpses.revision.0;
        let vpses = put(vpses, &mut unusable);
        let templates = put(
            store.list_docs::<TemplateDoc>(keys::TEMPLATES)?,
            &mut unusable,
        );
        let operations = put(
            store.list_docs::<OperationDoc>(keys::OPERATIONS)?,
            &mut unusable,
        );
        let spared = match store.get_doc::<SparedDoc>(keys::SPARED) {
            Ok(found) => found.map(|found| found.doc.datasets).unwrap_or_default(),
            Err(StoreError::BadDocument { key, why }) => {
                unusable.push(Unusable {
                    key,
                    revision: 0,
                    why,
                });
                BTreeSet::new()
            }
            Err(other) => return Err(other),
        };
        Ok(StateSeen {
            revision,
            vpses,
            templates,
            operations,
            unusable,
            spared,
            damage: store.check()?,
        })
    }

    /// Mends what was found and what a look just now still finds.
    fn mend(&self, found: &[Finding], report: &mut FsckReport) {
        let _accepting = self
            .inner
            .accepting
            .lock()
            .expect("no thread panics with it");
        let again = match self.look_over(None) {
            Ok(seen) => judge(&seen),
            Err(why) => {
                report
                    .failed
                    .extend(found.iter().map(|one| (one.clone(), why.clone())));
                return;
            }
        };
        for finding in again {
            let same = |one: &Finding| one.code == finding.code && one.object == finding.object;
            let Remedy::Repair(repair) = &finding.remedy else {
                continue;
            };
            if !found.iter().any(same) {
                continue;
            }
            (self.deps().crash)("fsck.repair");
            tracing::info!(%finding, "mending");
            match self.carry_out_repair(repair) {
                Ok(()) => {
                    (self.deps().crash)("fsck.repair.done");
                    report.mended.push(finding);
                }
                Err(why) => {
                    tracing::warn!(%finding, %why, "not mended");
                    report.failed.push((finding, why));
                }
            }
        }
        self.mirror_once();
        self.wake_reaper();
    }

    fn carry_out_repair(&self, repair: &Repair) -> Result<(), Refusal> {
        let id = self.fresh_operation_id();
        match repair {
            Repair::Bury { step } => {
                self.refuse_if_held()?;
                self.harvest_leftover(step, &id)?;
                if let Some(grave) = self.bury_leftover(step, &id)? {
                    if !self.has_threads() {
                        self.reap_graves(vec![grave])?;
                    }
                }
            }
            Repair::LetGo { dataset } => self.let_go(dataset)?,
            Repair::Reap { grave } => self.reap_graves(vec![grave.clone()])?,
            Repair::ClearStaging { name } => {
                self.deps().storage.clear_staging()?;
                if self.deps().storage.staging()?.contains(name) {
                    return Err(Refusal::new(
                        Code::NotOurs,
                        format!(
                            "{name} in the staging area is left alone: there is no record of it"
                        ),
                        "look at it; if it is yours, move it out of the pool or remove it by hand",
                    ));
                }
            }
            Repair::SetQuota { step } => drop(self.perform(step, &id)?),
            Repair::ForgetLastRoot { vps, root } => {
                // Certain, and as of now: a look that fails is not "gone".
                if self.deps().storage.look(root)?.is_none() {
                    self.change_vps(*vps, |doc| {
                        if doc.last_root.as_ref() == Some(root) {
                            doc.last_root = None;
                        }
                    })?;
                }
            }
            Repair::ForgetRuns { vps } => {
                let signs = self.deps().runtime.evidence(*vps)?;
                if let Some(sign) = signs.iter().find(|sign| sign.is_alive()) {
                    return Err(Refusal::new(
                        Code::StillAlive,
                        format!("something of VPS {vps} is alive: {sign}"),
                        "end it first",
                    ));
                }
                self.deps().runtime.sweep(*vps)?;
                self.perform(
                    &Step::ForgetRuns {
                        vps: *vps,
                        keep: None,
                        console: true,
                    },
                    &id,
                )?;
            }
            Repair::RestoreDocument { key } => self.restore_document(key)?,
            Repair::WriteMirror { key } => self.rewrite_mirror(key.as_str())?,
            Repair::RemoveMirror { key } => drop(self.deps().storage.remove_mirror(key)?),
            Repair::RaiseGeneration => {
                self.deps()
                    .storage
                    .raise_generation(self.state_revision()?)?;
            }
        }
        Ok(())
    }

    /// Graves are destroyed here only where no reaper does it.
    fn reap_graves(&self, graves: Vec<PoolPath>) -> Result<(), Refusal> {
        self.refuse_if_held()?;
        self.reap_now(&graves).map(drop)
    }

    fn let_go(&self, dataset: &PoolPath) -> Result<(), Refusal> {
        let Some(found) = self.deps().store.get_doc::<SparedDoc>(keys::SPARED)? else {
            return Ok(());
        };
        let mut doc = found.doc;
        doc.datasets.remove(dataset);
        let write = if doc.datasets.is_empty() {
            Write::Delete(keys::SPARED.to_owned())
        } else {
            Write::put_doc(keys::SPARED, &doc)?
        };
        self.commit_one(Condition::AtRevision(found.key, found.mod_revision), write)
    }

    /// The mirror is read again, and must be of the very revision that the store has for the key.
    fn restore_document(&self, key: &MirrorKey) -> Result<(), Refusal> {
        let gone = || {
            Refusal::new(
                Code::StateFailed,
                format!("the mirror of {key} is no longer that of the document"),
                "stop the daemon, then: mayfly recover --dry-run",
            )
        };
        let entry = self.deps().store.get(key.as_str())?.ok_or_else(gone)?;
        let mirror = match self.read_mirrors()?.remove(key) {
            Some(Ok(mirror)) if mirror.revision == entry.mod_revision.0 => mirror,
            _ => return Err(gone()),
        };
        self.commit_one(
            Condition::AtRevision(entry.key, entry.mod_revision),
            Write::Put(key.as_str().to_owned(), mirror.document),
        )?;
        self.mirror_now(key.as_str());
        Ok(())
    }

    fn commit_one(&self, condition: Condition, write: Write) -> Result<(), Refusal> {
        let txn = Txn {
            conditions: vec![condition],
            writes: vec![write],
        };
        match self.commit(txn)? {
            TxnOutcome::Committed(_) => Ok(()),
            TxnOutcome::Conflict { key } => Err(Refusal::new(
                Code::StateFailed,
                format!("document {key} was changed meanwhile"),
                "try again",
            )),
        }
    }
}
