//! The one long job: what its end means, and what the cycle does while it runs.

use std::sync::Arc;
use std::time::Duration;

use super::{crash, failsafe, handover, observe, peers, primary, publish, standby_cluster};
use crate::cluster::{Cluster, Status};
use crate::cycle::{Cycle, Flow};
use crate::facts::{DcsFailure, Moment, Progress, TaskStatus};
use crate::memory::{Bootstrap, Checkpoint, RewindState};
use crate::pg::{Role, ServerState};
use crate::reason::{Reason, notes};
use crate::step::{Action, Callback, CloneSource, Reply, StartAs, StopMode, StopPurpose, Task, TaskOutcome};

/// How long the first pause after a failed job is; each further failure in a row adds as much.
const HOLD_OFF: Duration = Duration::from_secs(1);

/// Takes note of a job that has ended since the last cycle.
pub(super) fn absorb(c: &mut Cycle<'_>) {
    let TaskStatus::Done { task, outcome } = &c.given().task else {
        return;
    };
    explain(c, task, outcome);
    let as_ended = outcome;
    let outcome = match (task, outcome) {
        (Task::Restart { .. }, _) => outcome,
        // The server runs as was wanted.
        (_, TaskOutcome::FormerSettings(_)) => &TaskOutcome::Success,
        _ => outcome,
    };
    let success = *outcome == TaskOutcome::Success;
    // Slots that cannot be copied are no reason to stay out of anything: they have a pause of their own.
    let is_to_be_repeated = matches!(outcome, TaskOutcome::Failed(_) | TaskOutcome::SourceNotReady(_))
        && !matches!(task, Task::CopyLogicalSlots { .. });
    hold_off(c, is_to_be_repeated);
    match task {
        Task::Bootstrap => {
            absorb_bootstrap(c, outcome, Bootstrap::Started);
            if !success {
                c.memory.state = if c.node().has_custom_bootstrap {
                    ServerState::CustomBootstrapFailed
                } else {
                    ServerState::InitdbFailed
                };
            }
        }
        Task::PostBootstrap => absorb_bootstrap(c, outcome, Bootstrap::Populated),
        Task::Clone { from, .. } => {
            c.memory.system_identifier = None;
            c.memory.rewind = RewindState::Unneeded;
            c.memory.forget_origin();
            c.memory.start_was_announced &= success;
            c.memory.role = if success {
                Role::Replica
            } else {
                Role::Uninitialized
            };
            c.memory.state = if success {
                ServerState::Running
            } else {
                ServerState::Stopped
            };
            if matches!(from, CloneSource::Remote(_)) {
                // Nothing is to be made in it: users and all else came with the copy.
                absorb_bootstrap(c, outcome, Bootstrap::Populated);
            }
        }
        Task::Start { start_as, .. } => {
            crash::has_replayed(c, success && *start_as == StartAs::Primary);
            absorb_start(c, start_as, outcome);
            // Who has asked for a restart wants the new settings.
            answer_restart(c, as_ended);
        }
        // Cut off from here, to be told to end at once.
        Task::Stop { .. } if *outcome == TaskOutcome::Cancelled => {}
        Task::Stop { purpose, .. } => absorb_stop(c, *purpose, success),
        Task::Restart { .. } => absorb_restart(c, outcome),
        Task::CopyLogicalSlots { .. } => absorb_copy(c, outcome),
        Task::Promote { .. } => absorb_promotion(c, outcome),
        Task::CrashRecovery => {
            c.memory.crash_recovery_tried = true;
            c.memory.state = ServerState::Stopped;
        }
        Task::Rewind { source } => {
            c.memory.forget_origin();
            c.memory.rewound_to = Some(source.clone());
            c.memory.rewind = match outcome {
                TaskOutcome::Success => RewindState::Done,
                TaskOutcome::Cancelled | TaskOutcome::SourceNotReady(_) => RewindState::Check,
                TaskOutcome::Failed(_)
                | TaskOutcome::PrePromoteFailed
                | TaskOutcome::TimedOut
                | TaskOutcome::SettingsRefused(_)
                | TaskOutcome::FormerSettings(_) => RewindState::Failed,
            };
            c.memory.state = ServerState::Stopped;
        }
    }
}

/// Why a job did not end as it should.
fn explain(c: &mut Cycle<'_>, task: &Task, outcome: &TaskOutcome) {
    match outcome {
        TaskOutcome::Failed(why) => c.note(notes::task_failed(&task.label(), why)),
        TaskOutcome::SettingsRefused(why) => c.note(notes::settings_refused(&task.label(), why)),
        TaskOutcome::FormerSettings(why) => c.note(notes::former_settings(&task.label(), why)),
        _ => {}
    }
    if let (TaskOutcome::SourceNotReady(why), Task::Rewind { source }) = (outcome, task) {
        c.note(notes::source_not_ready(source, why.as_deref()));
    }
}

