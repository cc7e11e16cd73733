//! Replication slots of a server, and what they keep: WAL, and on the primary the catalog rows that decoding needs.
//!
//! Transaction ids follow from places in the WAL. A slot's `catalog_xmin` and `restart_lsn` move to a record of running
//! transactions before what its consumer has confirmed; such records are written every [`RECORD_INTERVAL`] bytes.

use ha::facts::{LogicalSlot, Slot as SlotFacts};
use ha::pg::{Lsn, SlotName, Xid};
use ha::step::SlotChange;

use crate::server::{Data, Process};
use crate::wal::Position;
use crate::world::{Id, World};

/// The name of the permanent logical slot.
pub(crate) const FEED: &str = "feed";
/// Its database.
pub(crate) const DATABASE: &str = "app";
/// Its output plugin.
pub(crate) const PLUGIN: &str = "pgoutput";

/// How far apart the records of running transactions are; a power of two.
const RECORD_INTERVAL: u64 = 0x2000;

/// A replication slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) restart_lsn: Option<Lsn>,
    /// A physical one: the standby has told which rows it sees.
    pub(crate) has_xmin: bool,
    pub(crate) catalog_xmin: Option<Xid>,
    /// `None` for a physical one.
    pub(crate) logical: Option<Logical>,
}

/// What a logical slot has besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Logical {
    /// `confirmed_flush_lsn`
    pub(crate) confirmed: Lsn,
    /// It was made here and not copied, nobody has used it yet, nor was it moved to where its user is elsewhere.
    pub(crate) is_new: bool,
}

impl Slot {
    fn physical(restart_lsn: Option<Lsn>) -> Self {
        Self {
            restart_lsn,
            has_xmin: false,
            catalog_xmin: None,
            logical: None,
        }
    }

    /// A logical slot that is made at the end of a primary's WAL.
    pub(crate) fn logical(data: &Data) -> Self {
        let at = data.at.lsn;
        Self {
            restart_lsn: Some(at),
            has_xmin: false,
            catalog_xmin: Some(xid(at)),
            logical: Some(Logical {
                confirmed: at,
                is_new: true,
            }),
        }
    }

    /// What is before `to` was decoded and is not needed any more. With `all`, a record of running transactions lets the
    /// slot give up what it has kept.
    pub(crate) fn confirm(&mut self, to: Lsn, all: bool) {
        let Some(logical) = self.logical.as_mut() else {
            return;
        };
        logical.confirmed = logical.confirmed.max(to);
        logical.is_new = false;
        if all {
            let record = record_before(logical.confirmed);
            self.restart_lsn = self.restart_lsn.max(Some(record));
            self.catalog_xmin = self.catalog_xmin.map(|xmin| newer(xmin, xid(record)));
        }
    }

    /// As the local server tells of it.
    pub(crate) fn facts(&self, name: &SlotName, is_active: bool, lacks_wal: bool) -> SlotFacts {
        SlotFacts {
            name: name.clone(),
            logical: self.logical.map(|_| LogicalSlot {
                database: DATABASE.to_owned(),
                plugin: PLUGIN.to_owned(),
            }),
            is_active,
            restart_lsn: self.restart_lsn,
            confirmed_flush: self.logical.map(|logical| logical.confirmed),
            has_xmin: self.has_xmin,
            catalog_xmin: self.catalog_xmin,
            is_lost: false,
            lacks_wal,
            has_failover: false,
            is_synced: false,
        }
    }

    /// `hot_standby_feedback` has arrived, or, without rows that the standby sees, that it is off.
    fn take_feedback(&mut self, has_xmin: bool, catalog_xmin: Option<Xid>) {
        self.has_xmin = has_xmin;
        // It does not move back.
        self.catalog_xmin = match (self.catalog_xmin, catalog_xmin) {
            (Some(kept), Some(told)) => Some(newer(kept, told)),
            (_, told) => told,
        };
    }
}

fn record_before(lsn: Lsn) -> Lsn {
    Lsn(lsn.0 & !(RECORD_INTERVAL - 1))
}

/// The next transaction's id where the WAL ends there.
fn xid(lsn: Lsn) -> Xid {
    Xid((lsn.0 >> 6) as u32)
}

fn older(a: Xid, b: Xid) -> Xid {
    if a.is_not_after(b) { a } else { b }
}

fn newer(a: Xid, b: Xid) -> Xid {
    if a.is_not_after(b) { b } else { a }
}

/// From where on a primary has all catalog rows, after this place of the WAL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vacuum {
    at: Position,
    rows_from: Xid,
}

impl World {
    /// What goes on in servers with logical slots; and again later.
    pub(crate) fn keep_slots(&mut self) {
        for id in self.ids() {
            if self.random.percent(40) {
                self.send_feedback(id);
            }
            if self.random.percent(25) {
                self.vacuum(id);
            }
            if self.random.percent(30) {
                self.remove_wal(id);
            }
            self.check_copy(id);
        }
        self.consume();
        let delay = self.random.millis(100, 2000);
        self.schedule(delay, Self::WORLD, Self::keep_slots);
    }

