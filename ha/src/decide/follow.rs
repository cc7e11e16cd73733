//! Somebody else leads, or nobody does and it shall not be us: follow.

use std::sync::Arc;
use std::time::Duration;

use super::{observe, origin, primary, rewind, standby_cluster};
use crate::cascade::Cascade;
use crate::cluster::{Cluster, Member, MemberData};
use crate::cycle::{Cycle, Flow};
use crate::facts::{Accepts, RecoveryDrift, Retry, Source};
use crate::memory::RewindState;
use crate::pg::{MemberName, ReplicationState, Role, ServerState};
use crate::reason::{Reason, notes};
use crate::step::{Action, StartAs, StopMode, StopPurpose, Task};

/// How long a source may refuse a standby that tries again at once.
const REFUSED: Duration = Duration::from_secs(15);

/// How long it may refuse one that tries again every few seconds.
const REFUSED_LONG: Duration = Duration::from_secs(120);

pub(super) fn leader(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    let Some(leader) = cluster.leader_name().cloned() else {
        return Ok(Reason::NoAction(c.me().clone()));
    };
    let demoting = if standby_cluster::is_one(c) {
        Reason::DemotingInStandbyCluster
    } else {
        Reason::DemotingWithoutLock
    };
    let steady = steady(c, leader);
    follow(c, cluster, demoting, steady)
}

/// A replica with nothing to do.
pub(super) fn steady(c: &Cycle<'_>, leader: MemberName) -> Reason {
    let me = c.me().clone();
    if standby_cluster::is_one(c) {
        Reason::FollowingStandbyLeader { me, leader }
    } else {
        Reason::Following { me, leader }
    }
}

/// Brings this member to follow whom it should; a primary is stopped first.
pub(super) fn follow(
    c: &mut Cycle<'_>,
    cluster: &Arc<Cluster>,
    demoting: Reason,
    following: Reason,
) -> Flow<Reason> {
    let paused = c.config().pause;
    if observe::is_primary(c)? {
        if paused {
            return Ok(Reason::PauseContinueWithoutLock);
        }
        if standby_cluster::is_one(c) {
            primary::demote(c, StopMode::Fast, StopPurpose::StandbyCluster)?;
        } else {
            primary::demote(c, StopMode::Immediate, StopPurpose::LostLock)?;
        }
        return Ok(demoting);
    }
    standby_cluster::assume_role(c);
    warn_of_loop(c, cluster);
    let target = target(c, cluster);
    if target.is_none() {
        // Whoever leads next is asked at once.
        c.memory.unanswered = None;
        c.memory.trouble = None;
    }
    if paused && target.is_none() {
        return Ok(Reason::NoAction(c.me().clone()));
    }
    if standby_cluster::is_one(c) && standby_cluster::may_have_parted(c)? {
        arm_rewind_check(c);
    }
    if let Some(reason) = rewind::decide(c, cluster, target.as_ref())? {
        return Ok(reason);
    }
    resume_replay(c)?;
    if target.is_none() && !c.node().tags.nostream() {
        // Whoever led last may still send what we lack: its address stays until there is a new one.
        let is_led = standby_cluster::is_one(c) && !cluster.is_unlocked();
        return Ok(if is_led {
            Reason::FollowingOldStandbyLeader
        } else {
            following
        });
    }
    let has_no_host = target
        .as_ref()
        .is_some_and(|source| !source.can_be_connected_to());
    if has_no_host && !standby_cluster::leads(c) {
        return Ok(Reason::FollowingOldStandbyLeader);
    }
    change_source(c, cluster, target)?;
    Ok(following)
}

/// Members that are told to stream from each other get no WAL: the one whose name sorts first streams from the leader.
fn warn_of_loop(c: &mut Cycle<'_>, cluster: &Cluster) {
    let cascade = Cascade::seen_by(cluster, c.me(), &c.node().tags);
    let broken = cascade.broken_loop(c.me()).unwrap_or_default();
    let is_known = broken.iter().copied().eq(c.memory.replication_loop.iter());
    if !is_known && !broken.is_empty() {
        c.note(notes::replication_loop(&broken));
    }
    c.memory.replication_loop = broken.into_iter().cloned().collect();
}

/// Brings the recovery settings in line with what this member is to follow.
pub(super) fn change_source(c: &mut Cycle<'_>, cluster: &Cluster, target: Option<Source>) -> Flow<()> {
    let (retry, only_streams) = pace(c, cluster, target.as_ref())?;
    let target = target.map(|source| Source {
        retry,
        only_streams,
        ..source
    });
    match c.recovery_drift(target.clone())? {
        RecoveryDrift::None => {
            notice_new_timeline(c, cluster);
            origin::learn(c, cluster)?;
        }
        RecoveryDrift::Reload => {
            arm_rewind_check(c);
            if let (Some(interval), Some(why)) = (retry.interval(), &c.memory.trouble) {
                let note = notes::tried_again_later(why, interval);
                c.note(note);
            }
            drop(c.perform(Action::Follow(target))?);
        }
        RecoveryDrift::Restart => {
            arm_rewind_check(c);
            let start_as = StartAs::Standby(target);
            c.begin(Task::Restart {
                start_as,
                timeout: None,
                is_requested: false,
            })?;
        }
    }
    Ok(())
}

