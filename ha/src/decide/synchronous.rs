//! Synchronous replication: whom commits wait for, and what the key `sync` says of it (Patroni documentation,
//! "Replication modes").
//!
//! The order of changes is that of [`crate::quorum`]. Here it is decided whom to wait for, and facts are turned into
//! what that module needs to know.

use std::collections::BTreeSet;
use std::time::Duration;

use config::SynchronousMode;

use super::{observe, release};
use crate::cascade::Cascade;
use crate::cluster::{Cluster, Member, SyncState, Version};
use crate::cycle::{Cycle, Flow};
use crate::facts::{Node, Server, SqlFacts};
use crate::memory::Synchronous;
use crate::pg::{Lsn, MemberName, Role, ServerState};
use crate::quorum::{Change, Claim, Situation, Target};
use crate::reason::{Reason, notes};
use crate::senders::{Senders, application_name};
use crate::standby_names::{NOBODY, StandbyNames};
use crate::step::{Action, Expect, Key};

/// How long a setting must have been in force until every process of the server has read it. No event tells; it takes
/// about a millisecond.
const SETTLING: Duration = Duration::from_millis(100);

/// How long a new primary waits for replicas that run and have not found it yet, before it goes on without them.
const TIME_TO_CONNECT: Duration = Duration::from_secs(5);

/// How often at least it is looked whether a standby has come or caught up.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// How many changes one cycle makes at most.
const CHANGES_MAX: usize = 4;

/// The key `sync` says who may take over.
pub(super) fn is_active(c: &Cycle<'_>, cluster: &Cluster) -> bool {
    c.config().synchronous_mode() != SynchronousMode::Off && !cluster.sync.is_empty()
}

/// Whoever wants to take over needs the votes of others: being listed is not enough.
pub(super) fn counts_votes(c: &Cycle<'_>, cluster: &Cluster) -> bool {
    let by_quorum = c.config().synchronous_mode() == SynchronousMode::Quorum;
    is_active(c, cluster) && (by_quorum || cluster.sync.quorum > 0)
}

/// As the primary, with the lock: takes the next steps towards what is wanted.
pub(super) fn keep(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let server = observe::server(c)?;
    let Some(sql) = server.sql.as_ref().filter(|sql| !sql.in_recovery && c.has_time()) else {
        return Ok(());
    };
    if c.config().synchronous_mode() == SynchronousMode::Off {
        return turn_off(c, cluster);
    }
    notice_strangers(c, cluster, sql);
    look(c, cluster, &server, sql);
    let mut sync = cluster.sync.clone();
    let in_force = names_in_force(c.node().server_version, cluster, sql);
    if sync.leader.as_ref() != Some(c.me()) {
        match &sync.leader {
            None => c.note(notes::synchronous_enabled()),
            Some(leader) => c.note(notes::sync_leader_differs(leader, c.me())),
        }
        let claim = inherited(c, &sync, &in_force);
        if !publish(c, &mut sync, claim)? {
            return Ok(());
        }
    } else if c.memory.synchronous.is_unsure {
        // What may still be on its way does not fit the next revision.
        let claim = claim_of(&sync);
        if !publish(c, &mut sync, claim)? {
            return Ok(());
        }
    }
    let Some(target) = target(c, cluster, &sync, sql) else {
        wait(c);
        return Ok(());
    };
    let mut situation = Situation {
        claim: claim_of(&sync),
        names: in_force,
        reached: c.memory.synchronous.reached.clone(),
    };
    for _ in 0..CHANGES_MAX {
        match situation.next(&target) {
            None => break,
            Some(Change::Publish(claim)) => {
                situation.claim = claim.clone();
                if !publish(c, &mut sync, claim)? {
                    return Ok(());
                }
            }
            Some(Change::Arm(names)) => {
                if is_settled(c) && !arm(c, &names, server.postmaster_started)? {
                    return Ok(());
                }
                wait(c);
                return Ok(());
            }
        }
    }
    if situation.has_arrived(&target) {
        c.memory.synchronous.waits = 0;
    } else {
        wait(c);
    }
    Ok(())
}

