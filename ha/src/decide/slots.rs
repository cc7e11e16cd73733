//! Replication slots: members keep each other's WAL, and slots that are declared permanent live through a failover (Patroni
//! documentation, "Replication slots" and "Dynamic Configuration Settings", `slots`, `ignore_slots`).

mod logical;
mod published;
mod wanted;

pub(super) use logical::{copy_missing, notice_primary, warn_before_promotion};
pub(super) use published::to_publish;
pub use wanted::{forces_hot_standby_feedback, synchronized_standby_slots};

use wanted::{Kind, Wanted};

use std::collections::BTreeMap;

use super::observe;
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{Slot, SqlFacts};
use crate::pg::{Lsn, SlotName};
use crate::reason::notes;
use crate::step::{Action, SlotChange};

/// Brings the slots of the local server in order.
pub(super) fn keep(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    if !c.node().use_slots || cluster.config.is_none() {
        return Ok(());
    }
    let server = observe::server(c)?;
    let Some(sql) = server.sql else { return Ok(()) };
    let retained = published::retained(c, cluster, &sql);
    wanted::complain(c, cluster);
    let wanted = wanted::wanted(c, cluster, &retained);
    let mut changes = Vec::new();
    for slot in &sql.slots {
        changes.extend(match wanted.get(&slot.name) {
            None => unwanted(c, cluster, &sql, slot),
            Some(wanted) => correct(c, cluster, &sql, slot, wanted),
        });
    }
    for (name, wanted) in &wanted {
        let exists = sql.slots.iter().any(|slot| &slot.name == name);
        if wanted.kind == Kind::Physical && !exists {
            changes.push(SlotChange::CreatePhysical(name.clone()));
        }
    }
    if !changes.is_empty() {
        drop(c.perform(Action::ChangeSlots(changes))?);
    }
    logical::keep(c, cluster, &sql, server.postmaster_started, &wanted)
}

/// A slot that nobody is known to need.
fn unwanted(c: &mut Cycle<'_>, cluster: &Cluster, sql: &SqlFacts, slot: &Slot) -> Option<SlotChange> {
    let is_of_citus = c.node().citus_group.is_some() && crate::citus::is_shard_slot(&slot.name.0);
    if c.config().pause || is_of_citus || is_ignored(c, slot) {
        return None;
    }
    if slot.has_failover {
        // PostgreSQL's own: its slots of the primary come to the standbys by themselves. What a former primary has left of
        // one is in their way.
        let is_stale = slot.logical.is_some()
            && !slot.is_synced
            && sql.in_recovery
            && cluster.leader_name().is_some_and(|leader| leader != c.me());
        return (is_stale && !slot.is_active).then(|| SlotChange::Drop(slot.name.clone()));
    }
    if slot.is_active {
        c.note(notes::slot_is_active(&slot.name));
        return None;
    }
    Some(SlotChange::Drop(slot.name.clone()))
}

/// A slot that is wanted. What is wrong with it is dropped now and made anew in the next cycle.
fn correct(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
    slot: &Slot,
    wanted: &Wanted,
) -> Option<SlotChange> {
    if slot.has_failover && slot.is_synced && sql.in_recovery {
        return None;
    }
    let is_other = !wanted.kind.is_of(slot);
    if is_other || slot.is_lost {
        if slot.is_active {
            c.note(notes::slot_is_active(&slot.name));
            return None;
        }
        return Some(SlotChange::Drop(slot.name.clone()));
    }
    if wanted.kind != Kind::Physical || wanted.is_used || slot.is_active {
        return None;
    }
    let leads_unpromoted = cluster.is_leader(c.me()) && sql.in_recovery && cluster_is_of_primaries(c);
    if slot.has_xmin {
        // Nobody moves it forward any more, and so it would hold vacuum back for ever.
        let is_dropped = !cluster.is_unlocked() && !leads_unpromoted;
        return is_dropped.then(|| SlotChange::Drop(slot.name.clone()));
    }
    let Some(kept) = slot.restart_lsn else {
        return Some(SlotChange::Drop(slot.name.clone()));
    };
    let here = sql.replayed.or(sql.flushed).unwrap_or_default();
    let to = position_of(cluster, &slot.name).min(here);
    (kept < to).then(|| SlotChange::Advance(slot.name.clone(), to))
}

fn cluster_is_of_primaries(c: &Cycle<'_>) -> bool {
    c.config().standby_cluster.is_none()
}

fn is_ignored(c: &Cycle<'_>, slot: &Slot) -> bool {
    let agrees = |wanted: &Option<String>, found: Option<&str>| {
        wanted
            .as_deref()
            .is_none_or(|wanted| found.is_some_and(|found| found == wanted))
    };
    let logical = slot.logical.as_ref();
    let kind = if logical.is_some() { "logical" } else { "physical" };
    c.config().ignore_slots.iter().any(|matcher| {
        agrees(&matcher.name, Some(slot.name.0.as_str()))
            && agrees(&matcher.kind, Some(kind))
            && agrees(
                &matcher.database,
                logical.map(|logical| logical.database.as_str()),
            )
            && agrees(&matcher.plugin, logical.map(|logical| logical.plugin.as_str()))
    })
}

/// Where the user of a slot is: the position that the leader published, or what a member that the leader does not see says
/// of itself.
fn position_of(cluster: &Cluster, slot: &SlotName) -> Lsn {
    let published = published_position(cluster, slot);
    let member = cluster
        .members
        .iter()
        .find(|member| member.name.slot_name() == *slot);
    let own = member
        .filter(|member| member.data.tags.replicatefrom().is_some())
        .and_then(|member| member.data.xlog_location);
    published.max(own).unwrap_or_default()
}

fn published_position(cluster: &Cluster, slot: &SlotName) -> Option<Lsn> {
    let slots: Option<&BTreeMap<SlotName, Lsn>> = cluster.status.slots.as_ref();
    slots?.get(slot).copied()
}
