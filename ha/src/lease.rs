//! The lease: when it is renewed although a step of the cycle has no answer yet, and how long a step may be waited for.
//! The argument for the bounds is in `docs/lease.md`.

use std::time::Duration;

use config::DynamicConfig;

use crate::cycle::Facts;
use crate::decide::unresponsive;
use crate::facts::Answer;
use crate::facts::{LockAnswer, Moment};
use crate::memory::{Lock, Memory};
use crate::step::{Action, Question, Step, WhenGone};

/// How soon a renewal that was not answered is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The least time that a step is waited for.
pub(crate) const PATIENCE_MIN: Duration = Duration::from_millis(250);

/// A renewal that may be sent while a step is waited for.
#[derive(Debug, Clone, PartialEq)]
pub struct Renewal {
    /// Not before.
    pub not_before: Moment,
    /// Not after: whoever has waited until then is stuck, and the lease is left to run out.
    pub not_after: Moment,
    /// What to do.
    pub action: Action,
}

/// The time before the end of the lease in which PostgreSQL is stopped. Not shorter than the guard takes for it
/// (`guard::Lease::of_primary`): a renewal that is answered after the guard has begun comes too late.
pub(crate) fn time_to_stop(config: &DynamicConfig) -> Duration {
    let for_the_guard = config.ttl / 100 + Duration::from_millis(200) + time_for_a_word(config);
    for_the_guard.max(config.ttl / 10)
}

/// The time in which an agent that is not busy answers, and a server that is not busy stops.
fn time_for_a_word(config: &DynamicConfig) -> Duration {
    (config.ttl / 10).clamp(Duration::from_millis(300), Duration::from_secs(2))
}

/// The time that belongs to the next renewal: `retry_timeout`, or half of what `ttl` leaves. As `2 * retry_timeout` is
/// shorter than `ttl`, that is at least nine tenths of `retry_timeout` whatever the timers are.
fn time_to_renew(config: &DynamicConfig) -> Duration {
    let usable = config.ttl.saturating_sub(time_to_stop(config));
    config.retry_timeout.min(usable / 2)
}

/// What is left of the lease at `now` until PostgreSQL has to be stopped.
fn left(config: &DynamicConfig, valid_until: Moment, now: Moment) -> Duration {
    valid_until.since(now.after(time_to_stop(config)))
}

/// How long a step beside the lease may take at `now`: `retry_timeout`, or what is left when the time for the next renewal
/// and for the stop is set aside.
pub(crate) fn time_beside(config: &DynamicConfig, valid_until: Moment, now: Moment) -> Duration {
    left(config, valid_until, now)
        .saturating_sub(time_to_renew(config))
        .min(config.retry_timeout)
}

/// The moment by which the leader's next cycle has to begin: later the renewal would not have its time.
pub(crate) fn next_renewal_by(config: &DynamicConfig, valid_until: Moment) -> Moment {
    let reserve = time_to_stop(config).saturating_add(time_to_renew(config));
    Moment(valid_until.0.saturating_sub(reserve))
}

/// Whether the DCS, which has not answered, is asked once more before PostgreSQL is stopped. With `failsafe_mode` the
/// members are asked again as well, which takes less.
pub(crate) fn may_look_again(config: &DynamicConfig, valid_until: Moment, now: Moment) -> bool {
    let needed = if config.failsafe_mode {
        TRY_AGAIN.min(config.loop_wait) + time_for_a_word(config) * 2
    } else {
        time_to_renew(config)
    };
    left(config, valid_until, now) >= needed
}

/// How soon a leader looks again that has put something off.
pub(crate) fn soon(config: &DynamicConfig) -> Duration {
    (config.loop_wait / 10).min(Duration::from_millis(500))
}

/// How long the step that [`crate::decide()`] has just given may be waited for. Without a lease that is `retry_timeout`.
pub(crate) fn patience(config: &DynamicConfig, lock: Option<Lock>, now: Moment, step: &Step) -> Duration {
    let Some(Lock { valid_until }) = lock.filter(|lock| now < lock.valid_until) else {
        return config.retry_timeout;
    };
    let time = match step {
        // Without an answer the server is to be stopped, or the members to be asked.
        Step::Observe(Question::Cluster) | Step::Act(Action::RenewLeader { .. }) => {
            let to_ask_members = if config.failsafe_mode {
                time_for_a_word(config)
            } else {
                Duration::ZERO
            };
            left(config, valid_until, now).saturating_sub(to_ask_members)
        }
        Step::Act(Action::ReleaseLeader { .. }) => left(config, valid_until, now),
        Step::Observe(_) | Step::Act(_) | Step::Finish(_) => time_beside(config, valid_until, now),
    };
    time.min(config.retry_timeout).max(PATIENCE_MIN)
}

