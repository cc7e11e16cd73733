//! A planned stop of the primary: a switchover, the end of the agent, a restart that failed. The leader key goes only to a member
//! that has the shutdown checkpoint, for it has all that was committed; otherwise the primary is started again.
//!
//! PostgreSQL waits at its end for the standbys that are connected, and for no other. So 1. members that cannot get the last WAL
//! are refused before the stop; 2. the candidate has to reach the position that the primary had when it was asked; 3. after the
//! stop the candidate is asked whether it has the checkpoint; 4. if it does not, the primary goes on where it was.

use std::sync::Arc;
use std::time::Duration;

use super::{follow, observe, peers, publish, recover, release, standby_cluster, task};
use crate::cascade::Cascade;
use crate::cluster::{Cluster, Failover, Status};
use crate::cycle::{Cycle, Flow};
use crate::facts::{DataDirectory, PeerStatus, SqlFacts, TaskStatus};
use crate::memory::{Preparation, RewindState};
use crate::pg::{ControlData, DatabaseState, Lsn, MemberName, Role};
use crate::reason::{Reason, notes};
use crate::senders::Senders;
use crate::step::{
    Action, Callback, Exit, Expect, Key, StartAs, StartReason, StopMode, StopPurpose, Task, TaskOutcome,
};

/// How long members may take to get what they lack.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// How long an agent that ends looks for a member that has the shutdown checkpoint: after the stop nobody can get it from here.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(1);

/// How soon members are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long a primary may take to start again where `primary_start_timeout` is 0.
const START_TIMEOUT: Duration = Duration::from_secs(300);

fn patience(c: &Cycle<'_>) -> Duration {
    PATIENCE_MAX.min(c.config().retry_timeout / 2)
}

/// Whether the primary can be stopped for a switchover.
pub(super) enum Readiness {
    /// It can.
    Ready,
    /// A candidate is not as far yet.
    NotYet,
    /// It cannot.
    Impossible(String),
}

/// Before the stop: whether a candidate has received all that the leader had when the request was first looked at.
pub(super) fn readiness(c: &mut Cycle<'_>, cluster: &Cluster, failover: &Failover) -> Flow<Readiness> {
    let sql = observe::server(c)?.sql;
    let mut fit = Vec::new();
    for (name, peer) in peers::candidates(c, cluster, Some(failover))? {
        if peers::has_what_is_needed(c, cluster, &peer, None) {
            fit.push((name, peer));
        } else {
            c.note(notes::candidate_lags(&name));
        }
    }
    if !peers::are_enough(c, cluster, Some(failover), fit.len()) {
        c.memory.handover.preparation = None;
        c.note(notes::no_healthy_members(failover.kind()));
        return Ok(Readiness::Impossible(why_nobody(c, cluster, failover)));
    }
    let Some(sql) = sql.filter(|_| !standby_cluster::is_one(c)) else {
        return Ok(Readiness::Ready);
    };
    let (now, goal) = (c.now(), sql.position().unwrap_or_default());
    let preparation = match c.memory.handover.preparation {
        Some(begun) if begun.request == failover.version => begun,
        Some(_) | None => Preparation {
            request: failover.version,
            since: now,
            goal,
        },
    };
    c.memory.handover.preparation = Some(preparation);
    let mut missing = Vec::new();
    for (name, peer) in &fit {
        match what_is_missing(c, cluster, &sql, (name, peer), preparation.goal) {
            None => {
                c.memory.handover.preparation = None;
                return Ok(Readiness::Ready);
            }
            Some(why) => missing.push(why),
        }
    }
    let missing = missing.join("; ");
    if now < preparation.since.after(patience(c)) {
        c.note(notes::waiting_for_candidate(&missing));
        c.again_at(now.after(ASK_AGAIN));
        return Ok(Readiness::NotYet);
    }
    c.memory.handover.preparation = None;
    Ok(Readiness::Impossible(missing))
}