    /// A standby tells its upstream what it needs.
    fn send_feedback(&mut self, id: Id) {
        let server = &self.members[id].server;
        let receiver = server.receiver.filter(|receiver| !receiver.is_stalled);
        let Some(upstream) = receiver.map(|receiver| receiver.upstream) else {
            return;
        };
        let slot = server
            .running_source
            .as_ref()
            .and_then(|source| source.slot.clone());
        let (Some(slot), Some(data)) = (slot, server.data.as_ref()) else {
            return;
        };
        if self.members[id].is_frozen || !self.reaches(id, upstream) {
            return;
        }
        let is_on = server.has_feedback;
        let xmins = data.slots.values().filter_map(|slot| slot.catalog_xmin);
        let catalog_xmin = xmins.reduce(older).filter(|_| is_on);
        let upstream = self.members[upstream].server.data.as_mut();
        if let Some(slot) = upstream.and_then(|data| data.slots.get_mut(&slot)) {
            slot.take_feedback(is_on, catalog_xmin);
            let slot = *slot;
            self.note(id, || format!("its feedback makes its slot {slot:?}"));
        }
    }

    /// A primary removes catalog rows that nobody needs.
    fn vacuum(&mut self, id: Id) {
        if !self.takes_writes(id) {
            return;
        }
        let Some(data) = self.members[id].server.data.as_mut() else {
            return;
        };
        let kept = data.slots.values().filter_map(|slot| slot.catalog_xmin);
        let rows_from = kept.fold(xid(data.at.lsn), older);
        data.at.lsn = Lsn(data.at.lsn.0 + 0x40);
        data.replayed = data.at.lsn;
        let at = data.at;
        self.vacuums.push(Vacuum { at, rows_from });
        self.note(id, || format!("removes catalog rows before {}", rows_from.0));
        self.ship(id);
    }

    /// From where on a server has all catalog rows.
    pub(crate) fn rows_from(&self, id: Id) -> Option<Xid> {
        let reach = self.wal.reach(self.position(id)?);
        let is_here = |at: &Position| reach.get(&at.branch).is_some_and(|end| at.lsn <= *end);
        let here = self.vacuums.iter().filter(|vacuum| is_here(&vacuum.at));
        here.map(|vacuum| vacuum.rows_from).reduce(newer)
    }

    /// A checkpoint or restartpoint removes WAL that no slot needs.
    fn remove_wal(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        let is_up = server.is_up();
        let Some(data) = server.data.as_mut().filter(|_| is_up) else {
            return;
        };
        let logical = data.slots.values().filter(|slot| slot.logical.is_some());
        let needed = logical.filter_map(|slot| slot.restart_lsn).min();
        let until = needed.map_or(data.replayed, |needed| needed.min(data.replayed));
        data.wal_from = data.wal_from.max(until);
    }

    /// A slot is in use: a standby streams through it, or the consumer reads from it.
    pub(crate) fn is_slot_active(&self, id: Id, name: &SlotName) -> bool {
        let is_consumed = name.0 == FEED && self.consumer.reads_from(id, self.members[id].server.life);
        is_consumed || self.slot_user(id, &name.0).is_some()
    }

    pub(crate) fn change_slots(&mut self, id: Id, changes: Vec<SlotChange>) -> Result<(), String> {
        let at = self.position(id).map(|position| position.lsn);
        let is_active = |change: &SlotChange| match change {
            SlotChange::Drop(name) => self.is_slot_active(id, name),
            SlotChange::CreatePhysical(_) | SlotChange::Advance(..) => false,
        };
        // PostgreSQL does not drop a slot that is in use.
        let changes: Vec<SlotChange> = changes.into_iter().filter(|change| !is_active(change)).collect();
        if !self.members[id].server.is_up() {
            return Err("could not connect".to_owned());
        }
        for change in changes {
            if let SlotChange::Drop(name) = &change {
                self.check_slot_drop(id, name);
            }
            let data = self.members[id].server.data.as_mut();
            let slots = &mut data.ok_or("no data directory")?.slots;
            match change {
                SlotChange::CreatePhysical(name) => {
                    slots.entry(name).or_insert(Slot::physical(at));
                }
                SlotChange::Drop(name) => {
                    slots.remove(&name);
                }
                SlotChange::Advance(name, lsn) => {
                    if let Some(slot) = slots.get_mut(&name) {
                        slot.restart_lsn = Some(lsn);
                    }
                }
            }
        }
        Ok(())
    }

    /// A logical slot that a server has, with what it has been told to be.
    pub(crate) fn feed(&self, id: Id) -> Option<(Slot, Logical)> {
        let data = self.members[id].server.data.as_ref()?;
        let slot = data.slots.get(&SlotName(FEED.to_owned()))?;
        Some((*slot, slot.logical?))
    }

    /// The same, to be changed.
    pub(crate) fn feed_mut(&mut self, id: Id) -> Option<&mut Slot> {
        let data = self.members[id].server.data.as_mut()?;
        data.slots.get_mut(&SlotName(FEED.to_owned()))
    }

    /// A member that has the permanent logical slot, or a copy of it, when all is well.
    pub(crate) fn is_to_have_feed(&self, id: Id) -> bool {
        self.plan.has_logical_slot && !self.members[id].node.tags.nofailover()
    }

    /// By what its agent believes, a standby's copy can be used after a failover.
    pub(crate) fn is_feed_ready(&self, id: Id) -> bool {
        let member = &self.members[id];
        let known = &member.agent.memory().slots;
        member.server.process == Process::Standby
            && self.feed(id).is_some()
            && known.found_in == Some(member.server.started)
            && !known.unproven.contains_key(&SlotName(FEED.to_owned()))
    }
}
