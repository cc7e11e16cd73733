//! The consumer of the permanent logical slot: it reads from the primary what the slot has not been told to be received,
//! keeps it, and says so, now and then only later.

use std::collections::BTreeMap;
use std::time::Duration;

use ha::pg::{Lsn, SlotName};

use crate::slots::FEED;
use crate::wal::{Branch, Position};
use crate::world::{Id, World};

/// The consumer.
#[derive(Debug, Default)]
pub(crate) struct Consumer {
    /// How much of each branch it has; `None` before it has begun.
    has: Option<BTreeMap<Branch, Lsn>>,
    /// The server that it reads from, its life, and the branch that was read last.
    source: Option<(Id, u64)>,
    branch: Option<Branch>,
    away_until: Duration,
    /// How often it has begun with a new copy of everything.
    pub(crate) beginnings: u64,
}

impl Consumer {
    /// Whether it is connected to this life of a server.
    pub(crate) fn reads_from(&self, id: Id, life: u64) -> bool {
        self.source == Some((id, life))
    }

    /// Whether it has read what this branch holds.
    pub(crate) fn is_on(&self, branch: Branch) -> bool {
        self.branch == Some(branch)
    }

    /// Whether it has everything on the way to there.
    pub(crate) fn has_all(&self, reach: &BTreeMap<Branch, Lsn>) -> bool {
        self.has.as_ref().is_none_or(|has| {
            let mut reach = reach.iter();
            reach.all(|(branch, end)| has.get(branch).is_some_and(|has| end <= has))
        })
    }

    fn receive(&mut self, reach: BTreeMap<Branch, Lsn>) {
        let has = self.has.get_or_insert_default();
        for (branch, end) in reach {
            let has = has.entry(branch).or_default();
            *has = end.max(*has);
        }
    }
}

impl World {
    /// Everything on the way to a place of a member's WAL that is given by its LSN alone.
    pub(crate) fn reach_until(&self, id: Id, lsn: Lsn) -> BTreeMap<Branch, Lsn> {
        let Some(at) = self.position(id) else {
            return BTreeMap::new();
        };
        let mut reach = self.wal.reach(Position { lsn, ..at });
        for end in reach.values_mut() {
            *end = lsn.min(*end);
        }
        // What had not begun by then.
        let begun = |branch: &Branch| self.wal.begin(*branch) < lsn;
        reach.retain(|branch, _| begun(branch));
        reach
    }

    /// The consumer reads for a moment.
    pub(crate) fn consume(&mut self) {
        if self.random.percent(4) {
            let away = self.random.millis(1_000, 15_000);
            self.consumer.away_until = self.now + away;
        }
        let mut primaries = self.ids().filter(|id| self.takes_writes(*id));
        let (primary, another) = (primaries.next(), primaries.next());
        let primary = primary.filter(|id| {
            let is_leader = self.dcs.holder().as_ref() == Some(self.members[*id].name());
            another.is_none() && is_leader && self.now >= self.consumer.away_until
        });
        let Some(id) = primary else {
            self.consumer.source = None;
            return;
        };
        if !self.attach(id) {
            self.consumer.source = None;
            return;
        }
        self.consumer.source = Some((id, self.members[id].server.life));
        let (Some((_, logical)), Some(at)) = (self.feed(id), self.position(id)) else {
            return;
        };
        self.consumer.branch = Some(at.branch);
        let span = logical.confirmed.behind(at.lsn);
        let to = Lsn(logical.confirmed.0 + self.random.below(span + 1));
        let reach = self.reach_until(id, to);
        self.consumer.receive(reach);
        let all = self.random.percent(80);
        if self.random.percent(80)
            && let Some(slot) = self.feed_mut(id)
        {
            slot.confirm(to, all);
        }
    }

    /// Whether the consumer goes on from a primary's slot.
    fn attach(&mut self, id: Id) -> bool {
        let Some((slot, logical)) = self.feed(id) else {
            return false;
        };
        let Some(at) = self.position(id) else { return false };
        if self.consumer.is_on(at.branch) && !logical.is_new {
            return true;
        }
        if logical.is_new {
            self.marks.hit("slots: the consumer begins anew");
            self.note(id, || {
                format!("the consumer begins anew at {}", logical.confirmed)
            });
            self.consumer.beginnings += 1;
            let reach = self.reach_until(id, logical.confirmed);
            self.consumer.receive(reach);
            self.members[id].server.is_slot_doubtful = Some(false);
            if let Some(slot) = self.feed_mut(id) {
                slot.logical = Some(crate::slots::Logical {
                    is_new: false,
                    ..logical
                });
            }
            return true;
        }
        let Some(is_warned_of) = self.members[id].server.is_slot_doubtful else {
            return false;
        };
        let is_usable = self.check_slot(id, slot, is_warned_of);
        if is_usable && !is_warned_of {
            self.marks.hit("slots: the consumer goes on");
            // If it has nothing yet, all that was before is copied.
            let reach = self.reach_until(id, logical.confirmed);
            self.consumer.receive(reach);
            return true;
        }
        // Who was warned begins anew with a new slot.
        self.marks.hit(if is_usable {
            "slots: warned for nothing"
        } else {
            "slots: warned with reason"
        });
        self.note(id, || "the consumer drops the slot".to_owned());
        self.consumer.beginnings += 1;
        self.consumer.has = None;
        let server = &mut self.members[id].server;
        server.is_slot_doubtful = Some(false);
        if let Some(data) = server.data.as_mut() {
            data.slots.remove(&SlotName(FEED.to_owned()));
        }
        false
    }
}
