//! Which signal is due when: pure, the guard's loop only executes it.
//!
//! A lease names three moments. At `stop_at` a fast shutdown begins, so that clients are let go and WAL senders drain;
//! at `deadline` an immediate one; and shortly after, whatever still runs is killed. A renewal moves them forward, also
//! when a stop has begun: what was signalled stays signalled, but the next step waits for the new moment.

use crate::clock::BootTime;
use crate::protocol::Exit;
use std::time::Duration;

/// How long an immediate shutdown may take before the rest is killed, where the agent sets no earlier bound.
pub const IMMEDIATE_STOP_TIME: Duration = Duration::from_millis(200);

/// How long after a kill to look whether another is needed.
pub const KILL_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long the remains of a postmaster that gave up by itself may take to end.
pub const LAST_WORDS_TIME: Duration = Duration::from_millis(300);

/// What the agent grants: until when PostgreSQL may run as a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// From here on a fast shutdown (SIGINT) is due; a moment after `deadline` counts as `deadline`.
    pub stop_at: BootTime,
    /// From here on an immediate shutdown (SIGQUIT) is due.
    pub deadline: BootTime,
    /// Nothing may live after this: the lease itself runs out. Without it: `deadline` + [`IMMEDIATE_STOP_TIME`].
    pub kill_after: Option<BootTime>,
    /// Whether to do anything at all: only for a primary, and not in pause mode.
    pub fence: bool,
}

impl Lease {
    /// The lease of a primary by a renewal that was sent at `sent`: the DCS counts `ttl` from its arrival, so nothing
    /// may live at `sent` + `ttl`. A hundredth of `ttl` is left for clocks that differ in speed, then
    /// [`IMMEDIATE_STOP_TIME`] for an immediate shutdown, then a tenth of `ttl` (0.3 s to 2 s) for a fast one.
    #[must_use]
    pub fn of_primary(sent: BootTime, ttl: Duration) -> Self {
        let kill_after = sent + (ttl - ttl / 100);
        let deadline = kill_after - IMMEDIATE_STOP_TIME.min(ttl);
        let fast_stop_time = (ttl / 10).clamp(Duration::from_millis(300), Duration::from_secs(2));
        Self {
            stop_at: deadline - fast_stop_time.min(ttl),
            deadline,
            kill_after: Some(kill_after),
            fence: true,
        }
    }

    /// When everything that is left is killed.
    #[must_use]
    pub fn kill_at(&self) -> BootTime {
        let usual = self.deadline + IMMEDIATE_STOP_TIME;
        self.kill_after.map_or(usual, |bound| bound.min(usual))
    }

    /// The stage that PostgreSQL has to be in at this time.
    fn stage_at(&self, now: BootTime) -> Stage {
        if !self.fence {
            Stage::Running
        } else if now >= self.kill_at() {
            Stage::Killing
        } else if now >= self.deadline {
            Stage::ImmediateStop
        } else if now >= self.stop_at {
            Stage::FastStop
        } else {
            Stage::Running
        }
    }
}

/// How far the stopping of PostgreSQL has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not begun.
    Running,
    /// A fast shutdown was asked for (SIGINT).
    FastStop,
    /// An immediate shutdown was asked for (SIGQUIT).
    ImmediateStop,
    /// Postmaster and backends are killed (SIGKILL).
    Killing,
}

impl Stage {
    /// Its name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::FastStop => "fast-stop",
            Self::ImmediateStop => "immediate-stop",
            Self::Killing => "killing",
        }
    }

    /// The stage of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Running, Self::FastStop, Self::ImmediateStop, Self::Killing]
            .into_iter()
            .find(|stage| stage.name() == name)
    }
}

/// The lease and what has been done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    lease: Option<Lease>,
    stage: Stage,
    killed_at: Option<BootTime>,
}

impl Default for Fence {
    fn default() -> Self {
        Self::new()
    }
}

