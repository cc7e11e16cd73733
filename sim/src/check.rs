//! The rules that hold at every moment of a run.

use std::time::Duration;

use ha::cluster::{Failover, FailoverKind};
use ha::invariants;
use ha::pg::{DatabaseState, SlotName};

use crate::slots::{FEED, Slot};
use crate::wal::Branch;
use crate::workload::Lost;
use crate::world::{Handover, Id, World};

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, in simulated time.
    pub at: Duration,
    /// Which rule, and by whom.
    pub text: String,
}

impl World {
    /// What holds after every event.
    pub(crate) fn check(&mut self) {
        self.check_lease();
        self.check_standby_cluster();
        let writable: Vec<Id> = (0..self.members.len())
            .filter(|id| self.takes_writes(*id))
            .collect();
        if invariants::at_most_one_primary(writable.len()) {
            return;
        }
        let is_hazard = |id: &Id| self.is_hazard(*id);
        if writable.iter().any(is_hazard) {
            self.marks.hit("two primaries after a hazard");
            return;
        }
        let names: Vec<String> = writable
            .iter()
            .map(|id| self.members[*id].name().to_string())
            .collect();
        self.break_rule_text(format!("two members take writes: {}", names.join(", ")));
    }

    /// A lease is one member's, whatever it is good for.
    fn check_lease(&mut self) {
        let believes = |id: &Id| {
            let member = &self.members[*id];
            let lock = member.agent.memory().lock.filter(|_| member.agent.rests());
            !member.is_frozen && lock.is_some_and(|lock| self.clock(*id) < lock.valid_until)
        };
        let mut believers = self.ids().filter(believes);
        let (first, second) = (believers.next(), believers.next());
        if let (Some(first), Some(second)) = (first, second) {
            let first = self.members[first].name().clone();
            self.break_rule(second, &format!("believes in its lease, and so does {first}"));
        }
    }

    /// Two primaries are to be expected because of this member: it has just woken, or goes on in pause.
    pub(crate) fn is_hazard(&self, id: Id) -> bool {
        let member = &self.members[id];
        member.hazard_until > self.now || member.agent.is_paused()
    }

    /// All members have agreed that it leads, though its key has run out in the store.
    fn leads_by_failsafe(&self, id: Id) -> bool {
        let until = self.members[id].agent.memory().failsafe.until;
        until.is_some_and(|until| self.clock(id) < until)
    }

    /// Its key went with a store that was replaced while its lock was valid.
    fn leads_by_former_key(&self, id: Id) -> bool {
        let is_replaced = self.dcs.store.generation() > 0;
        let is_locked = self.members[id].agent.memory().holds_lock(self.clock(id));
        self.dcs.holder().is_none() && is_replaced && is_locked
    }

    /// A promotion begins: the leader key must be this member's in the store.
    pub(crate) fn check_promotion(&mut self, id: Id) {
        let holder = self.dcs.holder();
        if self.leads_by_former_key(id) {
            return;
        }
        if !invariants::may_promote(holder.as_ref(), self.members[id].name()) {
            self.break_rule(id, &format!("promotes itself while the leader key is {holder:?}"));
        }
    }

    /// A server has become a primary.
    pub(crate) fn check_becomes_primary(&mut self, id: Id, how: &str) {
        let takes_clients = self.members[id]
            .server
            .data
            .as_ref()
            .is_some_and(|data| data.takes_clients);
        let holder = self.dcs.holder();
        let is_holder = holder.as_ref() == Some(self.members[id].name());
        let leads_without_key =
            holder.is_none() && (self.leads_by_failsafe(id) || self.leads_by_former_key(id));
        if takes_clients && !is_holder && !leads_without_key && !self.is_hazard(id) {
            self.break_rule(id, &format!("{how} while the leader key is {holder:?}"));
        }
        if self.last_primary != Some(id) && takes_clients {
            self.marks.hit("another primary");
            self.last_primary = Some(id);
        }
    }

    /// A new primary: what was acknowledged and is lost now. In quiet, nothing may be.
    pub(crate) fn check_handover(&mut self, id: Id) {
        let Some(position) = self.position(id) else { return };
        if self.plan.is_synchronous() && self.dcs.holder().as_ref() != Some(self.members[id].name()) {
            // A host that stood still while its promotion was under way: not the primary whom clients go on with.
            self.marks.hit("promotion of the past");
            return;
        }
        let lost = self.ledger.settle(&self.wal, position);
        // Which standbys were waited for stood in a store that is gone.
        let is_accepted = self.accepts_loss || self.knows_new_store_only(id);
        // Another member may be promoted before the one that was asked for.
        self.accepts_loss &= self.dcs.newest().failover.is_some();
        let Lost {
            writes: lost,
            must_last,
        } = lost;
        if lost > 0 {
            self.marks.hit("writes lost");
            self.note(id, || format!("{lost} acknowledged writes are lost"));
        }
        if must_last > 0 && !is_accepted {
            self.break_rule(
                id,
                &format!("lacks {must_last} writes that standbys were waited for"),
            );
        }
        if let Some(released) = self.released.take().filter(|_| lost > 0) {
            let from = released.from + 1;
            self.break_rule(
                id,
                &format!("{lost} acknowledged writes were lost in a planned switchover from m{from}"),
            );
        }
        let Some(handover) = self.handover else { return };
        if handover.begun <= self.disturbed_at {
            return;
        }
        self.marks.hit("quiet handover");
        // Nobody had the last WAL, so the key was kept, and ran out: from there on it is a failover.
        let kept = self.members[handover.from].agent.reason == "ShutDownWithKey";
        if lost > 0 && !kept {
            let from = handover.from + 1;
            self.break_rule(
                id,
                &format!("{lost} acknowledged writes were lost in a handover from m{from}"),
            );
        }
    }

