//! The server does not run and should.

use std::sync::Arc;
use std::time::Duration;

use super::{crash, follow, handover, observe, peers, release, requests, rewind, standby_cluster};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{DataDirectory, Source};
use crate::memory::RewindState;
use crate::pg::{ControlData, DatabaseState, Role, ServerState};
use crate::reason::{Reason, notes};
use crate::step::{StartAs, StartReason, Task};

/// How long a demoted primary waits for the next leader before it starts without one.
const WAIT_FOR_NEW_LEADER: Duration = Duration::from_secs(5);

/// A start was begun by recovery: did it come to anything? `Some` when it did not.
pub(super) fn judge_start(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, held: bool) -> Flow<Option<Reason>> {
    if !std::mem::take(&mut c.memory.is_recovering) {
        return Ok(None);
    }
    let server = observe::server(c)?;
    if server.is_running() || c.memory.rewind == RewindState::Needed {
        return Ok(None);
    }
    if matches!(
        c.memory.state,
        ServerState::StartFailed | ServerState::RestartFailed
    ) {
        if let Some(until) = c.memory.hold_off_until {
            c.again_at(until);
        }
        if held {
            return handover::after_failed_start(c, cluster);
        }
        return Ok(Some(Reason::StartFailed));
    }
    Ok(None)
}

/// The data directory is ours, and no postmaster runs on it.
pub(super) fn not_running(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, held: bool) -> Flow<Reason> {
    if c.config().pause && !comes_back_in_pause(c) {
        // However it came to its end, it is nobody's to start.
        c.memory.state = ServerState::Stopped;
        if held {
            let status = handover::final_status(c, cluster)?;
            release(c, status)?;
            return Ok(Reason::ReleasedNotRunning);
        }
        return Ok(Reason::NotRunning);
    }
    if c.memory.demoted_at.is_some() && held {
        return handover::after_stop(c, cluster);
    }
    recover(c, cluster, held)
}

/// In pause only a server that was demoted, and has to be started again as a standby, is.
fn comes_back_in_pause(c: &Cycle<'_>) -> bool {
    c.memory.demoted_at.is_some() || c.memory.rewind == RewindState::Done
}

fn recover(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, held: bool) -> Flow<Reason> {
    let DataDirectory::Present {
        control,
        has_recovery_signal,
        has_backup_label,
        is_half_rewound,
    } = c.data_directory()?
    else {
        return Ok(Reason::NotRunning);
    };
    let Ok(control) = control else {
        return Ok(Reason::InvalidSystemIdentifier);
    };
    let held = held && !c.is_lost();
    if is_half_rewound {
        return finish_rewind(c, cluster, held);
    }
    let timeout = c.config().primary_start_timeout;
    // What was stopped in an orderly way has lost nothing, and no failover may either.
    let shutdown = (control.state == DatabaseState::ShutDown).then_some(control.checkpoint);
    if held && timeout.is_zero() && peers::can_take_over(c, cluster, None, shutdown)? {
        return fail_over(c);
    }
    if held && !timeout.is_zero() && may_go_on(c, &control, has_recovery_signal) {
        if crash::somebody_is_faster(c, cluster, &control)? {
            return fail_over(c);
        }
        let why = StartReason::PrimaryAfterFailure;
        start(c, StartAs::Primary, Some(timeout), why)?;
        return Ok(Reason::StartingPrimaryAfterFailure);
    }
    if needs_crash_recovery(c, cluster, &control, has_backup_label) {
        c.begin(Task::CrashRecovery)?;
        return Ok(Reason::CrashRecovery);
    }
    if held && !standby_cluster::is_one(c) {
        c.memory.rewind = RewindState::Unneeded;
        start(
            c,
            StartAs::Standby(None),
            Some(timeout),
            StartReason::AfterFailure,
        )?;
        return Ok(Reason::StartingReadOnlyWithLock);
    }
    start_as_standby(c, cluster)
}

