//! Streaming replication: who is connected to whom, and what arrives when.

use std::time::Duration;

use ha::pg::Lsn;

use crate::server::{Process, Receiver};
use crate::wal::Position;
use crate::world::{Id, World};

/// `wal_receiver_timeout` and `wal_sender_timeout` as the program sets them.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

impl World {
    /// The member whose WAL this one receives.
    pub(crate) fn upstream(&self, id: Id) -> Option<Id> {
        self.members[id].server.receiver.map(|receiver| receiver.upstream)
    }

    /// A standby without a WAL receiver tries to start one, and again until it succeeds.
    pub(crate) fn connect_receiver(&mut self, id: Id) {
        let server = &self.members[id].server;
        if server.process != Process::Standby || server.receiver.is_some() || server.is_promoting {
            return;
        }
        if let Some(upstream) = self.possible_upstream(id) {
            self.members[id].server.receiver = Some(Receiver {
                upstream,
                is_stalled: false,
            });
            self.note(id, || format!("streams from m{}", upstream + 1));
            self.check_stream(id, upstream);
            self.ship_to(upstream, id);
            return;
        }
        let delay = self.random.mostly(100, 1000, 20, 5000);
        let owner = self.as_server(id);
        self.schedule(delay, owner, move |world| world.connect_receiver(id));
    }

    fn possible_upstream(&mut self, id: Id) -> Option<Id> {
        let server = &self.members[id].server;
        let source = server.running_source.as_ref()?;
        let upstream = self.source_server(source)?;
        if upstream == id || !self.reaches(id, upstream) || self.is_stuck(id) {
            return None;
        }
        let other = &self.members[upstream].server;
        if !other.is_up() {
            return None;
        }
        let (mine, theirs) = (server.data.as_ref()?, other.data.as_ref()?);
        if mine.system_identifier != theirs.system_identifier {
            return None;
        }
        if source
            .slot
            .as_ref()
            .is_some_and(|slot| !theirs.slots.contains_key(slot))
        {
            self.marks.hit("stream refused: no slot");
            return None;
        }
        let goes_on = self.wal.timeline(theirs.at.branch) > self.wal.timeline(mine.at.branch);
        if Some(upstream) == self.remote() && goes_on {
            // The WAL receiver fetches history files before it asks for WAL.
            let lineage = self.wal.lineage(theirs.at.branch);
            if let Some(data) = self.members[id].server.data.as_mut() {
                data.histories.extend(lineage);
            }
        }
        let server = &self.members[id].server;
        let (mine, theirs) = (
            server.data.as_ref()?,
            self.members[upstream].server.data.as_ref()?,
        );
        if !self.wal.includes(theirs.at, mine.at) {
            let same_number = self.wal.timeline(mine.at.branch) == self.wal.timeline(theirs.at.branch);
            let diverged = mine.at.branch != theirs.at.branch && same_number;
            self.marks.hit(if diverged {
                "stream refused: two timelines of one number"
            } else {
                "stream refused: history"
            });
            return None;
        }
        Some(upstream)
    }

    /// Its WAL receiver takes nothing.
    fn is_stuck(&self, id: Id) -> bool {
        self.now < self.members[id].server.stuck_until
    }

    /// Ends a standby's stream; it looks for a new one.
    pub(crate) fn disconnect_receiver(&mut self, id: Id) {
        let Some(receiver) = self.members[id].server.receiver.take() else {
            return;
        };
        self.end_stop_if_drained(receiver.upstream);
        let delay = self.random.millis(100, 1000);
        let owner = self.as_server(id);
        self.schedule(delay, owner, move |world| world.connect_receiver(id));
    }

    /// Sends what is new on a server to all who stream from it.
    pub(crate) fn ship(&mut self, upstream: Id) {
        for id in 0..self.members.len() {
            if self.upstream(id) == Some(upstream) {
                self.ship_to(upstream, id);
            }
        }
    }

    fn ship_to(&mut self, upstream: Id, id: Id) {
        let Some(position) = self.position(upstream) else {
            return;
        };
        let histories = self.members[upstream]
            .server
            .data
            .as_ref()
            .map(|data| data.histories.clone());
        let delay = if self.slow.replication {
            self.random.millis(200, 4000)
        } else {
            self.random.mostly(1, 10, 2, 300)
        };
        let receiver_life = self.members[id].server.life;
        self.schedule(delay, Self::WORLD, move |world| {
            if world.members[id].server.life != receiver_life || world.upstream(id) != Some(upstream) {
                return;
            }
            if world.reaches(id, upstream) && !world.is_stuck(id) {
                world.receive(id, position);
                if let (Some(data), Some(histories)) = (world.members[id].server.data.as_mut(), histories) {
                    data.histories.extend(histories);
                }
            } else {
                world.stall(id);
            }
        });
    }

    pub(crate) fn stall(&mut self, id: Id) {
        let Some(receiver) = self.members[id].server.receiver.as_mut() else {
            return;
        };
        if receiver.is_stalled {
            return;
        }
        receiver.is_stalled = true;
        let upstream = receiver.upstream;
        let life = self.members[id].server.life;
        self.schedule(STREAM_TIMEOUT, Self::WORLD, move |world| {
            let receiver = Receiver {
                upstream,
                is_stalled: true,
            };
            if world.members[id].server.life == life && world.members[id].server.receiver == Some(receiver) {
                world.disconnect_receiver(id);
            }
        });
    }

    /// What did not arrive is sent again when the network is back.
    pub(crate) fn resume_streams(&mut self) {
        for id in 0..self.members.len() {
            let Some(receiver) = self.members[id].server.receiver else {
                continue;
            };
            if receiver.is_stalled && self.reaches(id, receiver.upstream) && !self.is_stuck(id) {
                self.members[id].server.receiver = Some(Receiver {
                    is_stalled: false,
                    ..receiver
                });
                self.ship_to(receiver.upstream, id);
            }
        }
    }

    fn receive(&mut self, id: Id, position: Position) {
        let server = &mut self.members[id].server;
        let Some(data) = server.data.as_mut() else { return };
        if self.wal.includes(position, data.at) {
            data.at = position;
            data.histories.extend(self.wal.lineage(position.branch));
        }
        let delay = if self.slow.replication {
            self.random.millis(100, 5000)
        } else {
            self.random.millis(0, 15)
        };
        let owner = self.as_server(id);
        let lsn = position.lsn;
        self.schedule(delay, owner, move |world| world.replay(id, lsn));
        self.ship(id);
        if let Some(upstream) = self.upstream(id) {
            self.acknowledge(upstream);
            self.end_stop_if_drained(upstream);
        }
    }

    fn replay(&mut self, id: Id, lsn: Lsn) {
        if let Some(data) = self.members[id].server.data.as_mut() {
            data.replayed = data.replayed.max(lsn).min(data.at.lsn);
        }
    }
}