/// The renewal that is permitted while `step` is waited for. `memory` is what the cycle remembers up to it.
pub(crate) fn renewal(facts: &Facts, memory: &Memory, step: &Step) -> Option<Renewal> {
    if !is_beside_the_lease(step) || unresponsive::is_stopping(&facts.given.task) {
        return None;
    }
    let Lock { valid_until } = memory.lock?;
    let (cluster, _) = memory.cluster.as_ref()?;
    let leader = cluster
        .leader
        .as_ref()
        .filter(|leader| leader.name == facts.given.node.name)?;
    let config = &facts.given.config;
    let asked_at = facts
        .journal
        .iter()
        .rfind(|entry| !entry.is_meanwhile)
        .map_or(facts.given.now, |entry| entry.at);
    let failed_at = facts
        .journal
        .last()
        .filter(|entry| matches!(entry.answer, Answer::Lock(LockAnswer::Unknown(_))))
        .map(|entry| entry.at.after(TRY_AGAIN.min(config.loop_wait)));
    let renewed_at = Moment(valid_until.0.saturating_sub(config.ttl));
    let due = renewed_at
        .after(config.loop_wait)
        .min(next_renewal_by(config, valid_until));
    // A cycle renews the lease itself, a moment after it has begun.
    let not_before = due
        .max(asked_at.after(soon(config)))
        .max(failed_at.unwrap_or(due));
    let not_after = asked_at
        .after(config.retry_timeout)
        .min(facts.given.now.after(config.ttl))
        .min(valid_until);
    (not_before <= not_after).then(|| Renewal {
        not_before,
        not_after,
        action: Action::RenewLeader {
            seen: leader.clone(),
            // Not after the end of the lock, and the store looks whether another member has led since.
            when_gone: WhenGone::Recreate,
        },
    })
}

