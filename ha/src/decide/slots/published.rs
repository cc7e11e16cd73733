//! What the leader publishes of its slots in the key `status`, and which slots are kept for members that are away.

use std::collections::{BTreeMap, BTreeSet};

use super::wanted::{Kind, permanent};
use crate::cluster::Cluster;
use crate::cycle::Cycle;
use crate::facts::SqlFacts;
use crate::pg::{Lsn, SlotName};
use crate::reason::notes;

/// Positions of slots, and the names of those to keep.
pub(crate) fn to_publish(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
) -> (Option<BTreeMap<SlotName, Lsn>>, Option<Vec<SlotName>>) {
    if !c.node().use_slots {
        return (None, None);
    }
    let positions = sql.slots.iter().filter_map(|slot| {
        let position = match &slot.logical {
            Some(_) => slot.confirmed_flush,
            None => slot.restart_lsn,
        };
        Some((slot.name.clone(), position?))
    });
    let mut slots: BTreeMap<SlotName, Lsn> = positions.collect();
    if c.config().member_slots_ttl.is_zero() {
        let permanent: BTreeSet<SlotName> = permanent(c.config()).into_iter().map(|(name, _)| name).collect();
        slots.retain(|name, _| permanent.contains(name));
        return ((!slots.is_empty()).then_some(slots), None);
    }
    let own = c.me().slot_name();
    slots.extend(sql.position().map(|position| (own.clone(), position)));
    let mut retain: BTreeSet<SlotName> = retained(c, cluster, sql).into_iter().collect();
    if !c.node().tags.nostream() {
        retain.insert(own);
    }
    // Those are kept anyway.
    for (name, kind) in permanent(c.config()) {
        if kind == Kind::Physical {
            retain.remove(&name);
        }
    }
    (Some(slots), Some(retain.into_iter().collect()))
}

/// Slots of members that were here within `member_slots_ttl`: as the leader sees it, or as it has published.
pub(super) fn retained(c: &mut Cycle<'_>, cluster: &Cluster, sql: &SqlFacts) -> Vec<SlotName> {
    let published = cluster.status.retain_slots.clone().unwrap_or_default();
    if !cluster.is_leader(c.me()) {
        c.memory.slots.last_seen.clear();
        c.memory.slots.adopted = false;
        return published;
    }
    let now = c.now();
    if !std::mem::replace(&mut c.memory.slots.adopted, true) {
        // What the last leader kept counts from the moment that this one took over.
        let own = c.me().slot_name();
        let kept = published.into_iter().filter(|slot| *slot != own);
        let kept = kept.map(|slot| (slot, now));
        c.memory.slots.last_seen.extend(kept);
    }
    let existing: BTreeSet<&SlotName> = sql.slots.iter().map(|slot| &slot.name).collect();
    let me = c.me();
    let members = cluster
        .members
        .iter()
        .filter(|member| &member.name != me && !member.data.tags.nostream())
        .map(|member| member.name.slot_name());
    let seen = members.filter(|slot| existing.contains(slot));
    c.memory.slots.last_seen.extend(seen.map(|slot| (slot, now)));
    let ttl = c.config().member_slots_ttl;
    let last_seen = std::mem::take(&mut c.memory.slots.last_seen);
    let (expired, kept): (BTreeMap<_, _>, BTreeMap<_, _>) = last_seen
        .into_iter()
        .partition(|(_, seen)| seen.after(ttl) <= now);
    c.memory.slots.last_seen = kept;
    if !ttl.is_zero() {
        for slot in expired.keys() {
            c.note(notes::slot_expired(&slot.0, ttl.as_secs()));
        }
    }
    c.memory.slots.last_seen.keys().cloned().collect()
}
