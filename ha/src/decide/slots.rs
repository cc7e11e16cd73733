//! Replication slots: members keep each other's WAL (Patroni documentation, "Replication slots").

use std::collections::{BTreeMap, BTreeSet};

use super::observe;
use crate::cluster::{Cluster, Member};
use crate::cycle::{Cycle, Flow};
use crate::facts::SqlFacts;
use crate::pg::{Lsn, MemberName, SlotName};
use crate::reason::notes;
use crate::step::{Action, SlotChange};

/// A slot that should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    /// A member is expected to stream through it from this server.
    is_used: bool,
}

/// Brings the physical slots in order.
pub(super) fn keep(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    if !c.node().use_slots || cluster.config.is_none() {
        return Ok(());
    }
    let server = observe::server(c)?;
    let Some(sql) = server.sql else { return Ok(()) };
    let wanted = wanted(c, cluster, &sql);
    let mut changes = Vec::new();
    for slot in sql.slots.iter().filter(|slot| !slot.is_logical) {
        match wanted.get(&slot.name) {
            None if !slot.is_active && may_drop(c, &slot.name) => {
                changes.push(SlotChange::Drop(slot.name.clone()))
            }
            // Dropped now, made anew in the next cycle: what it kept is gone.
            Some(_) if slot.is_lost && !slot.is_active => changes.push(SlotChange::Drop(slot.name.clone())),
            Some(wanted) if !wanted.is_used && !slot.is_active && slot.has_xmin && !cluster.is_unlocked() => {
                changes.push(SlotChange::Drop(slot.name.clone()));
            }
            Some(wanted) if !wanted.is_used && !slot.is_active => {
                let to =
                    position_of(cluster, &slot.name).min(sql.replayed.or(sql.flushed).unwrap_or_default());
                if slot.restart_lsn.is_some_and(|kept| kept < to) {
                    changes.push(SlotChange::Advance(slot.name.clone(), to));
                }
            }
            Some(_) | None => {}
        }
    }
    for name in wanted.keys() {
        if !sql.slots.iter().any(|slot| &slot.name == name) {
            changes.push(SlotChange::CreatePhysical(name.clone()));
        }
    }
    if !changes.is_empty() {
        drop(c.perform(Action::ChangeSlots(changes))?);
    }
    Ok(())
}

fn may_drop(c: &Cycle<'_>, name: &SlotName) -> bool {
    let ignored = c.config().ignore_slots.iter().any(|matcher| {
        matcher.name.as_ref().is_none_or(|wanted| *wanted == name.0)
            && matcher.kind.as_deref().is_none_or(|kind| kind == "physical")
            && matcher.database.is_none()
            && matcher.plugin.is_none()
    });
    let is_of_citus = c.node().citus_group.is_some() && crate::citus::is_shard_slot(&name.0);
    !c.config().pause && !ignored && !is_of_citus
}

/// Where the user of a slot is: the position that the leader published, or what the member itself says.
fn position_of(cluster: &Cluster, slot: &SlotName) -> Lsn {
    let published = cluster
        .status
        .slots
        .as_ref()
        .and_then(|slots| slots.get(slot))
        .copied();
    let member = cluster
        .members
        .iter()
        .find(|member| member.name.slot_name() == *slot);
    let own = member
        .filter(|member| member.data.tags.replicatefrom().is_some())
        .and_then(|m| m.data.xlog_location);
    published.max(own).unwrap_or_default()
}

