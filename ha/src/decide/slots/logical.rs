//! Permanent logical slots: made on the primary, copied to the standbys that may take over, and moved forward there.
//!
//! A copy is of use after a failover only if the primary has kept the catalog rows that it needs since it was made. It does
//! once our physical slot there has a `catalog_xmin`, which comes by `hot_standby_feedback`; until a copy has moved past what
//! the primary may have thrown away before, it is *unproven*. So it is until it has moved forward here at all: in a new base
//! backup the WAL may begin after what the slot needs.

use std::collections::{BTreeMap, BTreeSet};

use super::published_position;
use super::wanted::{Kind, Wanted, upstream_slot, wanted};
use crate::cluster::{Cluster, Promotion};
use crate::cycle::{Cycle, Flow};
use crate::decide::{follow, observe};
use crate::facts::{Slot, SlotHorizons, SqlFacts};
use crate::pg::{ControlData, DatabaseState, ReplicationState, SlotName};
use crate::reason::{Reason, notes};
use crate::step::{Action, SlotWork, Task};

/// Makes them, or moves them forward, beside the cycle; finds out which are proven.
pub(super) fn keep(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
    postmaster: Option<i64>,
    wanted: &BTreeMap<SlotName, Wanted>,
) -> Flow<()> {
    let mut work = Vec::new();
    if sql.in_recovery {
        work.extend(advances(cluster, sql, wanted));
        work.extend(prove(c, cluster, sql, postmaster, wanted));
    } else {
        c.memory.slots.unproven.clear();
        c.memory.slots.found_in = None;
        if cluster.is_leader(c.me()) {
            c.memory.slots.led_on = sql.timeline;
            work.extend(creations(sql, wanted));
        }
    }
    if !work.is_empty() {
        drop(c.perform(Action::BeginSlotWork(work))?);
    }
    Ok(())
}

fn creations(sql: &SqlFacts, wanted: &BTreeMap<SlotName, Wanted>) -> Vec<SlotWork> {
    let missing = wanted
        .iter()
        .filter(|(name, _)| !sql.slots.iter().any(|slot| &slot.name == *name));
    let creations = missing.filter_map(|(name, wanted)| match &wanted.kind {
        Kind::Physical => None,
        Kind::Logical(logical) => Some(SlotWork::Create {
            name: name.clone(),
            logical: logical.clone(),
        }),
    });
    creations.collect()
}

/// The logical slots that are here as they are wanted.
fn present<'a>(
    sql: &'a SqlFacts,
    wanted: &'a BTreeMap<SlotName, Wanted>,
) -> impl Iterator<Item = &'a Slot> + 'a {
    sql.slots.iter().filter(|slot| {
        let kind = wanted.get(&slot.name).map(|wanted| &wanted.kind);
        let is_left_to_postgresql = slot.has_failover && slot.is_synced;
        !is_left_to_postgresql && kind.is_some_and(|kind| *kind != Kind::Physical && kind.is_of(slot))
    })
}

/// To where their user is on the primary, but not past what is replayed here. That only says something while the WAL here is
/// the primary's: where it has parted from that, the user has not been sent what is here.
fn advances(cluster: &Cluster, sql: &SqlFacts, wanted: &BTreeMap<SlotName, Wanted>) -> Vec<SlotWork> {
    let leaders = cluster.leader_member().and_then(|leader| leader.data.timeline);
    let is_another = leaders.is_some() && leaders != sql.timeline;
    if is_another || sql.replication_state != Some(ReplicationState::Streaming) {
        return Vec::new();
    }
    let replayed = sql.replayed.unwrap_or_default();
    let usable = present(sql, wanted).filter(|slot| !slot.is_active && !slot.is_lost && !slot.lacks_wal);
    let advances = usable.filter_map(|slot| {
        let to = published_position(cluster, &slot.name)?.min(replayed);
        (slot.confirmed_flush? < to).then(|| SlotWork::Advance {
            name: slot.name.clone(),
            database: slot
                .logical
                .as_ref()
                .map(|logical| logical.database.clone())
                .unwrap_or_default(),
            to,
        })
    });
    advances.collect()
}

