//! A client that writes to whichever member takes writes, and remembers what was acknowledged.

use ha::pg::Lsn;

use crate::wal::{Branch, Position, Wal};
use crate::world::{Owner, World};

/// The writes that were acknowledged and are not known to be lost.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    writes: Vec<Position>,
}

impl Ledger {
    /// Forgets the writes that a new primary does not have; how many these were.
    pub(crate) fn settle(&mut self, wal: &Wal, primary: Position) -> usize {
        let reach = wal.reach(primary);
        let before = self.writes.len();
        self.writes
            .retain(|write| reach.get(&write.branch).is_some_and(|end| write.lsn <= *end));
        before - self.writes.len()
    }

    /// How many a primary lacks.
    pub(crate) fn lost(&self, wal: &Wal, primary: Position) -> usize {
        let reach = wal.reach(primary);
        let has = |write: &&Position| reach.get(&write.branch).is_some_and(|end| write.lsn <= *end);
        self.writes.len() - self.writes.iter().filter(has).count()
    }

    fn add(&mut self, branch: Branch, lsn: Lsn) {
        // A later write on the same branch stands for the earlier ones only if all of them are counted: keep all.
        self.writes.push(Position { branch, lsn });
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
            self.ledger.add(at.branch, at.lsn);
            self.ship(id);
        }
        let delay = self.random.millis(50, 500);
        self.schedule(delay, Owner::World, Self::write_as_client);
    }
}