    /// The leader key is released for a switchover: if nothing is wrong, the next primary has all that was acknowledged.
    pub(crate) fn notice_release(&mut self, id: Id) {
        let asked = self.dcs.newest().failover.as_ref().map(Failover::kind);
        let is_stopped = self.members[id]
            .server
            .data
            .as_ref()
            .is_some_and(|data| data.state == DatabaseState::ShutDown);
        let is_calm = self.cut.is_empty()
            && self.cut_from_dcs.is_empty()
            && !self.dcs.is_down
            && self.members.iter().all(|member| !member.is_frozen);
        self.released = None;
        if asked == Some(FailoverKind::Switchover) && is_stopped && is_calm {
            self.marks.hit("key released for a switchover");
            self.released = Some(Handover {
                from: id,
                begun: self.now,
            });
        }
    }

    /// A standby streams: only within one cluster.
    pub(crate) fn check_stream(&mut self, id: Id, upstream: Id) {
        let identifier = |id: Id| {
            self.members[id]
                .server
                .data
                .as_ref()
                .map(|data| data.system_identifier.clone())
        };
        if identifier(id) != identifier(upstream) {
            self.break_rule(id, "streams from a server of another cluster");
        }
        if self.members[id].is_foreign {
            self.break_rule(id, "joined a cluster that is not its own");
        }
    }

    /// A data directory is about to be replaced: not the primary's.
    pub(crate) fn check_clone(&mut self, id: Id) {
        let holds_key = self.dcs.holder().as_ref() == Some(self.members[id].name());
        if holds_key && self.members[id].server.is_good() {
            self.break_rule(id, "clones over its data while it holds the leader key");
        }
        if self.members[id].is_foreign && !self.members[id].reinitialize_is_asked {
            self.break_rule(id, "clones over another cluster's data");
        }
        self.members[id].is_foreign = false;
    }

    /// Whether the cluster is as it should be: one primary with the key, and everybody streams from it.
    pub(crate) fn trouble(&self) -> Option<String> {
        if self.plan.is_standby_cluster {
            return self.standby_trouble();
        }
        let primaries: Vec<Id> = (0..self.members.len())
            .filter(|id| self.takes_writes(*id))
            .collect();
        let [primary] = primaries[..] else {
            return Some(format!("{} members take writes", primaries.len()));
        };
        let name = self.members[primary].name();
        if self.dcs.holder().as_ref() != Some(name) {
            return Some(format!("{name} takes writes and the key is not its own"));
        }
        let mut followers = self
            .ids()
            .filter(|id| *id != primary && !self.hangs_on_foreign(*id))
            .filter(|id| self.plan.without_stream != Some(*id));
        let since = self.members[primary]
            .server
            .waiting
            .first()
            .map(|(_, since)| *since);
        let may_wait =
            self.plan.is_strict && !self.ids().any(|id| id != primary && self.may_be_waited_for(id));
        if !may_wait && since.is_some_and(|since| self.now > since + Duration::from_secs(10)) {
            let names = &self.members[primary].server.running_names;
            return Some(format!("commits wait on {name} for {names}"));
        }
        let behind = followers.find(|id| !self.streams_from(*id, primary));
        let trouble = behind.map(|id| {
            let member = &self.members[id];
            let reason = &member.agent.reason;
            format!(
                "{} does not stream from {name}: {reason}, {:?}",
                member.name(),
                member.server.process
            )
        });
        trouble.or_else(|| self.slot_trouble(primary))
    }

    /// A permanent logical slot is on the primary and in use, and others have copies that can be used after a failover.
    fn slot_trouble(&self, primary: Id) -> Option<String> {
        if !self.is_to_have_feed(primary) {
            return None;
        }
        let name = self.members[primary].name();
        let branch = self.position(primary)?.branch;
        if self.feed(primary).is_none() {
            return Some(format!("{name} has no logical slot"));
        }
        if !self.consumer.is_on(branch) {
            return Some(format!("the consumer does not read from {name}"));
        }
        let mut others = self
            .ids()
            .filter(|id| *id != primary && self.is_to_have_feed(*id));
        let other = others.find(|id| !self.members[*id].is_foreign && !self.is_feed_ready(*id))?;
        let (name, slot) = (self.members[other].name(), self.feed(other));
        Some(format!(
            "{name} has no copy of the logical slot that is safe to use: {slot:?}"
        ))
    }

