//! Time and randomness of this host.

use std::time::{SystemTime, UNIX_EPOCH};

use mayfly_core::ports::Clock;
use rustix::time::{ClockId, clock_gettime};

/// The kernel's clocks and its random numbers.
#[derive(Clone, Debug)]
pub struct HostClock {
    boot_id: String,
}

impl HostClock {
    /// Reads the id of this boot, once.
    pub fn new() -> std::io::Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        Ok(Self { boot_id })
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

impl Clock for HostClock {
    fn unix_ms(&self) -> u64 {
        unix_ms()
    }

    fn boot_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
    }

    fn boot_id(&self) -> String {
        self.boot_id.clone()
    }

    fn random(&self, into: &mut [u8]) {
        let mut filled = 0;
        while filled < into.len() {
            match rustix::rand::getrandom(
                &mut into[filled..],
                rustix::rand::GetRandomFlags::empty(),
            ) {
                Ok(n) => filled += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("the kernel gives no random numbers: {error}"),
            }
        }
    }
}
