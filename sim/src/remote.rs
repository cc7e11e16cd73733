//! Standby clusters: the remote primary from which one replicates, and the people who have the two change places.
//!
//! The remote cluster is a server without an agent, behind those of the members. Its WAL is of one branch with that of
//! the standby cluster, or grows out of it when the two have changed places.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::dcs::Key;
use ha::facts::Source;
use ha::pg::{DatabaseState, Lsn, Timeline};
use ha::standby_names::StandbyNames;

use crate::server::{Condition, Data, Process};
use crate::wal::Position;
use crate::workload::Ledger;
use crate::world::{Id, Owner, World};

impl World {
    /// The remote primary's place behind the members, if there is one.
    pub(crate) fn remote(&self) -> Option<Id> {
        self.plan.has_remote.then_some(self.plan.members)
    }

    /// The server that is meant.
    pub(crate) fn source_server(&self, source: &Source) -> Option<Id> {
        match &source.member {
            Some(name) => self.find(name),
            None => self.remote().filter(|_| source.can_be_connected_to()),
        }
    }

    /// The remote cluster is there before this one.
    pub(crate) fn create_remote(&mut self) {
        let Some(remote) = self.remote() else { return };
        let at = self.wal.create();
        self.members[remote].server.data = Some(Data {
            condition: Condition::Good,
            system_identifier: "7400000000000000042".to_owned(),
            at,
            replayed: at.lsn,
            state: DatabaseState::InProduction,
            checkpoint: at.lsn,
            checkpoint_timeline: Timeline(1),
            has_recovery_signal: false,
            has_backup_label: false,
            source: None,
            slots: BTreeMap::new(),
            wal_from: at.lsn,
            histories: BTreeSet::new(),
            names: StandbyNames::default(),
            takes_clients: true,
        });
        self.remote_is_up();
        self.schedule(Duration::from_millis(100), Owner::World, Self::write_remotely);
    }

    /// The remote primary takes connections, if it did not.
    pub(crate) fn remote_is_up(&mut self) {
        let Some(remote) = self.remote() else { return };
        let server = &mut self.members[remote].server;
        if server.process != Process::Primary {
            server.life += 1;
            server.process = Process::Primary;
            self.note(remote, || "is there".to_owned());
            // At the end of its recovery, or a while after its promotion.
            let delay = self.random.millis(20, 8_000);
            self.schedule(delay, Self::WORLD, move |world| {
                world.checkpoint_server(remote);
            });
        }
    }

    fn write_remotely(&mut self) {
        let Some(remote) = self.remote() else { return };
        let bytes = self.random.below(4000) + 40;
        let server = &mut self.members[remote].server;
        if let Some(data) = server
            .data
            .as_mut()
            .filter(|_| server.process == Process::Primary)
        {
            data.at.lsn = Lsn(data.at.lsn.0 + bytes);
            data.replayed = data.at.lsn;
            self.ship(remote);
        }
        let delay = self.random.millis(50, 500);
        self.schedule(delay, Owner::World, Self::write_remotely);
    }

    /// Nobody reaches the remote primary for a while, or it does not run.
    pub(crate) fn lose_remote(&mut self, duration: Duration) {
        let Some(remote) = self.remote() else { return };
        if self.random.percent(50) {
            self.server_dies(remote);
            self.schedule(duration, Self::WORLD, |world| {
                world.disturb();
                world.remote_is_up();
            });
        } else {
            for id in self.ids() {
                self.cut.insert((id, remote));
            }
            self.schedule(duration, Self::WORLD, |world| world.heal_network());
        }
    }

    /// The remote cluster has failed over: its new primary may lack what was the last of the old one's.
    pub(crate) fn fail_over_remotely(&mut self) {
        let Some(mut at) = self.remote().and_then(|remote| self.position(remote)) else {
            return;
        };
        if self.random.percent(50) {
            at.lsn = Lsn(at.lsn.0.saturating_sub(self.random.below(4000)));
        }
        self.promote_remote(at);
    }

    /// The remote primary is from now on one that was promoted at this place of the WAL.
    fn promote_remote(&mut self, at: Position) {
        let Some(remote) = self.remote() else { return };
        self.server_dies(remote);
        let checkpoint_timeline = self.wal.timeline(at.branch);
        let branch = self.wal.fork(at, Timeline(checkpoint_timeline.0 + 1));
        let lineage = self.wal.lineage(branch);
        if let Some(data) = self.members[remote].server.data.as_mut() {
            data.at = Position {
                branch,
                lsn: Lsn(at.lsn.0 + 0xA0),
            };
            data.replayed = data.at.lsn;
            data.checkpoint = at.lsn;
            data.checkpoint_timeline = checkpoint_timeline;
            data.histories = lineage.into_iter().collect();
        }
        self.remote_is_up();
    }

