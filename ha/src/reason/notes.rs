//! The notes of a cycle, in Patroni's wording.

mod lock;

pub(crate) use lock::*;

use super::*;

pub(crate) fn peer_answered(name: &MemberName) -> Note {
    Note::info(format!("Got response from {name}"))
}

pub(crate) fn peer_failed(name: &MemberName, why: &str) -> Note {
    Note::warning(format!("Request failed to {name}: {why}"))
}

pub(crate) fn primary_is_alive(name: &MemberName) -> Note {
    Note::warning(format!("Primary ({name}) is still alive"))
}

pub(crate) fn peer_is_ahead(name: &MemberName) -> Note {
    Note::info(format!("Wal position of {name} is ahead of my wal position"))
}

pub(crate) fn peer_is_starting(name: &MemberName) -> Note {
    Note::info(format!(
        "{name} is starting and may have the WAL that I lack; it is waited for"
    ))
}

pub(crate) fn peer_has_priority(name: &MemberName, theirs: i64, mine: i64) -> Note {
    Note::info(format!(
        "{name} has equally tolerable WAL position and priority {theirs}, while this node has priority {mine}"
    ))
}

pub(crate) fn former_leader_ignored(name: &MemberName) -> Note {
    Note::info(format!(
        "Ignoring the former leader {name} having a higher priority at the same WAL position"
    ))
}

pub(crate) fn lag_exceeded() -> Note {
    Note::info("My wal position exceeds maximum replication lag")
}

pub(crate) fn timeline_unknown() -> Note {
    Note::info("Can not figure out my timeline")
}

pub(crate) fn timeline_behind(mine: Timeline, cluster: Timeline) -> Note {
    Note::info(format!(
        "My timeline {mine} is behind last known cluster timeline {cluster}"
    ))
}

pub(crate) fn guard_is_missing() -> Note {
    Note::warning("The guard is not usable")
}

pub(crate) fn watchdog_is_missing() -> Note {
    Note::warning("Watchdog device is not usable")
}

pub(crate) fn pre_promote_backoff() -> Note {
    Note::info(
        "backoff: skip leader race after pre_promote script failure and releasing the lock voluntarily",
    )
}

pub(crate) fn candidate_unfit(kind: FailoverKind, name: &MemberName, why: &str) -> Note {
    Note::warning(format!("{}: member {name} is {why}", kind.as_str()))
}

pub(crate) fn candidate_lags(name: &MemberName) -> Note {
    Note::info(format!("Member {name} exceeds maximum replication lag"))
}

pub(crate) fn no_candidates(kind: FailoverKind) -> Note {
    Note::warning(format!("{}: candidates list is empty", kind.as_str()))
}

pub(crate) fn cannot_receive(kind: FailoverKind, name: &MemberName, why: &str) -> Note {
    Note::warning(format!(
        "{}: member {name} cannot receive the last WAL of the leader: {why}",
        kind.as_str()
    ))
}

pub(crate) fn lacks_shutdown_checkpoint(name: &MemberName, position: Option<Lsn>, checkpoint: Lsn) -> Note {
    let position = position.map_or_else(
        || "an unknown position".to_owned(),
        |position| position.to_string(),
    );
    Note::info(format!(
        "Member {name} does not have the shutdown checkpoint at {checkpoint} yet: it has WAL up to {position}"
    ))
}

pub(crate) fn waiting_for_candidate(why: &str) -> Note {
    Note::info(format!("switchover: waiting, {why}"))
}

pub(crate) fn switchover_failed(why: &str) -> Note {
    Note::error(format!("switchover failed: {why}"))
}

pub(crate) fn key_runs_out(checkpoint: Lsn) -> Note {
    Note::warning(format!(
        "no member that may take over has the shutdown checkpoint at {checkpoint}: the leader key is not released, it runs \
         out after ttl; start this member again before that to lose nothing"
    ))
}

pub(crate) fn start_fails_without_successor() -> Note {
    Note::error(
        "PostgreSQL was stopped in an orderly way and cannot be started, and no member that may take over has its shutdown \
         checkpoint: the start is tried again until primary_start_timeout is over",
    )
}

pub(crate) fn race_to(kind: FailoverKind, candidate: &MemberName, me: &MemberName) -> Note {
    Note::info(format!("{}: to {candidate}, i am {me}", kind.as_str()))
}

pub(crate) fn no_healthy_members(kind: FailoverKind) -> Note {
    let action = kind.as_str();
    Note::warning(format!(
        "{action}: no healthy members found, {action} is not possible"
    ))
}

pub(crate) fn already_leader(kind: FailoverKind) -> Note {
    let action = kind.as_str();
    Note::warning(format!("{action}: I am already the leader, no need to {action}"))
}

