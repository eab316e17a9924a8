//! Each step, done through the ports. Nothing is chosen here; what destroys gets its proof here, from what is read back
//! at this very moment.

use std::time::Duration;

use mayfly_core::documents::{OperationDoc, VpsDoc};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::{Incarnation, OperationId, VpsId};
use mayfly_core::names::{PoolPath, TemplateName};
use mayfly_core::observed::MarkSeen;
use mayfly_core::plan::{Step, run_mount};
use mayfly_core::ports::{Cancel, Outcome};
use mayfly_core::proof::{Burial, ConfirmedDestroy, EphemeralRoot, Exchange};

use crate::engine::Engine;
use crate::keys;
use crate::store::{Condition, Txn, TxnOutcome, TypedStore, Write};

impl Engine {
    /// Does one step for an operation. Doing it again changes nothing.
    pub(crate) fn perform(&self, step: &Step, op: &OperationId) -> Result<Outcome, Refusal> {
        self.perform_until(step, op, &Cancel::default())
    }

    /// The same; long work ends early, as failed, when it is not wanted any more.
    pub(crate) fn perform_until(
        &self,
        step: &Step,
        op: &OperationId,
        cancel: &Cancel,
    ) -> Result<Outcome, Refusal> {
        let deps = self.deps();
        let done = match step {
            Step::EndRun { vps, run, halt_ms } => {
                if let Some(run) = run {
                    let timeout = Duration::from_millis(halt_ms.unwrap_or(0));
                    match (
                        deps.runtime.stop(*vps, run, timeout, halt_ms.is_none()),
                        halt_ms,
                    ) {
                        // By force it ends whatever the supervisor has to say.
                        (Err(why), None) => {
                            tracing::warn!(%vps, %why, "the supervisor does not end the run")
                        }
                        (stopped, _) => {
                            stopped?;
                        }
                    }
                }
                deps.runtime.sweep(*vps)?
            }
            Step::CreateDataset { new } => deps.storage.create_dataset(new)?,
            Step::SetQuota {
                dataset,
                quota_bytes,
            } => deps.storage.set_quota(dataset, *quota_bytes)?,
            Step::PrepareTree { dataset, tree } => deps.storage.prepare_tree(dataset, tree)?,
            Step::Record { vps, doc, .. } => self.record_vps(*vps, doc.as_deref(), None)?,
            Step::SetLimits { vps, run, limits } => deps.runtime.set_limits(*vps, run, limits)?,
            Step::ShowMount { vps, run, mount } => {
                let mount = run_mount(mount, |name| deps.storage.mount_source(name));
                deps.runtime.show_mount(*vps, run, &mount)?
            }
            Step::HideMount { vps, run, mount } => {
                let mount = run_mount(mount, |name| deps.storage.mount_source(name));
                deps.runtime.hide_mount(*vps, run, &mount)?
            }
            Step::Launch { launch } => {
                if launch.network.is_some() {
                    self.ensure_network()?;
                }
                let spec = launch.to_run_spec(
                    |name| deps.storage.mount_source(name),
                    deps.storage.detach(),
                );
                deps.runtime.launch(&spec)?
            }
            Step::AwaitInit {
                vps,
                run,
                deadline_ms,
            } => deps
                .runtime
                .await_init(*vps, run, Duration::from_millis(*deadline_ms))?,
            Step::Harvest { harvest } => self.harvest(harvest, op)?,
            Step::BuryRoot {
                vps,
                incarnation,
                root,
                grave,
                give_up,
            } => self.bury(root, grave, |mark| {
                let evidence = deps.runtime.evidence(*vps)?;
                let owner = (*vps, incarnation);
                let prove = match give_up {
                    true => EphemeralRoot::prove_given_up,
                    false => EphemeralRoot::prove,
                };
                let proof = prove(root, mark, &self.node().id, owner, &evidence)?;
                Ok(Burial::of_root(proof, op.clone()))
            })?,
            Step::BuryData {
                vps,
                incarnation,
                dataset,
                grave,
            } => self.bury(dataset, grave, |mark| {
                self.prove_data((*vps, incarnation), dataset, mark, op)
            })?,
            Step::Exchange {
                vps,
                incarnation,
                dataset,
                aside,
                contents,
                ..
            } => {
                let signs = deps.runtime.evidence(*vps)?;
                let owner = (*vps, incarnation);
                let proof = Exchange::prove(dataset, aside, owner, contents.as_ref(), &signs)?;
                deps.storage.exchange(&proof)?
            }
            Step::CopyTree { copy } => self.copy_tree(copy, (op, cancel))?,
            Step::TakeOut { what, to } => self.take_out(what, *to)?,
            Step::AwaitHealth {
                vps,
                run,
                before,
                deadline_ms,
            } => {
                let deadline = Duration::from_millis(*deadline_ms);
                self.await_health((*vps, run), before, deadline, (op, cancel))?
            }
            Step::BuryTemplate { dataset, grave } => self.bury_template(dataset, grave, op)?,
            Step::ForgetRuns { vps, keep, console } => {
                deps.runtime.forget(*vps, keep.as_ref(), *console)?
            }
            Step::Reap { graves } => self.reap_now(graves)?,
            Step::BuildTemplate {
                recipe,
                name,
                mirror,
            } => self.build(recipe, name, mirror.as_deref(), (op, cancel))?,
            Step::ImportTemplate { source, name } => {
                let mut progress = |text: &str| self.tell_progress(op, text);
                let built = deps.templates.import(source, cancel, &mut progress)?;
                self.record_template(name, built)?
            }
            Step::PullTemplate { source, name } => {
                let mut progress = |text: &str| self.tell_progress(op, text);
                let built = deps.templates.pull(source, cancel, &mut progress)?;
                self.record_template(name, built)?
            }
            Step::RecordTemplate { name, doc } => {
                let key = keys::template(name);
                let outcome = self.record(&key, doc.as_deref())?;
                self.mirror_now(&key);
                outcome
            }
        };
        Ok(done)
    }

