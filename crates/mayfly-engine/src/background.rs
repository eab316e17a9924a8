//! Threads that nobody asked for: the monitor of runs, and the [reaper](crate::reaper).

use std::sync::atomic::Ordering;
use std::time::Duration;

use mayfly_core::ids::VpsId;

use crate::autostart::BootQueue;
use crate::engine::Engine;
use crate::recover::Recovered;

/// How often the monitor looks after what was missed.
const PAUSE: Duration = Duration::from_secs(1);

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
        let engine = self.clone();
        std::thread::Builder::new()
            .name("network".into())
            .stack_size(512 << 10)
            .spawn(move || engine.keep_network())?;
        let engine = self.clone();
        std::thread::Builder::new()
            .name("mirrors".into())
            .stack_size(512 << 10)
            .spawn(move || engine.keep_mirrors())?;
        Ok(())
    }

    /// Lets every thread end after what it is doing. Operations that wait go on at the next start; runs are left
    /// alone.
    pub fn stop_threads(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        self.wake_reaper();
        self.wake_mirrors();
        self.wake_network();
        self.mirror_once();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::SeqCst)
    }

    fn monitor(&self) {
        while !self.stopping() {
            if !self.settle_ends(PAUSE) {
                self.settle_missed();
            }
            self.tell_overdue();
        }
    }

    /// Settles the end of one run, if there is one within `timeout`. True when there was.
    pub fn settle_ends(&self, timeout: Duration) -> bool {
        let Some((vps, run, end)) = self.deps().runtime.next_end(timeout) else {
            return false;
        };
        tracing::info!(%vps, %run, ?end, "a run has ended");
        if let Err(why) = self.submit_run_ended(vps, run, end) {
            tracing::error!(%vps, %why, "the end of a run could not be recorded; looked after later");
            self.miss(vps);
        }
        true
    }

    /// What this VPS is due could not be asked for.
    pub(crate) fn miss(&self, vps: VpsId) {
        let mut missed = self.inner.missed.lock().expect("no thread panics with it");
        missed.insert(vps);
    }

    /// Looks again, as at the start of the daemon, at each VPS whose due could not be asked for, until it can.
    pub fn settle_missed(&self) {
        let missed =
            std::mem::take(&mut *self.inner.missed.lock().expect("no thread panics with it"));
        let busy = self.inner.lanes.busy();
        for vps in missed {
            let settled = match self.vps_by_id(vps) {
                // What is under way may be the very thing.
                Ok(Some(_)) if busy.vpses.contains(&vps) => false,
                Ok(Some(doc)) => {
                    let mut boot = BootQueue::default();
                    self.recover_vps(&doc, &mut boot, &mut Recovered::default())
                        .and_then(|()| self.begin_boot(boot))
                        .is_ok()
                }
                Ok(None) => true,
                Err(_) => false,
            };
            if !settled {
                self.miss(vps);
            }
        }
    }
}