pub(crate) fn leader_name_differs(kind: FailoverKind, named: &MemberName, me: &MemberName) -> Note {
    Note::warning(format!(
        "{}: leader name does not match: {named} != {me}",
        kind.as_str()
    ))
}

pub(crate) fn awaiting(action: &str, at: &str, seconds: i64) -> Note {
    Note::info(format!("Awaiting {action} at {at} (in {seconds} seconds)"))
}

pub(crate) fn stale_schedule(action: &str, at: &str) -> Note {
    Note::warning(format!("Found a stale {action} value, cleaning up: {at}"))
}

pub(crate) fn manual_scheduled(action: &str, at: &str) -> Note {
    Note::info(format!("Manual scheduled {action} at {at}"))
}

pub(crate) fn restart_has_happened(at: Option<Timestamp>) -> Note {
    let at = at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string());
    Note::warning(format!(
        "Cancelling scheduled restart: postgres restart has already happened at {at}"
    ))
}

pub(crate) fn no_scheduled_restart(why: &str) -> Note {
    Note::info(format!("not proceeding with the restart: {why}"))
}

pub(crate) fn scheduled_restart_ended(text: &str) -> Note {
    Note::info(format!("Scheduled restart: {text}"))
}

pub(crate) fn invalid_schedule(text: &str) -> Note {
    Note::warning(format!(
        "Incorrect value of scheduled_at: {text}. It is not a time with a zone; the failover key is dropped"
    ))
}

pub(crate) fn clearing_failover() -> Note {
    Note::info("Cleaning up failover key")
}

pub(crate) fn clearing_failover_after_lock() -> Note {
    Note::info("Cleaning up failover key after acquiring leader lock...")
}

pub(crate) fn updating_failover_after_lock() -> Note {
    Note::info("Updating failover key after acquiring leader lock...")
}

pub(crate) fn demoting(kind: &str) -> Note {
    Note::info(format!("Demoting self ({kind})"))
}

pub(crate) fn resuming_replay() -> Note {
    Note::info("Resuming paused WAL replay for PostgreSQL 14+")
}

pub(crate) fn dcs_error(why: &str) -> Note {
    Note::error(format!("Error communicating with DCS: {why}"))
}

pub(crate) fn failsafe_refused(name: &MemberName, why: &str) -> Note {
    Note::warning(format!(
        "failsafe: {name} does not accept that this member leads without the DCS: {why}"
    ))
}

pub(crate) fn not_a_failsafe_member(me: &MemberName) -> Note {
    Note::info(format!(
        "{me} is not listed in the key failsafe: it may not take the leader key (failsafe_mode)"
    ))
}

pub(crate) fn may_have_promised(name: &MemberName) -> Note {
    Note::info(format!(
        "{name} does not answer and may lead without the DCS: this agent has not run for ttl yet (failsafe_mode)"
    ))
}

pub(crate) fn foreign_system_identifier(
    me: &MemberName,
    ours: &SystemIdentifier,
    theirs: &SystemIdentifier,
) -> Note {
    Note::critical(format!(
        "system ID mismatch, node {me} belongs to a different cluster: {ours} != {theirs}"
    ))
}

pub(crate) fn foreign_in_pause(ours: &SystemIdentifier, theirs: &SystemIdentifier) -> Note {
    Note::warning(format!(
        "system ID has changed while in paused mode. Patroni will exit when resuming unless system ID is reset: \
         {ours} != {theirs}"
    ))
}

pub(crate) fn start_the_primary_first() -> Note {
    Note::error("Please first start Patroni on the node running as primary")
}

pub(crate) fn local_position(timeline: Timeline, lsn: Lsn) -> Note {
    Note::info(format!("Local timeline={timeline} lsn={lsn}"))
}

pub(crate) fn remote_timeline(timeline: Timeline) -> Note {
    Note::info(format!("primary_timeline={timeline}"))
}

pub(crate) fn timelines_of_one_number() -> Note {
    Note::error(
        "a timeline here is not the one of that number which led to the leader's: both were made by promotions that did \
         not know of each other",
    )
}

pub(crate) fn out_of_date() -> Note {
    Note::warning(
        "too much time has passed since the DCS was read to run for the leader key: it is read again",
    )
}

pub(crate) fn other_origin() -> Note {
    Note::warning(
        "this member is on a timeline that the cluster did not go on with, so it does not run for the leader key",
    )
}

pub(crate) fn leader_is_in_recovery() -> Note {
    Note::info("Leader is still in_recovery and therefore can't be used for rewind")
}

pub(crate) fn divergence_unknown(why: &str) -> Note {
    Note::warning(format!(
        "can not tell yet whether the local WAL parted from the leader's: {why}"
    ))
}

pub(crate) fn waiting_for_checkpoint(name: &str) -> Note {
    Note::info(format!("Waiting for checkpoint on {name} before rewind"))
}

