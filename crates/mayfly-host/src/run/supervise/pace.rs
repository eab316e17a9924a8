//! How fast a guest's output is taken. Copying it costs time of the host's processors that is not counted to the VPS, so a
//! guest that prints without end is let wait: its writes to the console block. What a boot or a crash prints fits at once.

use std::time::{Duration, Instant};

/// Bytes that are taken at once after a silence.
const BURST: usize = 2 << 20;
/// Bytes a second for who never stops.
const RATE: usize = 256 << 10;
/// How long nothing is taken when all is used up.
const PAUSE: Duration = Duration::from_millis(50);

/// How much may be taken now.
#[derive(Debug)]
pub(super) struct Pace {
    left: usize,
    since: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    /// Time has passed.
    pub(super) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < PAUSE {
            return;
        }
        let millis = usize::try_from(passed.as_millis()).unwrap_or(usize::MAX);
        let more = millis.saturating_mul(RATE / 1000);
        self.left = self.left.saturating_add(more).min(BURST);
        self.since = now;
    }

    /// How many bytes may be taken.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// So many were taken.
    pub(super) fn take(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// How long to wait before anything may be taken.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        (self.left == 0).then(|| PAUSE.saturating_sub(now.saturating_duration_since(self.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_rate() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        assert_eq!((pace.left(), pace.pause(began)), (BURST, None));
        pace.take(BURST);
        assert_eq!(pace.pause(began), Some(PAUSE));
        pace.refill(began + PAUSE / 2);
        assert_eq!(
            (pace.left(), pace.pause(began + PAUSE / 2)),
            (0, Some(PAUSE / 2))
        );
        let mut taken = 0;
        for step in 1..=200 {
            pace.refill(began + PAUSE * step);
            taken += pace.left();
            pace.take(pace.left());
        }
        let whole = 10 * RATE;
        assert!(
            taken <= whole && taken > whole - whole / 50,
            "{taken} in 10 s"
        );
        pace.refill(began + Duration::from_secs(3600));
        assert_eq!(pace.left(), BURST);
    }
}