/// Before this member is promoted: the key becomes its own, and its first commit already waits for the standbys that
/// the key lists. `Some`: not now.
pub(super) fn before_promotion(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    if c.config().synchronous_mode() == SynchronousMode::Off {
        turn_off(c, cluster)?;
        return Ok(None);
    }
    let mut sync = cluster.sync.clone();
    let members = others(c, &sync);
    let votes = c.config().synchronous_mode() == SynchronousMode::Quorum;
    let claim = if votes || sync.quorum == 0 {
        Claim {
            quorum: sync.quorum.min(members.len()),
            voters: members.clone(),
        }
    } else {
        // Not everybody counts votes any more: nobody may take over until it is known who has everything.
        Claim::default()
    };
    let is_strict = c.config().synchronous_mode_strict;
    let names = if members.is_empty() {
        if is_strict {
            StandbyNames::nobody()
        } else {
            StandbyNames::default()
        }
    } else if votes {
        let number = members.len() - claim.quorum;
        let number = if is_strict { number.max(1) } else { number };
        if number == 0 {
            StandbyNames::default()
        } else {
            StandbyNames::any(number, members)
        }
    } else {
        StandbyNames::all(members)
    };
    // Even if it says so already: that it can be written proves that what the race went by is still so. Else it is run again,
    // for this member may lack something now.
    if !publish(c, &mut sync, claim)? {
        release(c, None)?;
        let soon = c.now().after(Duration::from_secs(1));
        c.again_at(soon);
        return Ok(Some(Reason::PromotionPostponed));
    }
    let server = observe::server(c)?;
    if !arm(c, &names, server.postmaster_started)? {
        let soon = c.now().after(Duration::from_secs(1));
        c.again_at(soon);
        return Ok(Some(Reason::PromotionPostponedUnarmed));
    }
    Ok(None)
}

