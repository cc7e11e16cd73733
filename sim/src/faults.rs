//! What goes wrong, and what people ask for. The plan says which kinds are in play; when and to whom is chance.

use std::time::Duration;

use ::dcs::Key;
use ::dcs::memory::Refused;
use ha::cluster::Failover;
use ha::facts::{Request, RestartConditions};
use ha::step::RequestId;

use crate::plan::Fault;
use crate::server::{Condition, Process, Receiver};
use crate::world::{Handover, Id, World};

impl World {
    /// Lets faults happen from now until `end`.
    pub(crate) fn begin_faults(&mut self, end: Duration) {
        if self.plan.faults.is_empty() {
            return;
        }
        let mean = self.plan.fault_interval.as_millis() as u64;
        let delay = self.random.millis(0, mean * 2);
        self.schedule(delay, Self::WORLD, move |world| {
            if world.now >= end {
                return;
            }
            let faults = world.plan.faults.clone();
            if let Some(fault) = world.random.pick(&faults).copied() {
                let id = world.victim();
                world.inject(fault, id);
            }
            world.begin_faults(end);
        });
    }

    /// The primary, more often than chance would have it.
    fn victim(&mut self) -> Id {
        let primary = self
            .ids()
            .find(|id| self.takes_writes(*id))
            .or(self.standby_leader());
        match primary.filter(|_| self.random.percent(50)) {
            Some(primary) => primary,
            None => self.random.index(self.plan.members),
        }
    }

    /// For how long something is wrong: mostly shorter than a lease, often longer.
    fn duration(&mut self) -> Duration {
        let ttl = self.plan.ttl().as_millis() as u64;
        self.random.mostly(ttl / 50, ttl, 40, ttl * 3)
    }

    /// Something is wrong from now on.
    pub(crate) fn disturb(&mut self) {
        self.disturbed_at = self.now;
        self.handover = None;
        self.released = None;
    }

    pub(crate) fn inject(&mut self, fault: Fault, id: Id) {
        let is_request = matches!(fault, Fault::Switchover | Fault::StopAgent);
        if !is_request {
            self.disturb();
        }
        self.marks.hit(&format!("fault: {fault:?}"));
        self.note(id, || format!("FAULT {fault:?}"));
        let duration = self.duration();
        match fault {
            Fault::CrashMember => self.crash_member(id, duration),
            Fault::KillPostmaster => self.server_dies(id),
            Fault::KillAgent => self.crash_agent(id, duration),
            Fault::FreezeHost => self.freeze_for(id, duration),
            Fault::IsolateFromDcs => self.isolate(id, duration, true, false),
            Fault::IsolateFromMembers => self.isolate(id, duration, false, true),
            Fault::Isolate => self.isolate(id, duration, true, true),
            Fault::CutLink => self.cut_link(id, duration),
            Fault::DcsOutage => self.dcs_outage(duration),
            Fault::SlowDcs | Fault::SlowServer | Fault::SlowReplication => self.slow_down(fault, duration),
            Fault::Switchover => self.ask_switchover(),
            Fault::Failover => {
                self.accepts_loss = true;
                self.ask_failover(id);
            }
            Fault::StopAgent => self.stop_agent(id, Some(duration)),
            Fault::RestartRequest => self.ask_restart(id),
            Fault::ReinitializeRequest => {
                let force = self.random.percent(30);
                self.ask_reinitialize(id, force);
            }
            Fault::Pause => self.pause_for(duration),
            Fault::ForeignData => self.put_foreign_data(id, duration),
            Fault::LoseData => self.lose_data(id, duration),
            Fault::LoseSight => self.blind_for(id, duration),
            Fault::HangServer => self.hang_server(id, duration),
            Fault::LoseRemote => self.lose_remote(duration),
            Fault::RemoteFailover => self.fail_over_remotely(),
            Fault::ChangePlaces => self.change_places(),
            Fault::StallReceiver => self.stall_receiver(duration),
            Fault::FullStore => self.refuse_writes(Refused::Full, duration),
            Fault::ReadOnlyStore => self.refuse_writes(Refused::ReadOnly, duration),
            Fault::WipeStore => self.wipe_store(),
            Fault::RestoreStore => self.restore_store_after(duration),
            Fault::WriteLeaderKey => self.write_leader_key(id),
        }
    }

    /// A standby's WAL receiver is suspended: its connection stays until a timeout ends it.
    fn stall_receiver(&mut self, duration: Duration) {
        let standbys: Vec<Id> = self.ids().filter(|id| self.upstream(*id).is_some()).collect();
        let Some(id) = self.random.pick(&standbys).copied() else {
            return;
        };
        self.members[id].server.stuck_until = self.now + duration;
        self.note(id, || "its WAL receiver stalls".to_owned());
        self.schedule(duration, Self::WORLD, move |world| {
            world.disturb();
            world.resume_streams();
        });
    }