impl Fence {
    /// Nothing is armed.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lease: None,
            stage: Stage::Running,
            killed_at: None,
        }
    }

    /// The lease last granted, if none has disarmed it since.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// How far the stopping of the postmaster that runs (or ran last) has gone.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the guard would stop PostgreSQL some time.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.lease.is_some_and(|lease| lease.fence)
    }

    /// A lease came: it replaces the one before, whether it is later or earlier.
    pub fn renew(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// The agent takes the lease back: a replica, pause mode, a demotion.
    pub fn disarm(&mut self) {
        self.lease = None;
    }

    /// Whether a postmaster may begin now. With a lease that has run out it may not: a replica's is disarmed before,
    /// a primary's renewed before.
    #[must_use]
    pub fn permits_start(&self, now: BootTime) -> bool {
        self.lease
            .is_none_or(|lease| lease.stage_at(now) == Stage::Running)
    }

    /// A postmaster begins: nothing has been done about this one yet.
    pub fn started(&mut self) {
        self.stage = Stage::Running;
        self.killed_at = None;
    }

    /// How long what a postmaster has left behind may live on, once it has ended like this; `None`: nothing is left.
    ///
    /// One that ends well has waited for all its children. One that gives up by itself (a start that failed) has no
    /// backends, but perhaps a log collector that still writes down why. One that was killed leaves backends, which
    /// would acknowledge commits: they get no time. Nor does anything beyond the next step by the lease.
    #[must_use]
    pub fn patience(&self, exit: Exit, now: BootTime) -> Option<Duration> {
        match exit {
            Exit::Code(0) => None,
            Exit::Code(_) if self.stage < Stage::ImmediateStop => {
                let bound = self.next().map_or(LAST_WORDS_TIME, |next| now.until(next));
                Some(bound.min(LAST_WORDS_TIME))
            }
            Exit::Code(_) | Exit::Signal(_) | Exit::Unknown => Some(Duration::ZERO),
        }
    }

    /// What has to be done now, while a postmaster runs; taken as done. `None`: nothing, until [`Self::next`].
    pub fn due(&mut self, now: BootTime) -> Option<Stage> {
        let wanted = self.lease?.stage_at(now);
        let is_repeated = wanted == Stage::Killing
            && self
                .killed_at
                .is_some_and(|killed| now >= killed + KILL_AGAIN_AFTER);
        if wanted <= self.stage && !is_repeated {
            return None;
        }
        self.stage = wanted;
        if wanted == Stage::Killing {
            self.killed_at = Some(now);
        }
        Some(wanted)
    }

    /// When something will be due at the earliest, while a postmaster runs.
    #[must_use]
    pub fn next(&self) -> Option<BootTime> {
        let lease = self.lease.filter(|lease| lease.fence)?;
        Some(match self.stage {
            Stage::Running => lease.stop_at.min(lease.deadline).min(lease.kill_at()),
            Stage::FastStop => lease.deadline.min(lease.kill_at()),
            Stage::ImmediateStop => lease.kill_at(),
            Stage::Killing => match self.killed_at {
                Some(killed) => lease.kill_at().max(killed + KILL_AGAIN_AFTER),
                None => lease.kill_at(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    fn lease(stop_at: u64, deadline: u64) -> Lease {
        Lease {
            stop_at: at(stop_at),
            deadline: at(deadline),
            kill_after: None,
            fence: true,
        }
    }

    /// Asks at every moment in turn.
    fn steps(fence: &mut Fence, moments: &[u64]) -> Vec<(u64, Stage)> {
        moments
            .iter()
            .filter_map(|moment| fence.due(at(*moment)).map(|stage| (*moment, stage)))
            .collect()
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_in_three_steps() {
        struct Case {
            lease: Lease,
            moments: &'static [u64],
            steps: &'static [(u64, Stage)],
        }
        let bounded = |bound| Lease {
            kill_after: Some(at(bound)),
            ..lease(800, 1000)
        };
        let cases = [
            Case {
                lease: lease(800, 1000),
                moments: &[
                    0, 799, 800, 801, 999, 1000, 1001, 1199, 1200, 1249, 1250, 1299, 1300,
                ],
                steps: &[
                    (800, Stage::FastStop),
                    (1000, Stage::ImmediateStop),
                    (1200, Stage::Killing),
                    (1250, Stage::Killing),
                    (1300, Stage::Killing),
                ],
            },
            // Woken late, as after a suspension: nothing that is overtaken is done.
            Case {
                lease: lease(800, 1000),
                moments: &[0, 1100],
                steps: &[(1100, Stage::ImmediateStop)],
            },
            Case {
                lease: lease(800, 1000),
                moments: &[0, 5000],
                steps: &[(5000, Stage::Killing)],
            },
            // The agent's bound is earlier than the usual time for an immediate shutdown, or even than the deadline.
            Case {
                lease: bounded(1050),
                moments: &[800, 1000, 1049, 1050],
                steps: &[
                    (800, Stage::FastStop),
                    (1000, Stage::ImmediateStop),
                    (1050, Stage::Killing),
                ],
            },
            Case {
                lease: bounded(900),
                moments: &[800, 900, 910],
                steps: &[(800, Stage::FastStop), (900, Stage::Killing)],
            },
            // A later bound does not prolong it.
            Case {
                lease: bounded(9000),
                moments: &[1000, 1199, 1200],
                steps: &[(1000, Stage::ImmediateStop), (1200, Stage::Killing)],
            },
            // No time for a fast shutdown.
            Case {
                lease: lease(2000, 1000),
                moments: &[999, 1000],
                steps: &[(1000, Stage::ImmediateStop)],
            },
            // A replica, or pause mode.
            Case {
                lease: Lease {
                    fence: false,
                    ..lease(800, 1000)
                },
                moments: &[0, 800, 1000, 1200, 99_999],
                steps: &[],
            },
        ];
        for case in cases {
            let mut fence = Fence::new();
            fence.renew(case.lease);
            fence.started();
            assert_eq!(steps(&mut fence, case.moments), case.steps, "{:?}", case.lease);
        }
    }

    #[test]
    fn nothing_happens_without_a_lease() {
        let mut fence = Fence::new();
        assert_eq!((fence.due(at(99_999)), fence.next()), (None, None));
        assert!(fence.permits_start(at(99_999)) && !fence.is_armed());
    }

    #[test]
    fn a_renewal_moves_every_step_that_is_not_taken() {
        let mut fence = Fence::new();
        fence.renew(lease(800, 1000));
        assert_eq!(steps(&mut fence, &[799]), []);
        fence.renew(lease(1800, 2000));
        assert_eq!(steps(&mut fence, &[800, 1000, 1200]), []);
        assert_eq!(steps(&mut fence, &[1800]), [(1800, Stage::FastStop)]);
        // The fast shutdown cannot be taken back, but it gets the time of the new lease.
        fence.renew(lease(2800, 3000));
        assert_eq!(steps(&mut fence, &[2000, 2800, 2999]), []);
        assert_eq!(steps(&mut fence, &[3000]), [(3000, Stage::ImmediateStop)]);
        fence.renew(lease(3800, 4000));
        assert_eq!(steps(&mut fence, &[3200, 4000, 4199]), []);
        assert_eq!(steps(&mut fence, &[4200]), [(4200, Stage::Killing)]);
    }

    #[test]
    fn disarmed_it_goes_no_further() {
        let mut fence = Fence::new();
        fence.renew(lease(800, 1000));
        assert_eq!(steps(&mut fence, &[800]), [(800, Stage::FastStop)]);
        fence.disarm();
        assert_eq!(steps(&mut fence, &[1000, 5000]), []);
        assert_eq!((fence.next(), fence.stage()), (None, Stage::FastStop));
    }

    #[test]
    fn the_next_postmaster_starts_anew_and_needs_a_lease_that_lasts() {
        let mut fence = Fence::new();
        fence.renew(lease(800, 1000));
        assert!(fence.permits_start(at(799)) && !fence.permits_start(at(800)));
        assert_eq!(steps(&mut fence, &[1200]), [(1200, Stage::Killing)]);
        assert!(!fence.permits_start(at(1300)));
        fence.renew(lease(2800, 3000));
        assert!(fence.permits_start(at(1300)));
        fence.started();
        assert_eq!(
            steps(&mut fence, &[1300, 2800, 3200]),
            [(2800, Stage::FastStop), (3200, Stage::Killing)]
        );
        fence.disarm();
        assert!(fence.permits_start(at(9999)));
    }

    #[test]
    fn it_is_never_asked_later_than_needed() {
        // Woken exactly at `next`, every step comes at its moment, and `next` always lies ahead.
        for (stop_at, deadline, bound) in [
            (800, 1000, None),
            (1000, 1000, Some(1000)),
            (2000, 1000, Some(1100)),
            (800, 1000, Some(100)),
        ] {
            let granted = Lease {
                kill_after: bound.map(at),
                ..lease(stop_at, deadline)
            };
            let mut fence = Fence::new();
            fence.renew(granted);
            for _ in 0..5 {
                let next = fence.next().unwrap();
                assert_eq!(fence.due(next - Duration::from_nanos(1)), None);
                assert!(fence.due(next).is_some(), "{granted:?} at {next:?}");
                assert!(fence.next().unwrap() > next);
            }
        }
    }

    #[test]
    fn a_renewal_is_worth_less_than_ttl() {
        for (ttl, stop_at, deadline, kill_after) in [
            (3000, 2470, 2770, 2970),
            (20_000, 17_600, 19_600, 19_800),
            (30_000, 27_500, 29_500, 29_700),
        ] {
            let lease = Lease::of_primary(at(1_000_000), Duration::from_millis(ttl));
            let after = |moment: BootTime| u64::try_from(at(1_000_000).until(moment).as_millis()).unwrap();
            assert_eq!(
                (
                    after(lease.stop_at),
                    after(lease.deadline),
                    after(lease.kill_at())
                ),
                (stop_at, deadline, kill_after)
            );
            assert!(lease.fence);
        }
    }

    #[test]
    fn what_is_left_behind_gets_time_only_where_it_cannot_write() {
        let mut fence = Fence::new();
        let all = |fence: &Fence, now| {
            [Exit::Code(0), Exit::Code(1), Exit::Signal(9), Exit::Unknown]
                .map(|exit| fence.patience(exit, at(now)).map(|time| time.as_millis()))
        };
        assert_eq!(all(&fence, 0), [None, Some(300), Some(0), Some(0)]);
        fence.renew(lease(800, 1000));
        assert_eq!(all(&fence, 0), [None, Some(300), Some(0), Some(0)]);
        assert_eq!(all(&fence, 700), [None, Some(100), Some(0), Some(0)]);
        assert_eq!(steps(&mut fence, &[800]), [(800, Stage::FastStop)]);
        assert_eq!(all(&fence, 900), [None, Some(100), Some(0), Some(0)]);
        assert_eq!(steps(&mut fence, &[1000]), [(1000, Stage::ImmediateStop)]);
        assert_eq!(all(&fence, 1000), [None, Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn stages_have_names() {
        for stage in [
            Stage::Running,
            Stage::FastStop,
            Stage::ImmediateStop,
            Stage::Killing,
        ] {
            assert_eq!(Stage::from_name(stage.name()), Some(stage));
        }
        assert_eq!(Stage::from_name("paused"), None);
    }
}
