//! Another store answers than before: etcd was wiped, restored from a backup, or exchanged.
//!
//! What the new store says of leases is worth nothing. The leader of before may be cut off and still count on its lease for
//! `ttl`, and a key `leader` from a backup names whoever led then. So the member whose lock is valid takes the key and
//! writes the keys of the cluster again, and all others wait for `ttl` unless every member of before answers.

use std::sync::Arc;

use super::{observe, peers, release};
use crate::cluster::{Cluster, Failover, SyncState};
use crate::cycle::{Cycle, Flow};
use crate::facts::LockAnswer;
use crate::memory::ReplacedStore;
use crate::quorum::Claim;
use crate::reason::{Reason, notes};
use crate::standby_names::StandbyNames;
use crate::step::{Action, Expect, Key};

/// Takes note of a new store, and fills in the members of before that have not come back to it yet.
pub(crate) fn notice(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Arc<Cluster> {
    let now = c.now();
    let known = c.memory.generation.replace(cluster.generation);
    if known.is_some_and(|known| known != cluster.generation) {
        let before = c.memory.cluster.take().map(|(before, _)| before);
        let led = c.memory.led_cluster.clone();
        let before = before.or_else(|| led.clone()).map(|before| {
            let leader = before.leader.clone();
            let leader = leader.or_else(|| led.and_then(|led| led.leader.clone()));
            Arc::new(Cluster {
                leader,
                ..Cluster::clone(&before)
            })
        });
        c.note(notes::store_was_replaced());
        c.memory.replaced_store = Some(ReplacedStore {
            at: now,
            before,
            led: leads(c),
            is_written: false,
        });
        c.memory.published_status = None;
        c.memory.heartbeat = None;
        c.memory.unproved_leader = None;
    }
    let Some(replaced) = window(c) else {
        return with_failsafe_of_before(c, cluster);
    };
    let Some(before) = replaced.before.clone() else {
        return Arc::clone(cluster);
    };
    let has_to_write = replaced.led && !replaced.is_written;
    let is_led_here = leads(c) && !has_to_write;
    let missing = before
        .members
        .iter()
        .filter(|member| cluster.member(&member.name).is_none());
    let mut filled = Cluster::clone(cluster);
    filled.members.extend(missing.cloned());
    filled.members.sort_by(|one, other| one.name.cmp(&other.name));
    if filled.failsafe.is_none() {
        filled.failsafe.clone_from(&before.failsafe);
    }
    // What the leader itself finds in the present store is what it has written there.
    if filled.sync.is_empty() && !is_led_here {
        // What was synchronous before, under the revision that the present store knows: a write goes by that.
        filled.sync = SyncState {
            version: cluster.sync.version,
            ..before.sync.clone()
        };
    }
    if has_to_write {
        // What this member is about to write there is so for the rest of this cycle, too.
        filled.initialize.clone_from(&before.initialize);
        filled.config.clone_from(&before.config);
        filled.history.clone_from(&before.history);
        filled.origins.clone_from(&before.origins);
    }
    // A request from the time of the backup was carried out long ago.
    if !is_led_here {
        filled.failover = None;
    }
    Arc::new(filled)
}

/// Where nobody has led in the present store: 1. the store refuses writes and is replaced by one that does so, too, 2. the leader
/// cannot take its key there and goes on in failsafe mode, asking the members that the key `failsafe` listed before, 3. the
/// store takes writes. A member that is not listed was never asked, and may not take the key as long as that leader may go on.
fn with_failsafe_of_before(c: &Cycle<'_>, cluster: &Arc<Cluster>) -> Arc<Cluster> {
    let replaced = c.memory.replaced_store.as_ref();
    let before = replaced.and_then(|replaced| replaced.before.as_ref());
    match before.and_then(|before| before.failsafe.as_ref()) {
        Some(failsafe) if cluster.failsafe.is_none() && cluster.leader.is_none() => Arc::new(Cluster {
            failsafe: Some(failsafe.clone()),
            ..Cluster::clone(cluster)
        }),
        Some(_) | None => Arc::clone(cluster),
    }
}

/// The time in which a lease from the store before may still be counted on.
fn window<'a>(c: &'a Cycle<'_>) -> Option<&'a ReplacedStore> {
    let ttl = c.config().ttl;
    let replaced = c.memory.replaced_store.as_ref()?;
    (c.now() < replaced.at.after(ttl).after(ttl / 50)).then_some(replaced)
}

/// Our lock was valid when the store was replaced, and the key has not been taken there yet.
pub(crate) fn has_to_be_led(c: &Cycle<'_>) -> bool {
    let replaced = c.memory.replaced_store.as_ref();
    replaced.is_some_and(|replaced| replaced.led && !replaced.is_written) && leads(c)
}

/// By the lock, or because all members have agreed to it in failsafe mode.
fn leads(c: &Cycle<'_>) -> bool {
    let now = c.now();
    c.memory.holds_lock(now) || c.memory.failsafe.until.is_some_and(|until| now < until)
}

/// What a new store means for the leader key.
pub(super) enum Verdict {
    /// There is none, or all is done.
    NothingNew,
    /// The key was taken for the member that led before.
    Led(LockAnswer),
    /// The key names us because we led at the time of the backup.
    NotOurs,
}

pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Verdict> {
    if has_to_be_led(c) {
        c.note(notes::leads_in_replaced_store());
        let answer = c.lock(Action::TakeLeader)?;
        if answer.held_since().is_some() {
            write_again(c)?;
        }
        return Ok(Verdict::Led(answer));
    }
    // Who holds a lock all the same has taken the key in this very store.
    let led = window(c).map(|replaced| replaced.led);
    if led == Some(false) && cluster.is_leader(c.me()) && !leads(c) {
        c.note(notes::key_from_before());
        release(c, None)?;
        return Ok(Verdict::NotOurs);
    }
    Ok(Verdict::NothingNew)
}

/// The cluster's keys as this member knows them. What fails is tried again by the next cycle.
fn write_again(c: &mut Cycle<'_>) -> Flow<()> {
    let replaced = c.memory.replaced_store.as_ref();
    let before = replaced.and_then(|replaced| replaced.before.clone());
    let before = before.unwrap_or_default();
    let config = before
        .config
        .as_ref()
        .map(|config| serde_json::Value::Object(config.value.clone()));
    let failsafe = before
        .failsafe
        .as_ref()
        .map(|members| serde_json::json!(members).to_string());
    let sync = sync_that_holds(c, &before.sync)?;
    let has_origins = before.origins != Default::default();
    let keys = [
        (Key::Initialize, before.initialize.clone()),
        (Key::Config, config.map(|config| config.to_string())),
        (Key::Sync, sync),
        (
            Key::History,
            before.history.as_ref().map(|history| history.to_json()),
        ),
        (Key::Origin, has_origins.then(|| before.origins.to_json())),
        (Key::Failsafe, failsafe),
        (Key::Failover, Some(Failover::CLEARED.to_owned())),
    ];
    let mut is_written = true;
    for (key, value) in keys {
        if let Some(value) = value {
            is_written &= c.write(key, value, Expect::Anything)?.is_ok();
        }
    }
    if let Some(replaced) = &mut c.memory.replaced_store {
        replaced.is_written = is_written;
    }
    Ok(())
}

/// What the key `sync` may say: what it said before if PostgreSQL still waits accordingly, otherwise that no standby may take
/// over. The setting may have changed since, or is not known.
fn sync_that_holds(c: &mut Cycle<'_>, before: &SyncState) -> Flow<Option<String>> {
    if before.is_empty() {
        return Ok(None);
    }
    let sql = observe::server(c)?.sql;
    let in_force = sql.and_then(|sql| StandbyNames::parse(&sql.synchronous_standby_names));
    let claim = Claim {
        voters: before.voters.iter().cloned().collect(),
        quorum: before.quorum,
    };
    let leader = before.leader.clone().unwrap_or_else(|| c.me().clone());
    let holds = in_force.is_some_and(|names| claim.holds_under(&names));
    Ok(Some(if holds {
        SyncState::to_json(&leader, before.quorum, &before.voters)
    } else {
        SyncState::to_json(&leader, 0, &[])
    }))
}

/// Why this member does not run for the key in a new store. `None` when it may.
pub(super) fn holds_back(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Option<Reason>> {
    let Some(before) = window(c).and_then(|replaced| replaced.before.clone()) else {
        return Ok(None);
    };
    if before.is_leader(c.me()) || observe::is_primary(c)? {
        return Ok(None);
    }
    let others = before.members.iter().filter(|member| &member.name != c.me());
    let others = others
        .filter_map(|member| peers::as_silent_peer(c, member))
        .collect();
    for answer in c.peers(others)? {
        if let Err(why) = &answer.status {
            c.note(notes::waits_in_replaced_store(&answer.name, why));
            return super::follow::follow(c, cluster, Reason::DemotingNotHealthiest, Reason::NotHealthiest)
                .map(Some);
        }
    }
    Ok(None)
}