    fn crash_member(&mut self, id: Id, duration: Duration) {
        self.kill_agent(id);
        // A host that vanishes sends nothing: who streams from it learns that only by a timeout.
        let vanishes = self.random.percent(50);
        let streams: Vec<(Id, Receiver)> = (0..self.members.len())
            .filter_map(|other| {
                self.members[other]
                    .server
                    .receiver
                    .map(|receiver| (other, receiver))
            })
            .filter(|(_, receiver)| vanishes && receiver.upstream == id)
            .collect();
        self.server_dies(id);
        for (other, receiver) in streams {
            if self.members[other].server.process == Process::Standby && self.upstream(other).is_none() {
                self.members[other].server.receiver = Some(receiver);
                self.stall(other);
            }
        }
        self.schedule(duration, Self::WORLD, move |world| world.boot_agent(id));
    }

    fn crash_agent(&mut self, id: Id, duration: Duration) {
        self.kill_agent(id);
        if !self.plan.has_guard {
            // Nobody looks after the server until the next agent comes.
            self.members[id].hazard_until = Duration::MAX;
        }
        self.schedule(duration, Self::WORLD, move |world| world.boot_agent(id));
    }

    fn freeze_for(&mut self, id: Id, duration: Duration) {
        self.freeze(id);
        self.schedule(duration, Self::WORLD, move |world| {
            world.disturb();
            world.note(id, || "goes on".to_owned());
            world.thaw(id);
        });
    }

    fn isolate(&mut self, id: Id, duration: Duration, from_dcs: bool, from_members: bool) {
        if from_dcs {
            self.cut_from_dcs.insert(id);
        }
        if from_members {
            for other in (0..self.members.len()).filter(|other| *other != id) {
                self.cut.insert((id.min(other), id.max(other)));
            }
        }
        self.schedule(duration, Self::WORLD, move |world| world.heal_network());
    }

    fn cut_link(&mut self, id: Id, duration: Duration) {
        let other = self.random.index(self.members.len());
        if other != id {
            self.cut.insert((id.min(other), id.max(other)));
        }
        self.schedule(duration, Self::WORLD, move |world| world.heal_network());
    }

    pub(crate) fn heal_network(&mut self) {
        self.disturb();
        self.note_world(|| "the network is whole".to_owned());
        self.cut.clear();
        let isolated = std::mem::take(&mut self.cut_from_dcs);
        self.resume_streams();
        for id in isolated {
            self.wake(id);
        }
    }

    pub(crate) fn dcs_outage(&mut self, duration: Duration) {
        if self.dcs.is_down {
            return;
        }
        self.dcs.is_down = true;
        let begun = self.now;
        let leases_ran = self.random.percent(50);
        self.schedule(duration, Self::WORLD, move |world| {
            world.end_dcs_outage(begun, leases_ran)
        });
    }

    fn end_dcs_outage(&mut self, begun: Duration, leases_ran: bool) {
        if !self.dcs.is_down {
            return;
        }
        self.disturb();
        self.note_world(|| "the DCS is back".to_owned());
        self.restore_dcs(self.now - begun, leases_ran);
        for id in 0..self.members.len() {
            self.wake(id);
        }
    }

    fn slow_down(&mut self, fault: Fault, duration: Duration) {
        match fault {
            Fault::SlowDcs => self.slow.dcs = true,
            Fault::SlowServer => self.slow.server = true,
            _ => self.slow.replication = true,
        }
        self.schedule(duration, Self::WORLD, move |world| {
            world.disturb();
            world.slow = crate::world::Slow::default();
        });
    }

    /// A person asks for a switchover, as the tools do: from the leader, mostly to a named candidate.
    pub(crate) fn ask_switchover(&mut self) {
        let Some(leader) = self.dcs.holder() else {
            return;
        };
        let Some(from) = self.find(&leader) else { return };
        let others: Vec<Id> = self.ids().filter(|id| *id != from).collect();
        let candidate = self
            .random
            .pick(&others)
            .copied()
            .filter(|_| self.random.percent(70));
        let candidate = candidate.map(|id| self.members[id].name().to_string());
        let value = Failover::to_json(Some(leader.as_str()), candidate.as_deref(), None);
        self.note_world(|| format!("a person asks for a switchover: {value}"));
        self.begin_handover(from);
        self.write_by_hand(Key::Failover, &value);
    }

    pub(crate) fn ask_failover(&mut self, id: Id) {
        let name = self.members[id].name().to_string();
        self.write_by_hand(Key::Failover, &Failover::to_json(None, Some(&name), None));
    }

    /// A handover counts as quiet when everybody streams and nothing has been wrong for a while.
    pub(crate) fn begin_handover(&mut self, from: Id) {
        let calm = self.plan.ttl() * 2 + Duration::from_secs(10);
        self.handover = None;
        self.forget_lost_writes();
        if self.trouble().is_none() && self.now > self.disturbed_at + calm {
            self.handover = Some(Handover {
                from,
                begun: self.now,
            });
        }
    }

