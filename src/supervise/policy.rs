//! What follows from the end of an agent: pure.

use std::time::{Duration, Instant};

/// The first pause: nobody notices it.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause, after many agents that ended soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// An agent that was ready for so long has nothing to do with the ends before it.
const SETTLED: Duration = Duration::from_secs(10);

/// How an agent has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Code(u8),
    Signal(i32),
}

/// What to do then.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// End with this exit code.
    End(u8),
    StartAfter(Duration),
}

/// What is remembered of the agents up to now.
#[derive(Debug)]
pub(super) struct Policy {
    /// Since when the agent that runs is ready.
    ready_since: Option<Instant>,
    /// One was ready some time: the configuration can be used.
    was_ready: bool,
    stop_was_asked: bool,
    next_pause: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ready_since: None,
            was_ready: false,
            stop_was_asked: false,
            next_pause: SHORTEST_PAUSE,
        }
    }
}

impl Policy {
    pub(super) fn agent_is_ready(&mut self, now: Instant) {
        self.ready_since.get_or_insert(now);
        self.was_ready = true;
    }

    pub(super) fn was_ready(&self) -> bool {
        self.was_ready
    }

    pub(super) fn stop_was_asked(&mut self) {
        self.stop_was_asked = true;
    }

    /// The agent has ended.
    pub(super) fn after(&mut self, ended: Ended, now: Instant) -> Next {
        let ready_since = self.ready_since.take();
        match ended {
            Ended::Code(0) => return Next::End(0),
            Ended::Code(code) if self.stop_was_asked || !self.was_ready => return Next::End(code),
            // As a shell does.
            Ended::Signal(signal) if self.stop_was_asked => {
                return Next::End(u8::try_from(128 + signal).unwrap_or(u8::MAX));
            }
            Ended::Code(_) | Ended::Signal(_) => {}
        }
        if ready_since.is_some_and(|since| now.duration_since(since) >= SETTLED) {
            self.next_pause = SHORTEST_PAUSE;
        }
        let pause = self.next_pause;
        self.next_pause = (pause * 2).min(LONGEST_PAUSE);
        Next::StartAfter(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Ended = Ended::Signal(9);

    fn ready() -> (Policy, Instant) {
        let (mut policy, now) = (Policy::default(), Instant::now());
        policy.agent_is_ready(now);
        (policy, now)
    }

    #[test]
    fn an_end_that_was_meant_is_ours() {
        let now = Instant::now();
        assert_eq!(Policy::default().after(Ended::Code(0), now), Next::End(0));
        // It could not even begin: a configuration that cannot be used.
        assert_eq!(Policy::default().after(Ended::Code(1), now), Next::End(1));
        let (mut policy, now) = ready();
        policy.stop_was_asked();
        assert_eq!(policy.after(Ended::Code(5), now), Next::End(5));
        let (mut policy, now) = ready();
        policy.stop_was_asked();
        assert_eq!(policy.after(KILLED, now), Next::End(137));
    }

    #[test]
    fn one_that_was_killed_is_replaced_at_once() {
        let now = Instant::now();
        let at_once = Next::StartAfter(Duration::from_millis(100));
        assert_eq!(Policy::default().after(KILLED, now), at_once);
        for ended in [KILLED, Ended::Code(1), Ended::Signal(6)] {
            let (mut policy, now) = ready();
            assert_eq!(policy.after(ended, now), at_once);
        }
    }

    #[test]
    fn one_that_ends_again_and_again_is_let_be_for_longer_and_longer() {
        let (mut policy, now) = ready();
        let pauses: Vec<u128> = (0..9)
            .map(|_| match policy.after(Ended::Code(1), now) {
                Next::StartAfter(pause) => pause.as_millis(),
                Next::End(code) => panic!("ends with {code}"),
            })
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        // It was ready for a while: that is another story.
        policy.agent_is_ready(now);
        policy.agent_is_ready(now + SETTLED);
        assert_eq!(
            policy.after(KILLED, now + SETTLED),
            Next::StartAfter(SHORTEST_PAUSE)
        );
        // Not so when it was ready for a moment only.
        policy.agent_is_ready(now);
        assert_eq!(policy.after(KILLED, now), Next::StartAfter(2 * SHORTEST_PAUSE));
    }
}