    /// A permanent logical slot is dropped by the agent.
    pub(crate) fn check_slot_drop(&mut self, id: Id, name: &SlotName) {
        if name.0 == FEED && self.is_to_have_feed(id) {
            self.break_rule(id, "drops the permanent logical slot");
        }
    }

    /// What keeps the consumer from going on from a member's slot.
    fn slot_flaw(&self, id: Id, slot: Slot) -> Option<&'static str> {
        let confirmed = slot.logical.map(|logical| logical.confirmed);
        let reach = self.reach_until(id, confirmed.unwrap_or_default());
        let wal_from = self.members[id].server.data.as_ref().map(|data| data.wal_from);
        let has_rows = match (self.rows_from(id), slot.catalog_xmin) {
            (Some(rows_from), Some(needed)) => rows_from.is_not_after(needed),
            (_, _) => true,
        };
        if !self.consumer.has_all(&reach) {
            Some("is ahead of what its consumer has confirmed")
        } else if slot.restart_lsn < wal_from {
            Some("needs WAL that was removed")
        } else {
            (!has_rows).then_some("needs catalog rows that were removed")
        }
    }

    /// Whether the consumer can go on from a new primary's slot; it must, if nobody was warned of it.
    pub(crate) fn check_slot(&mut self, id: Id, slot: Slot, is_warned_of: bool) -> bool {
        let Some(flaw) = self.slot_flaw(id, slot) else {
            return true;
        };
        self.note(id, || format!("the slot {flaw}: {slot:?}"));
        if !is_warned_of {
            self.break_rule(id, &format!("its logical slot is said to be safe and {flaw}"));
        }
        false
    }

    /// A copy that is said to be safe is so; until the next cycle after another leader has come it may still be said.
    pub(crate) fn check_copy(&mut self, id: Id) {
        if !self.is_feed_ready(id) {
            return;
        }
        let Some((slot, _)) = self.feed(id) else { return };
        // What somebody was warned of before is over.
        self.members[id].server.is_slot_doubtful = None;
        if let Some(flaw) = self.slot_flaw(id, slot) {
            self.marks.hit(&format!("slots: a copy {flaw}"));
            self.note(id, || format!("its copy {flaw}: {slot:?}"));
        }
    }

    /// Whether two members' WAL parted in a way that a member cannot see, or cannot mend by pg_rewind: by timelines of
    /// one number, which were given by promotions that did not know of each other.
    pub(crate) fn timelines_collide(&self, id: Id, other: Id) -> bool {
        let (Some(mine), Some(theirs)) = (self.position(id), self.position(other)) else {
            return false;
        };
        let wal = &self.wal;
        let is_same_number = |a: Branch, b: Branch| a != b && wal.timeline(a) == wal.timeline(b);
        let theirs_all = wal.lineage(theirs.branch);
        let is_hidden = wal.lineage(mine.branch).into_iter().any(|a| {
            theirs_all
                .iter()
                .any(|b| is_same_number(a, *b) && wal.history(a) == wal.history(*b))
        });
        is_hidden || (is_same_number(mine.branch, theirs.branch) && !self.plan.may_remove_data)
    }

    /// Whether a member's WAL comes from the primary, perhaps by way of others.
    /// The member, or one that it replicates from, has another cluster's data until somebody mends that.
    fn hangs_on_foreign(&self, id: Id) -> bool {
        let mut at = id;
        for _ in 0..self.members.len() {
            if self.members[at].is_foreign {
                return true;
            }
            let upstream = self.plan.replicate_from.iter().find(|(member, _)| *member == at);
            let Some((_, upstream)) = upstream else {
                return false;
            };
            at = *upstream;
        }
        false
    }

    /// Whether the primary's commits can wait for a member: it streams from the primary itself, and its tags permit it.
    fn may_be_waited_for(&self, id: Id) -> bool {
        let plan = &self.plan;
        let is_cascaded = plan.replicate_from.iter().any(|(member, _)| *member == id);
        let is_nosync = plan.has_nosync && id + 1 == plan.members;
        !self.members[id].is_foreign && !is_cascaded && !is_nosync && plan.without_stream != Some(id)
    }

    pub(crate) fn streams_from(&self, id: Id, primary: Id) -> bool {
        let mut at = id;
        for _ in 0..self.members.len() {
            match self.members[at].server.receiver {
                Some(receiver) if receiver.is_stalled => return false,
                Some(receiver) if receiver.upstream == primary => return true,
                Some(receiver) => at = receiver.upstream,
                None => return false,
            }
        }
        false
    }

    /// Ends the run: a member has broken a rule.
    pub(crate) fn break_rule(&mut self, id: Id, rule: &str) {
        let name = self.members[id].name().clone();
        self.break_rule_text(format!("{name}: {rule}"));
    }

    /// Ends the run.
    pub(crate) fn break_rule_text(&mut self, text: String) {
        self.note_world(|| format!("VIOLATION: {text}"));
        if self.violation.is_none() {
            self.violation = Some(Violation { at: self.now, text });
        }
    }
}
