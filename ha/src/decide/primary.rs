//! The leader key is ours.

use std::sync::Arc;

use super::{
    citus, failsafe, follow, history, observe, origin, publish, release, slots, standby_cluster, switchover,
    synchronous, unresponsive,
};
use crate::cluster::{Cluster, Status};
use crate::cycle::{Cycle, Flow};
use crate::facts::{CheckpointStatus, DataDirectory};
use crate::memory::Checkpoint;
use crate::pg::Role;
use crate::reason::{Reason, notes};
use crate::step::{Action, Expect, Key, StopMode, StopPurpose, Task};

/// The lease was just prolonged.
pub(super) fn hold(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    let is_primary = observe::is_primary(c)?;
    let is_standby_cluster = standby_cluster::is_one(c);
    if c.config().pause && !is_primary && !is_standby_cluster {
        let waits = cluster
            .failover
            .as_ref()
            .is_some_and(|failover| failover.candidate.as_ref() == Some(c.me()));
        if waits {
            return Ok(Reason::WaitingToBecomePrimary);
        }
        release(c, None)?;
        return Ok(Reason::ReleasedNotPrimary);
    }
    if let Some(reason) = unresponsive::gives_up(c, cluster)? {
        return Ok(reason);
    }
    let server = observe::server(c)?;
    if let Some(sql) = server.sql.as_ref().filter(|_| is_primary || is_standby_cluster) {
        let (slots, retain_slots) = slots::to_publish(c, cluster, sql);
        publish::status(
            c,
            &Status {
                optime: sql.position(),
                slots,
                retain_slots,
                is_final: false,
            },
        )?;
    }
    failsafe::publish(c, cluster)?;
    let may_hand_over = is_primary || (is_standby_cluster && !c.config().pause);
    if may_hand_over && let Some(reason) = switchover::decide(c, cluster)? {
        return Ok(reason);
    }
    if is_standby_cluster {
        return standby_cluster::lead(c, cluster, Reason::StandbyLeaderHavingLock);
    }
    enforce(
        c,
        cluster,
        Reason::Leader(c.me().clone()),
        Reason::PromotedHavingLock,
    )
}

/// Makes the holder of the lock the primary, or keeps it so.
pub(super) fn enforce(
    c: &mut Cycle<'_>,
    cluster: &Arc<Cluster>,
    is_one: Reason,
    becomes_one: Reason,
) -> Flow<Reason> {
    if let Some((demoted, not_promoting)) = what_is_missing(c) {
        if observe::is_primary(c)? {
            demote(c, StopMode::Immediate, StopPurpose::GiveUp)?;
            return Ok(demoted);
        }
        release(c, None)?;
        return Ok(not_promoting);
    }
    if c.memory
        .pre_promote_failed_at
        .is_some_and(|at| c.now() < at.after(c.config().ttl))
    {
        c.note(notes::releasing_after_pre_promote());
        release(c, None)?;
        return Ok(Reason::PromotionCancelledByScript);
    }
    if observe::is_primary(c)? {
        write_missing_configuration(c, cluster)?;
        checkpoint_after_promotion(c)?;
        synchronous::keep(c, cluster)?;
        history::keep(c, cluster)?;
        origin::keep(c, cluster)?;
        citus::keep(c, cluster)?;
        return Ok(is_one);
    }
    // In pause only whom somebody asked for comes here: nobody else runs for the key.
    if let Some(reason) = synchronous::before_promotion(c, cluster)? {
        return Ok(reason);
    }
    let Some(lock) = c.memory.lock.filter(|_| c.memory.holds_lock(c.now())) else {
        // The answer came after the lease was over: what it said is worth nothing now.
        return Ok(Reason::NotPromotingLockLost);
    };
    slots::warn_before_promotion(c, cluster)?;
    let sql = observe::server(c)?.sql;
    let (timeline, position) = sql.map_or((None, None), |sql| (sql.timeline, sql.position()));
    let has_the_end = cluster.status.is_final && !cluster.lacks_the_end(timeline, position);
    c.begin(Task::Promote {
        lock_valid_until: lock.valid_until,
        archive_may_have_more: !has_the_end,
    })?;
    Ok(becomes_one)
}