pub(crate) fn source_not_ready(source: &Source, why: Option<&str>) -> Note {
    let name = source
        .member
        .as_ref()
        .map_or(source.conn_url.as_str(), MemberName::as_str);
    match why {
        None => waiting_for_checkpoint(name),
        Some(why) => Note::warning(format!(
            "the rewind to {name} could not be done and is tried again later: {why}"
        )),
    }
}

pub(crate) fn stop_failed() -> Note {
    Note::warning("pg_ctl stop failed")
}

pub(crate) fn start_timed_out() -> Note {
    Note::warning("Timed out waiting for PostgreSQL to start")
}

pub(crate) fn releasing_after_pre_promote() -> Note {
    Note::warning("Releasing the leader key voluntarily because the pre-promote script failed")
}

pub(crate) fn sync_not_written() -> Note {
    Note::warning("Updating sync state failed")
}

pub(crate) fn task_failed(label: &str, why: &str) -> Note {
    Note::error(format!("{label}: {why}"))
}

pub(crate) fn settings_refused(label: &str, why: &str) -> Note {
    Note::error(format!(
        "{label}: PostgreSQL would not start with the new settings, and was not stopped: {why}"
    ))
}

pub(crate) fn former_settings(label: &str, why: &str) -> Note {
    Note::error(format!(
        "{label}: PostgreSQL did not start with the new settings, and runs with the former ones: {why}"
    ))
}

pub(crate) fn not_running() -> Note {
    Note::warning("Postgresql is not running.")
}

pub(crate) fn new_data_not_readable(why: &str) -> Note {
    Note::error(format!(
        "cannot read the control data of the new cluster, trying again: {why}"
    ))
}

pub(crate) fn crashed_failing_over() -> Note {
    Note::info("Primary crashed. Failing over.")
}

pub(crate) fn recovery_takes_too_long() -> Note {
    Note::info("Demoting self because crash recovery is taking too long")
}

pub(crate) fn start_takes_too_long() -> Note {
    Note::info("Demoting self because primary startup is taking too long")
}

pub(crate) fn unresponsive(lasted: Duration, why: &str) -> Note {
    Note::error(format!(
        "the primary has given no sign of life for {} s: {why}",
        lasted.as_secs()
    ))
}

pub(crate) fn unresponsive_without_successor(lasted: Duration, why: &str) -> Note {
    Note::error(format!(
        "the primary has given no sign of life for {} s, and nobody can take over: {why}",
        lasted.as_secs()
    ))
}

pub(crate) fn defect(what: &str) -> Note {
    Note::error(format!("a decision asked for more than it may: {what}"))
}

pub(crate) fn recovery_would_take(bytes: u64, duration: Duration) -> Note {
    Note::info(format!(
        "Crash recovery has {} MB of WAL to replay, which would take about {} s.",
        bytes >> 20,
        duration.as_secs()
    ))
}

pub(crate) fn still_starting_as_standby() -> Note {
    Note::info("Still starting up as a standby.")
}

pub(crate) fn slots_share_a_name(slot: &str, members: &str) -> Note {
    Note::error(format!(
        "Following cluster members share a replication slot name: {members} ({slot})"
    ))
}

pub(crate) fn slot_name_is_a_members(slot: &SlotName) -> Note {
    Note::error(format!(
        "Permanent logical replication slot '{slot}' has the name of a member's slot: it is ignored"
    ))
}

pub(crate) fn slot_is_active(slot: &SlotName) -> Note {
    Note::warning(format!(
        "Unable to drop replication slot '{slot}', slot is active"
    ))
}

pub(crate) fn slot_is_safe(slot: &SlotName) -> Note {
    Note::info(format!("Logical slot {slot} is safe to be used after a failover"))
}

pub(crate) fn slots_might_be_unsafe(slots: &[SlotName]) -> Note {
    Note::warning(format!(
        "Logical replication slots that might be unsafe to use after promote: {}",
        slot_list(slots)
    ))
}

pub(crate) fn slot_expired(slot: &str, seconds: u64) -> Note {
    Note::info(format!(
        "Replication slot '{slot}' for absent cluster member is expired after {seconds} sec."
    ))
}

pub(crate) fn published_position(published: Lsn, mine: Lsn) -> Note {
    Note::info(format!(
        "by the key status the last leader was at {published}; this member is at {mine}"
    ))
}

pub(crate) fn position_is_beyond_history(timeline: Timeline, end: Lsn) -> Note {
    Note::warning(format!(
        "by the key history the cluster left timeline {timeline} at {end}: what this member has beyond that does not count"
    ))
}

pub(crate) fn synchronous_enabled() -> Note {
    Note::info("Enabled synchronous replication")
}

