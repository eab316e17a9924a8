//! Carries out one operation: plan, steps, journal; the undo where a step fails.
//!
//! ```text
//!  queued ──plan──> running ──last step──> done
//!    │ refused          │ a step failed, or somebody cancels it
//!    └──> failed <──────┴─> undoing ──first step──> failed, or cancelled
//! ```
//!
//! The journal is the operation's document: it is written when the plan is made, and after every step that is not done
//! again together with the next ones ([`Step::is_journalled_later`]). A crash leaves it before the steps that may be done
//! or half done; they are done again in their order, and every step is made for that. What a step records and that it did
//! so is one transaction.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mayfly_core::documents::{
    BY_ITSELF, Desired, Lifecycle, OperationDoc, OperationState, Request, VpsDoc,
};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::observed::Evidence;
use mayfly_core::plan::{Plan, Step, Undo, should_start};
use mayfly_core::run::RunEnd;

use crate::doing::{Doing, Next, PUT_BACK, cancelled};
use crate::engine::Engine;
use crate::keys;
use crate::lanes::Lane;
use crate::store::{Txn, Write};

/// How often an undo is tried.
const UNDO_TRIES: u32 = 3;

/// After so many operations the oldest are forgotten.
const PRUNE_EVERY: usize = 200;

/// How long it takes until the end of a run that could not be settled is tried again.
const SETTLE_PAUSE: Duration = Duration::from_secs(5);

/// The engine cannot go on with an operation.
enum Stuck {
    /// Its journal could not be read or written; it has to be tried again before anything else of its VPS.
    Unjournalled(Refusal),
    /// Its undo could not finish. The VPS refuses changes; the next start of the daemon goes on with it.
    NeedsOperator(Refusal),
}

impl From<Refusal> for Stuck {
    fn from(refusal: Refusal) -> Self {
        Self::Unjournalled(refusal)
    }
}

impl Engine {
    /// Carries out an operation to its end, from wherever its journal says it is. False where the journal could not be
    /// read or written: nothing of the same lane may pass it then.
    pub(crate) fn carry_out(&self, id: &OperationId) -> bool {
        let over = match self.try_carry_out(id) {
            Ok(over) => over,
            Err(Stuck::NeedsOperator(why)) => {
                tracing::error!(operation = %id, %why, "left as it is; the next start of the daemon goes on with it");
                let vps = self.operation_by_id(id).ok().and_then(|op| op.vps);
                self.boot_goes_on(vps, id);
                return true;
            }
            Err(Stuck::Unjournalled(why)) => {
                tracing::error!(operation = %id, %why, "the journal fails; trying again");
                return false;
            }
        };
        if let Some(op) = over {
            if let Err(why) = self.after(&op) {
                tracing::error!(operation = %id, %why, "what should follow could not be asked for; looked after later");
                if let Some(vps) = op.vps {
                    self.miss(vps);
                }
            }
            self.boot_goes_on(op.vps, id);
        }
        true
    }

    fn try_carry_out(&self, id: &OperationId) -> Result<Option<OperationDoc>, Stuck> {
        let (doing, op) = self.take_up(id)?;
        let done = self.carry_on(op, &doing);
        self.put_down(id);
        done
    }

