//! What the guard is to be told, from what is known of lock, server and job: pure.
//!
//! A lease is moved forward while the server takes writes, or is about to, and the lock is ours. It is taken back only
//! when the server is certain to take none. In between it stays as it is, and ends when it ends.

use ha::facts::Progress;
use ha::pg::Role;
use ha::step::{StartAs, Task};

/// What the server was seen to be, when it was last asked and no job has touched it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RunsAs {
    /// It takes writes.
    Primary,
    /// It is in recovery.
    Standby,
    /// No postmaster was found.
    Stopped,
    /// It could not be asked, or was not.
    #[default]
    Unknown,
}

/// What there is to decide by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) is_paused: bool,
    /// The leader key is ours, as far as is known.
    pub(super) has_lock: bool,
    /// The server's role as last known or intended.
    pub(super) role: Role,
    /// The job that runs or is about to begin.
    pub(super) task: Option<(&'a Task, Progress)>,
    pub(super) runs_as: RunsAs,
}

/// What to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Stop PostgreSQL when the lease ends.
    Arm,
    /// Never stop PostgreSQL.
    Disarm,
    /// What was told holds.
    Keep,
}

pub(super) fn order(situation: Situation<'_>) -> Order {
    if situation.is_paused {
        return Order::Disarm;
    }
    let arm_or_keep = if situation.has_lock {
        Order::Arm
    } else {
        Order::Keep
    };
    let by_server = match situation.runs_as {
        RunsAs::Primary => arm_or_keep,
        RunsAs::Standby => Order::Disarm,
        RunsAs::Stopped => Order::Keep,
        // A server that is slow to answer keeps its lease.
        RunsAs::Unknown if situation.role.is_primary() => arm_or_keep,
        RunsAs::Unknown => Order::Keep,
    };
    let Some((task, progress)) = situation.task else {
        return by_server;
    };
    match task {
        Task::Promote { .. } => arm_or_keep,
        Task::Start { start_as, .. } | Task::Restart { start_as, .. } => match start_as {
            StartAs::Primary => arm_or_keep,
            StartAs::Standby(_) => Order::Disarm,
        },
        // Of a standby.
        Task::CopyLogicalSlots { .. } => Order::Disarm,
        // Nobody else knows of this cluster yet.
        Task::Bootstrap | Task::PostBootstrap => Order::Disarm,
        // Nothing is written after the shutdown checkpoint: WAL senders and archiver may have their time.
        Task::Stop { .. } if matches!(progress, Progress::ShutDown { .. }) => Order::Disarm,
        Task::Stop { .. } => arm_or_keep,
        Task::Clone { .. } | Task::CrashRecovery | Task::Rewind { .. } => match situation.runs_as {
            RunsAs::Stopped => Order::Disarm,
            RunsAs::Primary | RunsAs::Standby | RunsAs::Unknown => by_server,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha::facts::Moment;
    use ha::pg::Lsn;
    use ha::step::{CloneSource, StartReason, StopMode, StopPurpose};
    use std::time::Duration;

    fn start(start_as: StartAs) -> Task {
        Task::Start {
            start_as,
            timeout: None,
            why: StartReason::AfterFailure,
        }
    }

    fn restart(start_as: StartAs) -> Task {
        Task::Restart {
            start_as,
            timeout: None,
            is_requested: true,
        }
    }

    fn stop() -> Task {
        Task::Stop {
            mode: StopMode::Fast,
            checkpoint: true,
            purpose: StopPurpose::Switchover,
        }
    }

    fn clone() -> Task {
        Task::Clone {
            from: CloneSource::Nobody,
            follow: None,
            with_basebackup: false,
        }
    }

    fn promote() -> Task {
        Task::Promote {
            lock_valid_until: Moment(Duration::from_secs(30)),
            archive_may_have_more: false,
        }
    }

    /// With the lock, and without it.
    fn orders(role: Role, runs_as: RunsAs, task: Option<(&Task, Progress)>) -> (Order, Order) {
        let with = |has_lock| {
            order(Situation {
                is_paused: false,
                has_lock,
                role,
                task,
                runs_as,
            })
        };
        (with(true), with(false))
    }

    const ARMED: (Order, Order) = (Order::Arm, Order::Keep);
    const DISARMED: (Order, Order) = (Order::Disarm, Order::Disarm);
    const KEPT: (Order, Order) = (Order::Keep, Order::Keep);

    #[test]
    fn without_a_job_the_server_decides_and_doubt_changes_nothing() {
        let cases = [
            (Role::Primary, RunsAs::Primary, ARMED),
            // A demotion that failed: the role is what was intended, the server still takes writes.
            (Role::Demoted, RunsAs::Primary, ARMED),
            (Role::Replica, RunsAs::Standby, DISARMED),
            (Role::Primary, RunsAs::Standby, DISARMED),
            (Role::Primary, RunsAs::Unknown, ARMED),
            (Role::Replica, RunsAs::Unknown, KEPT),
            (Role::Demoted, RunsAs::Unknown, KEPT),
            (Role::Primary, RunsAs::Stopped, KEPT),
            (Role::Uninitialized, RunsAs::Stopped, KEPT),
        ];
        for (role, runs_as, expected) in cases {
            assert_eq!(orders(role, runs_as, None), expected, "{role:?} {runs_as:?}");
        }
    }

    #[test]
    fn a_job_is_armed_before_it_takes_writes_and_until_it_takes_none() {
        let working = Progress::Working;
        let shut_down = Progress::ShutDown { checkpoint: Lsn(1) };
        let standby = || StartAs::Standby(None);
        let cases = [
            (promote(), working, RunsAs::Standby, ARMED),
            (promote(), working, RunsAs::Unknown, ARMED),
            (start(StartAs::Primary), working, RunsAs::Stopped, ARMED),
            (start(standby()), working, RunsAs::Stopped, DISARMED),
            (restart(StartAs::Primary), working, RunsAs::Primary, ARMED),
            (restart(standby()), working, RunsAs::Standby, DISARMED),
            (Task::Bootstrap, working, RunsAs::Stopped, DISARMED),
            (Task::PostBootstrap, working, RunsAs::Primary, DISARMED),
            (stop(), working, RunsAs::Primary, ARMED),
            (stop(), working, RunsAs::Unknown, ARMED),
            (stop(), shut_down, RunsAs::Unknown, DISARMED),
            (clone(), working, RunsAs::Stopped, DISARMED),
            (clone(), working, RunsAs::Primary, ARMED),
            (clone(), working, RunsAs::Standby, DISARMED),
            (Task::CrashRecovery, working, RunsAs::Stopped, DISARMED),
        ];
        for (task, progress, runs_as, expected) in cases {
            let role = Role::Replica;
            assert_eq!(
                orders(role, runs_as, Some((&task, progress))),
                expected,
                "{task:?} {progress:?} {runs_as:?}"
            );
        }
    }

    #[test]
    fn in_pause_nothing_is_ever_stopped() {
        for task in [None, Some(promote()), Some(stop()), Some(start(StartAs::Primary))] {
            for runs_as in [RunsAs::Primary, RunsAs::Unknown, RunsAs::Stopped] {
                let told = order(Situation {
                    is_paused: true,
                    has_lock: true,
                    role: Role::Primary,
                    task: task.as_ref().map(|task| (task, Progress::Working)),
                    runs_as,
                });
                assert_eq!(told, Order::Disarm);
            }
        }
    }
}
