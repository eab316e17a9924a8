//! What is being carried out at this moment, and the giving up of it.
//!
//! The journal may stay behind what is done, so the step that is under way is kept here. Whoever wants an operation to be
//! given up writes that into its document first, so that a crash does not forget it, and then cuts the step short; its
//! lane puts back what was done. Wish and step are under one lock: a wish that was taken is honoured before the next step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use mayfly_core::documents::{BY_ITSELF, OperationDoc, OperationState, Request};
use mayfly_core::error::{Code, Refusal};
use mayfly_core::ids::OperationId;
use mayfly_core::plan::{Asks, Cut, Plan, Step};
use mayfly_core::ports::Cancel;

use crate::engine::Engine;
use crate::keys;
use crate::lanes::Lane;
use crate::store::Write;

/// How far an operation is that was given up.
pub(crate) const PUT_BACK: &str = "cancelled; what was done was put back";

/// The operations that lanes have in their hands.
#[derive(Default)]
pub(crate) struct AllDoing(Mutex<BTreeMap<OperationId, Arc<Doing>>>);

/// One operation that its lane has in its hands.
#[derive(Default)]
pub(crate) struct Doing {
    /// Held while the operation's document is written, so never where nobody may wait for a host that hangs.
    wish: Mutex<Wish>,
    step: Mutex<Option<UnderWay>>,
    /// For a step that looks now and then whether it is still wanted.
    pub(crate) cancel: Cancel,
    /// What steps had to say that is to be read when all is over.
    notes: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Wish {
    /// Whether it is past its steps, or on its way back.
    is_closed: bool,
    /// Who wants it to be given up.
    cancelled_by: Option<String>,
}

/// A step that is under way.
#[derive(Clone)]
struct UnderWay {
    at: usize,
    what: String,
    deadline: Duration,
    begun_boot_ms: u64,
    is_told: bool,
}

/// What an executor does next.
pub(crate) enum Next {
    /// What it was about to do.
    GoOn,
    /// It puts back what was done: this one wants it to be given up.
    GiveUp(String),
}

impl AllDoing {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OperationId, Arc<Doing>>> {
        self.0.lock().expect("no thread panics with it")
    }

    fn of(&self, id: &OperationId) -> Option<Arc<Doing>> {
        self.lock().get(id).cloned()
    }
}

impl Doing {
    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().expect("no thread panics with it")
    }

    fn step(&self) -> MutexGuard<'_, Option<UnderWay>> {
        self.step.lock().expect("no thread panics with it")
    }

    /// Called before every step, and once more behind the last.
    pub(crate) fn next(&self, plan: &Plan, at: usize, now_boot_ms: u64) -> Next {
        let mut wish = self.wish();
        *self.step() = None;
        if let Some(by) = &wish.cancelled_by {
            let by = by.clone();
            wish.is_closed = true;
            return Next::GiveUp(by);
        }
        match plan.steps.get(at) {
            None => wish.is_closed = true,
            Some(planned) => self.begin(at, &planned.step, now_boot_ms),
        }
        Next::GoOn
    }

    /// What was noted since it was last asked for.
    pub(crate) fn take_notes(&self) -> Vec<String> {
        let mut notes = self.notes.lock().expect("no thread panics with it");
        std::mem::take(&mut notes)
    }

    /// A step, or an undo, begins.
    pub(crate) fn begin(&self, at: usize, step: &Step, now_boot_ms: u64) {
        *self.step() = Some(UnderWay {
            at,
            what: step.to_string(),
            deadline: step.deadline(),
            begun_boot_ms: now_boot_ms,
            is_told: false,
        });
    }

    /// A step has failed: nobody can give the operation up any more. Answers who wanted to.
    pub(crate) fn close(&self) -> Option<String> {
        let mut wish = self.wish();
        wish.is_closed = true;
        *self.step() = None;
        wish.cancelled_by.clone()
    }

    /// How long the step that is under way has taken.
    pub(crate) fn elapsed_ms(&self, now_boot_ms: u64) -> u64 {
        let begun = self.step().as_ref().map(|step| step.begun_boot_ms);
        begun.map_or(0, |begun| now_boot_ms.saturating_sub(begun))
    }

    fn overdue(&self, now_boot_ms: u64) -> Option<UnderWay> {
        self.step()
            .clone()
            .filter(|step| step.is_overdue(now_boot_ms))
    }
}

impl Engine {
    /// Takes an operation into the hands of its lane, as it is now.
    pub(crate) fn take_up(&self, id: &OperationId) -> Result<(Arc<Doing>, OperationDoc), Refusal> {
        // Read under the lock: a wish to give up what only waits is written under it.
        let mut all = self.inner.doing.lock();
        let op = self.operation_by_id(id)?;
        let doing = Arc::new(Doing::default());
        doing.wish().cancelled_by.clone_from(&op.cancelled_by);
        all.insert(id.clone(), Arc::clone(&doing));
        Ok((doing, op))
    }