    fn carry_on(&self, mut op: OperationDoc, doing: &Doing) -> Result<Option<OperationDoc>, Stuck> {
        if op.state.is_over() {
            // It was cancelled while it waited. A start may have been left to its end.
            if let (true, Some(id)) = (op.request.is_a_rest(), op.vps) {
                self.start_if_wanted(id, &op.id)?;
            }
            return Ok(None);
        }
        if op.state == OperationState::Queued && op.cancelled_by.is_some() {
            return Ok(Some(self.cancelled_in_the_queue(op)?));
        }
        if op.state == OperationState::Queued {
            if matches!(op.request, Request::Start { .. }) {
                self.deps().runtime.expect_launch();
            }
            let _bases_stay = self.bases_stay();
            let _promises_stay = self.promises_stay(&op.request);
            match self.decide(&op) {
                Ok(plan)
                    if plan.steps.is_empty() && matches!(op.request, Request::RunEnded { .. }) =>
                {
                    // Someone else has settled it; it need not be remembered.
                    self.forget(&op)?;
                    return Ok(None);
                }
                Ok(plan) => {
                    op.plan = Some(plan);
                    op.state = OperationState::Running;
                }
                // What was to be stopped has made way for it.
                Err(refusal)
                    if refusal.code == Code::VpsNotRunning && self.has_preempted(&op)? =>
                {
                    op.plan = Some(Plan::default());
                    op.state = OperationState::Running;
                }
                Err(refusal) => return Ok(Some(self.refused(op, refusal)?)),
            }
            self.journal(&mut op)?;
        }
        let plan = op.plan.clone().unwrap_or_default();
        if op.state == OperationState::Running {
            op.undo_down_to = op.undo_down_to.max(out_of_reach(&op, &plan));
            if let Some(by) = op.cancelled_by.clone() {
                // Taken up again after a crash: more than the journal tells of may be done.
                op.steps_done = plan.may_have_reached(op.steps_done);
                self.turn_back(&mut op, &by)?;
            } else {
                self.forward(&mut op, &plan, doing)?;
            }
        }
        if op.state == OperationState::Undoing {
            self.backward(&mut op, &plan, doing)?;
        }
        Ok(Some(op))
    }

    /// Gives an operation up that somebody cancelled: what it has done is put back.
    fn turn_back(&self, op: &mut OperationDoc, by: &str) -> Result<(), Stuck> {
        op.error = Some(cancelled(op, by));
        op.state = OperationState::Undoing;
        tracing::info!(operation = %op.id, by, "cancelled; undoing");
        self.journal(op)
    }

    /// One that was cancelled before it had its turn.
    fn cancelled_in_the_queue(&self, mut op: OperationDoc) -> Result<OperationDoc, Stuck> {
        self.release_reservation(&op)?;
        self.settle_goal(&op)?;
        self.end_cancelled(&mut op);
        self.journal(&mut op)?;
        Ok(op)
    }

    /// Who cancels a start does not want another one by itself.
    fn settle_goal(&self, op: &OperationDoc) -> Result<(), Stuck> {
        let Some(id) = op.vps.filter(|_| op.request.is_a_start()) else {
            return Ok(());
        };
        let is_alive = |sign: &Evidence| sign.is_alive();
        if !self
            .deps()
            .runtime
            .evidence(id)
            .map_err(Refusal::from)?
            .iter()
            .any(is_alive)
        {
            self.change_vps(id, |doc| doc.desired = Desired::Stopped)?;
        }
        Ok(())
    }

    fn decide(&self, op: &OperationDoc) -> Result<Plan, Refusal> {
        let doc = match op.vps {
            None => None,
            Some(id) => self.vps_by_id(id)?,
        };
        if let (Request::RunEnded { run, .. }, Some(id)) = (&op.request, op.vps) {
            // A VPS that was destroyed meanwhile needs nothing, and neither does a run that an operation before this
            // one has only just begun.
            if doc.is_none() || self.is_going_on(id, run)? {
                return Ok(Plan::default());
            }
        }
        self.plan(&op.request, doc.as_ref(), &self.context(&op.id)?)
    }

    /// A request that is refused before its first step. A create takes its reservation back with it.
    fn refused(&self, mut op: OperationDoc, refusal: Refusal) -> Result<OperationDoc, Stuck> {
        self.release_reservation(&op)?;
        op.error = Some(refusal);
        self.end(&mut op, OperationState::Failed, "refused")?;
        Ok(op)
    }

    fn release_reservation(&self, op: &OperationDoc) -> Result<(), Refusal> {
        let Request::Create { new, .. } = &op.request else {
            return Ok(());
        };
        // Only its own reservation: the number may have been given out again.
        let there = self.vps_by_id(new.doc.id)?;
        if there.is_some_and(|doc| doc == new.doc) {
            let key = keys::vps(new.doc.id);
            self.put(Write::Delete(key.clone()))?;
            self.mirror_now(&key);
        }
        Ok(())
    }