/// Members' slots on every node, so that they are there after a failover; the permanent physical ones; those of members
/// that were here a moment ago.
fn wanted(c: &mut Cycle<'_>, cluster: &Cluster, sql: &SqlFacts) -> BTreeMap<SlotName, Wanted> {
    let mut wanted = BTreeMap::new();
    let nofailover = c.node().tags.nofailover();
    let leads = cluster.is_leader(c.me());
    let retains = !c.config().member_slots_ttl.is_zero();
    let mut by_slot: BTreeMap<SlotName, Vec<&str>> = BTreeMap::new();
    for member in cluster
        .members
        .iter()
        .filter(|member| &member.name != c.me() && !member.data.tags.nostream())
    {
        let is_used = streams_from(c.me(), leads, cluster, member);
        if is_used || (retains && !nofailover) {
            wanted.insert(member.name.slot_name(), Wanted { is_used });
        }
        by_slot
            .entry(member.name.slot_name())
            .or_default()
            .push(member.name.as_str());
    }
    for (slot, members) in by_slot.iter().filter(|(_, members)| members.len() > 1) {
        c.note(notes::slots_share_a_name(&slot.0, &members.join(", ")));
    }
    let own = c.me().slot_name();
    if retains && !nofailover {
        let retained = cluster
            .status
            .retain_slots
            .iter()
            .flatten()
            .filter(|slot| **slot != own)
            .cloned();
        for slot in retained.chain(recently_seen(c, cluster, sql)) {
            wanted.entry(slot).or_insert(Wanted { is_used: false });
        }
    }
    if !nofailover {
        let permanent = c
            .config()
            .slots
            .iter()
            .filter(|(_, slot)| slot.kind == config::SlotKind::Physical);
        for (name, _) in permanent.filter(|(name, slot)| name.as_str() != own.0 && in_primary_cluster(slot)) {
            wanted
                .entry(SlotName(name.clone()))
                .or_insert(Wanted { is_used: leads });
        }
    }
    wanted
}

fn in_primary_cluster(slot: &config::SlotConfig) -> bool {
    slot.cluster_type.as_deref().is_none_or(|kind| kind == "primary")
}

fn streams_from(me: &MemberName, leads: bool, cluster: &Cluster, member: &Member) -> bool {
    match member.data.tags.replicatefrom() {
        Some(upstream) if &upstream == me => true,
        Some(upstream) => leads && cluster.member(&upstream).is_none(),
        None => leads,
    }
}

/// As the leader: slots of members that were here within `member_slots_ttl`.
fn recently_seen(c: &mut Cycle<'_>, cluster: &Cluster, sql: &SqlFacts) -> Vec<SlotName> {
    if !cluster.is_leader(c.me()) {
        c.memory.slots_last_seen.clear();
        return Vec::new();
    }
    let now = c.now();
    let existing: BTreeSet<&SlotName> = sql.slots.iter().map(|slot| &slot.name).collect();
    let me = c.me();
    let members = cluster
        .members
        .iter()
        .filter(|m| &m.name != me && !m.data.tags.nostream());
    for slot in members
        .map(|member| member.name.slot_name())
        .filter(|slot| existing.contains(slot))
    {
        c.memory.slots_last_seen.insert(slot, now);
    }
    // What the last leader kept counts from the moment that this one took over.
    for slot in cluster.status.retain_slots.iter().flatten() {
        c.memory.slots_last_seen.entry(slot.clone()).or_insert(now);
    }
    let ttl = c.config().member_slots_ttl;
    let expired: Vec<SlotName> = c
        .memory
        .slots_last_seen
        .iter()
        .filter(|(_, seen)| seen.after(ttl) <= now)
        .map(|(slot, _)| slot.clone())
        .collect();
    for slot in expired {
        c.memory.slots_last_seen.remove(&slot);
        c.note(notes::slot_expired(&slot.0, ttl.as_secs()));
    }
    c.memory.slots_last_seen.keys().cloned().collect()
}

/// What the leader publishes of its slots in `/status`: positions, and the names to keep.
pub(super) fn to_publish(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
) -> (Option<BTreeMap<SlotName, Lsn>>, Option<Vec<SlotName>>) {
    if !c.node().use_slots || c.config().member_slots_ttl.is_zero() {
        return (None, None);
    }
    let mut slots: BTreeMap<SlotName, Lsn> = sql
        .slots
        .iter()
        .filter_map(|slot| {
            let position = if slot.is_logical {
                slot.confirmed_flush
            } else {
                slot.restart_lsn
            };
            Some((slot.name.clone(), position?))
        })
        .collect();
    let own = c.me().slot_name();
    slots.extend(sql.position().map(|position| (own.clone(), position)));
    let mut retain: BTreeSet<SlotName> = recently_seen(c, cluster, sql).into_iter().collect();
    retain.insert(own);
    (Some(slots), Some(retain.into_iter().collect()))
}
