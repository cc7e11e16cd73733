//! The cycle from top to bottom (Patroni documentation, "Patroni's HA loop"; the order is that of its `ha` module).

mod backoff;
mod bootstrap;
mod citus;
mod crash;
mod dcs_outage;
mod failsafe;
mod follow;
mod handover;
mod history;
mod observe;
mod origin;
mod peers;
mod primary;
mod publish;
mod race;
mod recover;
pub(crate) mod replaced_store;
mod requests;
mod rewind;
mod schedule;
mod shutdown;
mod slots;
mod standby_cluster;
mod starting;
mod switchover;
mod synchronous;
mod task;
pub(crate) mod unresponsive;

pub use slots::{forces_hot_standby_feedback, synchronized_standby_slots};

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::cycle::{Cycle, Facts, Flow};
use crate::facts::{DataDirectory, LockAnswer, Moment, Running, TaskStatus};
use crate::lease::{self, Renewal};
use crate::memory::{Bootstrap, Memory, RewindState};
use crate::pg::{Role, ServerState, SystemIdentifier};
use crate::reason::{Reason, notes};
use crate::step::{Action, Callback, Exit, Expect, Key, Step, StopMode, StopPurpose, Task, WhenGone};

/// How soon a server that could not be looked at is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The next single step of a cycle, given everything known so far. Changes `memory` only with [`Step::Finish`].
pub fn decide(facts: &Facts, memory: &mut Memory) -> Step {
    let mut cycle = Cycle::new(facts, memory.clone());
    match run(&mut cycle) {
        Ok(reason) => {
            requests::answer_overdue(&mut cycle, &reason);
            let (remembered, outcome) = cycle.finish(reason);
            *memory = remembered;
            Step::Finish(Box::new(outcome))
        }
        Err(step) => *step,
    }
}

/// When the lease may be prolonged while the step that [`decide`] has just given has no answer yet, if at all. What comes
/// of it is told by [`Facts::learn_meanwhile`], after which this is to be asked again.
#[must_use]
pub fn renewal_meanwhile(facts: &Facts, memory: &Memory) -> Option<Renewal> {
    let mut cycle = Cycle::new(facts, memory.clone());
    let step = run(&mut cycle).err()?;
    lease::renewal(facts, &cycle.memory, &step)
}

/// How long the step that [`decide`] has just given may be waited for at `now`. After that a request to the DCS counts as
/// unanswered.
#[must_use]
pub fn patience(facts: &Facts, memory: &Memory, now: Moment) -> Duration {
    let mut cycle = Cycle::new(facts, memory.clone());
    let config = &facts.given.config;
    match run(&mut cycle) {
        Ok(_) => config.retry_timeout,
        Err(step) => lease::patience(config, cycle.memory.lock, now, &step),
    }
}

fn run(c: &mut Cycle<'_>) -> Flow<Reason> {
    task::absorb(c);
    if let Some(reason) = task::cut_off(c)? {
        return Ok(reason);
    }
    if let Some(reason) = handover::cut_off(c)? {
        return Ok(reason);
    }
    if dcs_outage::has_stopped_for_it(c) {
        return dcs_outage::start_read_only(c);
    }
    let cluster = match c.load_cluster()? {
        Ok(cluster) => cluster,
        Err(failure) => return dcs_outage::decide(c, &failure),
    };
    notice_end_of_pause(c);
    let reason = with_cluster(c, &cluster)?;
    if let Some(LockAnswer::Unknown(failure)) = c.lock_answer.take() {
        return dcs_outage::decide(c, &failure);
    }
    publish::member(c)?;
    Ok(reason)
}