pub(crate) fn synchronous_disabled() -> Note {
    Note::info("Disabled synchronous replication")
}

pub(crate) fn assigning_names(names: &str) -> Note {
    Note::info(format!("Assigning synchronous_standby_names to '{names}'"))
}

pub(crate) fn sync_published(leader: &MemberName, quorum: usize, voters: &[MemberName]) -> Note {
    let voters: Vec<&str> = voters.iter().map(MemberName::as_str).collect();
    Note::info(format!(
        "Setting leader to {leader}, quorum to {quorum} of ({})",
        voters.join(", ")
    ))
}

pub(crate) fn sync_standby_assigned(voters: &[MemberName]) -> Note {
    let voters: Vec<String> = voters.iter().map(|name| format!("'{name}'")).collect();
    Note::info(format!(
        "Synchronous standby status assigned to [{}]",
        voters.join(", ")
    ))
}

pub(crate) fn sync_leader_differs(leader: &MemberName, me: &MemberName) -> Note {
    Note::warning(format!(
        "Inconsistent state of /sync key detected, leader = {leader} doesn't match {me}, updating synchronous \
         replication key"
    ))
}

pub(crate) fn sync_was_changed() -> Note {
    Note::info("Synchronous replication key updated by someone else.")
}

pub(crate) fn nobody_to_wait_for() -> Note {
    Note::warning(
        "No active replication connections from Patroni members and synchronous_mode_strict is requested. \
         Commits will be delayed.",
    )
}

pub(crate) fn stranger(name: &MemberName, slot: &SlotName, use_slots: bool) -> Note {
    let own = if use_slots {
        format!("does not use its slot {slot}")
    } else {
        "does not come from its address".to_owned()
    };
    Note::warning(format!(
        "a connection streams WAL with application_name {name} and is not that member's: it {own}; commits do not wait for \
         {name} until the connection is closed, see pg_stat_replication"
    ))
}

/// Why a standby does not stream, as far as it is known here.
pub(crate) fn does_not_stream(source: &Source) -> String {
    format!(
        "this member does not stream from {}, which runs: the reason is in the logs of PostgreSQL on both sides (pg_hba.conf, \
         password, replication slot, WAL that was removed)",
        source.name()
    )
}

pub(crate) fn tried_again_later(why: &str, interval: Duration) -> Note {
    Note::warning(format!("{why}; it tries again every {} s", interval.as_secs()))
}

pub(crate) fn replication_loop(all: &[&MemberName]) -> Note {
    let way: Vec<&str> = all.iter().chain(all.first()).map(|name| name.as_str()).collect();
    Note::warning(format!(
        "replicatefrom leads in a circle: {}; this member streams from the leader; change the tag replicatefrom of one of them",
        way.join(" from ")
    ))
}

pub(crate) fn former_leader_is_ahead(name: &MemberName) -> Note {
    Note::info(format!("Ignoring the former leader {name} being ahead of us"))
}

pub(crate) fn got_vote(name: &MemberName) -> Note {
    Note::info(format!("Got quorum vote from {name}"))
}

pub(crate) fn quorum_not_reached(quorum: usize) -> Note {
    Note::info(format!("Quorum requirement {quorum} can not be reached"))
}

pub(crate) fn candidate_lacks_votes(name: &MemberName) -> Note {
    Note::warning(format!(
        "{name} may lack what was acknowledged, so the switchover to it is given up"
    ))
}

pub(crate) fn not_healthy_enough() -> Note {
    Note::info("not healthy enough for leader race")
}

pub(crate) fn dcs_refuses_writes(why: &str) -> Note {
    Note::error(format!(
        "the DCS refuses writes ({why}): this member stays the leader by its lease alone, and no other member can take over \
         until the DCS accepts writes again"
    ))
}

pub(crate) fn store_was_replaced() -> Note {
    Note::warning(
        "the DCS was wiped or restored, or is another one than before: its keys are no longer those of this cluster",
    )
}

pub(crate) fn leads_in_replaced_store() -> Note {
    Note::warning(
        "this member led when the DCS was replaced: it takes the leader key and writes the cluster's keys again",
    )
}

pub(crate) fn key_from_before() -> Note {
    Note::warning(
        "the replaced DCS names this member as the leader, which it was no longer: the leader key is released",
    )
}

pub(crate) fn waits_in_replaced_store(name: &MemberName, why: &str) -> Note {
    Note::info(format!(
        "the DCS was replaced and '{name}', which may be the leader, does not answer ({why}): \
         the leader key is not taken before its lease has expired"
    ))
}

pub(crate) fn dcs_writes_again() -> Note {
    Note::info("the DCS accepts writes again")
}

pub(crate) fn name_is_taken(me: &MemberName) -> Note {
    Note::critical(format!(
        "Can't start; there is already a node named '{me}' running"
    ))
}
