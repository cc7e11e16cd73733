//! What goes wrong with the store itself: it refuses writes, is wiped, or is restored from a backup.

use std::time::Duration;

use ::dcs::memory::{Refused, Store};
use ::dcs::{Op, Txn};

use crate::world::World;

impl World {
    /// The store refuses writes for a while.
    pub(crate) fn refuse_writes(&mut self, why: Refused, duration: Duration) {
        if self.dcs.store.refuses().is_some() {
            return;
        }
        self.dcs.store.refuse(Some(why));
        self.schedule(duration, Self::WORLD, Self::accept_writes);
    }

    /// The store takes writes again.
    pub(crate) fn accept_writes(&mut self) {
        if self.dcs.store.refuses().is_none() {
            return;
        }
        self.disturb();
        self.note_world(|| "the store takes writes again".to_owned());
        self.dcs.store.refuse(None);
    }

    /// Somebody deletes the store's data and starts it empty. That is done to a cluster that runs: what nobody knows any more
    /// cannot be written again.
    pub(crate) fn wipe_store(&mut self) {
        let all_run = self.ids().all(|id| {
            let member = &self.members[id];
            member.agent.is_alive && !member.is_foreign && member.server.is_good()
        });
        if all_run {
            self.replace_store(&Store::new());
        }
    }

    /// A backup is taken now, and the store is restored from it later.
    pub(crate) fn restore_store_after(&mut self, duration: Duration) {
        let backup = self.dcs.store.clone();
        self.schedule(duration, Self::WORLD, move |world| world.replace_store(&backup));
    }

    /// Somebody writes a member's name into the leader key, or one that nobody has.
    pub(crate) fn write_leader_key(&mut self, id: usize) {
        let name = match self.random.percent(80) {
            true => self.members[id].name().to_string(),
            false => "nobody".to_owned(),
        };
        let write = Txn {
            then: vec![Op::Put {
                key: self.dcs.layout.leader(),
                value: name,
                lease: 0,
            }],
            ..Txn::default()
        };
        if !self.dcs.is_down && self.dcs.store.write(&write).is_ok() {
            self.store_changed();
        }
    }

    /// Another store answers from now on.
    pub(crate) fn replace_store(&mut self, backup: &Store) {
        if self.dcs.is_down {
            return;
        }
        self.disturb();
        self.marks.hit("store: replaced");
        self.note_world(|| "another store answers".to_owned());
        self.put_store(backup);
        for id in 0..self.members.len() {
            self.wake(id);
        }
    }

    /// The key `config` has another cluster's, or an earlier, idea of the pause: a store was restored.
    pub(crate) fn config_says_pause(&self) -> bool {
        let cluster = self.dcs.newest();
        let config = cluster.config.as_ref();
        config.is_some_and(|config| {
            config.value.get("pause").and_then(serde_json::Value::as_bool) == Some(true)
        })
    }

    /// A member's data is to be replaced, rewound or made: not because the store is another one.
    pub(crate) fn check_data_is_kept(&mut self, id: usize, what: &str) {
        if self.keeps_data {
            self.break_rule(id, &format!("{what} because the store was replaced"));
        }
    }

    /// This agent started after the store was replaced: it does not know what the store before said.
    pub(crate) fn knows_new_store_only(&self, id: usize) -> bool {
        let replaced = self.dcs.replaced_at;
        replaced.is_some_and(|at| self.members[id].agent.booted_at > at)
    }
}
