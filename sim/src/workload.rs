//! A client that writes to whichever member takes writes, and remembers what was acknowledged.

use std::collections::BTreeMap;

use ha::pg::Lsn;
use ha::standby_names::{Method, StandbyNames};

use crate::server::Process;
use crate::wal::{Branch, Position, Wal};
use crate::world::{Id, Owner, World};

/// The writes that were acknowledged and are not known to be lost.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    writes: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    at: Position,
    /// By the rules of synchronous replication it may not get lost.
    must_last: bool,
}

impl Write {
    fn is_in(&self, reach: &BTreeMap<Branch, Lsn>) -> bool {
        reach.get(&self.at.branch).is_some_and(|end| self.at.lsn <= *end)
    }
}

/// What a new primary lacks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lost {
    /// Acknowledged writes.
    pub(crate) writes: usize,
    /// Of these, those that may not get lost.
    pub(crate) must_last: usize,
}

impl Ledger {
    /// Forgets the writes that a new primary does not have; how many these were.
    pub(crate) fn settle(&mut self, wal: &Wal, primary: Position) -> Lost {
        let reach = wal.reach(primary);
        let before = self.writes.len();
        let lost = self.writes.iter().filter(|write| !write.is_in(&reach));
        let must_last = lost.filter(|write| write.must_last).count();
        self.writes.retain(|write| write.is_in(&reach));
        Lost {
            writes: before - self.writes.len(),
            must_last,
        }
    }

    /// How many a primary lacks.
    pub(crate) fn lost(&self, wal: &Wal, primary: Position) -> usize {
        let reach = wal.reach(primary);
        self.writes.iter().filter(|write| !write.is_in(&reach)).count()
    }

    fn add(&mut self, at: Position, must_last: bool) {
        // A later write on the same branch stands for the earlier ones only if all of them are counted: keep all.
        self.writes.push(Write { at, must_last });
    }
}

impl World {
    /// Writes that the only primary lacks are not counted from here on.
    pub(crate) fn forget_lost_writes(&mut self) {
        let primary = (0..self.members.len()).find(|id| self.takes_writes(*id));
        if let Some(position) = primary.and_then(|id| self.position(id)) {
            self.ledger.settle(&self.wal, position);
        }
    }

    /// Acknowledges what the standbys have that commits wait for.
    pub(crate) fn acknowledge(&mut self, id: Id) {
        let server = &self.members[id].server;
        if server.process != Process::Primary || self.members[id].is_frozen || server.waiting.is_empty() {
            return;
        }
        let names = server.running_names.clone();
        let Some(at) = self.position(id) else { return };
        let mut have: Vec<Lsn> = (0..self.members.len())
            .filter(|other| self.upstream(*other) == Some(id) && self.reaches(*other, id))
            .filter(|other| names.names.contains(self.members[*other].name()))
            .filter_map(|other| self.position(other))
            .filter(|theirs| self.wal.includes(at, *theirs))
            .map(|theirs| theirs.lsn)
            .collect();
        have.sort_unstable_by_key(|lsn| std::cmp::Reverse(*lsn));
        let released = match names.number {
            0 => at.lsn,
            number => have.get(number - 1).copied().unwrap_or_default(),
        };
        let is_lone = (0..self.members.len())
            .filter(|id| self.takes_writes(*id))
            .count()
            == 1;
        let must_last = self.plan.is_synchronous() && is_lone && !self.is_hazard(id);
        let waiting = std::mem::take(&mut self.members[id].server.waiting);
        let (done, waiting): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(write, _)| write.lsn <= released);
        self.members[id].server.waiting = waiting;
        if self.plan.is_synchronous() && !names.is_off() && !done.is_empty() {
            self.marks.hit("acknowledged by a standby");
        }
        for (write, _) in done {
            self.ledger.add(write, must_last);
        }
    }

    /// How a standby counts for the commits of its upstream.
    pub(crate) fn sync_state(&self, id: Id, standby: Id) -> &'static str {
        let names = &self.members[id].server.running_names;
        if !names.names.contains(self.members[standby].name()) {
            return "async";
        }
        match names.method {
            Method::First => "sync",
            Method::Any => "quorum",
        }
    }

    /// Writes `synchronous_standby_names`, and has a running server read it.
    pub(crate) fn set_names(&mut self, id: Id, names: StandbyNames) {
        let server = &mut self.members[id].server;
        if let Some(data) = server.data.as_mut() {
            data.names.clone_from(&names);
        }
        if server.is_up() {
            server.running_names = names;
            self.acknowledge(id);
        }
    }

    /// One write, and the next one later.
    pub(crate) fn write_as_client(&mut self) {
        let open: Vec<_> = (0..self.members.len())
            .filter(|id| self.takes_writes(*id))
            .collect();
        for id in open {
            let bytes = self.random.below(4000) + 40;
            let Some(data) = self.members[id].server.data.as_mut() else {
                continue;
            };
            data.at.lsn = Lsn(data.at.lsn.0 + bytes);
            data.replayed = data.at.lsn;
            let at = data.at;
            let now = self.now;
            self.members[id].server.waiting.push((at, now));
            self.acknowledge(id);
            self.ship(id);
        }
        let delay = self.random.millis(50, 500);
        self.schedule(delay, Owner::World, Self::write_as_client);
    }
}
