//! Nobody holds the leader key: whether this member should, and what it does when it should not.

use std::sync::Arc;

use serde_json::Value;

use super::{
    backoff, failsafe, follow, observe, origin, peers, primary, replaced_store, standby_cluster, synchronous,
};
use crate::cluster::{Cluster, Failover, FailoverKind, Origin};
use crate::cycle::{Cycle, Flow};
use crate::facts::{LockAnswer, Peer, PeerAnswer, PeerStatus, SqlFacts};
use crate::pg::{Lsn, MemberName, ServerState, Timeline};
use crate::reason::{Reason, notes};
use crate::step::{Action, Expect, Key};

use std::time::Duration;

/// How soon an unlocked cluster is looked at again, where `ttl` is not so short that less is needed: nothing is more urgent, and
/// an event may never come.
const AGAIN_WHILE_UNLOCKED: Duration = Duration::from_secs(1);

pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    let pause = AGAIN_WHILE_UNLOCKED
        .min(c.config().loop_wait)
        .min(c.config().ttl / 10);
    let soon = c.now().after(pause);
    c.again_at(soon);
    if let Some(reason) = backoff::holds_back(c, cluster)? {
        return Ok(reason);
    }
    if let Some(reason) = replaced_store::holds_back(c, cluster)? {
        return Ok(reason);
    }
    if is_healthiest(c, cluster)? {
        return acquire(c, cluster);
    }
    let (demoting, following) = if c.node().tags.nofailover() {
        (Reason::DemotingNotAllowed, Reason::NotAllowedToPromote)
    } else {
        (Reason::DemotingNotHealthiest, Reason::NotHealthiest)
    };
    follow::follow(c, cluster, demoting, following)
}

fn acquire(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    if is_out_of_date(c) {
        let now = c.now();
        c.again_at(now);
        return Ok(Reason::NotHealthiest);
    }
    let action = match c.expired() {
        Some(expired) => Action::SupersedeLeader { expired },
        None => Action::AcquireLeader,
    };
    match c.lock(action)? {
        LockAnswer::Held { .. } | LockAnswer::HeldByLeaseAlone { .. } => {
            clear_failover(c, cluster)?;
            if standby_cluster::is_one(c) {
                return standby_cluster::lead(c, cluster, Reason::StandbyLeaderByAcquiringLock);
            }
            primary::enforce(
                c,
                cluster,
                Reason::AcquiredLockAsLeader,
                Reason::PromotedByAcquiringLock,
            )
        }
        LockAnswer::NotHeld => {
            c.note(notes::lock_not_taken());
            let Ok(newer) = c.load_cluster()? else {
                return Ok(Reason::DcsNotAccessible);
            };
            follow::follow(c, &newer, Reason::DemotedAfterLostRace, Reason::LostRace)
        }
        LockAnswer::Unknown(_) => Ok(Reason::DcsNotAccessible),
    }
}

/// This host stood still since the DCS was read: another member may have led and be gone again, and what was found out says
/// nothing of that.
fn is_out_of_date(c: &mut Cycle<'_>) -> bool {
    let limit = c.config().ttl / 2;
    let read_at = c.memory.cluster.as_ref().map(|(_, read_at)| *read_at);
    let is_too_old = read_at.is_none_or(|read_at| c.now() >= read_at.after(limit));
    if is_too_old {
        c.note(notes::out_of_date());
    }
    is_too_old
}

fn clear_failover(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let Some(failover) = &cluster.failover else {
        return Ok(());
    };
    if c.config().pause
        && failover.leader.is_some()
        && let Some(candidate) = &failover.candidate
    {
        // Kept until the promotion is over: a holder of the key that is no primary would have to give it up.
        c.note(notes::updating_failover_after_lock());
        let value = Failover::to_json(None, Some(candidate.as_str()), None);
        drop(c.write(Key::Failover, value, Expect::Version(failover.version))?);
        return Ok(());
    }
    c.note(notes::clearing_failover_after_lock());
    drop(c.write(Key::Failover, Failover::CLEARED.to_owned(), Expect::Anything)?);
    Ok(())
}