/// Which of them can be used after a failover. `Some`: the leader is to be asked for what is not known of the others.
fn prove(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
    postmaster: Option<i64>,
    wanted: &BTreeMap<SlotName, Wanted>,
) -> Option<SlotWork> {
    let here: BTreeMap<&SlotName, &Slot> = present(sql, wanted).map(|slot| (&slot.name, slot)).collect();
    if sql.replication_state == Some(ReplicationState::Streaming) {
        c.memory.slots.led_on = None;
    }
    if are_those_of_the_leader(c, cluster, sql) {
        return None;
    }
    let leader = cluster.leader_member().filter(|leader| &leader.name != c.me());
    find(c, cluster, sql, postmaster, &here);
    c.memory.slots.unproven.retain(|name, _| here.contains_key(name));
    let leader = leader?;
    if let Some(horizons) = sql
        .slot_horizons
        .as_ref()
        .filter(|told| told.leader == leader.name && Some(told.asked_at) >= c.memory.slots.found_since)
    {
        take_proof(c, horizons, &here);
    }
    if c.memory.slots.unproven.is_empty() {
        return None;
    }
    Some(SlotWork::AskLeader {
        source: follow::source(c, leader)?,
        physical: upstream_slot(c.me(), &c.node().tags, cluster)?,
        logical: c.memory.slots.unproven.keys().cloned().collect(),
    })
}

/// What another server's start has brought along, or somebody has copied, is to be looked at anew, and all of it when there
/// is another leader: until our physical slot there keeps rows it may have thrown some away. While our member key is missing
/// the leader may drop that slot.
fn find(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    sql: &SqlFacts,
    postmaster: Option<i64>,
    here: &BTreeMap<&SlotName, &Slot>,
) {
    let now = c.now();
    let leader = cluster.leader_member().filter(|leader| &leader.name != c.me());
    let is_unknown_there = cluster.member(c.me()).is_none();
    let slots = &mut c.memory.slots;
    let under = leader.map(|leader| (leader.name.clone(), sql.timeline));
    let is_another_server = slots.found_in != postmaster;
    if is_another_server || is_unknown_there || (under.is_some() && slots.found_under != under) {
        let found = here.keys().map(|name| ((*name).clone(), None));
        slots.unproven = found.collect();
        slots.found_since = Some(now);
    }
    if is_another_server {
        let positions = here
            .iter()
            .filter_map(|(name, slot)| Some(((*name).clone(), slot.confirmed_flush?)));
        slots.found_at = positions.collect();
    }
    slots.found_in = postmaster;
    slots.found_under = under.or(slots.found_under.take());
}

/// A slot is proven when `catalog_xmin` of our physical slot on the primary lies between that of the logical slot there and
/// that of its copy: the primary keeps what the copy needs, and had not thrown it away before it began to.
fn take_proof(c: &mut Cycle<'_>, horizons: &SlotHorizons, here: &BTreeMap<&SlotName, &Slot>) {
    let Some(physical) = horizons.physical else { return };
    let mut proven = Vec::new();
    let found_at = &c.memory.slots.found_at;
    for (name, on_primary) in &mut c.memory.slots.unproven {
        if on_primary.is_none() {
            *on_primary = horizons.logical.get(name).copied();
        }
        let has_moved = |slot: &&&Slot| !slot.lacks_wal && slot.confirmed_flush > found_at.get(name).copied();
        let copy = here
            .get(name)
            .filter(has_moved)
            .and_then(|slot| slot.catalog_xmin);
        if let (Some(on_primary), Some(copy)) = (*on_primary, copy)
            && on_primary.is_not_after(physical)
            && physical.is_not_after(copy)
        {
            proven.push(name.clone());
        }
    }
    for name in proven {
        c.memory.slots.unproven.remove(&name);
        c.note(notes::slot_is_safe(&name));
    }
}

