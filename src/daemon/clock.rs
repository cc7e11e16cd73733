//! The two clocks: one for deciding, one for people.

use std::time::Duration;

use ha::facts::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Now on `CLOCK_BOOTTIME`: it cannot be set, and goes on while the machine is suspended.
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Moment(Duration::new(seconds, nanoseconds))
}

/// Seconds since 1970 by the wall clock.
#[must_use]
pub fn epoch_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Microseconds on `CLOCK_MONOTONIC`, as init systems compare them.
#[must_use]
pub(crate) fn monotonic_microseconds() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}