/// The leader writes the dynamic configuration in force when the DCS has none.
pub(super) fn write_missing_configuration(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    if cluster.config.is_none() {
        let json = c.node().config_json.clone();
        drop(c.write(Key::Config, json, Expect::Anything)?);
    }
    Ok(())
}

/// What the operator requires of a primary and is not there: why one is demoted, and why nobody is promoted.
fn what_is_missing(c: &Cycle<'_>) -> Option<(Reason, Reason)> {
    if c.config().pause {
        None
    } else if c.given().guard_is_missing {
        Some((Reason::DemotedWithoutGuard, Reason::NotPromotingWithoutGuard))
    } else if c.given().watchdog_is_missing {
        Some((
            Reason::DemotedWithoutWatchdog,
            Reason::NotPromotingWithoutWatchdog,
        ))
    } else {
        None
    }
}

fn checkpoint_after_promotion(c: &mut Cycle<'_>) -> Flow<()> {
    if c.memory.checkpoint == Checkpoint::Unknown {
        c.memory.checkpoint = look_for_checkpoint(c)?;
    }
    match (c.memory.checkpoint, c.given().checkpoint) {
        (Checkpoint::Due, CheckpointStatus::Running) | (Checkpoint::Unknown | Checkpoint::None, _) => {}
        (Checkpoint::Due, _) => {
            if c.perform(Action::BeginCheckpoint)?.is_ok() {
                c.memory.checkpoint = Checkpoint::Begun;
            }
        }
        (Checkpoint::Begun, CheckpointStatus::Done) => c.memory.checkpoint = Checkpoint::None,
        (Checkpoint::Begun, CheckpointStatus::Failed) => c.memory.checkpoint = Checkpoint::Due,
        (Checkpoint::Begun, CheckpointStatus::Idle | CheckpointStatus::Running) => {}
    }
    Ok(())
}

/// An agent before this one may have promoted the server and not lived to see the checkpoint: the control file tells.
fn look_for_checkpoint(c: &mut Cycle<'_>) -> Flow<Checkpoint> {
    let running = observe::server(c)?.sql.and_then(|sql| sql.timeline);
    let DataDirectory::Present {
        control: Ok(control), ..
    } = c.data_directory()?
    else {
        return Ok(Checkpoint::Unknown);
    };
    Ok(match running {
        Some(timeline) if timeline != control.timeline => Checkpoint::Due,
        Some(_) => Checkpoint::None,
        None => Checkpoint::Unknown,
    })
}

/// The key named us when it was read, and was certainly not ours when we wanted to prolong it.
pub(super) fn lost(c: &mut Cycle<'_>) -> Flow<Reason> {
    c.note(notes::lock_update_failed());
    if !observe::is_primary(c)? {
        return Ok(Reason::NotPromotingLockLost);
    }
    if c.config().pause {
        return Ok(Reason::PauseContinueUpdateFailed);
    }
    demote(c, StopMode::Immediate, StopPurpose::LostLock)?;
    Ok(Reason::DemotedLockLost)
}

/// Stops a primary so that it may come back as a standby.
pub(super) fn demote(c: &mut Cycle<'_>, mode: StopMode, purpose: StopPurpose) -> Flow<()> {
    if let Some(kind) = purpose.demotion() {
        c.note(notes::demoting(kind));
    }
    c.memory.role = Role::Demoted;
    follow::arm_rewind_check(c);
    c.begin(Task::Stop {
        mode,
        checkpoint: purpose.is_handover() || purpose == StopPurpose::StandbyCluster,
        purpose,
    })
}
