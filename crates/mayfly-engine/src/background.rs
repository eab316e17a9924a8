//! Threads that nobody asked for: the monitor of runs, and the [reaper](crate::reaper).

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::Engine;

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

    pub(crate) fn stopping(&self) -> bool {
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
}