    fn forward(&self, op: &mut OperationDoc, plan: &Plan, doing: &Doing) -> Result<(), Stuck> {
        loop {
            let now = self.deps().clock.boot_ms();
            if let Next::GiveUp(by) = doing.next(plan, op.steps_done, now) {
                return self.turn_back(op, &by);
            }
            let Some(planned) = plan.steps.get(op.steps_done) else {
                break;
            };
            let point = planned.step.kind().crash_point();
            (self.deps().crash)(point);
            tracing::info!(operation = %op.id, step = %planned.step, "doing");
            // The last step is journalled with the end.
            let later = planned.step.is_journalled_later() || op.steps_done + 1 >= plan.steps.len();
            let done = match &planned.step {
                Step::Record { vps, doc, .. } if !later => {
                    let done = with_done(op, &planned.step, self.took(doing));
                    self.record_and_journal(*vps, doc.as_deref(), done)
                }
                step => self.perform_until(step, &op.id, &doing.cancel).map(drop),
            };
            op.notes.extend(doing.take_notes());
            match done {
                Ok(()) => {
                    (self.deps().crash)(&format!("{point}.done"));
                    *op = with_done(op, &planned.step, self.took(doing));
                    if !later && !matches!(planned.step, Step::Record { .. }) {
                        self.journal(op)?;
                    }
                }
                Err(refusal) if planned.undo == Undo::Housekeeping => {
                    (self.deps().crash)(&format!("{point}.failed"));
                    tracing::warn!(operation = %op.id, step = %planned.step, why = %refusal, "left for later");
                    *op = with_done(op, &planned.step, self.took(doing));
                    if !later {
                        self.journal(op)?;
                    }
                }
                Err(refusal) => {
                    (self.deps().crash)(&format!("{point}.failed"));
                    tracing::warn!(operation = %op.id, step = %planned.step, why = %refusal, "failed; undoing");
                    // The step that failed may be half done, so its undo is due as well.
                    op.steps_ms.push(self.took(doing));
                    op.steps_done += 1;
                    op.state = OperationState::Undoing;
                    op.error = Some(match doing.close() {
                        // It was cut short.
                        Some(by) => cancelled(op, &by),
                        None => refusal,
                    });
                    self.journal(op)?;
                    return Ok(());
                }
            }
        }
        self.end(op, OperationState::Done, "done")
    }

    fn took(&self, doing: &Doing) -> u64 {
        doing.elapsed_ms(self.deps().clock.boot_ms())
    }

    fn backward(&self, op: &mut OperationDoc, plan: &Plan, doing: &Doing) -> Result<(), Stuck> {
        doing.close();
        while op.steps_done > op.undo_down_to {
            let planned = &plan.steps[op.steps_done - 1];
            if let Undo::Step(step) = &planned.undo {
                doing.begin(op.steps_done - 1, step, self.deps().clock.boot_ms());
                (self.deps().crash)(&format!("{}.undo", planned.step.kind().crash_point()));
                tracing::info!(operation = %op.id, step = %step, "undoing");
                if let Err(refusal) = self.undo_with_tries(step, op) {
                    return Err(self.needs_operator(op, step, refusal));
                }
            }
            op.steps_done -= 1;
            self.journal(op)?;
        }
        if let Some(id) = op.vps {
            // An undo that could not finish at first, and now has.
            let needs = |doc: &VpsDoc| matches!(doc.lifecycle, Lifecycle::NeedsOperator { .. });
            if self.vps_by_id(id)?.is_some_and(|doc| needs(&doc)) {
                self.change_vps(id, |doc| doc.lifecycle = Lifecycle::Ready)?;
            }
        }
        let is_cancelled = |error: &Refusal| error.code == Code::OperationCancelled;
        if op.error.as_ref().is_some_and(is_cancelled) {
            self.settle_goal(op)?;
            return self.end(op, OperationState::Cancelled, PUT_BACK);
        }
        self.end(
            op,
            OperationState::Failed,
            match op.undo_down_to {
                0 => "failed; what was done was put back",
                _ => "failed; what the guest may have written to meanwhile was left as it is",
            },
        )
    }