    /// A person makes the standby cluster one that takes writes, or the other way round.
    pub(crate) fn change_places(&mut self) {
        if self.dcs.is_down || self.dcs.newest().config.is_none() || self.remote().is_none() {
            return;
        }
        if self.plan.is_standby_cluster {
            self.note_world(|| "a person promotes the cluster".to_owned());
            self.marks.hit("standby cluster: promoted");
            self.plan.is_standby_cluster = false;
        } else {
            // Nobody demotes a cluster before its primary works, and the other one has what that had.
            let holder = self.dcs.holder().and_then(|name| self.find(&name));
            let primary = holder.filter(|id| self.takes_writes(*id) && self.reaches_dcs(*id));
            let Some(at) = primary.and_then(|primary| self.position(primary)) else {
                return;
            };
            self.note_world(|| "a person demotes the cluster".to_owned());
            self.marks.hit("standby cluster: demoted");
            self.promote_remote(at);
            self.become_standby_cluster();
        }
        let config = self.plan.config(self.is_paused).to_string();
        self.write_by_hand(Key::Config, &config);
    }

    /// Who leads the standby cluster, as far as the store knows.
    pub(crate) fn standby_leader(&self) -> Option<Id> {
        let holder = self.dcs.holder().filter(|_| self.plan.is_standby_cluster)?;
        self.find(&holder)
    }

    /// What keeps a standby cluster from being as it should be: one standby leader that streams from the remote primary,
    /// and everybody else from it.
    pub(crate) fn standby_trouble(&self) -> Option<String> {
        let Some((leader, remote)) = self.standby_leader().zip(self.remote()) else {
            return Some("there is no standby leader".to_owned());
        };
        if let Some(id) = self.ids().find(|id| self.takes_writes(*id)) {
            return Some(format!("{} takes writes", self.members[id].name()));
        }
        let behind = self.ids().filter(|id| !self.members[*id].is_foreign).find(|id| {
            let from = if *id == leader { remote } else { leader };
            let receiver = self.members[*id].server.receiver;
            receiver.is_none_or(|receiver| receiver.is_stalled || receiver.upstream != from)
        });
        behind.map(|id| {
            let member = &self.members[id];
            let (reason, process) = (&member.agent.reason, member.server.process);
            let leader = self.members[leader].name();
            format!(
                "{} does not stream, {leader} leads: {reason}, {process:?}",
                member.name()
            )
        })
    }

    /// No member has data that it could lead a standby cluster with: an operator has all of it made anew.
    pub(crate) fn begin_anew(&mut self) -> bool {
        let Some(remote) = self.remote() else { return false };
        let mut members = self.ids().map(|id| &self.members[id]);
        let has_data = members.any(|member| member.server.is_good() && !member.is_foreign);
        let collides = self.standby_leader().is_some_and(|leader| {
            let number = |id| self.position(id).map(|at| self.wal.timeline(at.branch));
            let branch = |id| self.position(id).map(|at| at.branch);
            let is_another = number(leader) == number(remote) && branch(leader) != branch(remote);
            is_another || self.timelines_collide(leader, remote)
        });
        if has_data && !collides {
            return false;
        }
        self.marks.hit(if has_data {
            "operator: begins anew, two timelines of one number"
        } else {
            "operator: begins anew, no data"
        });
        self.note_world(|| "an operator makes the standby cluster anew".to_owned());
        if !self.plan.is_standby_cluster {
            // What the remote cluster has is all that there is.
            self.become_standby_cluster();
            let config = self.plan.config(self.is_paused).to_string();
            self.write_by_hand(Key::Config, &config);
        }
        for id in self
            .ids()
            .filter(|id| !self.members[*id].is_foreign)
            .collect::<Vec<_>>()
        {
            self.kill_agent(id);
            self.server_dies(id);
            self.members[id].server.data = None;
            self.boot_agent(id);
        }
        self.delete_by_hand(Key::Initialize);
        true
    }

    fn become_standby_cluster(&mut self) {
        self.ledger = Ledger::default();
        self.plan.is_standby_cluster = true;
        self.standby_since = Some(self.now);
    }

    /// In a standby cluster nobody takes writes. One that was demoted has time to stop its primary.
    pub(crate) fn check_standby_cluster(&mut self) {
        if !self.plan.is_standby_cluster {
            return;
        }
        let patience = self.plan.ttl() * 3 + Duration::from_secs(60);
        if self
            .standby_since
            .is_some_and(|since| self.now < since + patience)
        {
            return;
        }
        let writes = |id: &Id| self.takes_writes(*id) && !self.is_hazard(*id);
        if let Some(id) = self.ids().find(writes) {
            self.break_rule(id, "takes writes in a standby cluster");
        }
    }
}
