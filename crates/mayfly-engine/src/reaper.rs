//! The reaper: it buries what crashes left and destroys what lies in the graveyard, both with proof.
//!
//! A grave that some process has mounted waits for that process, however long it takes; nothing else waits with it. What
//! cannot be destroyed, or buried, is tried again with a pause that doubles from one second up to five minutes, and it is
//! logged once, and again when the reason is another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use mayfly_core::error::{Code, Refusal};
use mayfly_core::names::PoolPath;
use mayfly_core::observed::Evidence;
use mayfly_core::plan::Step;
use mayfly_core::ports::{HostError, HostResult, Outcome};
use mayfly_core::proof::Condemned;

use crate::engine::Engine;

/// How often leftovers are looked for.
const LOOK: Duration = Duration::from_secs(30);

/// The first pause of a grave that waits, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// How long an operation that destroys at once waits for what is busy.
const REAP_DEADLINE: Duration = Duration::from_secs(30);

/// So many holders are named.
const NAMED: usize = 4;

/// Why a grave, or a leftover, is there still.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    why: String,
    /// By a process, or in a way that only the kernel knows: who it is is looked up when somebody asks.
    is_held: bool,
    pause: Duration,
    again_boot_ms: u64,
    /// Its VPS, or a template, is being worked at: it is not tried meanwhile, and at once when that is over.
    is_passed_over: bool,
}

/// Graves and leftovers that were tried in vain.
pub(crate) type Graves = BTreeMap<PoolPath, Waiting>;

impl Engine {
    pub(crate) fn wake_reaper(&self) {
        let (due, wake) = &self.inner.reap;
        *due.lock().expect("no thread panics with it") = true;
        wake.notify_all();
    }

    pub(crate) fn reaper(&self) {
        let (due, wake) = &self.inner.reap;
        while !self.stopping() {
            if let Err(why) = self.see_to_replaced() {
                tracing::warn!(%why, "former contents were not looked after");
            }
            if let Err(why) = self.see_to_converted() {
                tracing::warn!(%why, "what conversions left was not looked after");
            }
            {
                let guard = due.lock().expect("no thread panics with it");
                let (mut guard, _) = wake
                    .wait_timeout_while(guard, self.until_next_try(), |due| !*due)
                    .expect("no thread panics with it");
                *guard = false;
            }
            if self.stopping() {
                return;
            }
            if let Err(why) = self.reap_due() {
                tracing::warn!(%why, "the graveyard was not looked after");
            }
        }
    }

    /// Buries leftovers with proof, then destroys what lies in the graveyard with proof. Answers with the graves that
    /// are busy.
    pub fn reap_once(&self) -> Result<Vec<PoolPath>, Refusal> {
        self.reap(|_| true)
    }

    /// The same, without the graves whose pause is not over.
    pub fn reap_due(&self) -> Result<Vec<PoolPath>, Refusal> {
        let now = self.deps().clock.boot_ms();
        self.reap(|waiting| waiting.is_none_or(|one| one.again_boot_ms <= now))
    }

    fn reap(&self, is_due: impl Fn(Option<&Waiting>) -> bool) -> Result<Vec<PoolPath>, Refusal> {
        if self.held().is_some() {
            return Ok(Vec::new());
        }
        let id = self.fresh_operation_id();
        let (_, leftovers) = self.leftovers(&id)?;
        let (mut graves, mut burials) = (leftovers.graves, leftovers.burials);
        {
            let left = burials.iter().filter_map(buried_by);
            let passed_over: BTreeSet<_> = leftovers.passed_over.iter().collect();
            let there: BTreeSet<_> = graves.iter().chain(left).collect();
            let mut known = self.graves();
            known.retain(|name, _| there.contains(name) || passed_over.contains(name));
            for (name, waiting) in known.iter_mut() {
                let was =
                    std::mem::replace(&mut waiting.is_passed_over, passed_over.contains(name));
                if was && !waiting.is_passed_over {
                    waiting.again_boot_ms = 0;
                }
            }
            graves.retain(|grave| is_due(known.get(grave)));
            burials.retain(|step| is_due(buried_by(step).and_then(|name| known.get(name))));
        }
        let mut waits = BTreeSet::new();
        for step in &burials {
            // Where its harvest failed, the burial is due with the next one.
            if buried_by(step).is_some_and(|name| waits.contains(name)) {
                continue;
            }
            match (self.bury_leftover(step, &id), buried_by(step)) {
                (Ok(grave), _) => graves.extend(grave),
                (Err(why), Some(name)) => {
                    self.wait_longer(name, &why.into());
                    waits.insert(name.clone());
                }
                (Err(why), None) => tracing::warn!(%step, %why, "a leftover stays"),
            }
        }
        if graves.is_empty() {
            return Ok(Vec::new());
        }
        let holders = self.deps().runtime.holders(&graves)?;
        let mut waiting = Vec::new();
        for grave in graves {
            match self.destroy_grave(&grave, holders.get(&grave)) {
                Ok(outcome) => {
                    if outcome == Outcome::Changed {
                        tracing::info!(%grave, "destroyed");
                    }
                    self.graves().remove(&grave);
                }
                Err(error) => {
                    self.wait_longer(&grave, &error);
                    waiting.push(grave);
                }
            }
        }
        Ok(waiting)
    }

