//! What a conversion needs beside its plan: contents copied, a guest's health waited for, and what is left for afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mayfly_core::documents::{
    BY_ITSELF, ConvertWant, Impermanence, Lifecycle, OperationDoc, OperationState, Request, VpsDoc,
};
use mayfly_core::error::{Code, LookFailed, Refusal};
use mayfly_core::health::{Health, Judgement};
use mayfly_core::ids::{OperationId, RunId, VpsId};
use mayfly_core::names::{GuestPath, PoolPath};
use mayfly_core::persist::report::State;
use mayfly_core::plan::{NewVpsDefaults, needs_health};
use mayfly_core::ports::{Cancel, Outcome};
use mayfly_core::proof::nothing_alive;
use mayfly_core::trees::{TakeTo, TakenOut, TreeCopy};

use crate::engine::Engine;
use crate::intent::ConvertIntent;

/// Where the root dataset of a converted VPS is, unless it is said or known otherwise.
const STORAGE: &str = "/persistent";
/// What could not be done of a rest is not tried again before that.
const AGAIN: Duration = Duration::from_secs(300);
/// How often a guest is asked how it is.
const ASK: Duration = Duration::from_millis(500);

impl ConvertIntent {
    pub(crate) fn resolve(self, doc: &VpsDoc) -> ConvertWant {
        let usual = || {
            STORAGE
                .parse::<GuestPath>()
                .expect("a constant path is valid")
        };
        ConvertWant {
            on: Impermanence {
                root_quota_bytes: self.root_quota.unwrap_or(NewVpsDefaults::ROOT_QUOTA),
                root_kind: self.root_kind.unwrap_or(doc.manifest.root_kind),
            },
            kind_is_asked: self.root_kind.is_some(),
            storage: self.storage.or(doc.storage.clone()).unwrap_or_else(usual),
            nix_quota: self.nix_quota,
            keep: self.keep,
        }
    }
}

impl Engine {
    /// How the guest is, where a plan needs to know.
    pub(crate) fn health_for(
        &self,
        request: &Request,
        doc: &VpsDoc,
    ) -> Option<Result<Health, LookFailed>> {
        let run = doc.run.as_ref().filter(|_| needs_health(request))?;
        Some(self.deps().runtime.health(doc.id, &run.run))
    }

    pub(crate) fn copy_tree(
        &self,
        copy: &TreeCopy,
        (op, cancel): (&OperationId, &Cancel),
    ) -> Result<Outcome, Refusal> {
        self.prove_at_rest(copy.owner.0, &copy.from)?;
        let mut progress = |text: &str| self.tell_progress(op, text);
        let done = self.deps().storage.copy_tree(copy, cancel, &mut progress)?;
        let below = match copy.below.is_top() {
            true => copy.from.to_string(),
            false => format!("{} of {}", copy.below, copy.from),
        };
        if done.outcome == Outcome::Changed {
            self.note_for(
                op,
                format!(
                    "{below}: {} were copied to {}, {} are shared with it",
                    done.copied, copy.to, done.shared
                ),
            );
        }
        Ok(done.outcome)
    }

    pub(crate) fn take_out(&self, what: &TakenOut, to: TakeTo) -> Result<Outcome, Refusal> {
        // What is out of the tree already is in no guest's reach, so that one may run.
        if to != TakeTo::Nothing {
            self.prove_at_rest(what.owner.0, &what.dataset)?;
        }
        Ok(self.deps().storage.take_out(what, to)?)
    }

    fn prove_at_rest(&self, vps: VpsId, dataset: &PoolPath) -> Result<(), Refusal> {
        nothing_alive(dataset, vps, &self.deps().runtime.evidence(vps)?)
    }