/// A server that does not run and was a primary when it ended has the slots of one, whatever agent was beside it.
pub(crate) fn notice_primary(c: &mut Cycle<'_>, control: &ControlData) -> Flow<()> {
    let was_primary = matches!(
        control.state,
        DatabaseState::InProduction | DatabaseState::ShuttingDown | DatabaseState::ShutDown
    );
    if was_primary && observe::server(c)?.is_stopped() {
        c.memory.slots.led_on = Some(control.timeline);
    }
    Ok(())
}

/// This server was the leader's, nothing has come from another since, and no other is known to have led.
fn are_those_of_the_leader(c: &Cycle<'_>, cluster: &Cluster, sql: &SqlFacts) -> bool {
    let Some(led_on) = c.memory.slots.led_on else {
        return false;
    };
    let own = c.memory.origin_of(led_on);
    let is_ours = |newest: &Promotion| match own {
        Some(own) => newest.origin == own,
        None => newest.origin.timeline == led_on && newest.promoter.as_ref() == Some(c.me()),
    };
    let is_newest = cluster.origins.0.last().is_none_or(is_ours);
    sql.timeline == Some(led_on) && cluster.timeline() <= Some(led_on) && is_newest
}

/// Says which logical slots may turn out not to be usable when this member is the primary. In a server that was started
/// since they were looked at none is proven.
pub(crate) fn warn_before_promotion(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<()> {
    let server = observe::server(c)?;
    let mut unproven: BTreeSet<SlotName> = c.memory.slots.unproven.keys().cloned().collect();
    if let Some(sql) = &server.sql {
        if are_those_of_the_leader(c, cluster, sql) {
            unproven.clear();
        } else if c.memory.slots.found_in != server.postmaster_started {
            let wanted = wanted(c, cluster, &[]);
            unproven = present(sql, &wanted).map(|slot| slot.name.clone()).collect();
        }
    }
    if !unproven.is_empty() {
        let unproven: Vec<SlotName> = unproven.into_iter().collect();
        c.note(notes::slots_might_be_unsafe(&unproven));
    }
    Ok(())
}

/// Begins to copy the logical slots that the leader has and this standby has not, or not with the WAL that they need. The
/// server is restarted for it; not while somebody waits for a handover.
pub(crate) fn copy_missing(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    if !c.node().use_slots || cluster.config.is_none() || cluster.failover.is_some() {
        return Ok(None);
    }
    let now = c.now();
    if c.memory.slots.copy_not_before.is_some_and(|until| now < until) {
        return Ok(None);
    }
    let Some(leader) = cluster.leader_member().filter(|leader| &leader.name != c.me()) else {
        return Ok(None);
    };
    let Some(sql) = observe::server(c)?.sql.filter(|sql| sql.in_recovery) else {
        return Ok(None);
    };
    let wanted = wanted(c, cluster, &[]);
    let is_missing = |name: &SlotName| {
        let slot = sql.slots.iter().find(|slot| &slot.name == name);
        slot.is_none_or(|slot| slot.lacks_wal && !slot.is_active)
    };
    let logical = wanted.iter().filter(|(_, wanted)| wanted.kind != Kind::Physical);
    let slots: Vec<SlotName> = logical
        .map(|(name, _)| name)
        .filter(|name| published_position(cluster, name).is_some() && is_missing(name))
        .cloned()
        .collect();
    let source = follow::source(c, leader).filter(|_| !slots.is_empty());
    let Some(source) = source else {
        return Ok(None);
    };
    let follow = follow::target(c, cluster);
    c.begin(Task::CopyLogicalSlots {
        leader: source,
        slots: slots.clone(),
        follow,
    })?;
    Ok(c.begun.is_some().then_some(Reason::CopyingLogicalSlots(slots)))
}