    pub(crate) fn put_down(&self, id: &OperationId) {
        self.inner.doing.lock().remove(id);
    }

    /// Keeps something for whoever reads the operation when it is over.
    pub(crate) fn note_for(&self, id: &OperationId, text: String) {
        if let Some(doing) = self.inner.doing.of(id) {
            let mut notes = doing.notes.lock().expect("no thread panics with it");
            notes.push(text);
        }
    }

    /// Writes an operation's document, and what `write` writes with it, with whatever somebody wished meanwhile.
    pub(crate) fn with_wishes<T>(
        &self,
        op: &mut OperationDoc,
        write: impl FnOnce(&OperationDoc) -> T,
    ) -> T {
        let doing = self.inner.doing.of(&op.id);
        let wish = doing.as_ref().map(|doing| doing.wish());
        if let Some(wish) = &wish {
            op.cancelled_by.clone_from(&wish.cancelled_by);
        }
        write(op)
    }

    /// Gives an operation up: what waits for its turn ends at once, what is under way after its present step, which is cut
    /// short where that is possible. What it had done is put back. Answers with the operation as it is then.
    ///
    /// Refused with [`Code::OperationTooLate`] where it is over, or has done what cannot be put back.
    pub fn cancel(&self, id: &str, by: &str) -> Result<OperationDoc, Refusal> {
        let id = self.operation(id)?.id;
        self.give_up(&id, by, Asks::Somebody)
    }

    /// Has everything of a VPS that a forced stop makes pointless make way for it.
    pub(crate) fn preempt(&self, lane: Lane, stop: &OperationId) {
        for id in self.inner.lanes.waiting(lane) {
            if id == *stop {
                return;
            }
            let gives_way = |op: &OperationDoc| op.request.makes_way_for_a_forced_stop();
            if !self.operation_by_id(&id).is_ok_and(|op| gives_way(&op)) {
                continue;
            }
            match self.give_up(&id, &forced_by(stop), Asks::ForcedStop) {
                Ok(_) => tracing::info!(operation = %id, %stop, "makes way for a forced stop"),
                Err(why) => tracing::info!(operation = %id, %stop, %why, "goes first"),
            }
        }
    }

    /// Whether a forced stop had others make way for it, so that there may be nothing left to stop.
    pub(crate) fn has_preempted(&self, op: &OperationDoc) -> Result<bool, Refusal> {
        if !matches!(op.request, Request::Stop { force: true, .. }) {
            return Ok(false);
        }
        let by = forced_by(&op.id);
        let all = self.operations()?;
        Ok(all
            .iter()
            .any(|other| other.vps == op.vps && other.cancelled_by.as_ref() == Some(&by)))
    }

    fn give_up(&self, id: &OperationId, by: &str, who: Asks) -> Result<OperationDoc, Refusal> {
        let all = self.inner.doing.lock();
        let Some(doing) = all.get(id).cloned() else {
            // Nobody takes it up as long as the lock is held.
            return self.give_up_waiting(id, by);
        };
        drop(all);
        let mut wish = doing.wish();
        let mut op = self.operation_by_id(id)?;
        if op.state.is_over() || wish.is_closed {
            return Err(too_late(&op, "it is done, or being put back"));
        }
        let plan = op.plan.clone().unwrap_or_default();
        let step = doing.step().clone();
        if let Some(step) = &step {
            if !plan.gives_way(step.at, who) {
                let why = format!("it is at what cannot be put back: {}", step.what);
                return Err(too_late(&op, &why));
            }
        }
        if op.cancelled_by.is_none() {
            op.cancelled_by = Some(by.to_owned());
            self.put(Write::put_doc(keys::operation(id), &op)?)?;
            wish.cancelled_by.clone_from(&op.cancelled_by);
        }
        drop(wish);
        doing.cancel.set();
        if let Some(planned) = step.and_then(|step| plan.steps.get(step.at)) {
            self.cut(planned.step.cut(who));
        }
        self.tell_waiters();
        Ok(op)
    }

    /// What has not had its turn. Where giving it up takes more than its own document, its lane does that in its turn.
    fn give_up_waiting(&self, id: &OperationId, by: &str) -> Result<OperationDoc, Refusal> {
        let mut op = self.operation_by_id(id)?;
        if op.state.is_over() {
            return Err(too_late(&op, "it is over"));
        }
        if op
            .plan
            .as_ref()
            .is_some_and(|plan| !plan.gives_way(op.steps_done, Asks::Somebody))
            || op.state == OperationState::Undoing
        {
            return Err(too_late(&op, "it goes on with what cannot be put back"));
        }
        op.cancelled_by.get_or_insert_with(|| by.to_owned());
        let leaves_nothing = !matches!(op.request, Request::Create { .. }) && op.by != BY_ITSELF;
        if op.state == OperationState::Queued && leaves_nothing {
            self.end_cancelled(&mut op);
        }
        self.put(Write::put_doc(keys::operation(id), &op)?)?;
        self.tell_waiters();
        Ok(op)
    }