/// A standby that commits wait for is about to be stopped: it asks the leader to wait for another one. Whether the
/// answer has to be waited for.
pub(super) fn must_leave_first(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<bool> {
    let is_waited_for = is_active(c, cluster)
        && cluster.sync.lists(c.me(), false)
        && !cluster.is_unlocked()
        && !cluster.is_leader(c.me())
        && !c.node().tags.nosync();
    if !is_waited_for || observe::server(c)?.sql.is_none_or(|sql| !sql.in_recovery) {
        return Ok(false);
    }
    let now = c.now();
    let since = *c.memory.synchronous.leaving_since.get_or_insert(now);
    let until = since.after(c.config().loop_wait * 2);
    if now < until {
        c.again_at(until);
    }
    Ok(now < until)
}

/// Before a cluster just made is shown to others: in strict mode nothing is acknowledged on this member alone.
pub(super) fn arm_new_cluster(c: &mut Cycle<'_>) -> Flow<()> {
    let is_on = c.config().synchronous_mode() != SynchronousMode::Off;
    if is_on && c.config().synchronous_mode_strict {
        let server = observe::server(c)?;
        arm(c, &StandbyNames::nobody(), server.postmaster_started)?;
    }
    Ok(())
}

/// The mode is off: nobody is listed any more, and then nobody waited for but by the user's own setting.
fn turn_off(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let is_ours = !cluster.sync.is_empty();
    if is_ours {
        let expect = cluster.sync.version.map_or(Expect::Absent, Expect::Version);
        if !c.delete(Key::Sync, expect)? {
            c.note(notes::sync_was_changed());
            return Ok(());
        }
        c.note(notes::synchronous_disabled());
    }
    if (is_ours || c.memory.synchronous.names.is_some())
        && c.perform(Action::SetSynchronousStandbyNames(None))?.is_ok()
    {
        c.memory.synchronous = Synchronous::default();
    }
    Ok(())
}

/// Connections under a member's name that are not the member's: PostgreSQL takes them for it, so that commits would be acknowledged
/// which no member has. The name is not waited for while they are there.
fn notice_strangers(c: &mut Cycle<'_>, cluster: &Cluster, sql: &SqlFacts) {
    let found = Senders::new(cluster, c.node(), &sql.wal_senders).with_strangers();
    let known = std::mem::replace(&mut c.memory.synchronous.strangers, found.clone());
    c.memory
        .synchronous
        .strangers_told
        .retain(|name| found.contains(name));
    // A connection that has just begun or ended may be seen without its slot: the second look counts.
    let mut is_new = false;
    for name in found {
        if c.memory.synchronous.strangers_told.contains(&name) {
            continue;
        }
        if known.contains(&name) {
            c.note(notes::stranger(&name, &name.slot_name(), c.node().use_slots));
            c.memory.synchronous.strangers_told.insert(name);
        } else {
            is_new = true;
        }
    }
    if is_new {
        let soon = c.now().after(SETTLING * 2);
        c.again_at(soon);
    }
}

/// Takes note of the setting in force, and of who has everything that was acknowledged before it.
fn look(c: &mut Cycle<'_>, cluster: &Cluster, server: &Server, sql: &SqlFacts) {
    let (now, node) = (c.now(), c.node());
    let text = Some(sql.synchronous_standby_names.clone());
    let known = &mut c.memory.synchronous;
    if known.names != text || known.postmaster_started != server.postmaster_started {
        known.names = text;
        known.postmaster_started = server.postmaster_started;
        known.seen_at = now;
        known.since = None;
        known.reached.clear();
    }
    if known.since.is_none() && now >= known.seen_at.after(SETTLING) && sql.checkpointer_is_current {
        known.since = sql.flushed;
    }
    let Some(since) = known.since else { return };
    let reached = standbys(node, cluster, sql)
        .into_iter()
        .filter(|standby| matches!(standby.sync_state, "sync" | "quorum") && standby.position >= Some(since));
    known
        .reached
        .extend(reached.map(|standby| standby.member.name.clone()));
}

fn is_settled(c: &Cycle<'_>) -> bool {
    c.now() >= c.memory.synchronous.seen_at.after(SETTLING)
}

/// Has the next cycle look again: soon, then more and more seldom.
fn wait(c: &mut Cycle<'_>) {
    let waits = c.memory.synchronous.waits;
    c.memory.synchronous.waits = waits.saturating_add(1);
    let pause = SETTLING * 2_u32.saturating_pow(waits.saturating_sub(2).min(10));
    let then = c.now().after(pause.min(WAIT_MAX));
    c.again_at(then);
}

/// Brings a setting into force. `false`: it could not be done.
fn arm(c: &mut Cycle<'_>, names: &StandbyNames, postmaster_started: Option<i64>) -> Flow<bool> {
    let version = c.node().server_version;
    let as_compared = |name: &MemberName| MemberName(application_name(name.as_str(), version));
    let text = StandbyNames {
        names: names.names.iter().map(as_compared).collect(),
        ..names.clone()
    }
    .to_string();
    let server = observe::server(c)?;
    let is_in_force = server
        .sql
        .is_some_and(|sql| sql.synchronous_standby_names == text);
    if !is_in_force {
        c.note(notes::assigning_names(&text));
        if c.perform(Action::SetSynchronousStandbyNames(Some(text.clone())))?
            .is_err()
        {
            return Ok(false);
        }
    }
    let now = c.now();
    let known = &mut c.memory.synchronous;
    known.names = Some(text);
    known.postmaster_started = postmaster_started;
    known.seen_at = now;
    known.since = None;
    known.reached.clear();
    known.waits = 0;
    Ok(true)
}

/// Writes the key. `false`: somebody else has, or the DCS does not answer.
fn publish(c: &mut Cycle<'_>, sync: &mut SyncState, claim: Claim) -> Flow<bool> {
    let voters: Vec<MemberName> = claim.voters.into_iter().collect();
    let me = c.me().clone();
    let value = SyncState::to_json(&me, claim.quorum, &voters);
    let expect = sync.version.map_or(Expect::Absent, Expect::Version);
    let written: Result<Option<Version>, _> = c.write(Key::Sync, value, expect)?;
    let Ok(Some(version)) = written else {
        if written.is_ok() {
            c.note(notes::sync_was_changed());
        }
        c.memory.synchronous.is_unsure = written.is_err();
        c.note(notes::sync_not_written());
        return Ok(false);
    };
    c.memory.synchronous.is_unsure = false;
    if c.config().synchronous_mode() == SynchronousMode::Quorum {
        c.note(notes::sync_published(&me, claim.quorum, &voters));
    } else {
        c.note(notes::sync_standby_assigned(&voters));
    }
    *sync = SyncState {
        version: Some(version),
        leader: Some(me),
        quorum: claim.quorum,
        voters,
    };
    Ok(true)
}

fn claim_of(sync: &SyncState) -> Claim {
    Claim {
        voters: sync.voters.iter().cloned().collect(),
        quorum: sync.quorum,
    }
}

/// All that the key lists, its leader included, without this member.
fn others(c: &Cycle<'_>, sync: &SyncState) -> BTreeSet<MemberName> {
    let me = c.me();
    let listed = sync.voters.iter().chain(&sync.leader);
    listed
        .filter(|name| !name.0.eq_ignore_ascii_case(&me.0))
        .cloned()
        .collect()
}

/// What is known of the others when this member has become the primary without having said so before: whatever another
/// leader acknowledged and this one has is lacked by as many of them as that one's key said.
fn inherited(c: &Cycle<'_>, sync: &SyncState, in_force: &StandbyNames) -> Claim {
    let voters = others(c, sync);
    let quorum = sync.quorum.min(voters.len()).max(in_force.may_lack(&voters));
    if quorum > 0 && c.config().synchronous_mode() != SynchronousMode::Quorum {
        return Claim::default();
    }
    Claim { voters, quorum }
}

/// The setting in force, with members' names as they are in the DCS: PostgreSQL compares them without regard to case.
fn names_in_force(version: u32, cluster: &Cluster, sql: &SqlFacts) -> StandbyNames {
    let Some(names) = StandbyNames::parse(&sql.synchronous_standby_names) else {
        return StandbyNames::all(BTreeSet::from(["*".into()]));
    };
    let known = |name: &MemberName| {
        let members = cluster.members.iter().map(|member| &member.name);
        let mut all = members.chain(&cluster.sync.voters);
        all.find(|other| application_name(&other.0, version).eq_ignore_ascii_case(&name.0))
            .unwrap_or(name)
            .clone()
    };
    StandbyNames {
        names: names.names.iter().map(known).collect(),
        ..names
    }
}

/// A member that streams from this one.
struct Standby<'a> {
    member: &'a Member,
    position: Option<Lsn>,
    sync_state: &'a str,
}