/// What makes a primary was ended from here because the lock is gone. PostgreSQL may have been asked already, and would go
/// on to become one whoever still waits for it: the server is stopped, before anything else is looked at.
pub(super) fn cut_off(c: &mut Cycle<'_>) -> Flow<Option<Reason>> {
    let TaskStatus::Done {
        task,
        outcome: TaskOutcome::Cancelled,
    } = &c.given().task
    else {
        return Ok(None);
    };
    let reason = match task {
        Task::Promote { .. } => Reason::LostLockBeforePromote,
        Task::Start {
            start_as: StartAs::Primary,
            ..
        }
        | Task::Restart {
            start_as: StartAs::Primary,
            ..
        } if !c.given().is_stopping && !c.config().pause => Reason::LostLockDuring(task.label()),
        _ => return Ok(None),
    };
    c.note(notes::lost_lock_during(&task.label()));
    primary::demote(c, StopMode::Immediate, StopPurpose::LostLock)?;
    Ok(Some(reason))
}

/// What failed is tried again soon, but ever more slowly: the disk may have room again, the port be free.
fn hold_off(c: &mut Cycle<'_>, failed: bool) {
    if !failed {
        c.memory.failed_tasks = 0;
        c.memory.hold_off_until = None;
        return;
    }
    c.memory.failed_tasks = c.memory.failed_tasks.saturating_add(1).min(10);
    let pause = (HOLD_OFF * c.memory.failed_tasks).min(c.config().loop_wait);
    c.memory.hold_off_until = Some(c.now().after(pause));
}

/// A job failed a moment ago. `Some`: nothing is tried before it is time, unless there is a primary to stop.
pub(super) fn holding_off(c: &mut Cycle<'_>, held: bool) -> Flow<Option<Reason>> {
    let Some(until) = c.memory.hold_off_until.filter(|until| c.now() < *until) else {
        return Ok(None);
    };
    if !held && observe::is_primary(c)? {
        return Ok(None);
    }
    c.again_at(until);
    Ok(Some(Reason::HoldingOff))
}

fn absorb_bootstrap(c: &mut Cycle<'_>, outcome: &TaskOutcome, next: Bootstrap) {
    c.memory.bootstrap = match outcome {
        TaskOutcome::Success => next,
        TaskOutcome::Failed(why) => Bootstrap::Failed(why.clone()),
        TaskOutcome::Cancelled => Bootstrap::Failed("it was cancelled".to_owned()),
        TaskOutcome::SourceNotReady(_)
        | TaskOutcome::PrePromoteFailed
        | TaskOutcome::TimedOut
        | TaskOutcome::SettingsRefused(_)
        | TaskOutcome::FormerSettings(_) => Bootstrap::Failed("it took too long".to_owned()),
    };
}

fn absorb_start(c: &mut Cycle<'_>, start_as: &StartAs, outcome: &TaskOutcome) {
    match outcome {
        TaskOutcome::Success | TaskOutcome::TimedOut | TaskOutcome::FormerSettings(_) => {
            let role = standby_cluster::role_of_started(c, start_as);
            let was_primary = matches!(c.memory.role, Role::Primary | Role::Demoted);
            c.memory.role = role;
            c.memory.state = ServerState::Starting;
            if *outcome == TaskOutcome::TimedOut {
                c.note(notes::start_timed_out());
            } else {
                c.memory.state = ServerState::Running;
                let callback = if was_primary && role != Role::Primary {
                    Callback::OnRoleChange
                } else {
                    Callback::OnStart
                };
                c.memory.start_was_announced = true;
                c.callback(callback, role);
            }
        }
        TaskOutcome::Failed(_)
        | TaskOutcome::Cancelled
        | TaskOutcome::SourceNotReady(_)
        | TaskOutcome::SettingsRefused(_)
        | TaskOutcome::PrePromoteFailed => {
            c.memory.state = ServerState::StartFailed;
        }
    }
}

