//! Threads that nobody asked for: the monitor of runs and the reaper.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mayfly_core::error::Refusal;
use mayfly_core::names::PoolPath;
use mayfly_core::ports::HostError;
use mayfly_core::proof::Condemned;

use crate::engine::Engine;

/// How often a grave that could not be destroyed is tried again.
const RETRY: Duration = Duration::from_secs(30);

impl Engine {
    /// Starts lanes, monitor and reaper.
    pub fn start_threads(&self) -> std::io::Result<()> {
        self.start_lanes();
        let engine = self.clone();
        std::thread::Builder::new()
            .name("monitor".into())
            .stack_size(512 << 10)
            .spawn(move || engine.monitor())?;
        let engine = self.clone();
        std::thread::Builder::new()
            .name("reaper".into())
            .stack_size(512 << 10)
            .spawn(move || engine.reaper())?;
        Ok(())
    }

    /// Lets every thread end after what it is doing. Operations that wait go on at the next start; runs are left
    /// alone.
    pub fn stop_threads(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.wake_reaper();
    }

    fn stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::SeqCst)
    }

    fn monitor(&self) {
        while !self.stopping() {
            self.settle_ends(Duration::from_secs(1));
        }
    }

    /// Settles the end of one run, if there is one within `timeout`. True when there was.
    pub fn settle_ends(&self, timeout: Duration) -> bool {
        let Some((vps, run, end)) = self.deps().runtime.next_end(timeout) else {
            return false;
        };
        tracing::info!(%vps, %run, ?end, "a run has ended");
        if let Err(why) = self.submit_run_ended(vps, run, end) {
            tracing::error!(%vps, %why, "the end of a run could not be recorded");
        }
        true
    }

    pub(crate) fn wake_reaper(&self) {
        let (due, wake) = &self.inner.reap;
        *due.lock().expect("no thread panics with it") = true;
        wake.notify_all();
    }

    fn reaper(&self) {
        let (due, wake) = &self.inner.reap;
        while !self.stopping() {
            {
                let guard = due.lock().expect("no thread panics with it");
                let (mut guard, _) = wake
                    .wait_timeout_while(guard, RETRY, |due| !*due)
                    .expect("no thread panics with it");
                *guard = false;
            }
            if self.stopping() {
                return;
            }
            match self.reap_once() {
                Ok(waiting) if waiting.is_empty() => {}
                Ok(waiting) => tracing::info!(?waiting, "graves that are busy; trying again later"),
                Err(why) => tracing::warn!(%why, "the graveyard was not looked after"),
            }
        }
    }

    /// Buries leftovers with proof, then destroys what lies in the graveyard with proof. Answers with the graves that
    /// are busy.
    pub fn reap_once(&self) -> Result<Vec<PoolPath>, Refusal> {
        let id = self.fresh_operation_id();
        let (_, leftovers) = self.leftovers(&id)?;
        let mut graves = leftovers.graves;
        for step in &leftovers.burials {
            match self.bury_leftover(step, &id) {
                Ok(grave) => graves.extend(grave),
                Err(why) => tracing::warn!(%step, %why, "a leftover stays"),
            }
        }
        let mut waiting = Vec::new();
        for grave in graves {
            let Some(seen) = self.deps().storage.look(&grave)? else {
                continue;
            };
            let condemned = match Condemned::prove(&grave, &seen.mark, &self.node().id) {
                Ok(condemned) => condemned,
                Err(why) => {
                    tracing::warn!(%grave, %why, "a grave stays");
                    continue;
                }
            };
            match self.deps().storage.reap(&condemned) {
                Ok(_) => tracing::info!(%grave, "destroyed"),
                Err(HostError::Busy { .. }) => waiting.push(grave),
                Err(why) => {
                    tracing::warn!(%grave, %why, "not destroyed");
                    waiting.push(grave);
                }
            }
        }
        Ok(waiting)
    }
}
