//! Lanes: one for each VPS, one for templates. What is in one lane is carried out one after the other; all changes of
//! a VPS go through its lane.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mayfly_core::ids::{OperationId, VpsId};
use mayfly_core::plan::Busy;

use crate::engine::Engine;

/// Which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Changes of one VPS.
    Vps(VpsId),
    /// Changes of templates.
    Templates,
}

impl Lane {
    pub(crate) fn of(vps: Option<VpsId>) -> Self {
        vps.map_or(Self::Templates, Self::Vps)
    }
}

/// A lane is in the map as long as it has an operation waiting or being carried out (that one is at the front).
#[derive(Default)]
pub(crate) struct Lanes {
    queues: Mutex<BTreeMap<Lane, VecDeque<OperationId>>>,
    threaded: AtomicBool,
}

impl Lanes {
    pub(crate) fn busy(&self) -> Busy {
        let queues = self.queues.lock().expect("no thread panics with it");
        let vpses = queues.keys().filter_map(|lane| {
            if let Lane::Vps(id) = lane {
                Some(*id)
            } else {
                None
            }
        });
        Busy {
            vpses: vpses.collect(),
            templates: queues.contains_key(&Lane::Templates),
            all: false,
        }
    }

    pub(crate) fn front(&self, lane: Lane) -> Option<OperationId> {
        self.queues
            .lock()
            .expect("no thread panics with it")
            .get(&lane)?
            .front()
            .cloned()
    }

    /// What waits in a lane, in its order, what is being carried out included.
    pub(crate) fn waiting(&self, lane: Lane) -> Vec<OperationId> {
        let queues = self.queues.lock().expect("no thread panics with it");
        queues.get(&lane).into_iter().flatten().cloned().collect()
    }

    /// Takes the front off; the lane goes with its last operation. True when there is another.
    fn advance(&self, lane: Lane) -> bool {
        let mut queues = self.queues.lock().expect("no thread panics with it");
        let Some(queue) = queues.get_mut(&lane) else {
            return false;
        };
        queue.pop_front();
        if queue.is_empty() {
            queues.remove(&lane);
            return false;
        }
        true
    }

    /// Whether something waits in a lane besides what is being carried out.
    fn somebody_waits(&self, lane: Lane) -> bool {
        let queues = self.queues.lock().expect("no thread panics with it");
        queues.get(&lane).is_some_and(|queue| queue.len() > 1)
    }

    fn any(&self) -> Option<Lane> {
        self.queues
            .lock()
            .expect("no thread panics with it")
            .keys()
            .next()
            .copied()
    }
}

/// How long a lane waits before it tries again what could not be journalled.
const STUCK_PAUSE: Duration = Duration::from_secs(5);

/// How often a lane that pauses looks whether somebody waits.
const LOOK_ABOUT: Duration = Duration::from_millis(50);

impl Engine {
    /// Whether operations are carried out in threads of their own.
    pub(crate) fn has_threads(&self) -> bool {
        self.inner.lanes.threaded.load(Ordering::SeqCst)
    }

    pub(crate) fn enqueue(&self, lane: Lane, id: OperationId) {
        let fresh = {
            let mut queues = self
                .inner
                .lanes
                .queues
                .lock()
                .expect("no thread panics with it");
            let fresh = !queues.contains_key(&lane);
            queues.entry(lane).or_default().push_back(id);
            fresh
        };
        if fresh && self.inner.lanes.threaded.load(Ordering::SeqCst) {
            self.spawn_lane(lane);
        }
    }

    fn spawn_lane(&self, lane: Lane) {
        let engine = self.clone();
        let spawned = std::thread::Builder::new()
            .name("lane".into())
            .stack_size(512 << 10)
            .spawn(move || engine.run_lane(lane));
        if let Err(error) = spawned {
            tracing::error!(?lane, %error, "no thread for this lane; its operations wait for the next start");
        }
    }

    fn run_lane(&self, lane: Lane) {
        while let Some(id) = self.inner.lanes.front(lane) {
            if self.inner.stopping.load(Ordering::SeqCst) {
                return;
            }
            if !self.carry_out(&id) {
                // Its journal could not be written. Nothing of this VPS may pass it: whatever it left half done would be
                // done later, over what came after it.
                if !self.has_threads() {
                    return;
                }
                std::thread::sleep(STUCK_PAUSE);
                continue;
            }
            let goes_on = self.inner.lanes.advance(lane);
            // Only now: the reaper passes over what lanes may be at work on.
            self.wake_reaper();
            if !goes_on {
                return;
            }
        }
    }

    /// Keeps a lane for a while, or until somebody waits for it.
    pub(crate) fn pause(&self, lane: Lane, longest: Duration) {
        let end = Instant::now() + longest;
        while Instant::now() < end && !self.inner.lanes.somebody_waits(lane) {
            std::thread::sleep(LOOK_ABOUT);
        }
    }

    /// Lets operations be carried out in threads of their own from now on.
    pub(crate) fn start_lanes(&self) {
        self.inner.lanes.threaded.store(true, Ordering::SeqCst);
        let lanes: Vec<Lane> = self
            .inner
            .lanes
            .queues
            .lock()
            .expect("no thread panics with it")
            .keys()
            .copied()
            .collect();
        for lane in lanes {
            self.spawn_lane(lane);
        }
    }

    /// Carries out everything that waits, on this thread. For tests, and for an engine without threads.
    pub fn drain(&self) {
        while let Some(lane) = self.inner.lanes.any() {
            let before = self.inner.lanes.front(lane);
            self.run_lane(lane);
            if before.is_some() && self.inner.lanes.front(lane) == before {
                return;
            }
        }
    }
}