fn absorb_stop(c: &mut Cycle<'_>, purpose: StopPurpose, success: bool) {
    let was_told = std::mem::take(&mut c.memory.stop_was_told);
    c.memory.state = if success {
        ServerState::Stopped
    } else {
        ServerState::StopFailed
    };
    if !success {
        c.note(notes::stop_failed());
        return;
    }
    if !was_told {
        tell_stop(c, purpose);
    }
    if purpose.demotion().is_some() {
        // Who leads what has become a standby cluster goes on leading.
        if purpose != StopPurpose::StandbyCluster {
            c.memory.demoted_at = Some(c.now());
        }
        if purpose.forgets_lock() {
            c.memory.lock = None;
        }
        c.memory.handover.is_stopped = purpose == StopPurpose::Switchover;
        c.memory.role = Role::Demoted;
        c.memory.rewind = RewindState::Check;
        c.memory.checkpoint = Checkpoint::None;
    } else if c.memory.role.is_primary() {
        c.memory.role = Role::Demoted;
    }
}

pub(super) fn tell_stop(c: &mut Cycle<'_>, purpose: StopPurpose) {
    // As Patroni has it: by the end of a handover somebody else may lead already.
    let role = match purpose.demotion() {
        Some(_) if purpose.is_handover() => Role::Demoted,
        Some(_) => Role::Primary,
        None => c.memory.role,
    };
    c.callback(Callback::OnStop, role);
}

fn absorb_restart(c: &mut Cycle<'_>, outcome: &TaskOutcome) {
    match outcome {
        TaskOutcome::Success => {
            c.memory.state = ServerState::Running;
            let role = c.memory.role;
            c.callback(Callback::OnRestart, role);
        }
        TaskOutcome::SettingsRefused(_) => c.memory.state = ServerState::Running,
        TaskOutcome::FormerSettings(_) => {
            c.memory.state = ServerState::Running;
            let role = c.memory.role;
            c.callback(Callback::OnRestart, role);
        }
        TaskOutcome::TimedOut => {
            c.note(notes::start_timed_out());
            c.memory.state = ServerState::Starting;
        }
        TaskOutcome::Failed(_)
        | TaskOutcome::Cancelled
        | TaskOutcome::SourceNotReady(_)
        | TaskOutcome::PrePromoteFailed => {
            c.memory.state = ServerState::RestartFailed;
            c.memory.is_recovering = true;
        }
    }
    if std::mem::take(&mut c.memory.scheduled_restart_runs) {
        c.note(notes::scheduled_restart_ended(&result_of_restart(outcome).1));
    }
    answer_restart(c, outcome);
}

fn result_of_restart(outcome: &TaskOutcome) -> (bool, String) {
    match outcome {
        TaskOutcome::Success => (true, "restarted successfully".to_owned()),
        TaskOutcome::TimedOut => (false, "postgres is still starting".to_owned()),
        TaskOutcome::SettingsRefused(why) => {
            let text =
                "restart failed: PostgreSQL would not start with the new settings, and was not stopped";
            (false, format!("{text}: {why}"))
        }
        TaskOutcome::FormerSettings(why) => {
            let text = "restart failed: PostgreSQL did not start with the new settings, and runs with the former ones";
            (false, format!("{text}: {why}"))
        }
        TaskOutcome::Failed(_)
        | TaskOutcome::Cancelled
        | TaskOutcome::SourceNotReady(_)
        | TaskOutcome::PrePromoteFailed => (false, "restart failed".to_owned()),
    }
}

/// The restart, or the start that has stood for it, has ended.
fn answer_restart(c: &mut Cycle<'_>, outcome: &TaskOutcome) {
    let (is_success, text) = result_of_restart(outcome);
    if let Some(id) = c.memory.restart_request.take() {
        c.reply(Reply { id, is_success, text });
    }
}

/// The server was stopped for it, or not: that is seen when it is looked at.
fn absorb_copy(c: &mut Cycle<'_>, outcome: &TaskOutcome) {
    c.memory.slots.copy_not_before = Some(c.now().after(c.config().loop_wait));
    match outcome {
        TaskOutcome::Success | TaskOutcome::FormerSettings(_) => c.memory.state = ServerState::Running,
        TaskOutcome::TimedOut => c.memory.state = ServerState::Starting,
        TaskOutcome::Failed(_)
        | TaskOutcome::Cancelled
        | TaskOutcome::SourceNotReady(_)
        | TaskOutcome::SettingsRefused(_)
        | TaskOutcome::PrePromoteFailed => {}
    }
}