/// The members that stream from here. Of several connections of one the best counts.
fn standbys<'a>(node: &'a Node, cluster: &'a Cluster, sql: &'a SqlFacts) -> Vec<Standby<'a>> {
    let senders = Senders::new(cluster, node, &sql.wal_senders);
    let standby = |member: &'a Member| {
        let mine = senders
            .of(member)
            .filter(|sender| sender.is_streaming)
            .collect::<Vec<_>>();
        let mine = mine.into_iter();
        let position = mine.clone().map(|sender| sender.position(sql.waits_for)).max()?;
        let sync_state = mine.map(|sender| sender.sync_state.as_str()).max()?;
        Some(Standby {
            member,
            position,
            sync_state,
        })
    };
    cluster.members.iter().filter_map(standby).collect()
}

/// Whom commits may wait for, best first.
fn candidates(c: &Cycle<'_>, cluster: &Cluster, sql: &SqlFacts) -> Vec<MemberName> {
    let streaming = standbys(c.node(), cluster, sql);
    let cascade = Cascade::seen_by(cluster, c.me(), &c.node().tags);
    let strangers = &c.memory.synchronous.strangers;
    let is_cascading = |member: &Member| {
        let upstream = cascade.instead_of_leader(&member.name);
        upstream.is_some_and(|upstream| {
            streaming
                .iter()
                .any(|standby| standby.member.name == upstream.name)
        })
    };
    let fit: Vec<&Standby<'_>> = streaming
        .iter()
        .filter(|standby| {
            let data = &standby.member.data;
            &standby.member.name != c.me()
                && data.state == Some(ServerState::Running)
                && !data.tags.nosync()
                && !strangers.contains(&standby.member.name)
                && !is_cascading(standby.member)
        })
        .collect();
    let furthest = if fit.len() > 1 {
        fit.iter().filter_map(|standby| standby.position).max()
    } else {
        sql.flushed
    };
    let limit = c.config().maximum_lag_on_syncnode_bytes;
    let mut near: Vec<&Standby<'_>> = fit
        .into_iter()
        .filter(|standby| {
            let lag = standby
                .position
                .unwrap_or_default()
                .behind(furthest.unwrap_or_default());
            limit.is_none_or(|limit| lag <= limit)
        })
        .collect();
    let by_quorum = c.config().synchronous_mode() == SynchronousMode::Quorum;
    near.sort_by_key(|standby| {
        let tags = &standby.member.data.tags;
        let priority = if by_quorum { 0 } else { tags.sync_priority() };
        let best_first = std::cmp::Reverse((priority, standby.sync_state, standby.position));
        (tags.nofailover(), best_first)
    });
    let number = usize::try_from(c.config().synchronous_node_count).unwrap_or(usize::MAX);
    let may_run = near
        .iter()
        .filter(|standby| !standby.member.data.tags.nofailover())
        .count();
    let taken = if by_quorum { number.max(may_run) } else { number };
    near.into_iter()
        .take(taken)
        .map(|standby| standby.member.name.clone())
        .collect()
}