    fn undo_with_tries(&self, step: &Step, op: &OperationDoc) -> Result<(), Refusal> {
        let mut last = None;
        for attempt in 0..UNDO_TRIES {
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(200));
            }
            match self.perform(step, &op.id) {
                Ok(_) => return Ok(()),
                Err(refusal) => {
                    (self.deps().crash)("undo.failed");
                    last = Some(refusal);
                }
            }
        }
        Err(last.expect("an undo is tried at least once"))
    }

    /// The undo cannot finish: the VPS refuses changes, the operation stays where it is, and the next start of the
    /// daemon goes on with it.
    fn needs_operator(&self, op: &mut OperationDoc, step: &Step, refusal: Refusal) -> Stuck {
        let why = format!(
            "operation {} could not be put back ({step}: {refusal})",
            op.id
        );
        op.progress = why.clone();
        if let Err(stuck) = self.journal(op) {
            return stuck;
        }
        let mark = |doc: &mut VpsDoc| doc.lifecycle = Lifecycle::NeedsOperator { why: why.clone() };
        if let Some(id) = op.vps {
            if let Err(failed) = self.change_vps(id, mark) {
                return failed.into();
            }
        }
        Stuck::NeedsOperator(refusal)
    }

    pub(crate) fn change_vps(
        &self,
        id: VpsId,
        change: impl Fn(&mut VpsDoc),
    ) -> Result<(), Refusal> {
        if let Some(mut doc) = self.vps_by_id(id)? {
            change(&mut doc);
            self.put(Write::put_doc(keys::vps(id), &doc)?)?;
        }
        Ok(())
    }

    fn end(
        &self,
        op: &mut OperationDoc,
        state: OperationState,
        progress: &str,
    ) -> Result<(), Stuck> {
        op.state = state;
        op.progress = progress.to_owned();
        op.ended_unix_ms = Some(self.deps().clock.unix_ms());
        self.with_wishes(op, |op| self.journal_end(op))?;
        // A guest that reboots in a loop makes operations without end.
        if self.inner.ended.fetch_add(1, Ordering::Relaxed) % PRUNE_EVERY == PRUNE_EVERY - 1 {
            self.prune_operations()?;
        }
        Ok(())
    }

    /// Says what a long step is at. Only for readers: the journal does not depend on it.
    pub(crate) fn tell_progress(&self, id: &OperationId, progress: &str) {
        let told = self
            .operation_by_id(id)
            .map_err(Stuck::from)
            .and_then(|mut op| {
                op.progress = progress.to_owned();
                self.journal(&mut op)
            });
        if let Err(Stuck::Unjournalled(why) | Stuck::NeedsOperator(why)) = told {
            tracing::warn!(operation = %id, %why, "progress could not be written");
        }
    }

    fn journal(&self, op: &mut OperationDoc) -> Result<(), Stuck> {
        self.with_wishes(op, |op| {
            self.put(Write::put_doc(keys::operation(&op.id), op).map_err(Refusal::from)?)
        })?;
        self.tell_waiters();
        Ok(())
    }

    fn forget(&self, op: &OperationDoc) -> Result<(), Stuck> {
        self.put(Write::Delete(keys::operation(&op.id)))?;
        self.tell_waiters();
        Ok(())
    }

    /// One write that depends on nothing: only this lane writes the document, or who holds what it is doing.
    pub(crate) fn put(&self, write: Write) -> Result<(), Refusal> {
        self.commit(Txn {
            conditions: Vec::new(),
            writes: vec![write],
        })?;
        Ok(())
    }

    /// What follows an operation: the lasting goal of its VPS.
    fn after(&self, op: &OperationDoc) -> Result<(), Refusal> {
        let Some(id) = op.vps else { return Ok(()) };
        let Some(doc) = self.vps_by_id(id)? else {
            return Ok(());
        };
        if let (OperationState::Failed, Request::RunEnded { run, end, .. }) =
            (op.state, &op.request)
        {
            // The host did not let it be settled. It stays what it was, and is tried again: not at once, and after what
            // somebody waits for.
            if self.has_threads() && doc.run.as_ref().is_some_and(|r| r.run == *run) {
                self.pause(Lane::of(op.vps), SETTLE_PAUSE);
                self.submit_run_ended(id, run.clone(), end.clone())?;
            }
            return Ok(());
        }
        if op.state == OperationState::Cancelled {
            return self.after_cancelled(op, &doc);
        }
        self.after_a_conversion(op, &doc)?;
        let by_us = op.by == BY_ITSELF;
        if let (true, OperationState::Failed, Request::Start { run }) =
            (by_us, op.state, &op.request)
        {
            // A start that nobody waits for counts like a crash, or it would be tried for ever.
            let detail = op
                .error
                .as_ref()
                .map_or_else(String::new, ToString::to_string);
            self.submit_run_ended(id, run.clone(), RunEnd::FailedToStart { detail })?;
            return Ok(());
        }
        if let Some(run) = &doc.run {
            // A failed operation may have left a document whose run is over.
            let over = self
                .deps()
                .runtime
                .evidence(id)?
                .iter()
                .all(|sign| !sign.is_alive());
            if op.state == OperationState::Failed && over {
                let detail = "it was ended by an operation that failed".to_owned();
                self.submit_run_ended(id, run.run.clone(), RunEnd::Crashed { detail })?;
            }
            return Ok(());
        }
        self.start_if_wanted(id, &op.id)
    }

    fn start_if_wanted(&self, vps: VpsId, after: &OperationId) -> Result<(), Refusal> {
        let doc = self.vps_by_id(vps)?;
        if doc.is_some_and(|doc| should_start(&doc)) && !self.is_in_boot_queue(vps) {
            self.start_again(vps, after)?;
        }
        Ok(())
    }

    /// A restart, or a stop, that was given up may have ended the run that it was about to replace.
    fn after_cancelled(&self, op: &OperationDoc, doc: &VpsDoc) -> Result<(), Refusal> {
        let signs = self.deps().runtime.evidence(doc.id)?;
        match &doc.run {
            Some(run) if !signs.iter().any(Evidence::is_alive) => {
                self.submit_run_ended(doc.id, run.run.clone(), RunEnd::Killed)?;
            }
            None if !op.request.is_a_start() => self.start_if_wanted(doc.id, &op.id)?,
            _ => {}
        }
        Ok(())
    }
}