/// What keeps a candidate from having all WAL of the primary when that is stopped.
fn what_is_missing(
    c: &Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
    (name, peer): (&MemberName, &PeerStatus),
    goal: Lsn,
) -> Option<String> {
    let cascade = Cascade::seen_by(cluster, c.me(), &c.node().tags);
    let way = cascade.way_to_leader(name).ok()?;
    let direct = *way.last()?;
    let senders = Senders::new(cluster, c.node(), &sql.wal_senders);
    let streams = cluster
        .member(direct)
        .is_some_and(|member| senders.of(member).count() > 0);
    if !streams {
        let by = if direct == name {
            String::new()
        } else {
            format!(", from which {name} gets its WAL,")
        };
        return Some(format!("member {direct}{by} does not stream from {}", c.me()));
    }
    (peer.position < Some(goal)).then(|| {
        let has = peer.position.unwrap_or_default();
        format!("member {name} has received WAL up to {has} and not up to {goal}: its WAL receiver is slow or stalled")
    })
}

/// Why no member may take over, from the member keys: the log has what the members answered.
fn why_nobody(c: &Cycle<'_>, cluster: &Cluster, failover: &Failover) -> String {
    let cascade = Cascade::seen_by(cluster, c.me(), &c.node().tags);
    let refusal = |candidate: &MemberName| match cascade.way_to_leader(candidate) {
        Err(end) if end == candidate => {
            format!(
                "member {candidate} has the tag nostream and cannot receive the last WAL of {}",
                c.me()
            )
        }
        Err(end) => format!(
            "member {candidate} replicates from member {end}, which has the tag nostream, and cannot receive the last WAL of {}",
            c.me()
        ),
        Ok(_) => format!(
            "member {candidate} is not reachable, may not be promoted, or lags too far behind; see the log of {}",
            c.me()
        ),
    };
    failover.candidate.as_ref().map_or_else(
        || format!("no member can take over; see the log of {}", c.me()),
        refusal,
    )
}

/// The request is not carried out: whoever asked is told why.
pub(super) fn fail(c: &mut Cycle<'_>, failover: &Failover, why: String) {
    c.memory.handover.preparation = None;
    c.memory.handover.failed = Some((failover.version, why));
}

/// The server has written its shutdown checkpoint and waits for somebody, be it a slow replica or an archiver. If a member that
/// may take over has everything already, it need not wait with us. `Some`: it does not wait any longer.
pub(super) fn while_stopping(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    (mode, purpose): (StopMode, StopPurpose),
    checkpoint: Lsn,
) -> Flow<Option<Reason>> {
    if !purpose.is_handover() && purpose != StopPurpose::Shutdown {
        return Ok(None);
    }
    let now = c.now();
    let since = *c.memory.handover.waits_since.get_or_insert(now);
    if peers::can_take_over(c, cluster, cluster.failover.as_ref(), Some(checkpoint))? {
        // A standby leader has published a position that is further than its last restart point.
        let status = (c.memory.role != Role::StandbyLeader).then(|| at(cluster, checkpoint));
        if !std::mem::replace(&mut c.memory.stop_was_told, true) {
            task::tell_stop(c, purpose);
        }
        hand_over(c, status)?;
        return Ok(None);
    }
    if purpose != StopPurpose::Switchover || mode == StopMode::Immediate {
        return Ok(None);
    }
    let until = since.after(patience(c));
    if now < until {
        c.again_at(now.after(ASK_AGAIN));
        return Ok(None);
    }
    // A standby that is connected and does not take the WAL would be waited for until `wal_sender_timeout`.
    drop(c.perform(Action::CancelTask)?);
    Ok(Some(Reason::AwaitingSuccessor))
}

/// The wait for a standby was cut off: the server is told to end at once. Its shutdown checkpoint is written.
pub(super) fn cut_off(c: &mut Cycle<'_>) -> Flow<Option<Reason>> {
    let TaskStatus::Done {
        task:
            Task::Stop {
                mode: StopMode::Fast,
                purpose: StopPurpose::Switchover,
                ..
            },
        outcome: TaskOutcome::Cancelled,
    } = &c.given().task
    else {
        return Ok(None);
    };
    if c.given().is_stopping {
        return Ok(None);
    }
    c.begin(Task::Stop {
        mode: StopMode::Immediate,
        checkpoint: false,
        purpose: StopPurpose::Switchover,
    })?;
    Ok(Some(Reason::AwaitingSuccessor))
}

