//! When a heartbeat is sent, on the clock that a lock counts on.

use std::time::Duration;

use ha::cluster::Sent;
use rustix::time::{ClockId, clock_gettime};

/// One agent's clock for its heartbeats: `CLOCK_BOOTTIME`, with a random number that no other agent has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SendingClock {
    agent: u32,
}

impl SendingClock {
    pub(crate) fn new() -> Self {
        Self {
            agent: fastrand::u32(..),
        }
    }

    pub(crate) fn now(self) -> Sent {
        Sent::new(self.agent, boot_time())
    }
}

/// The boot-time clock, which goes on while the machine is suspended.
pub(crate) fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}