/// Steps that may take long for reasons that have nothing to do with the lease: the server, the disk, other members, and
/// requests to the DCS for other keys.
fn is_beside_the_lease(step: &Step) -> bool {
    match step {
        Step::Observe(
            Question::Cluster
            | Question::Server
            | Question::DataDirectory
            | Question::CrashRecovery
            | Question::Peers(_)
            | Question::Failsafe { .. }
            | Question::Divergence(_)
            | Question::HistoryFile(_)
            | Question::RecoveryDrift(_),
        ) => true,
        Step::Act(action) => match action {
            Action::Follow(_)
            | Action::ResumeReplay
            | Action::ChangeSlots(_)
            | Action::KeepCitus(_)
            | Action::SetSynchronousStandbyNames(_)
            | Action::Write { .. }
            | Action::Delete { .. } => true,
            Action::AcquireLeader
            | Action::SupersedeLeader { .. }
            | Action::RenewLeader { .. }
            | Action::TakeLeader
            | Action::ReleaseLeader { .. }
            | Action::ExtendLock { .. }
            // It keeps the lease itself.
            | Action::TouchMember(_)
            | Action::Begin(_)
            | Action::CancelTask
            | Action::RunCallbacks(_)
            | Action::BeginSlotWork(_)
            | Action::BeginCheckpoint => false,
        },
        Step::Finish(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{Cluster, Leader, Version};
    use crate::decide::renewal_meanwhile;
    use crate::facts::{CheckpointStatus, DcsFailure, Given, Node, TaskStatus};
    use crate::pg::{Role, ServerState};

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    fn config(ttl: u64, loop_wait: u64, retry_timeout: u64) -> DynamicConfig {
        let document =
            serde_json::json!({"ttl": ttl, "loop_wait": loop_wait, "retry_timeout": retry_timeout});
        DynamicConfig::read(&document, config::Minimums::TAMADA).0
    }

    /// Every legal combination of timers with a `ttl` of 3 to 300 s at its edges, and all of them with a short one.
    fn legal_timers() -> Vec<(u64, u64, u64)> {
        let mut all = Vec::new();
        for ttl in (3..=40).chain([60, 120, 121, 299, 300]) {
            for retry_timeout in 1..=(ttl - 1) / 2 {
                let longest = ttl - 2 * retry_timeout;
                let waits = [1, 2, longest / 2, longest - longest.min(2), longest];
                all.extend(
                    waits
                        .into_iter()
                        .filter(|loop_wait| (1..=longest).contains(loop_wait))
                        .map(|loop_wait| (ttl, loop_wait, retry_timeout)),
                );
            }
        }
        all
    }

    /// A lease that was renewed in the moment before leaves a request beside it nearly all of `retry_timeout`, and after one
    /// that takes all of that there is as much for the next renewal.
    #[test]
    fn one_request_that_fails_leaves_time_to_renew_and_to_stop() {
        for (ttl, loop_wait, retry_timeout) in legal_timers() {
            let config = config(ttl, loop_wait, retry_timeout);
            let timers = (ttl, loop_wait, retry_timeout);
            let read = (config.ttl, config.loop_wait, config.retry_timeout);
            let seconds = Duration::from_secs;
            assert_eq!(read, (seconds(ttl), seconds(loop_wait), seconds(retry_timeout)));
            let until = at(100 + ttl);
            let beside = time_beside(&config, until, at(100));
            let most = seconds(retry_timeout).mul_f64(0.89);
            assert!(beside >= most, "{timers:?}: {beside:?} beside the lease");
            let after = at(100).after(beside);
            let renewal = left(&config, until, after).min(config.retry_timeout);
            assert!(renewal >= most, "{timers:?}: {renewal:?} for a renewal");
            let by = next_renewal_by(&config, until);
            assert!(after <= by.after(Duration::from_millis(1)), "{timers:?}: {by:?}");
            assert!(by > at(101), "{timers:?}: cycles without a pause");
        }
    }

    #[test]
    fn a_step_is_waited_for_as_long_as_the_lease_permits() {
        let usual = config(30, 10, 10);
        let beside = |config: &DynamicConfig, until: Option<Moment>| {
            let lock = until.map(|valid_until| Lock { valid_until });
            patience(config, lock, at(100), &Step::Observe(Question::Server))
        };
        let rows = [
            (None, 10_000),
            // Fresh: all of retry_timeout. 13 s are set aside for the next renewal and the stop.
            (Some(at(130)), 10_000),
            (Some(at(118)), 5_000),
            (Some(at(113)), 250),
            (Some(at(101)), 250),
            // A lease that has expired cannot be saved.
            (Some(at(100)), 10_000),
        ];
        for (until, expected_ms) in rows {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(beside(&usual, until), expected, "{until:?}");
        }
        assert_eq!(beside(&config(3, 1, 1), Some(at(103))), Duration::from_secs(1));
        let lock = Some(Lock { valid_until: at(108) });
        let load = Step::Observe(Question::Cluster);
        assert_eq!(patience(&usual, lock, at(100), &load), Duration::from_secs(5));
    }

    fn facts(began: Moment, config: DynamicConfig) -> Facts {
        let node = Node {
            name: "a".into(),
            scope: String::new(),
            conn_url: String::new(),
            api_url: String::new(),
            proxy_url: None,
            tags: crate::cluster::Tags::default(),
            version: String::new(),
            may_bootstrap: true,
            has_custom_bootstrap: false,
            use_slots: true,
            has_method_without_leader: false,
            use_pg_rewind: true,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            config_json: String::new(),
            citus_group: None,
            server_version: 0,
        };
        Facts::new(Given {
            now: began,
            wall_clock: jiff::Timestamp::UNIX_EPOCH,
            node: Arc::new(node),
            config: Arc::new(config),
            task: TaskStatus::Idle,
            checkpoint: CheckpointStatus::Idle,
            requests: Vec::new(),
            scheduled_restart: None,
            failsafe: None,
            is_stopping: false,
            guard_is_missing: false,
            watchdog_is_missing: false,
            unresponsive: None,
        })
    }

    fn leader(lock_until: Moment) -> (Memory, Arc<Cluster>) {
        let leader = Leader {
            version: Version(1),
            name: "a".into(),
            session: String::new(),
        };
        let cluster = Arc::new(Cluster {
            leader: Some(leader),
            ..Cluster::default()
        });
        let mut memory = Memory::new(Role::Primary, ServerState::Running);
        memory.lock = Some(Lock {
            valid_until: lock_until,
        });
        memory.cluster = Some((Arc::clone(&cluster), at(90)));
        (memory, cluster)
    }

    /// Reading the DCS at second 100 hangs, 10 s after the last renewal.
    #[test]
    fn the_lease_is_prolonged_while_the_dcs_is_read() {
        let (memory, cluster) = leader(at(120));
        let mut facts = facts(at(100), config(30, 10, 10));
        let window = |facts: &Facts, memory: &Memory| {
            renewal_meanwhile(facts, memory).map(|renewal| (renewal.not_before, renewal.not_after))
        };
        let half_a_second_later = at(100).after(Duration::from_millis(500));
        assert_eq!(window(&facts, &memory), Some((half_a_second_later, at(110))));
        let seen = cluster.leader.clone().expect("there is one");
        let when_gone = WhenGone::Recreate;
        let renew = Action::RenewLeader { seen, when_gone };
        let unknown = LockAnswer::Unknown(DcsFailure(String::new()));
        facts.learn_meanwhile(renew.clone(), unknown, at(104));
        assert_eq!(window(&facts, &memory), Some((at(105), at(110))));
        // Once it has come, the next one is due after loop_wait, and by then the step would be stuck.
        facts.learn_meanwhile(renew, LockAnswer::Held { sent_at: at(105) }, at(105));
        assert_eq!(window(&facts, &memory), None);
        assert_eq!(
            window(&facts, &leader(at(100)).0),
            None,
            "a lease that is over is not saved"
        );
        let replica = Memory::new(Role::Replica, ServerState::Running);
        assert_eq!(window(&facts, &replica), None);
    }
}
