//! Time and randomness of a fake host: time moves when the test says so, and the randomness is the same every time.

use std::time::Duration;

use super::FakeHost;
use crate::ports::Clock;

impl FakeHost {
    /// Time goes by; space that was given up comes back.
    pub fn advance(&self, time: Duration) {
        self.world()
            .advance(u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4));
    }

    /// The wall clock is set to something else. The boot clock goes on.
    pub fn set_unix_ms(&self, unix_ms: u64) {
        self.world().unix_ms = unix_ms;
    }
}

impl Clock for FakeHost {
    fn unix_ms(&self) -> u64 {
        self.world().unix_ms
    }

    fn boot_ms(&self) -> u64 {
        self.world().boot_ms
    }

    fn boot_id(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.world().boots)
    }

    fn random(&self, into: &mut [u8]) {
        let mut world = self.world();
        for byte in into {
            // xorshift64: any sequence does that does not repeat itself within a test.
            world.random ^= world.random << 13;
            world.random ^= world.random >> 7;
            world.random ^= world.random << 17;
            *byte = (world.random >> 32) as u8;
        }
    }
}