/// How often the source is asked, and whether the archive is left alone.
///
/// A source that runs and has refused this standby for some time is asked more seldom, as each attempt leaves lines in two logs.
/// Another source, or one that was not running, is asked at once.
///
/// A standby that streams has no `restore_command` in force. Otherwise, when the primary stops:
/// 1. The WAL receiver ends, and the startup process runs `restore_command`, once for each timeline that it knows.
/// 2. This member takes the leader key and asks for the promotion.
/// 3. The promotion waits until all of these commands have ended.
///
/// The archive is asked again when the leader lives and this standby has not streamed for `ttl`: a leader that died has been
/// superseded by then.
fn pace(c: &mut Cycle<'_>, cluster: &Cluster, target: Option<&Source>) -> Flow<(Retry, bool)> {
    let server = observe::server(c)?;
    // Who does not let us in may have been told to by the same rules as the source.
    let runs_here = server.sql.is_some() || server.accepts == Accepts::Yes;
    let sql = server.sql;
    let state = sql.as_ref().and_then(|sql| sql.replication_state);
    let streams = state == Some(ReplicationState::Streaming);
    let upstream = target.and_then(|source| source.member.as_ref());
    let is_member = upstream.is_some();
    c.memory.only_streams = is_member && (streams || sql.is_some() && c.memory.only_streams);
    let upstream = upstream.and_then(|name| cluster.member(name));
    let runs = upstream.is_none_or(|member| member.data.state == Some(ServerState::Running));
    let Some(source) = target.filter(|_| runs_here && !streams && runs) else {
        c.memory.unanswered = None;
        c.memory.trouble = None;
        return Ok((Retry::AtOnce, c.memory.only_streams));
    };
    let now = c.now();
    let since = match &c.memory.unanswered {
        Some((conn_url, since)) if *conn_url == source.conn_url => *since,
        Some(_) | None => now,
    };
    c.memory.unanswered = Some((source.conn_url.clone(), since));
    let lasted = now.since(since);
    let restores_after = c.config().ttl;
    if lasted >= restores_after {
        c.memory.only_streams = false;
    }
    // Of a remote primary it is not known when it stops, starts, or moves.
    let longest = if is_member { Retry::Later } else { Retry::Soon };
    let retry = match lasted {
        lasted if lasted < REFUSED => Retry::AtOnce,
        lasted if lasted < REFUSED_LONG => Retry::Soon,
        _ => longest,
    };
    c.memory.trouble = (retry > Retry::AtOnce).then(|| notes::does_not_stream(source));
    let changes = [REFUSED, REFUSED_LONG, restores_after];
    if let Some(next) = changes.into_iter().filter(|limit| *limit > lasted).min() {
        c.again_at(since.after(next));
    }
    Ok((retry, c.memory.only_streams))
}

/// Since version 14 replay pauses by itself when the primary's settings need more than this server has, and goes on
/// after a restart only when it is told to.
fn resume_replay(c: &mut Cycle<'_>) -> Flow<()> {
    let is_paused = observe::server(c)?.sql.is_some_and(|sql| sql.replay_paused);
    if is_paused && !c.config().pause && c.node().server_version >= 140_000 {
        c.note(notes::resuming_replay());
        drop(c.perform(Action::ResumeReplay)?);
    }
    Ok(())
}

/// Whom this member streams from: the remote cluster if it leads a standby cluster, else the member that it is told to
/// (`replicatefrom`), else the leader; never itself.
pub(super) fn target(c: &Cycle<'_>, cluster: &Cluster) -> Option<Source> {
    let node = c.node();
    if standby_cluster::follows_remote(c, cluster) {
        return standby_cluster::remote(c);
    }
    if node.tags.nostream() {
        return None;
    }
    let cascade = Cascade::seen_by(cluster, c.me(), &node.tags);
    cascade
        .instead_of_leader(c.me())
        .or_else(|| cluster.leader_member().filter(|leader| &leader.name != c.me()))
        .and_then(|m| source(c, m))
}

/// A member as something to replicate from.
pub(super) fn source(c: &Cycle<'_>, member: &Member) -> Option<Source> {
    Some(Source {
        member: Some(member.name.clone()),
        conn_url: member.data.conn_url.clone()?,
        slot: c.node().use_slots.then(|| c.me().slot_name()),
        retry: Retry::AtOnce,
        only_streams: false,
    })
}

/// Has the next look at the leader tell whether our WAL parted from its.
pub(super) fn arm_rewind_check(c: &mut Cycle<'_>) {
    if !matches!(c.memory.rewind, RewindState::Needed | RewindState::OtherOrigin) {
        c.memory.rewind = RewindState::Check;
    }
}

/// The leader went on to a newer timeline and we have not: either we will any moment, or we cannot. Or to another one of our
/// number, as when a standby cluster is promoted and we are on what the remote cluster has begun.
fn notice_new_timeline(c: &mut Cycle<'_>, cluster: &Cluster) {
    let Some(leader) = cluster.leader_member().and_then(|leader| leader.data.timeline) else {
        return;
    };
    let own = c.memory.origin;
    if c.memory.last_timeline < Some(leader) || origin::is_another(c, cluster, own.as_ref()) {
        arm_rewind_check(c);
    }
}

/// Streaming on the leader's timeline: our WAL cannot have parted from its.
pub(super) fn streams_from_leader(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<bool> {
    let leads = |data: &MemberData| matches!(data.role, Some(Role::Primary | Role::StandbyLeader));
    let leader = cluster
        .leader_member()
        .map(|leader| &leader.data)
        .filter(|data| leads(data));
    let leader = leader.and_then(|leader| leader.timeline);
    let server = observe::server(c)?;
    let Some(sql) = server.sql.filter(|sql| sql.in_recovery) else {
        return Ok(false);
    };
    Ok(sql.replication_state == Some(ReplicationState::Streaming)
        && leader.is_some()
        && sql.timeline == leader)
}