/// Whether this member should take the key (Patroni documentation, "HA loop": the healthiest node).
fn is_healthiest(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<bool> {
    let ttl = c.config().ttl;
    if c.memory
        .pre_promote_failed_at
        .is_some_and(|at| c.now() < at.after(ttl))
    {
        c.note(notes::pre_promote_backoff());
        return Ok(false);
    }
    let nofailover = c.node().tags.nofailover();
    let paused = c.config().pause;
    let wall_clock = c.given().wall_clock;
    let asked = cluster
        .failover
        .as_ref()
        .filter(|failover| failover.scheduled_at.is_none_or(|at| at <= wall_clock && !paused));
    let may_lack = synchronous::is_active(c, cluster) && !cluster.sync.lists(c.me(), true);
    // A switchover loses nothing, whatever has become of the leader meanwhile; a failover may.
    let would_lose = may_lack && asked.is_some_and(|failover| failover.kind() == FailoverKind::Switchover);
    if let (true, false, Some(failover)) = (paused && !would_lose, nofailover, asked)
        && let Some(verdict) = by_request(c, cluster, failover)?
    {
        return Ok(verdict);
    }
    let server = observe::server(c)?;
    if observe::is_primary(c)? {
        if paused {
            let theirs = cluster.system_identifier();
            let is_ours = theirs.is_none() || theirs == c.memory.system_identifier;
            return Ok(is_ours && !has_been_resumed(cluster));
        }
        return Ok(primary_is_current(c, cluster, server.sql.as_ref()));
    }
    let Some(sql) = server.sql.filter(|_| !paused && !nofailover) else {
        return Ok(false);
    };
    // Who leads a standby cluster takes no writes: there is nothing to fence.
    let is_fenced = !standby_cluster::is_one(c);
    if is_fenced && c.given().guard_is_missing {
        c.note(notes::guard_is_missing());
        return Ok(false);
    }
    if is_fenced && c.given().watchdog_is_missing {
        c.note(notes::watchdog_is_missing());
        return Ok(false);
    }
    if would_lose {
        return Ok(false);
    }
    if let Some(failover) = asked
        && let Some(verdict) = by_request(c, cluster, failover)?
    {
        return Ok(verdict);
    }
    if may_lack && !synchronous::counts_votes(c, cluster) {
        return Ok(false);
    }
    compare(c, cluster, &sql, None, true)
}

/// The pause that this member knows of is over: it was asleep when that was said, and others may have led since.
fn has_been_resumed(cluster: &Cluster) -> bool {
    let Some(config) = &cluster.config else {
        return false;
    };
    let pause = config.value.get("pause").unwrap_or(&Value::Null);
    matches!(pause, Value::Null | Value::Bool(false))
}

/// A running primary may take the key back unless the cluster has gone on to a newer timeline without it.
fn primary_is_current(c: &mut Cycle<'_>, cluster: &Cluster, sql: Option<&SqlFacts>) -> bool {
    let mine = sql.and_then(|sql| sql.timeline).or(c.memory.last_timeline);
    match (mine, cluster.timeline()) {
        (Some(mine), Some(known)) if mine < known => {
            c.note(notes::timeline_behind(mine, known));
            false
        }
        // Whoever led since has perhaps not come to write the history: its timeline counts, not ours.
        (mine, known) if mine <= known.or(Some(Timeline(1))) && another_led_since(c, cluster) => false,
        _ if failsafe::leaves_out(c, cluster, c.me()) => {
            c.note(notes::not_a_failsafe_member(c.me()));
            false
        }
        _ => true,
    }
}

/// The last heartbeat is another member's. A host that was suspended for longer than `ttl` finds it so: 1. it is suspended
/// as the leader, 2. another member is promoted, takes writes and dies, 3. it goes on and finds the key gone. As a primary it
/// would take the key without asking anybody, and the others would throw away what was written in between.
fn another_led_since(c: &mut Cycle<'_>, cluster: &Cluster) -> bool {
    let heartbeat = cluster.heartbeat.as_ref();
    let Some(leader) = heartbeat
        .map(|heartbeat| &heartbeat.leader)
        .filter(|leader| *leader != c.me())
    else {
        return false;
    };
    c.note(notes::another_led_since(leader));
    true
}

/// A switchover or failover that somebody asked for decides who runs. `None` when it leaves that open.
fn by_request(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, failover: &Failover) -> Flow<Option<bool>> {
    let kind = failover.kind();
    let me = c.me().clone();
    let paused = c.config().pause;
    if let Some(candidate) = &failover.candidate {
        if *candidate == me {
            return may_take_over_as_asked(c, cluster, failover).map(Some);
        }
        if paused {
            if cluster.member(candidate).is_none() && observe::is_primary(c)? {
                c.note(notes::clearing_failover());
                drop(c.write(
                    Key::Failover,
                    Failover::CLEARED.to_owned(),
                    Expect::Version(failover.version),
                )?);
                return Ok(None);
            }
            return Ok(Some(false));
        }
        let votes = synchronous::counts_votes(c, cluster);
        if synchronous::is_active(c, cluster) && !votes && !cluster.sync.lists(&me, true) {
            return Ok(Some(false));
        }
        if candidate_is_fit(c, cluster, kind, candidate)? {
            c.note(notes::race_to(kind, candidate, &me));
            return Ok(Some(false));
        }
    } else if paused {
        return Ok(Some(false));
    }
    if failover.leader.as_ref() == Some(&me) {
        // Whoever was asked to hand over runs only when nobody else can.
        let open = Failover {
            candidate: None,
            ..failover.clone()
        };
        return Ok(Some(!peers::can_take_over(c, cluster, Some(&open), None)?));
    }
    let server = observe::server(c)?;
    let Some(sql) = server.sql.filter(|sql| sql.in_recovery) else {
        return Ok(None);
    };
    compare(c, cluster, &sql, failover.leader.as_ref(), false).map(Some)
}

/// This member is the one that was asked for. A switchover loses nothing: it is given up where this member lacks WAL of the
/// leader that was stopped in an orderly way (the request may have come while that leader was being stopped for another reason,
/// and found another member that had everything), or where members count votes and it does not get enough.
fn may_take_over_as_asked(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, failover: &Failover) -> Flow<bool> {
    if failsafe::leaves_out(c, cluster, c.me()) {
        c.note(notes::not_a_failsafe_member(c.me()));
        return Ok(false);
    }
    let server = observe::server(c)?;
    let sql = server.sql.filter(|sql| sql.in_recovery);
    let loses_nothing = failover.kind() == FailoverKind::Switchover;
    let Some(sql) = sql.filter(|_| loses_nothing) else {
        return Ok(true);
    };
    let lacks_the_end = cluster.lacks_the_end(sql.timeline, sql.position());
    let needs_votes = synchronous::counts_votes(c, cluster);
    let has_votes = !needs_votes || compare(c, cluster, &sql, failover.leader.as_ref(), false)?;
    if !lacks_the_end && has_votes {
        return Ok(true);
    }
    let me = c.me().clone();
    c.note(notes::candidate_lacks_votes(&me));
    drop(c.write(
        Key::Failover,
        Failover::CLEARED.to_owned(),
        Expect::Version(failover.version),
    )?);
    Ok(false)
}

fn candidate_is_fit(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    kind: FailoverKind,
    candidate: &MemberName,
) -> Flow<bool> {
    // It would wait for us, and we for it.
    if failsafe::leaves_out(c, cluster, candidate) {
        c.note(notes::candidate_unfit(kind, candidate, peers::NOT_LISTED));
        return Ok(false);
    }
    let Some(peer) = cluster
        .member(candidate)
        .and_then(|member| peers::as_peer(c, member))
    else {
        c.note(notes::candidate_unfit(kind, candidate, "not reachable"));
        return Ok(false);
    };
    let answers = c.peers(vec![peer])?;
    let why = match answers.first().map(|answer| &answer.status) {
        Some(Ok(status)) if status.tags.nofailover() => "not allowed to promote",
        Some(Ok(status)) if status.watchdog_failed => "not watchdog capable",
        Some(Ok(status))
            if kind == FailoverKind::Switchover
                && cluster.lacks_the_end(status.timeline, status.position) =>
        {
            "without the last WAL of the former leader"
        }
        Some(Ok(_)) => return Ok(true),
        _ => "not reachable",
    };
    c.note(notes::candidate_unfit(kind, candidate, why));
    Ok(false)
}

/// Compares this member with all others that can be asked. `without` does not count (the leader of a switchover).
fn compare(
    c: &mut Cycle<'_>,
    cluster: &Arc<Cluster>,
    sql: &SqlFacts,
    without: Option<&MemberName>,
    check_lag: bool,
) -> Flow<bool> {
    if failsafe::leaves_out(c, cluster, c.me()) {
        c.note(notes::not_a_failsafe_member(c.me()));
        return Ok(false);
    }
    let mine = cluster.shared_position(sql.timeline, sql.position().unwrap_or_default());
    if let Some((timeline, position)) = sql.timeline.zip(sql.position())
        && mine < position
    {
        c.note(notes::position_is_beyond_history(timeline, mine));
    }
    let published = cluster.status.optime.unwrap_or_default();
    if check_lag && mine.behind(published) > c.config().maximum_lag_on_failover_bytes {
        c.note(notes::lag_exceeded());
        c.note(notes::published_position(published, mine));
        return Ok(false);
    }
    if c.config().check_timeline && !standby_cluster::is_one(c) {
        let Some(timeline) = sql.timeline else {
            c.note(notes::timeline_unknown());
            return Ok(false);
        };
        if let Some(known) = cluster.timeline().filter(|known| timeline < *known) {
            c.note(notes::timeline_behind(timeline, known));
            return Ok(false);
        }
    }
    let own_origin = sql.timeline.and_then(|timeline| c.memory.origin_of(timeline));
    let led = c.memory.led_cluster.as_ref();
    c.memory.stands_back = led.is_some_and(|led| origin::is_another(c, led, own_origin.as_ref()));
    if c.memory.stands_back {
        c.note(notes::other_origin());
        return Ok(false);
    }
    let rivals = rivals(c, cluster, without);
    let answers = c.peers(rivals)?;
    let own = Own {
        position: mine,
        timeline: sql.timeline,
        origin: own_origin,
        lacks_wal: check_lag && mine < published,
        counts_votes: synchronous::counts_votes(c, cluster),
    };
    Ok(nobody_is_fitter(c, cluster, answers, own))
}

/// This member in a race.
#[derive(Debug, Clone, Copy)]
struct Own {
    position: Lsn,
    timeline: Option<Timeline>,
    origin: Option<Origin>,
    /// More has been written than it has.
    lacks_wal: bool,
    /// Being ahead of those that answer is not enough.
    counts_votes: bool,
}

impl Own {
    /// Both timelines have one number and come from different promotions.
    fn is_rival_of(self, peer: &PeerStatus) -> bool {
        let theirs = peer
            .origin
            .filter(|origin| Some(origin.timeline) == peer.timeline);
        let (own, theirs) = (self.origin.as_ref(), theirs.as_ref());
        own.zip(theirs)
            .is_some_and(|(own, theirs)| own.is_rival_of(theirs))
    }
}

/// Judges what the others have answered.
fn nobody_is_fitter(c: &mut Cycle<'_>, cluster: &Cluster, answers: Vec<PeerAnswer>, own: Own) -> bool {
    let mut not_ahead = usize::from(cluster.sync.lists(c.me(), true));
    for answer in answers {
        match answer.status {
            Err(why) => {
                c.note(notes::peer_failed(&answer.name, &why));
                if failsafe::may_count_on_us(c, cluster, &answer.name) {
                    c.note(notes::may_have_promised(&answer.name));
                    return false;
                }
                if own.lacks_wal && is_worth_waiting(c, cluster, &answer.name) {
                    c.note(notes::peer_is_starting(&answer.name));
                    return false;
                }
            }
            Ok(peer) => {
                c.note(notes::peer_answered(&answer.name));
                if is_fitter(c, cluster, &answer.name, &peer, own) {
                    return false;
                }
                if own.counts_votes && votes_for(cluster, &answer.name, &peer, own) {
                    c.note(notes::got_vote(&answer.name));
                    not_ahead += 1;
                }
            }
        }
    }
    let leads_sync = cluster.sync.leader.as_ref() == Some(c.me());
    let has_votes = !own.counts_votes || leads_sync || not_ahead > cluster.sync.quorum;
    if !has_votes {
        c.note(notes::quorum_not_reached(cluster.sync.quorum));
    }
    has_votes
}

/// A member of `/sync` that is not ahead of this one. Who is on another timeline of our number tells nothing of ours. What is on an older timeline is not, however far it goes, unless it
/// is that of who wrote `/sync` last: what leads away from there is a branch that nobody went on with.
fn votes_for(cluster: &Cluster, name: &MemberName, peer: &PeerStatus, own: Own) -> bool {
    let (Some(theirs), Some(timeline)) = (peer.position, peer.timeline) else {
        return false;
    };
    let theirs = cluster.shared_position(peer.timeline, theirs);
    let wrote_sync = cluster.sync.leader.as_ref() == Some(name);
    cluster.sync.lists(name, true)
        && !own.is_rival_of(peer)
        && (Some(timeline), theirs) <= (own.timeline, own.position)
        && (!wrote_sync || Some(timeline) == own.timeline)
}

/// Whether a member that answered should run rather than this one.
fn is_fitter(c: &mut Cycle<'_>, cluster: &Cluster, name: &MemberName, peer: &PeerStatus, own: Own) -> bool {
    if peer.tags.nofailover() || peer.watchdog_failed || peer.stands_back {
        return false;
    }
    if !peer.in_recovery {
        c.note(notes::primary_is_alive(name));
        return true;
    }
    if failsafe::leaves_out(c, cluster, name) {
        return false;
    }
    let theirs = cluster.shared_position(peer.timeline, peer.position.unwrap_or_default());
    let wrote_sync = synchronous::is_active(c, cluster) && cluster.sync.leader.as_ref() == Some(name);
    if wrote_sync && theirs > own.position {
        // What it has and the members that it listed lack was never acknowledged.
        c.note(notes::former_leader_is_ahead(name));
        return false;
    }
    if own.counts_votes && peer.timeline.is_some() && peer.timeline != own.timeline {
        // Positions on two timelines do not compare.
        if peer.timeline > own.timeline {
            c.note(notes::peer_is_ahead(name));
        }
        return peer.timeline > own.timeline;
    }
    if own.is_rival_of(peer) {
        // Nor do they on two of one number. Which one the cluster went on with the key may tell.
        if own.counts_votes {
            return false;
        }
        let known = peer.timeline.and_then(|timeline| cluster.origins.of(timeline));
        if known.is_some() && known == own.origin.as_ref() {
            return false;
        }
        if known.is_some() && known == peer.origin.as_ref() {
            c.note(notes::peer_is_ahead(name));
            return true;
        }
    }
    let is_voter = cluster.sync.lists(name, true);
    let priority = if own.counts_votes && !is_voter {
        0
    } else {
        peer.tags.failover_priority()
    };
    let led = c.memory.led_cluster.as_ref();
    let is_former_leader = led.and_then(|led| led.leader_name()) == Some(name);
    is_better(c, own.position, theirs, priority, name, is_former_leader)
}

/// After a stop of all members the one that was stopped last has everything, and the others do not when it was still
/// written to: for a moment it is not known whether a member has more, because its server is just being started.
fn is_worth_waiting(c: &Cycle<'_>, cluster: &Cluster, name: &MemberName) -> bool {
    let is_starting = cluster
        .member(name)
        .is_some_and(|member| member.data.state == Some(ServerState::Starting));
    let until = c
        .memory
        .unlocked_since
        .map(|since| since.after(c.config().loop_wait));
    is_starting && until.is_some_and(|until| c.now() < until)
}

fn is_better(
    c: &mut Cycle<'_>,
    mine: Lsn,
    theirs: Lsn,
    their_priority: i64,
    name: &MemberName,
    is_former_leader: bool,
) -> bool {
    if theirs > mine {
        c.note(notes::peer_is_ahead(name));
        return true;
    }
    let my_priority = c.node().tags.failover_priority();
    if theirs == mine && theirs > Lsn::ZERO && their_priority > my_priority {
        if is_former_leader {
            c.note(notes::former_leader_ignored(name));
            return false;
        }
        c.note(notes::peer_has_priority(name, their_priority, my_priority));
        return true;
    }
    false
}

/// Everybody who may run: the members of the last view that had a leader (a key may have expired with its lease), and
/// of the newest one. The former leader, and whose key is gone, are not waited for long: their leases have run out.
fn rivals(c: &Cycle<'_>, cluster: &Cluster, without: Option<&MemberName>) -> Vec<Peer> {
    let is_synchronous = synchronous::is_active(c, cluster);
    let counts_votes = synchronous::counts_votes(c, cluster);
    let mut rivals: Vec<Peer> = Vec::new();
    let led = c.memory.led_cluster.as_ref();
    let former_leader = led.and_then(|led| led.leader_name());
    let members_then = led.map(|led| led.members.as_slice()).unwrap_or_default();
    for member in cluster.members.iter().chain(members_then) {
        let is_known = rivals.iter().any(|rival| rival.name == member.name);
        let may_run = &member.name != c.me()
            && without != Some(&member.name)
            && (counts_votes || !member.data.tags.nofailover())
            && (!is_synchronous || cluster.sync.lists(&member.name, true));
        if !is_known && may_run {
            let has_gone = former_leader == Some(&member.name) || cluster.member(&member.name).is_none();
            rivals.extend(if has_gone {
                peers::as_silent_peer(c, member)
            } else {
                peers::as_peer(c, member)
            });
        }
    }
    // A leader that does not reach the DCS may have gone from both.
    for (name, peer) in failsafe::members(c, cluster) {
        let is_known = rivals.iter().any(|rival| rival.name == name);
        let is_a_member =
            cluster.member(&name).is_some() || led.is_some_and(|led| led.member(&name).is_some());
        let may_run = without != Some(&name) && (!is_synchronous || cluster.sync.lists(&name, true));
        if !is_known && !is_a_member && may_run {
            rivals.push(peer);
        }
    }
    rivals
}