fn absorb_promotion(c: &mut Cycle<'_>, outcome: &TaskOutcome) {
    match outcome {
        TaskOutcome::Success => {
            c.memory.role = Role::Primary;
            c.memory.rewind = RewindState::Unneeded;
            c.memory.checkpoint = Checkpoint::Due;
            c.memory.synchronous.promoted_at = Some(c.now());
            c.callback(Callback::OnRoleChange, Role::Primary);
        }
        TaskOutcome::PrePromoteFailed => c.memory.pre_promote_failed_at = Some(c.now()),
        TaskOutcome::Failed(_)
        | TaskOutcome::Cancelled
        | TaskOutcome::SourceNotReady(_)
        | TaskOutcome::SettingsRefused(_)
        | TaskOutcome::FormerSettings(_)
        | TaskOutcome::TimedOut => {}
    }
}

/// A job runs: the lock is kept for it, or it is ended because the lock is gone.
pub(super) fn running(
    c: &mut Cycle<'_>,
    cluster: &Arc<Cluster>,
    held: bool,
    (task, since): (&Task, Moment),
    progress: Progress,
) -> Flow<Reason> {
    super::requests::refuse_while_busy(c, cluster, &task.label(), held);
    if super::requests::force_reinitialize(c)? {
        return Ok(Reason::InProgress(task.label()));
    }
    if held {
        if let (Task::Stop { mode, purpose, .. }, Progress::ShutDown { checkpoint }) = (task, progress)
            && let Some(reason) = handover::while_stopping(c, cluster, (*mode, *purpose), checkpoint)?
        {
            return Ok(reason);
        }
        if matches!(task, Task::Promote { .. } | Task::PostBootstrap) {
            publish_position(c)?;
        }
        if *task == Task::CrashRecovery && recovers_too_long(c, cluster, since)? {
            return crash::give_up_recovery(c);
        }
        return Ok(Reason::KeptLockDuring(task.label()));
    }
    without_lock(c, cluster.is_unlocked(), task)
}

/// A start that took as long as this recovery would be given up.
fn recovers_too_long(c: &mut Cycle<'_>, cluster: &Cluster, since: Moment) -> Flow<bool> {
    if c.config().pause {
        return Ok(false);
    }
    let until = since.after(c.config().primary_start_timeout);
    if c.now() < until {
        c.again_at(until);
        return Ok(false);
    }
    peers::can_take_over(c, cluster, None, None)
}

/// A job runs and the lock is not ours.
fn without_lock(c: &mut Cycle<'_>, unlocked: bool, task: &Task) -> Flow<Reason> {
    if !c.config().pause && c.memory.bootstrap == Bootstrap::No {
        match task {
            Task::Promote { .. } => {
                drop(c.perform(Action::CancelTask)?);
                return Ok(Reason::LostLockBeforePromote);
            }
            // The postmaster goes on starting: it is stopped as soon as nobody waits for it any more.
            Task::Start {
                start_as: StartAs::Primary,
                ..
            }
            | Task::Restart {
                start_as: StartAs::Primary,
                ..
            } => {
                drop(c.perform(Action::CancelTask)?);
                return Ok(Reason::LostLockDuring(task.label()));
            }
            Task::Bootstrap
            | Task::PostBootstrap
            | Task::Clone { .. }
            | Task::Start { .. }
            | Task::Stop { .. }
            | Task::Restart { .. }
            | Task::CopyLogicalSlots { .. }
            | Task::CrashRecovery
            | Task::Rewind { .. } => {}
        }
    }
    if unlocked {
        c.note(notes::not_healthy_enough());
    }
    Ok(Reason::InProgress(task.label()))
}

/// A job runs and the DCS does not answer.
pub(super) fn running_in_outage(c: &mut Cycle<'_>, task: &Task, failure: &DcsFailure) -> Flow<Reason> {
    c.note(notes::dcs_error(&failure.0));
    let takes_writes = c.memory.role == Role::Primary && !matches!(task, Task::Stop { .. });
    if takes_writes && !c.config().pause && failsafe::keep_leading(c)? {
        return Ok(Reason::InProgress(task.label()));
    }
    if !c.may_look_again() {
        return without_lock(c, false, task);
    }
    if c.memory.lock.is_some() {
        let soon = c.now().after(Duration::from_secs(1).min(c.config().loop_wait));
        c.again_at(soon);
    }
    Ok(Reason::InProgress(task.label()))
}

fn publish_position(c: &mut Cycle<'_>) -> Flow<()> {
    let server = observe::server(c)?;
    let position = server.sql.as_ref().and_then(|sql| sql.position());
    let Some((cluster, _)) = c.memory.cluster.clone() else {
        return Ok(());
    };
    if position.is_some() {
        publish::status(
            c,
            &Status {
                optime: position,
                is_final: false,
                ..cluster.status.clone()
            },
        )?;
    }
    Ok(())
}
