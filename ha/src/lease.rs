//! The lease on its own feet: when it is prolonged although a step of the cycle has no answer yet, and how long a step
//! may be waited for. The argument for the bounds stands in `docs/lease.md`.

use std::time::Duration;

use config::DynamicConfig;

use crate::cycle::Facts;
use crate::decide::unresponsive;
use crate::facts::Answer;
use crate::facts::{LockAnswer, Moment};
use crate::memory::{Lock, Memory};
use crate::step::{Action, Question, Step};

/// How soon a renewal that was not answered is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The least time that a step is waited for.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

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

/// The time before the end of the lease in which PostgreSQL is stopped.
pub(crate) fn time_to_stop(config: &DynamicConfig) -> Duration {
    (config.ttl / 10).max(Duration::from_millis(500))
}

/// How long a step that is not about the DCS may be waited for at `now`: `retry_timeout`, but not so long that a lease
/// which cannot be prolonged would run out before the DCS has been asked once more and the server has been stopped.
#[must_use]
pub fn patience(config: &DynamicConfig, lock_valid_until: Option<Moment>, now: Moment) -> Duration {
    let reserve = config.retry_timeout.saturating_add(time_to_stop(config));
    lock_valid_until
        .filter(|until| *until > now)
        .map_or(config.retry_timeout, |until| {
            until.since(now.after(reserve)).min(config.retry_timeout)
        })
        .max(PATIENCE_MIN)
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
    let due = renewed_at.after(config.loop_wait);
    // A cycle prolongs the lease itself, a moment after it has begun.
    let grace = (config.loop_wait / 10).min(Duration::from_millis(500));
    let not_before = due.max(asked_at.after(grace)).max(failed_at.unwrap_or(due));
    let not_after = asked_at
        .after(config.retry_timeout)
        .min(facts.given.now.after(config.ttl))
        .min(valid_until);
    (not_before <= not_after).then(|| Renewal {
        not_before,
        not_after,
        action: Action::RenewLeader { seen: leader.clone() },
    })
}

/// Steps that are no requests to the DCS: the server, the disk, other members may let them wait. Reading the DCS is one
/// of them, because it may hang in what has nothing to do with the lease.
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
            | Action::SetSynchronousStandbyNames(_) => true,
            Action::AcquireLeader
            | Action::SupersedeLeader { .. }
            | Action::RenewLeader { .. }
            | Action::TakeLeader
            | Action::ReleaseLeader { .. }
            | Action::ExtendLock { .. }
            | Action::Write { .. }
            | Action::Delete { .. }
            | Action::TouchMember(_)
            | Action::Begin(_)
            | Action::CancelTask
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

    #[test]
    fn a_step_is_waited_for_as_long_as_the_lease_permits() {
        let usual = config(30, 10, 10);
        let rows = [
            (None, 10_000),
            // Fresh: all of retry_timeout. 13 s are kept for one more look at the DCS and the stop.
            (Some(at(130)), 10_000),
            (Some(at(118)), 5_000),
            (Some(at(113)), 250),
            (Some(at(101)), 250),
            // A lease that is over cannot be saved.
            (Some(at(100)), 10_000),
        ];
        for (until, expected_ms) in rows {
            let expected = Duration::from_millis(expected_ms);
            assert_eq!(patience(&usual, until, at(100)), expected, "{until:?}");
        }
        assert_eq!(
            patience(&config(3, 1, 1), Some(at(103)), at(100)),
            Duration::from_secs(1)
        );
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
        let renew = Action::RenewLeader { seen };
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