    /// Waits until nothing is queued in a guest and nothing failed but what had before.
    pub(crate) fn await_health(
        &self,
        (vps, run): (VpsId, &RunId),
        before: &BTreeSet<String>,
        deadline: Duration,
        (op, cancel): (&OperationId, &Cancel),
    ) -> Result<Outcome, Refusal> {
        let end = Instant::now() + deadline;
        let mut told = String::new();
        loop {
            let seen = self.deps().runtime.health(vps, run);
            let why = match seen.map(|health| health.beside(before)) {
                Ok(Judgement::Well) => {
                    self.check_all_stays(vps, run)?;
                    return Ok(Outcome::Unchanged);
                }
                Ok(Judgement::Worse { failed }) => {
                    return Err(unhealthy(vps, format!("{} failed", listed(&failed))));
                }
                Ok(Judgement::Unsettled { queued }) => format!("{} is queued", listed(&queued)),
                Err(why) => why.to_string(),
            };
            if cancel.is_set() {
                return Err(unhealthy(vps, "nobody waits for it any more".to_owned()));
            }
            let runs = self.deps().runtime.evidence(vps)?;
            if !runs.iter().any(|sign| sign.is_alive()) {
                return Err(unhealthy(vps, "its run is over".to_owned()));
            }
            if Instant::now() >= end {
                let waited = format!("after {} s {why}", deadline.as_secs());
                return Err(unhealthy(vps, waited));
            }
            if why != told {
                self.tell_progress(op, &format!("waiting for the guest: {why}"));
                told = why;
            }
            std::thread::sleep(ASK.min(end.saturating_duration_since(Instant::now())));
        }
    }

    /// Refuses a run in which something that is declared does not stay: its owner was told that it would.
    fn check_all_stays(&self, vps: VpsId, run: &RunId) -> Result<(), Refusal> {
        let state = self.deps().runtime.state(vps, run)?;
        let told = state.and_then(|state| state.persistence);
        match told.filter(|told| told.state == State::Degraded) {
            None => Ok(()),
            Some(told) => Err(unhealthy(
                vps,
                format!(
                    "not all that is declared stays: {}",
                    told.troubles.join("; ")
                ),
            )),
        }
    }

    /// Asks for what is left of a conversion that has just ended. What comes between is found by [`Engine::see_to_converted`].
    pub(crate) fn after_a_conversion(
        &self,
        op: &OperationDoc,
        doc: &VpsDoc,
    ) -> Result<(), Refusal> {
        let is_done = op.state == OperationState::Done;
        if !matches!(op.request, Request::Convert { .. }) || !is_done || doc.taken_out().is_none() {
            return Ok(());
        }
        let _accepting = self
            .inner
            .accepting
            .lock()
            .expect("no thread panics with it");
        self.accept(Some(doc.id), Request::ConvertRest {}, BY_ITSELF)?;
        Ok(())
    }

    /// Asks for what is left of conversions that are done. True where something was asked for.
    pub fn see_to_converted(&self) -> Result<bool, Refusal> {
        if self.held().is_some() {
            return Ok(false);
        }
        let is_due = |doc: &VpsDoc| doc.lifecycle == Lifecycle::Ready && doc.taken_out().is_some();
        let mut asked = false;
        for doc in self.vpses()?.iter().filter(|doc| is_due(doc)) {
            let _accepting = self
                .inner
                .accepting
                .lock()
                .expect("no thread panics with it");
            let by = doc.converted.as_ref().map(|one| &one.by);
            let now = self.deps().clock.unix_ms();
            let waits = |op: &OperationDoc| {
                // Whatever is under way may be that very conversion, whose end asks for it too. One that failed after the
                // guest had run on is there all the same, and its owner may want back what was before.
                let under_way = op.vps == Some(doc.id) && !op.state.is_over();
                let failed = Some(&op.id) == by && op.state != OperationState::Done;
                let since = now.abs_diff(op.ended_unix_ms.unwrap_or_default());
                let in_vain = op.vps == Some(doc.id)
                    && matches!(op.request, Request::ConvertRest {})
                    && Duration::from_millis(since) < AGAIN;
                under_way || failed || in_vain
            };
            if self.operations()?.iter().any(waits) {
                continue;
            }
            self.accept(Some(doc.id), Request::ConvertRest {}, BY_ITSELF)?;
            asked = true;
        }
        Ok(asked)
    }
}

fn listed(units: &BTreeSet<String>) -> String {
    let few: Vec<&str> = units.iter().take(5).map(String::as_str).collect();
    match units.len() > few.len() {
        true => format!("{} and {} more", few.join(", "), units.len() - few.len()),
        false => few.join(", "),
    }
}

fn unhealthy(vps: VpsId, why: String) -> Refusal {
    Refusal::new(
        Code::Unhealthy,
        format!("VPS {vps} is not as well as it was before: {why}"),
        format!("see what it said meanwhile: mayfly logs {vps}"),
    )
}