/// A replica that runs and can be waited for, and has not found this new primary yet.
fn is_expected(c: &Cycle<'_>, cluster: &Cluster) -> bool {
    let Some(promoted_at) = c.memory.synchronous.promoted_at else {
        return false;
    };
    let until = promoted_at.after(TIME_TO_CONNECT.min(c.config().loop_wait));
    let cascade = Cascade::seen_by(cluster, c.me(), &c.node().tags);
    let comes = |member: &&Member| {
        let data = &member.data;
        &member.name != c.me()
            && data.role == Some(Role::Replica)
            && matches!(data.state, Some(ServerState::Running | ServerState::Starting))
            && !data.tags.nosync()
            && !data.tags.nostream()
            && cascade.instead_of_leader(&member.name).is_none()
    };
    c.now() < until && cluster.members.iter().any(|member| comes(&member))
}

/// What is wanted now. `None`: what was armed before the promotion stays for the moment.
fn target(c: &mut Cycle<'_>, cluster: &Cluster, sync: &SyncState, sql: &SqlFacts) -> Option<Target> {
    let live = candidates(c, cluster, sql);
    let counts_votes = c.config().synchronous_mode() == SynchronousMode::Quorum;
    let number = usize::try_from(c.config().synchronous_node_count).unwrap_or(usize::MAX);
    let live: BTreeSet<MemberName> = live.into_iter().collect();
    let is_strict = c.config().synchronous_mode_strict;
    if live.is_empty() && !sql.synchronous_standby_names.is_empty() && is_expected(c, cluster) {
        return None;
    }
    if !live.is_empty() || !is_strict {
        c.memory.synchronous.nobody_was_said = false;
        let names = if counts_votes {
            StandbyNames::any(number, live.clone())
        } else {
            StandbyNames::all(live.clone())
        };
        // A number of 0 means that no commit waits.
        let names = if names.number == 0 {
            StandbyNames::default()
        } else {
            names
        };
        let voters = if names.is_off() {
            BTreeSet::new()
        } else {
            live.clone()
        };
        return Some(Target {
            names,
            voters,
            live,
            counts_votes,
        });
    }
    if !c.memory.synchronous.nobody_was_said {
        c.memory.synchronous.nobody_was_said = true;
        c.note(notes::nobody_to_wait_for());
    }
    let voters: BTreeSet<MemberName> = sync
        .voters
        .iter()
        .filter(|name| name.0 != NOBODY && !c.memory.synchronous.strangers.contains(*name))
        .cloned()
        .collect();
    let names = if voters.is_empty() {
        StandbyNames::nobody()
    } else if counts_votes {
        StandbyNames::any(voters.len().saturating_sub(sync.quorum).max(1), voters.clone())
    } else {
        StandbyNames::all(voters.clone())
    };
    Some(Target {
        names,
        voters,
        live,
        counts_votes,
    })
}
