//! Work on logical slots beside the cycle, and the job that copies them: the simulated counterpart of the program's workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ha::facts::{Moment, SlotHorizons, Source};
use ha::pg::SlotName;
use ha::step::{SlotWork, StopMode};

use crate::server::Process;
use crate::slots::{Logical, Slot};
use crate::world::{Id, World};

/// What an agent's workers do and have found out.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Goes up when everything is forgotten: what was begun before ends in nothing.
    number: u64,
    is_working: bool,
    is_asking: bool,
    asked_at: Moment,
    pub(crate) lacks_wal: BTreeSet<SlotName>,
    pub(crate) horizons: Option<SlotHorizons>,
    /// The states of the leader's slots, to be written when the server has stopped.
    read: BTreeMap<SlotName, Slot>,
}

impl Work {
    /// The slots will be others.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            number: self.number + 1,
            ..Self::default()
        };
    }
}

impl World {
    /// Begins what is not going on.
    pub(crate) fn begin_slot_work(&mut self, id: Id, work: Vec<SlotWork>) {
        self.done_after(id, Duration::from_millis(1), Ok(()));
        let (questions, items): (Vec<_>, Vec<_>) = work
            .into_iter()
            .partition(|item| matches!(item, SlotWork::AskLeader { .. }));
        for question in questions {
            self.ask_leader(id, question);
        }
        if items.is_empty() || self.members[id].agent.slot_work.is_working {
            return;
        }
        self.members[id].agent.slot_work.is_working = true;
        let life = self.members[id].server.life;
        let delay = self.random.mostly(2, 200, 10, 5_000);
        self.after_slot_work(id, delay, move |world, id| {
            world.members[id].agent.slot_work.is_working = false;
            let server = &world.members[id].server;
            if server.is_up() && server.life == life {
                for item in items {
                    world.do_slot_work(id, &item);
                }
            }
        });
    }

    fn after_slot_work(&mut self, id: Id, delay: Duration, act: impl FnOnce(&mut Self, Id) + 'static) {
        let number = self.members[id].agent.slot_work.number;
        let owner = self.as_agent(id);
        self.schedule(delay, owner, move |world| {
            if world.members[id].agent.slot_work.number == number {
                act(world, id);
            }
        });
    }

    fn do_slot_work(&mut self, id: Id, item: &SlotWork) {
        let server = &mut self.members[id].server;
        let is_primary = server.process == Process::Primary;
        let Some(data) = server.data.as_mut() else { return };
        match item {
            SlotWork::Create { name, .. } => {
                if is_primary && !data.slots.contains_key(name) {
                    let slot = Slot::logical(data);
                    data.slots.insert(name.clone(), slot);
                    self.marks.hit("slots: created");
                    self.note(id, || format!("creates slot {name}: {slot:?}"));
                }
            }
            SlotWork::Advance { name, to, .. } => {
                let wal_from = data.wal_from;
                let Some(slot) = data.slots.get_mut(name).filter(|slot| slot.logical.is_some()) else {
                    return;
                };
                if slot.restart_lsn < Some(wal_from) {
                    self.members[id].agent.slot_work.lacks_wal.insert(name.clone());
                    self.marks.hit("slots: a copy lacks WAL");
                } else {
                    slot.confirm(*to, true);
                }
            }
            SlotWork::AskLeader { .. } => {}
        }
    }

    fn ask_leader(&mut self, id: Id, question: SlotWork) {
        let SlotWork::AskLeader {
            source,
            physical,
            logical,
        } = question
        else {
            return;
        };
        if self.members[id].agent.slot_work.is_asking {
            return;
        }
        self.members[id].agent.slot_work.is_asking = true;
        self.members[id].agent.slot_work.asked_at = self.clock(id);
        let there = self.random.mostly(2, 100, 10, 2_000);
        let back = self.random.mostly(1, 20, 10, 2_000);
        self.after_slot_work(id, there, move |world, id| {
            let horizons = world.horizons(id, &source, &physical, &logical);
            world.after_slot_work(id, back, move |world, id| {
                let work = &mut world.members[id].agent.slot_work;
                work.is_asking = false;
                work.horizons = horizons.or(work.horizons.take());
            });
        });
    }

    fn horizons(
        &self,
        id: Id,
        source: &Source,
        physical: &SlotName,
        logical: &[SlotName],
    ) -> Option<SlotHorizons> {
        let leader = source.member.clone()?;
        let slots = self.slots_of(id, source)?;
        let xmin = |name: &SlotName, is_logical: bool| {
            let slot = slots.get(name)?;
            slot.catalog_xmin.filter(|_| slot.logical.is_some() == is_logical)
        };
        let logical = logical
            .iter()
            .filter_map(|name| Some((name.clone(), xmin(name, true)?)));
        Some(SlotHorizons {
            leader,
            asked_at: self.members[id].agent.slot_work.asked_at,
            physical: xmin(physical, false),
            logical: logical.collect(),
        })
    }

    /// The slots of a server that can be asked.
    fn slots_of(&self, id: Id, source: &Source) -> Option<&BTreeMap<SlotName, Slot>> {
        let other = self.source_server(source)?;
        let server = &self.members[other].server;
        let data = server.data.as_ref().filter(|_| server.is_up())?;
        self.reaches(id, other).then_some(&data.slots)
    }

    /// Reads what the slots are on the leader; they are written when the server has stopped.
    pub(crate) fn read_slots(&mut self, id: Id, leader: &Source, names: &[SlotName]) -> Result<(), String> {
        let slots = self.slots_of(id, leader).ok_or("could not connect")?;
        let states = names.iter().filter_map(|name| {
            let slot = slots.get(name)?;
            let logical = Logical {
                is_new: false,
                ..slot.logical?
            };
            let logical = Some(logical);
            Some((name.clone(), Slot { logical, ..*slot }))
        });
        let states: BTreeMap<_, _> = states.collect();
        if states.is_empty() {
            return Err("the leader has none of them".to_owned());
        }
        self.members[id].agent.slot_work.read = states;
        if self.members[id].server.process == Process::Down {
            self.server_is_down(id);
        } else {
            self.stop_server(id, StopMode::Fast, false);
        }
        Ok(())
    }

    /// Writes the slots that were read.
    pub(crate) fn write_slots(&mut self, id: Id) {
        let read = std::mem::take(&mut self.members[id].agent.slot_work.read);
        self.note(id, || format!("copies slots {read:?}"));
        self.marks.hit("slots: copied");
        let server = &mut self.members[id].server;
        server.is_slot_doubtful = None;
        if let Some(data) = server.data.as_mut() {
            data.slots.extend(read);
        }
    }
}