/// What pg_rewind has left half done is neither the old state nor the new one: it is rewound to its end, or copied anew,
/// and until then nothing is started.
pub(super) fn finish_rewind(c: &mut Cycle<'_>, cluster: &Cluster, held: bool) -> Flow<Reason> {
    if held {
        c.memory.role = Role::Demoted;
        release(c, None)?;
        return Ok(Reason::ReleasedNotRunning);
    }
    if c.memory.rewind != RewindState::Failed {
        // Before version 14 pg_rewind does not see that a rewind before it has taken away WAL that it needs.
        c.memory.rewind = if c.node().server_version < 140_000 {
            RewindState::Failed
        } else {
            RewindState::Needed
        };
    }
    let target = follow::target(c, cluster);
    let decided = rewind::decide(c, cluster, target.as_ref())?;
    Ok(decided.unwrap_or(Reason::HalfRewound))
}

/// The server is down and stays so until another member leads.
fn fail_over(c: &mut Cycle<'_>) -> Flow<Reason> {
    c.note(notes::crashed_failing_over());
    crash::yield_to_another(c)?;
    Ok(Reason::StoppedToFailOver)
}

/// A primary that died goes on where it was: no timeline changes, nobody has to be rewound.
fn may_go_on(c: &Cycle<'_>, control: &ControlData, has_recovery_signal: bool) -> bool {
    let is_retried = c.memory.handover.start_fails_since.is_some();
    let was_primary =
        c.memory.role == Role::Primary && (c.memory.state == ServerState::Crashed || is_retried);
    let state = matches!(
        control.state,
        DatabaseState::InProduction
            | DatabaseState::InCrashRecovery
            | DatabaseState::ShuttingDown
            | DatabaseState::ShutDown
    );
    was_primary && state && !has_recovery_signal && !standby_cluster::is_one(c)
}

/// A primary that did not stop cleanly has to recover on its own before its end of WAL can be compared.
fn needs_crash_recovery(
    c: &Cycle<'_>,
    cluster: &Cluster,
    control: &ControlData,
    has_backup_label: bool,
) -> bool {
    let unclean = matches!(
        control.state,
        DatabaseState::InProduction | DatabaseState::ShuttingDown | DatabaseState::InCrashRecovery
    );
    let can_rewind = c.node().use_pg_rewind && control.can_be_rewound;
    let is_fresh_copy = is_fresh_copy(c, has_backup_label);
    unclean && !is_fresh_copy && !c.memory.crash_recovery_tried && (cluster.is_unlocked() || can_rewind)
}

/// A single-user server does not recover a base backup, nor what has just been rewound. Before version 15 a primary that crashed
/// during an exclusive backup looked the same.
pub(super) fn is_fresh_copy(c: &Cycle<'_>, has_backup_label: bool) -> bool {
    has_backup_label && c.node().server_version >= 150_000
}

fn start_as_standby(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    if waits_for_new_leader(c, cluster) {
        return Ok(Reason::NotRunning);
    }
    if c.memory.rewind == RewindState::Unneeded {
        follow::arm_rewind_check(c);
    }
    let target = follow::target(c, cluster);
    if let Some(reason) = rewind::decide(c, cluster, target.as_ref())? {
        return Ok(reason);
    }
    let why = if c.memory.demoted_at.is_some() || c.memory.role == Role::Demoted {
        StartReason::AfterDemotion
    } else {
        StartReason::AfterFailure
    };
    let reason = if standby_cluster::leads(c) {
        Reason::StartingStandbyLeader
    } else if target.as_ref().is_some_and(Source::is_remote) {
        Reason::StartingFollowingRemote
    } else {
        Reason::StartingAsSecondary
    };
    start(c, StartAs::Standby(target), None, why)?;
    Ok(reason)
}

/// Whoever takes over after a demotion does so within a moment; with it known, one start is enough.
fn waits_for_new_leader(c: &mut Cycle<'_>, cluster: &Cluster) -> bool {
    let Some(until) = c
        .memory
        .demoted_at
        .map(|at| at.after(WAIT_FOR_NEW_LEADER.min(c.config().loop_wait)))
    else {
        return false;
    };
    if cluster.is_unlocked() && c.now() < until {
        c.again_at(until);
        return true;
    }
    false
}

pub(super) fn start(
    c: &mut Cycle<'_>,
    start_as: StartAs,
    timeout: Option<Duration>,
    why: StartReason,
) -> Flow<()> {
    c.memory.is_recovering = true;
    c.memory.start_timeout = timeout;
    let task = Task::Start {
        start_as,
        timeout,
        why,
    };
    requests::begin_start(c, task)
}
