//! Signs of life for the init system or the supervisor, which start another agent in the place of one that hangs.
//!
//! One is given when a step of a cycle has come to its end, and from time to time while the loop waits for its next
//! cycle and that is not overdue. So a process that is frozen, a loop that is blocked, a step that never ends and a
//! cycle that never begins are all silent.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use config::DynamicConfig;
use guard::{BootTime, Lease};
use ha::facts::Moment;

use super::{clock, notify};

/// How many signs of life there are in the time after which one is missed.
const SIGNS: u32 = 4;

/// A wait that goes on for so much longer than it should is overdue.
const LATE: Duration = Duration::from_secs(1);

/// The signs of life.
pub(crate) struct Pulse {
    /// How long silence is borne; `None` when nobody listens.
    patience: Option<Duration>,
    given_at: Option<Instant>,
    status: String,
}

impl Pulse {
    /// As whoever has started us wants it, until the timers are known.
    pub(crate) fn new() -> Self {
        let patience = notify::watchdog_time();
        patience.into_iter().for_each(tell_patience);
        Self {
            patience,
            given_at: None,
            status: String::new(),
        }
    }

    /// Says what silence is to be borne with these timers, when it is another than before.
    pub(crate) fn follow(&mut self, config: &DynamicConfig) {
        let wanted = patience(config.ttl, config.loop_wait, config.retry_timeout);
        if self.patience.is_some_and(|patience| patience != wanted) {
            self.patience = Some(wanted);
            tell_patience(wanted);
        }
    }

    /// Shows what we are doing, when it is something else than before.
    pub(crate) fn show(&mut self, status: String) {
        if notify::has_listener() && self.status != status {
            notify::tell(&format!("STATUS={}", status.replace('\n', " ")));
            self.status = status;
        }
    }

    /// Something has come to its end.
    pub(crate) fn beat(&mut self) {
        let Some(interval) = self.interval() else { return };
        // Many small steps make one sign.
        if self.given_at.is_none_or(|at| at.elapsed() >= interval / 4) {
            notify::tell(notify::ALIVE);
            self.given_at = Some(Instant::now());
        }
    }

    /// The loop has been woken while it waits for `until`, and is about to look what for.
    pub(crate) fn beat_before(&mut self, until: Moment) {
        if clock::now() < until.after(LATE) {
            self.beat();
        }
    }

    /// Gives signs for as long as it is waited for, and `until` is not long past. Never ends; may be dropped.
    pub(crate) async fn beat_until(&mut self, until: Option<Moment>) -> Infallible {
        let Some(interval) = self.interval() else {
            return std::future::pending().await;
        };
        while until.is_none_or(|until| clock::now() < until.after(LATE)) {
            self.beat();
            tokio::time::sleep(interval).await;
        }
        std::future::pending().await
    }

    fn interval(&self) -> Option<Duration> {
        self.patience.map(|patience| patience / SIGNS)
    }
}

fn tell_patience(patience: Duration) {
    let microseconds = patience.as_micros();
    notify::tell(&format!("{}={microseconds}", notify::WATCHDOG_VARIABLE));
}

/// How long an agent may be silent. Long enough for the longest single step, which takes `retry_timeout`; where the
/// timers leave room for it short enough that another agent can renew a lease that was last renewed a `loop_wait`
/// before the silence began, and the guard does not begin to stop PostgreSQL.
fn patience(ttl: Duration, loop_wait: Duration, retry_timeout: Duration) -> Duration {
    let sent = BootTime::from_nanos(0);
    let lease = sent.until(Lease::of_primary(sent, ttl).stop_at);
    let to_start_another = (ttl / 20).clamp(Duration::from_millis(300), Duration::from_millis(1500));
    let longest_step = retry_timeout + retry_timeout / 4;
    lease
        .saturating_sub(loop_wait)
        .saturating_sub(to_start_another)
        .max(longest_step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_borne_for_as_long_as_the_lease_bears_it() {
        let milliseconds = |ttl, loop_wait, retry_timeout| {
            let seconds = Duration::from_secs;
            patience(seconds(ttl), seconds(loop_wait), seconds(retry_timeout)).as_millis()
        };
        // Patroni's defaults: the guard begins 27.5 s after a renewal, the next renewal is due after 10 s.
        assert_eq!(milliseconds(30, 10, 10), 16_000);
        assert_eq!(milliseconds(20, 10, 5), 6_600);
        assert_eq!(milliseconds(8, 2, 2), 4_520);
        // The shortest: what a slow DCS may take comes first.
        assert_eq!(milliseconds(3, 1, 1), 1_250);
    }
}