fn at(cluster: &Cluster, checkpoint: Lsn) -> Status {
    Status {
        optime: Some(checkpoint),
        is_final: true,
        ..cluster.status.clone()
    }
}

fn hand_over(c: &mut Cycle<'_>, status: Option<Status>) -> Flow<()> {
    c.memory.handover.is_stopped = false;
    c.memory.handover.waits_since = None;
    release(c, status)
}

/// What the others have to have where a primary was stopped in an orderly way, whoever did it: 1. it is stopped because the DCS
/// is away, 2. its start as a standby fails, 3. a switchover is asked for. Without the end in the status the candidate would
/// lead, whatever it lacks. A signal of recovery changes nothing: a standby's own orderly stop has another state.
pub(super) fn final_status(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Status>> {
    let was_primary = matches!(c.memory.role, Role::Primary | Role::Demoted);
    if !was_primary || standby_cluster::is_one(c) {
        return Ok(None);
    }
    Ok(match c.data_directory()? {
        DataDirectory::Present {
            control: Ok(control), ..
        } if control.state == DatabaseState::ShutDown => Some(at(cluster, control.checkpoint)),
        DataDirectory::Present { .. } | DataDirectory::Empty | DataDirectory::Inaccessible(_) => None,
    })
}

/// The control file of a primary that was stopped in an orderly way.
fn stopped_primary(c: &mut Cycle<'_>) -> Flow<Option<ControlData>> {
    Ok(match c.data_directory()? {
        DataDirectory::Present {
            control: Ok(control),
            has_recovery_signal: false,
            ..
        } if control.state == DatabaseState::ShutDown => Some(control),
        DataDirectory::Present { .. } | DataDirectory::Empty | DataDirectory::Inaccessible(_) => None,
    })
}

/// A primary's data cannot be looked at.
fn is_unreadable(c: &mut Cycle<'_>) -> Flow<bool> {
    let is_primary = c.memory.role.is_primary() || c.memory.role == Role::Demoted;
    Ok(is_primary
        && !standby_cluster::is_one(c)
        && matches!(
            c.data_directory()?,
            DataDirectory::Present { control: Err(_), .. } | DataDirectory::Inaccessible(_)
        ))
}

/// The server was stopped to hand over, and the key is still here.
pub(super) fn after_stop(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    let control = stopped_primary(c)?;
    let is_switchover = c.memory.handover.is_stopped && !standby_cluster::is_one(c);
    if !is_switchover {
        // The last position is where the shutdown checkpoint begins.
        hand_over(c, control.map(|control| at(cluster, control.checkpoint)))?;
        let soon = c.now().after(Duration::from_secs(1));
        c.again_at(soon);
        return Ok(Reason::ReleasedNotRunning);
    }
    let failover = cluster.failover.as_ref();
    if let Some(control) = &control
        && peers::can_take_over(c, cluster, failover, Some(control.checkpoint))?
    {
        hand_over(c, Some(at(cluster, control.checkpoint)))?;
        let soon = c.now().after(Duration::from_secs(1));
        c.again_at(soon);
        return Ok(Reason::ReleasedNotRunning);
    }
    let now = c.now();
    let since = *c.memory.handover.waits_since.get_or_insert(now);
    if now < since.after(patience(c)) {
        c.again_at(now.after(ASK_AGAIN));
        return Ok(Reason::AwaitingSuccessor);
    }
    let me = c.me();
    let whom = failover
        .and_then(|failover| failover.candidate.as_ref())
        .map_or_else(
            || "no member is".to_owned(),
            |name| format!("member {name} is not"),
        );
    let why = match control {
        Some(control) => format!(
            "{whom} known to have the shutdown checkpoint of {me} at {}, so commits could be lost; {me} is started as \
             the primary again",
            control.checkpoint
        ),
        None => format!("{me} was not stopped in an orderly way and is started as the primary again"),
    };
    start_again(c, failover, why)
}

fn start_again(c: &mut Cycle<'_>, failover: Option<&Failover>, why: String) -> Flow<Reason> {
    c.note(notes::switchover_failed(&why));
    if let Some(failover) = failover {
        c.note(notes::clearing_failover());
        drop(c.write(
            Key::Failover,
            Failover::CLEARED.to_owned(),
            Expect::Version(failover.version),
        )?);
        c.memory.handover.undone = Some(failover.version);
        fail(c, failover, why);
    }
    c.memory.handover.is_stopped = false;
    c.memory.handover.waits_since = None;
    go_on_as_primary(c);
    let timeout = Some(c.config().primary_start_timeout).filter(|timeout| !timeout.is_zero());
    recover::start(
        c,
        StartAs::Primary,
        timeout.or(Some(START_TIMEOUT)),
        StartReason::AfterFailedSwitchover,
    )?;
    Ok(Reason::StartingPrimaryAfterFailedSwitchover)
}

/// Nobody else has led since the stop: it is the primary that is started.
fn go_on_as_primary(c: &mut Cycle<'_>) {
    c.memory.demoted_at = None;
    c.memory.role = Role::Primary;
    c.memory.rewind = RewindState::Unneeded;
}

/// The agent ends and its server is stopped; the key is ours. `Some`: not yet.
pub(super) fn before_exit(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Option<Reason>> {
    // Nobody loses what nobody else may lead with.
    let is_alone = !cluster
        .members
        .iter()
        .any(|member| &member.name != c.me() && !member.data.tags.nofailover());
    let Some(control) = stopped_primary(c)?.filter(|_| !standby_cluster::is_one(c)) else {
        if is_unreadable(c)? {
            // What this member has is not known, and so nobody is known to have it.
            c.exit(Exit::Graceful);
            return Ok(Some(Reason::ShutDownWithKey));
        }
        hand_over(c, None)?;
        return Ok(None);
    };
    let status = at(cluster, control.checkpoint);
    if is_alone || peers::can_take_over(c, cluster, cluster.failover.as_ref(), Some(control.checkpoint))? {
        hand_over(c, Some(status))?;
        return Ok(None);
    }
    let now = c.now();
    let since = *c.memory.handover.waits_since.get_or_insert(now);
    if now < since.after(PATIENCE_AT_THE_END) {
        c.again_at(now.after(ASK_AGAIN));
        return Ok(Some(Reason::AwaitingSuccessor));
    }
    // Who takes over when the key has run out goes by this position, and loses no more than a failover may. A member that is
    // started again before that goes on as the leader.
    publish::status(c, &status)?;
    c.note(notes::key_runs_out(control.checkpoint));
    c.exit(Exit::Graceful);
    Ok(Some(Reason::ShutDownWithKey))
}

/// A primary that was stopped in an orderly way, by a restart or a failed switchover, cannot be started. `Some` when the key goes
/// to a member that has everything, or the operator's patience is over; `None`: the start is tried again.
pub(super) fn after_failed_start(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Option<Reason>> {
    let status = final_status(c, cluster)?;
    if let Some(checkpoint) = status.as_ref().and_then(|status| status.optime) {
        let now = c.now();
        let since = *c.memory.handover.start_fails_since.get_or_insert(now);
        let is_over = now >= since.after(c.config().primary_start_timeout);
        if !is_over && !peers::can_take_over(c, cluster, None, Some(checkpoint))? {
            c.note(notes::start_fails_without_successor());
            go_on_as_primary(c);
            return Ok(None);
        }
    }
    c.memory.handover.start_fails_since = None;
    if matches!(c.memory.role, Role::Primary | Role::StandbyLeader) {
        c.callback(Callback::OnRoleChange, Role::Demoted);
    }
    c.memory.role = Role::Demoted;
    follow::arm_rewind_check(c);
    release(c, status)?;
    Ok(Some(Reason::ReleasedStartFailed))
}