    /// Tells an agent to end, as by SIGTERM, and starts it again later.
    pub(crate) fn stop_agent(&mut self, id: Id, restart_after: Option<Duration>) {
        if !self.members[id].agent.is_alive {
            return;
        }
        self.begin_handover(id);
        self.released = None;
        self.members[id].agent.is_stopping = true;
        self.wake(id);
        if let Some(delay) = restart_after {
            // An init system that waits for the end and kills what does not come to one.
            let delay = delay + Duration::from_secs(90);
            self.schedule(delay, Self::WORLD, move |world| {
                let agent = &world.members[id].agent;
                if agent.is_alive && agent.is_stopping {
                    world.marks.hit("killed while stopping");
                    world.disturb();
                    world.kill_agent(id);
                    world.server_dies(id);
                }
                world.boot_agent(id);
            });
        }
    }

    fn ask_restart(&mut self, id: Id) {
        self.next_request += 1;
        let request = Request::Restart {
            id: RequestId(self.next_request),
            conditions: RestartConditions::default(),
        };
        self.ask_member(id, request);
    }

    pub(crate) fn ask_reinitialize(&mut self, id: Id, force: bool) {
        self.next_request += 1;
        let request = Request::Reinitialize {
            id: RequestId(self.next_request),
            force,
            from_leader: false,
        };
        self.members[id].reinitialize_is_asked = true;
        self.ask_member(id, request);
    }

    fn ask_member(&mut self, id: Id, request: Request) {
        let agent = &mut self.members[id].agent;
        if agent.is_alive {
            agent.requests.push(request);
            self.wake(id);
        }
    }

    fn pause_for(&mut self, duration: Duration) {
        self.set_pause(true);
        self.schedule(duration, Self::WORLD, |world| world.set_pause(false));
    }

    pub(crate) fn set_pause(&mut self, is_paused: bool) {
        if self.dcs.is_down || self.dcs.newest().config.is_none() {
            return;
        }
        self.disturb();
        self.is_paused = is_paused;
        let config = self.plan.config(is_paused).to_string();
        self.write_by_hand(Key::Config, &config);
    }

    /// Somebody restores another cluster's backup into a member's data directory.
    fn put_foreign_data(&mut self, id: Id, duration: Duration) {
        let is_last = !self.others_have_data(id);
        if is_last || self.takes_writes(id) || self.dcs.holder().as_ref() == Some(self.members[id].name()) {
            return;
        }
        self.kill_agent(id);
        self.server_dies(id);
        let at = self.wal.create();
        let Some(data) = self.members[id].server.data.as_mut() else {
            return;
        };
        data.at = at;
        data.replayed = at.lsn;
        data.checkpoint = at.lsn;
        data.condition = Condition::Good;
        data.system_identifier = "7500000000000000001".to_owned();
        data.state = ha::pg::DatabaseState::ShutDown;
        data.has_recovery_signal = false;
        data.histories.clear();
        self.members[id].is_foreign = true;
        self.schedule(duration, Self::WORLD, move |world| world.boot_agent(id));
    }

    fn blind_for(&mut self, id: Id, duration: Duration) {
        self.members[id].is_blind = true;
        self.schedule(duration, Self::WORLD, move |world| {
            world.disturb();
            world.members[id].is_blind = false;
        });
    }

    fn hang_server(&mut self, id: Id, duration: Duration) {
        self.members[id].hangs_since = Some(self.now);
        let life = self.members[id].server.life;
        self.schedule(duration, Self::WORLD, move |world| {
            if world.members[id].server.life == life {
                world.members[id].hangs_since = None;
            }
        });
    }

    /// Whether the cluster's data is on another member too.
    fn others_have_data(&self, id: Id) -> bool {
        let mut others = self.members.iter().take(self.plan.members).enumerate();
        others.any(|(other, member)| other != id && !member.is_foreign && member.server.is_good())
    }

    /// A member's disk is replaced.
    fn lose_data(&mut self, id: Id, duration: Duration) {
        let has_copy = self.others_have_data(id);
        if !has_copy || self.takes_writes(id) {
            return;
        }
        self.kill_agent(id);
        self.server_dies(id);
        self.members[id].server.data = None;
        self.members[id].is_foreign = false;
        self.schedule(duration, Self::WORLD, move |world| world.boot_agent(id));
    }

    /// Ends everything that is wrong.
    pub(crate) fn heal(&mut self) {
        self.note_world(|| "HEAL".to_owned());
        self.disturb();
        if self.dcs.is_down {
            self.restore_dcs(Duration::ZERO, true);
        }
        self.accept_writes();
        self.slow = crate::world::Slow::default();
        self.heal_network();
        self.remote_is_up();
        for id in 0..self.members.len() {
            self.thaw(id);
            self.members[id].hangs_since = None;
            self.members[id].is_blind = false;
            self.members[id].server.stuck_until = Duration::ZERO;
        }
        self.resume_streams();
        if self.is_paused || self.config_says_pause() {
            self.set_pause(false);
        }
        for id in 0..self.members.len() {
            self.boot_agent(id);
            self.wake(id);
        }
    }
}