    /// Moves something to its grave. What is not there has been moved by an earlier attempt; a look that failed stops
    /// here.
    pub(crate) fn bury(
        &self,
        name: &PoolPath,
        grave: &PoolPath,
        prove: impl Fn(&MarkSeen) -> Result<Burial, Refusal>,
    ) -> Result<Outcome, Refusal> {
        let Some(seen) = self.deps().storage.look(name)? else {
            return Ok(Outcome::Unchanged);
        };
        let burial = prove(&seen.mark)?;
        Ok(self.deps().storage.bury(&burial, grave)?)
    }

    fn prove_data(
        &self,
        owner: (VpsId, &Incarnation),
        dataset: &PoolPath,
        mark: &MarkSeen,
        op: &OperationId,
    ) -> Result<Burial, Refusal> {
        let evidence = self.deps().runtime.in_use(owner.0, dataset)?;
        let proof = ConfirmedDestroy::prove(dataset, mark, &self.node().id, owner, &evidence)?;
        Ok(Burial::of_data(proof, op.clone()))
    }

    fn build(
        &self,
        recipe: &str,
        name: &TemplateName,
        mirror: Option<&str>,
        (op, cancel): (&OperationId, &Cancel),
    ) -> Result<Outcome, Refusal> {
        let mut progress = |text: &str| self.tell_progress(op, text);
        let works = &self.deps().templates;
        let built = works.build(recipe, mirror, cancel, &mut progress)?;
        self.record_template(name, built)
    }

    /// Records the document of a VPS and, in the same transaction, that this was done.
    pub(crate) fn record_and_journal(
        &self,
        vps: VpsId,
        doc: Option<&VpsDoc>,
        done: OperationDoc,
    ) -> Result<(), Refusal> {
        self.record_vps(vps, doc, Some(done))?;
        self.tell_waiters();
        Ok(())
    }

    /// Records a VPS, and how far its operation is with it. What the pool could not tell, were the state lost, is mirrored
    /// before the operation goes on; what changes with every start and stop is mirrored in the background.
    fn record_vps(
        &self,
        vps: VpsId,
        doc: Option<&VpsDoc>,
        done: Option<OperationDoc>,
    ) -> Result<Outcome, Refusal> {
        let key = keys::vps(vps);
        let before = self.vps_by_id(vps)?;
        let outcome = match done {
            None => self.record(&key, doc)?,
            Some(mut done) => self.with_wishes(&mut done, |done| {
                let journal = Write::put_doc(keys::operation(&done.id), done)?;
                self.record_with(&key, doc, Some(journal))
            })?,
        };
        self.settle_network_of(before.as_ref(), doc);
        if before.map(|before| before.lasting()) != doc.map(VpsDoc::lasting) || doc.is_none() {
            self.mirror_now(&key);
        }
        Ok(outcome)
    }

    pub(crate) fn record<T>(&self, key: &str, doc: Option<&T>) -> Result<Outcome, Refusal>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        self.record_with(key, doc, None)
    }

    /// Writes a document, or removes it, and `more` with it. Only the lane of the object writes it, so there is nobody to
    /// race with; the condition catches a mistake in that.
    fn record_with<T>(
        &self,
        key: &str,
        doc: Option<&T>,
        more: Option<Write>,
    ) -> Result<Outcome, Refusal>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let store = &*self.deps().store;
        let before = store.get_doc::<T>(key)?;
        let unchanged = before.as_ref().map(|found| &found.doc) == doc;
        if unchanged && more.is_none() {
            return Ok(Outcome::Unchanged);
        }
        let condition = match before {
            None => Condition::Absent(key.to_owned()),
            Some(found) => Condition::AtRevision(key.to_owned(), found.mod_revision),
        };
        let mut writes: Vec<Write> = more.into_iter().collect();
        if !unchanged {
            writes.push(match doc {
                Some(doc) => Write::put_doc(key, doc)?,
                None => Write::Delete(key.to_owned()),
            });
        }
        match self.commit(Txn {
            conditions: vec![condition],
            writes,
        })? {
            TxnOutcome::Committed(_) if unchanged => Ok(Outcome::Unchanged),
            TxnOutcome::Committed(_) => Ok(Outcome::Changed),
            TxnOutcome::Conflict { key } => Err(Refusal::new(
                Code::StateFailed,
                format!("document {key} was changed by someone else"),
                "try again",
            )),
        }
    }
}