    /// Destroys a grave that nobody holds, with the proof of its mark as it is now. One that is gone is fine.
    fn destroy_grave(
        &self,
        grave: &PoolPath,
        holders: Option<&Vec<Evidence>>,
    ) -> HostResult<Outcome> {
        let Some(seen) = self.deps().storage.look(grave)? else {
            return Ok(Outcome::Unchanged);
        };
        let condemned = Condemned::prove(grave, &seen.mark, &self.node().id)?;
        if let Some(holders) = holders {
            return Err(HostError::Busy {
                object: grave.to_string(),
                why: told(holders),
            });
        }
        self.deps().storage.reap(&condemned)
    }

    /// Tried again after a pause that grows; said once.
    fn wait_longer(&self, grave: &PoolPath, error: &HostError) {
        let why = error.to_string();
        let mut graves = self.graves();
        let before = graves.get(grave);
        if before.is_none_or(|before| before.why != why) {
            match error {
                HostError::Busy { .. } => tracing::info!(%grave, %why, "a grave waits"),
                _ => tracing::warn!(%grave, %why, "it stays in the pool"),
            }
        }
        let pause = before.map_or(PAUSES.0, |before| (before.pause * 2).min(PAUSES.1));
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        let again_boot_ms = self.deps().clock.boot_ms().saturating_add(ms);
        let waiting = Waiting {
            why,
            is_held: matches!(error, HostError::Busy { .. }),
            pause,
            again_boot_ms,
            is_passed_over: false,
        };
        graves.insert(grave.clone(), waiting);
    }

    fn until_next_try(&self) -> Duration {
        let now = self.deps().clock.boot_ms();
        let graves = self.graves();
        let tried = graves.values().filter(|one| !one.is_passed_over);
        let next = tried.map(|one| one.again_boot_ms).min();
        // At least a moment: a grave that is due stays due where nobody can look.
        next.map_or(LOOK, |at| {
            Duration::from_millis(at.saturating_sub(now)).clamp(PAUSES.0, LOOK)
        })
    }

    fn graves(&self) -> std::sync::MutexGuard<'_, Graves> {
        self.inner.graves.lock().expect("no thread panics with it")
    }

    /// Who, or what, keeps graves and leftovers from being destroyed, in words.
    pub(crate) fn why_graves_wait(&self, graves: &[PoolPath]) -> Vec<String> {
        let held = match graves {
            [] => Ok(BTreeMap::new()),
            graves => self.deps().runtime.holders(graves),
        };
        let held = match held {
            Ok(held) => held,
            Err(failed) => return vec![format!("the graveyard: {failed}")],
        };
        let tried = self.graves();
        let tried = tried.iter().filter(|(_, waiting)| !waiting.is_held);
        held.iter()
            .map(|(grave, holders)| (grave, told(holders)))
            .chain(tried.map(|(name, waiting)| (name, waiting.why.clone())))
            .map(|(name, why)| format!("{name}: it is not destroyed: {why}"))
            .collect()
    }

    /// Destroys graves before the operation ends; one that is busy is waited for, and then left to the reaper.
    pub(crate) fn reap_now(&self, graves: &[PoolPath]) -> Result<Outcome, Refusal> {
        let deadline = Instant::now() + REAP_DEADLINE;
        let mut outcome = Outcome::Unchanged;
        let mut pause = Duration::from_millis(50);
        let mut left: Vec<PoolPath> = graves.to_vec();
        loop {
            let holders = self.deps().runtime.holders(&left)?;
            let mut busy = Vec::new();
            for grave in left {
                match self.destroy_grave(&grave, holders.get(&grave)) {
                    Ok(Outcome::Changed) => outcome = Outcome::Changed,
                    Ok(Outcome::Unchanged) => {}
                    Err(error @ HostError::Busy { .. }) => busy.push((grave, error)),
                    Err(error) => return Err(error.into()),
                }
            }
            let Some((_, error)) = busy.first() else {
                break;
            };
            if Instant::now() >= deadline {
                return Err(Refusal::new(
                    Code::DatasetInUse,
                    format!("all is done but to give back the space: {error}"),
                    "end that process; what it holds is then destroyed in the background, see `mayfly pool show`",
                ));
            }
            left = busy.into_iter().map(|(grave, _)| grave).collect();
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        self.deps().storage.hurry_space()?;
        Ok(outcome)
    }
}

/// What a burial of leftovers moves.
fn buried_by(step: &Step) -> Option<&PoolPath> {
    match step {
        Step::BuryRoot { root: name, .. }
        | Step::BuryTemplate { dataset: name, .. }
        | Step::BuryData { dataset: name, .. } => Some(name),
        Step::Harvest { harvest } => Some(&harvest.root),
        _ => None,
    }
}

fn told(holders: &[Evidence]) -> String {
    let mut words: Vec<String> = holders.iter().map(ToString::to_string).collect();
    words.dedup();
    let more = words.len().saturating_sub(NAMED);
    words.truncate(NAMED);
    let mut text = words.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}