fn with_cluster(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Reason> {
    c.note(notes::lock_owner(cluster.leader_name(), c.me()));
    if cluster.member(c.me()).is_none() {
        publish::member(c)?;
        if c.has_to_exit() {
            return Ok(Reason::NameTaken);
        }
    }
    // The lease comes first: nothing local that is slow may cost it.
    let renewed = match replaced_store::decide(c, cluster)? {
        replaced_store::Verdict::NothingNew => renew(c, cluster)?,
        replaced_store::Verdict::Led(answer) => Some(answer),
        replaced_store::Verdict::NotOurs => None,
    };
    let held = match renewed {
        Some(LockAnswer::Unknown(_)) => return Ok(Reason::DcsNotAccessible),
        Some(LockAnswer::Held { .. } | LockAnswer::HeldByLeaseAlone { .. }) => true,
        Some(LockAnswer::NotHeld) => false,
        None => false,
    };
    if c.given().is_stopping {
        return shutdown::decide(c, cluster, held);
    }
    if let TaskStatus::Running {
        task,
        since,
        progress,
    } = &c.given().task
    {
        return task::running(c, cluster, held, (task, *since), *progress);
    }
    if c.memory.bootstrap != Bootstrap::No {
        return bootstrap::hand_over(c);
    }
    let server = observe::server(c)?;
    if let Running::Unknown(why) = server.running {
        return unknown_server(c, cluster, held, why);
    }
    if observe::is_starting(c, &server) {
        if let Some(reason) = requests::reinitialize_starting(c, cluster)? {
            return Ok(reason);
        }
        return starting::decide(c, cluster, held);
    }
    if let Some(reason) = recover::judge_start(c, cluster, held)? {
        return Ok(reason);
    }
    if let Some(reason) = task::holding_off(c, held)? {
        return Ok(reason);
    }
    if let Some(reason) = identity(c, cluster, held)? {
        return Ok(reason);
    }
    if let Some(reason) = requests::reinitialize_stopped(c, cluster)? {
        return Ok(reason);
    }
    if observe::server(c)?.is_stopped() {
        if let Some(reason) = requests::restart_stopped(c, cluster, held)? {
            return Ok(reason);
        }
        return recover::not_running(c, cluster, held);
    }
    if let Some(reason) = requests::decide(c, cluster)? {
        return Ok(reason);
    }
    let reason = if held {
        primary::hold(c, cluster)?
    } else if cluster.is_unlocked() {
        race::decide(c, cluster)?
    } else if cluster.is_leader(c.me()) {
        primary::lost(c)?
    } else {
        follow::leader(c, cluster)?
    };
    if !c.began_task {
        // A primary that takes the key back may have found the keys of all members gone: their slots stay.
        if !(cluster.is_unlocked() && observe::is_primary(c)?) {
            slots::keep(c, cluster)?;
        }
        announce_start(c);
        if let Some(copying) = slots::copy_missing(c, cluster)? {
            return Ok(copying);
        }
        // What is remembered has served as the server's role: the line says that it is no more than that.
        let server = observe::server(c)?;
        if reason.is_steady() && server.is_running() && server.sql.is_none() {
            return Ok(Reason::PostgresqlTrouble);
        }
    }
    Ok(reason)
}

/// Nobody could find out whether the server runs. It is neither started, stopped nor replaced for that, and the key is kept:
/// it may take writes. Only when another member holds the key, a server that was a primary must not be one any more.
fn unknown_server(c: &mut Cycle<'_>, cluster: &Cluster, held: bool, why: String) -> Flow<Reason> {
    let soon = c.now().after(LOOK_AGAIN.min(c.config().loop_wait));
    c.again_at(soon);
    let is_lost = !held && !cluster.is_unlocked();
    if is_lost && !c.config().pause && observe::is_primary(c)? {
        c.note(notes::lock_update_failed());
        primary::demote(c, StopMode::Immediate, StopPurpose::LostLock)?;
        return Ok(Reason::DemotedLockLost);
    }
    Ok(Reason::ServerUnknown(why))
}

/// What people did to the server in pause is not known: nothing that was known of its data holds when the pause ends.
fn notice_end_of_pause(c: &mut Cycle<'_>) {
    let paused = c.config().pause;
    if std::mem::replace(&mut c.memory.was_paused, paused) && !paused {
        c.memory.system_identifier = None;
        if matches!(
            c.memory.rewind,
            RewindState::Failed | RewindState::Needed | RewindState::OtherOrigin
        ) {
            c.memory.rewind = RewindState::Check;
        }
    }
}

/// Prolongs our lease when the leader key is ours. `None` when it is not.
fn renew(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<LockAnswer>> {
    let Some(leader) = cluster.leader.as_ref().filter(|leader| &leader.name == c.me()) else {
        return Ok(None);
    };
    if unresponsive::lets_the_lease_run_out(c)? {
        return Ok(None);
    }
    if is_named_by_hand(c, cluster)? {
        return Ok(Some(LockAnswer::NotHeld));
    }
    let when_gone = if c.memory.holds_lock(c.now()) {
        WhenGone::Recreate
    } else {
        WhenGone::Lost
    };
    let seen = leader.clone();
    c.lock(Action::RenewLeader { seen, when_gone }).map(Some)
}

/// The leader key names this member, but nothing shows that it has ever held it: 1. a leads, 2. somebody writes `b` into the key
/// by hand, 3. b is promoted, 4. a finds out and stops. So b waits until the lock of whoever led before is over, and runs then.
fn is_named_by_hand(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<bool> {
    let last = cluster.heartbeat.as_ref().map(|heartbeat| &heartbeat.leader);
    if !c.is_named_without_proof() || last == Some(c.me()) {
        return Ok(false);
    }
    // Where nobody has renewed a lock, a primary takes up the key that carries its name.
    if last.is_none() && observe::is_primary(c)? {
        return Ok(false);
    }
    c.note(notes::named_without_proof(last));
    Ok(true)
}

/// Whose data this is. `Some` when there is none, or not this cluster's.
fn identity(c: &mut Cycle<'_>, cluster: &Cluster, held: bool) -> Flow<Option<Reason>> {
    if c.memory.system_identifier.is_none() || observe::server(c)?.is_stopped() {
        match c.data_directory()? {
            DataDirectory::Empty => return no_data(c, cluster, held, None).map(Some),
            DataDirectory::Inaccessible(why) => return no_data(c, cluster, held, Some(why)).map(Some),
            DataDirectory::Present {
                control,
                has_backup_label,
                ..
            } => {
                let control = control.ok();
                if let Some(control) = control.as_ref().filter(|_| !has_backup_label) {
                    slots::notice_primary(c, control)?;
                }
                c.memory.system_identifier = control.and_then(|control| control.system_identifier);
            }
        }
    }
    let Some(ours) = c.memory.system_identifier.clone() else {
        if held && observe::server(c)?.is_stopped() {
            // Nothing runs here that the lease could be for.
            release(c, None)?;
        }
        let asked = requests::reinitialize_stopped(c, cluster)?;
        return Ok(Some(asked.unwrap_or(Reason::InvalidSystemIdentifier)));
    };
    match cluster.system_identifier() {
        Some(theirs) if theirs != ours => foreign(c, &ours, &theirs, held),
        Some(_) => Ok(None),
        None => adopt(c, cluster, &ours, held),
    }
}

fn no_data(c: &mut Cycle<'_>, cluster: &Cluster, held: bool, inaccessible: Option<String>) -> Flow<Reason> {
    c.memory.system_identifier = None;
    if !observe::server(c)?.is_stopped() {
        if let Some(why) = inaccessible {
            // It runs, so the data is there: not being able to look at it is no reason to stop it.
            return Ok(Reason::DataNotAccessible(why));
        }
        c.begin(Task::Stop {
            mode: StopMode::Immediate,
            checkpoint: false,
            purpose: StopPurpose::NoData,
        })?;
        // The key is for whoever may still write, until it has been stopped.
        return Ok(Reason::StoppingNoData);
    }
    c.memory.role = Role::Uninitialized;
    if held {
        release(c, None)?;
        let what = if inaccessible.is_some() {
            "not accessible"
        } else {
            "empty"
        };
        return Ok(Reason::ReleasedNoData(what.to_owned()));
    }
    if let Some(why) = inaccessible {
        return Ok(Reason::DataNotAccessible(why));
    }
    if !c.began_task
        && let Some(reason) = requests::reinitialize_stopped(c, cluster)?
    {
        return Ok(reason);
    }
    if c.config().pause {
        return Ok(Reason::EmptyInPause);
    }
    bootstrap::begin(c, cluster)
}

/// The data directory belongs to another cluster than the one in the DCS.
fn foreign(
    c: &mut Cycle<'_>,
    ours: &SystemIdentifier,
    theirs: &SystemIdentifier,
    held: bool,
) -> Flow<Option<Reason>> {
    if c.config().pause {
        c.note(notes::foreign_in_pause(ours, theirs));
        if held {
            release(c, None)?;
            return Ok(Some(Reason::ReleasedForeignSystemIdentifier));
        }
        return Ok(None);
    }
    c.note(notes::foreign_system_identifier(c.me(), ours, theirs));
    c.exit(Exit::Failure);
    Ok(Some(Reason::ForeignSystemIdentifier))
}

/// The DCS knows no identifier: the holder of the lock, or the first primary to come, writes its own.
fn adopt(c: &mut Cycle<'_>, cluster: &Cluster, ours: &SystemIdentifier, held: bool) -> Flow<Option<Reason>> {
    if held {
        drop(c.write(Key::Initialize, ours.to_string(), Expect::Anything)?);
    } else if cluster.is_unlocked() && !c.config().pause && !c.memory.start_was_announced {
        let server = observe::server(c)?;
        if server.is_running() && !observe::is_primary(c)? && !standby_cluster::is_one(c) {
            c.note(notes::start_the_primary_first());
            c.exit(Exit::Failure);
            return Ok(Some(Reason::ReplicaOfUninitializedCluster));
        }
        drop(c.write(Key::Initialize, ours.to_string(), Expect::Absent)?);
    }
    Ok(None)
}

/// Releases the leader key, with our last position for the others to compare with. Scripts that were told of a leader here
/// are told first that it is none any more: the next leader's are started the moment the key is free.
fn release(c: &mut Cycle<'_>, status: Option<crate::cluster::Status>) -> Flow<()> {
    if c.memory.told_as_leader {
        c.callback(Callback::OnRoleChange, Role::Demoted);
    }
    c.run_callbacks()?;
    let answer = c.lock(Action::ReleaseLeader { status })?;
    // Whether or not the DCS could be told, this node does not believe in its lock any more.
    c.memory.lock = None;
    c.lock_answer = None;
    if answer == LockAnswer::NotHeld {
        c.note(notes::leader_key_released());
    }
    Ok(())
}

/// The first time that the server is seen to run in this life of the agent, `on_start` is called.
fn announce_start(c: &mut Cycle<'_>) {
    if c.memory.state == ServerState::Running && !c.memory.start_was_announced {
        c.memory.start_was_announced = true;
        let role = c.memory.role;
        c.callback(Callback::OnStart, role);
    }
}