    /// The document of an operation that was given up before its first step, or that is all put back.
    pub(crate) fn end_cancelled(&self, op: &mut OperationDoc) {
        let by = op.cancelled_by.clone().unwrap_or_default();
        op.error = Some(cancelled(op, &by));
        op.state = OperationState::Cancelled;
        PUT_BACK.clone_into(&mut op.progress);
        op.ended_unix_ms = Some(self.deps().clock.unix_ms());
    }

    /// Has the step that is under way come to its end. In a thread of its own: the end of a run may take a while.
    fn cut(&self, cut: Cut) {
        let Cut::KillRun { vps, run } = cut else {
            return;
        };
        let engine = self.clone();
        let kill = move || {
            if let Err(why) = engine.deps().runtime.stop(vps, &run, Duration::ZERO, true) {
                tracing::warn!(%vps, %run, %why, "the run is not cut short");
            }
        };
        if self.has_threads() {
            let spawned = std::thread::Builder::new()
                .name("cut".into())
                .stack_size(256 << 10)
                .spawn(kill);
            if let Err(error) = spawned {
                tracing::warn!(%vps, %error, "no thread to cut the run short");
            }
        } else {
            kill();
        }
    }

    /// Tells of steps that have not come to their end in their time, once each.
    pub(crate) fn tell_overdue(&self) {
        let now = self.deps().clock.boot_ms();
        let all: Vec<_> = self.inner.doing.lock().clone().into_iter().collect();
        for (id, doing) in all {
            let Some(step) = doing.overdue(now).filter(|step| !step.is_told) else {
                continue;
            };
            let what = step.told(now);
            // Where the document is being written at this moment, that hangs as well.
            let Ok(_wish) = doing.wish.try_lock() else {
                continue;
            };
            tracing::error!(operation = %id, what, "the host hangs; the operation goes on when it answers");
            if let Some(step) = doing.step().as_mut() {
                step.is_told = true;
            }
            let written = self.operation_by_id(&id).and_then(|mut op| {
                op.progress = what;
                self.put(Write::put_doc(keys::operation(&id), &op)?)
            });
            if let Err(why) = written {
                tracing::warn!(operation = %id, %why, "that it is overdue could not be written");
            }
        }
    }

    /// Refuses where the lane hangs in a step that is overdue: what would wait behind it would wait for ever.
    pub(crate) fn refuse_behind_overdue(&self, lane: Lane) -> Result<(), Refusal> {
        let now = self.deps().clock.boot_ms();
        let first = self.inner.lanes.front(lane);
        let doing = first.as_ref().and_then(|id| self.inner.doing.of(id));
        let (Some(id), Some(step)) = (first, doing.and_then(|doing| doing.overdue(now))) else {
            return Ok(());
        };
        Err(Refusal::new(
            Code::OperationOverdue,
            format!("operation {id} hangs: {}", step.told(now)),
            "look at the kernel's log and at the disks; it goes on when the host answers, see `mayfly operation list`",
        ))
    }
}

impl UnderWay {
    fn is_overdue(&self, now_boot_ms: u64) -> bool {
        u128::from(now_boot_ms.saturating_sub(self.begun_boot_ms)) > self.deadline.as_millis()
    }

    fn told(&self, now_boot_ms: u64) -> String {
        format!(
            "{}: not done after {} s, where {} s are the most that it should take",
            self.what,
            now_boot_ms.saturating_sub(self.begun_boot_ms) / 1000,
            self.deadline.as_secs()
        )
    }
}

/// Who wants an operation to be given up, where that is a forced stop.
fn forced_by(stop: &OperationId) -> String {
    format!("operation {stop} (stop --force)")
}

/// Why an operation is given up.
pub(crate) fn cancelled(op: &OperationDoc, by: &str) -> Refusal {
    let of = op
        .vps
        .map_or_else(String::new, |vps| format!(" of VPS {vps}"));
    Refusal::new(
        Code::OperationCancelled,
        format!("{}{of} was cancelled by {by}", op.request.verb()),
        "what it had done was put back; ask again to have it done",
    )
}

fn too_late(op: &OperationDoc, why: &str) -> Refusal {
    Refusal::new(
        Code::OperationTooLate,
        format!(
            "operation {} ({}) is not cancelled: {why}",
            op.id,
            op.request.verb()
        ),
        format!("see how it goes: mayfly operation watch {}", op.id),
    )
}