/// An operation as it is when its next step is done, which took so long.
fn with_done(op: &OperationDoc, step: &Step, took_ms: u64) -> OperationDoc {
    let mut steps_ms = op.steps_ms.clone();
    steps_ms.push(took_ms);
    OperationDoc {
        steps_done: op.steps_done + 1,
        steps_ms,
        progress: step.to_string(),
        ..op.clone()
    }
}

/// How many of the first steps no undo may reach any more. What a daemon finds again after it had died may have run, or been
/// shown to a guest, and been written to meanwhile: its start can fail, its data stays.
fn out_of_reach(op: &OperationDoc, plan: &Plan) -> usize {
    let steps = || plan.steps.iter().map(|planned| &planned.step);
    // The step that lets a guest write there, and so many steps that are kept once it may have been taken.
    let (opens, kept) = match op.request {
        // A VPS that was made, and started.
        Request::Create { .. } => {
            let made = |step: &Step| matches!(step, Step::Record { doc: Some(doc), .. } if doc.lifecycle == Lifecycle::Ready);
            let ready = steps().position(made).map(|at| at + 1);
            (ready, ready)
        }
        // The new contents of a VPS that was started on them.
        Request::Reinstall { .. } => {
            let begun = |step: &Step| matches!(step, Step::Record { doc: Some(doc), .. } if doc.run.is_some());
            let exchanged = steps().rposition(|step| matches!(step, Step::Exchange { .. }));
            (steps().position(begun), exchanged.map(|at| at + 1))
        }
        // A system that was converted, or reverted, and started: what it wrote into its new datasets meanwhile stays.
        Request::Convert { .. } | Request::Revert { .. } => {
            let begun = |step: &Step| matches!(step, Step::Record { doc: Some(doc), .. } if doc.run.is_some());
            let begun = steps().position(begun);
            (begun, begun.map(|at| at + 1))
        }
        // A dataset that was shown to a guest that runs. The journal is never ahead of this step.
        Request::DatasetCreate { .. } => {
            let shown = steps().position(|step| matches!(step, Step::ShowMount { .. }));
            return match shown {
                Some(at) if op.steps_done >= at => at,
                _ => 0,
            };
        }
        _ => (None, None),
    };
    match (opens, kept) {
        (Some(opens), Some(kept)) if op.steps_done > opens => kept,
        _ => 0,
    }
}
