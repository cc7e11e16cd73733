//! Answers to what a cycle wants to know: the simulated counterpart of the program's questions.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ha::cluster::Tags;
use ha::facts::{
    Accepts, Answer, CrashRecovery, DataDirectory, Divergence, FailsafeReply, LocalHistory, Peer, PeerAnswer,
    PeerStatus, RecoveryDrift, RemoteHistory, Running, Server as ServerFacts, Source, SqlFacts, WalSender,
};
use ha::failsafe::Ping;
use ha::pg::{ControlData, DatabaseState, HistoryEntry, Lsn, ReplicationState, SystemIdentifier, Timeline};
use ha::step::Question;

use crate::dcs::Request;
use crate::server::{CHECKPOINT_RECORD, Condition, Data, Process};
use crate::world::{Id, Owner, World};

impl World {
    /// Answers a question after the time that it takes.
    pub(crate) fn ask(&mut self, id: Id, question: Question) {
        let needed = self.local_delay();
        let delay = needed.min(self.patience(id));
        match question {
            Question::Cluster => self.call_dcs(id, Request::Load),
            Question::Server => {
                let delay = needed.min(self.sql_patience(id));
                self.answer_after(id, delay, move |world, id| {
                    let facts = world.server_facts(id);
                    Answer::Server(if needed > delay { without_sql(facts) } else { facts })
                });
            }
            Question::DataDirectory => {
                self.answer_after(id, delay, |world, id| {
                    Answer::DataDirectory(world.data_directory(id))
                });
            }
            Question::CrashRecovery => {
                // Now and then there is much to replay.
                let exponent = if self.random.percent(30) { 30 } else { 20 };
                let bytes = self.random.below(1 << exponent);
                self.answer_after(id, delay, move |world, id| {
                    Answer::CrashRecovery(world.crash_recovery(id, bytes))
                });
            }
            Question::Peers(peers) => self.ask_peers(id, peers),
            Question::Failsafe { members, ping } => self.ask_to_go_on(id, members, ping),
            Question::Divergence(source) => {
                let delay = delay + self.random.millis(2, 30);
                self.answer_after(id, delay, move |world, id| {
                    Answer::Divergence(world.divergence(id, &source))
                });
            }
            Question::HistoryFile(timeline) => {
                self.answer_after(id, delay, move |world, id| {
                    Answer::HistoryFile(world.history_file(id, timeline))
                });
            }
            Question::RecoveryDrift(source) => {
                self.answer_after(id, delay, move |world, id| {
                    Answer::RecoveryDrift(world.recovery_drift(id, source.as_ref()))
                });
            }
        }
    }

    fn local_delay(&mut self) -> Duration {
        if self.slow.server {
            let retry = self.plan.retry_timeout().as_millis() as u64;
            self.random.mostly(5, 300, 10, retry * 5 / 4)
        } else {
            self.random.mostly(1, 8, 1, 200)
        }
    }

    pub(crate) fn answer_after(
        &mut self,
        id: Id,
        delay: Duration,
        answer: impl FnOnce(&mut Self, Id) -> Answer + 'static,
    ) {
        let owner = self.as_agent(id);
        self.schedule(delay, owner, move |world| {
            let answer = answer(world, id);
            world.learn(id, answer);
        });
    }

    fn server_facts(&self, id: Id) -> ServerFacts {
        let server = &self.members[id].server;
        if self.members[id].is_blind {
            return ServerFacts {
                running: Running::Unknown("too many open files".to_owned()),
                ..ServerFacts::default()
            };
        }
        if server.process == Process::Down {
            return ServerFacts::default();
        }
        let is_up = server.is_up();
        ServerFacts {
            running: Running::Yes,
            postmaster_started: Some(server.started),
            accepts: if is_up { Accepts::Yes } else { Accepts::Rejecting },
            sql: server
                .data
                .as_ref()
                .filter(|_| is_up)
                .map(|data| self.sql_facts(id, data)),
        }
    }

    fn sql_facts(&self, id: Id, data: &Data) -> SqlFacts {
        let server = &self.members[id].server;
        let in_recovery = server.process == Process::Standby;
        let work = &self.members[id].agent.slot_work;
        let slots = data.slots.iter().map(|(name, slot)| {
            let lacks_wal = work.lacks_wal.contains(name);
            slot.facts(name, self.is_slot_active(id, name), lacks_wal)
        });
        let standbys = (0..self.members.len()).filter(|other| self.upstream(*other) == Some(id));
        let wal_senders = standbys.map(|other| WalSender {
            application_name: self.members[other].name().0.clone(),
            is_streaming: true,
            is_catching_up: false,
            slot: Some(self.members[other].name().slot_name()),
            client: Some(self.members[other].name().0.clone()),
            sync_state: self.sync_state(id, other).to_owned(),
            written: self.position(other).map(|position| position.lsn),
            flushed: self.position(other).map(|position| position.lsn),
            replayed: None,
        });
        SqlFacts {
            in_recovery,
            timeline: Some(self.wal.timeline(data.at.branch)),
            origin: self.wal.origin(data.at.branch),
            flushed: (!in_recovery).then_some(data.at.lsn),
            received: (in_recovery && server.receiver.is_some()).then_some(data.at.lsn),
            replayed: in_recovery.then_some(data.replayed),
            replay_paused: false,
            replication_state: server.receiver.map(|_| ReplicationState::Streaming),
            slots: slots.collect(),
            slot_horizons: work.horizons.clone(),
            wal_senders: wal_senders.collect(),
            synchronous_standby_names: server.running_names.to_string(),
            checkpointer_is_current: true,
            ..SqlFacts::default()
        }
    }

    pub(crate) fn slot_user(&self, upstream: Id, slot: &str) -> Option<Id> {
        (0..self.members.len()).find(|other| {
            let source = self.members[*other].server.running_source.as_ref();
            self.upstream(*other) == Some(upstream)
                && source
                    .and_then(|source| source.slot.as_ref())
                    .is_some_and(|name| name.0 == slot)
        })
    }

    fn crash_recovery(&self, id: Id, bytes: u64) -> Result<CrashRecovery, String> {
        let data = self.members[id].server.data.as_ref().ok_or("no data directory")?;
        let end = data.at.lsn;
        let redo = Lsn(end.0.saturating_sub(bytes));
        Ok(CrashRecovery { redo, end })
    }

    fn data_directory(&self, id: Id) -> DataDirectory {
        let server = &self.members[id].server;
        if self.members[id].is_blind {
            return DataDirectory::Inaccessible("too many open files".to_owned());
        }
        let Some(data) = &server.data else {
            return DataDirectory::Empty;
        };
        if data.condition == Condition::Partial {
            return DataDirectory::Present {
                control: Err("pg_control is missing".to_owned()),
                has_recovery_signal: false,
                has_backup_label: true,
                is_half_rewound: false,
            };
        }
        let timeline = self.wal.timeline(data.at.branch);
        let is_standby = matches!(
            data.state,
            DatabaseState::InArchiveRecovery | DatabaseState::ShutDownInRecovery
        );
        let control = ControlData {
            system_identifier: data.system_identifier.parse::<SystemIdentifier>().ok(),
            state: data.state,
            checkpoint: data.checkpoint,
            redo: data.checkpoint,
            timeline: data.checkpoint_timeline,
            minimum_recovery: if is_standby { data.replayed } else { Lsn::ZERO },
            minimum_recovery_timeline: is_standby.then_some(timeline),
            can_be_rewound: true,
        };
        DataDirectory::Present {
            control: Ok(control),
            has_recovery_signal: data.has_recovery_signal,
            has_backup_label: data.has_backup_label,
            is_half_rewound: data.condition == Condition::Damaged,
        }
    }

    fn ask_peers(&mut self, id: Id, peers: Vec<Peer>) {
        let delay = self.random.mostly(2, 10, 3, 400);
        let owner = self.as_agent(id);
        self.schedule(delay, owner, move |world| {
            let answers: Vec<PeerAnswer> = peers
                .iter()
                .map(|peer| PeerAnswer {
                    name: peer.name.clone(),
                    status: world.peer_status(id, peer),
                })
                .collect();
            // Who does not answer at all is waited for; a closed port answers at once.
            let is_silent = |peer: &&Peer| {
                world
                    .find(&peer.name)
                    .is_none_or(|other| !world.reaches(id, other))
            };
            let silent = peers.iter().filter(is_silent);
            let waits = silent.map(|peer| peer.patience).max();
            let delay = waits.unwrap_or_else(|| world.random.millis(1, 5));
            world.answer_after(id, delay, move |_, _| Answer::Peers(answers));
        });
    }

    /// A leader without the DCS asks the others. Each is asked at a moment of its own, and an answer may get lost.
    fn ask_to_go_on(&mut self, id: Id, peers: Vec<Peer>, ping: Ping) {
        let sent_at = self.clock(id);
        let count = peers.len();
        let replies: Rc<RefCell<Vec<FailsafeReply>>> = Rc::default();
        for peer in peers {
            let there = self.random.mostly(1, 10, 5, 400);
            let back = self.random.mostly(1, 10, 5, 400);
            let (ping, replies) = (ping.clone(), Rc::clone(&replies));
            let life = self.members[id].agent.life;
            // What was sent arrives although its sender has died since.
            self.schedule(there, Self::WORLD, move |world| {
                let accepts = world.take_ping(id, &peer, ping);
                let is_silent = world
                    .find(&peer.name)
                    .is_none_or(|other| !world.reaches(id, other));
                let delay = if is_silent { peer.patience } else { back };
                world.schedule(delay, Owner::Agent(id, life), move |world| {
                    let reached = world
                        .find(&peer.name)
                        .is_some_and(|other| world.reaches(id, other));
                    let accepts =
                        accepts.and_then(|lsn| reached.then_some(lsn).ok_or("timed out".to_owned()));
                    replies.borrow_mut().push(FailsafeReply {
                        name: peer.name,
                        accepts,
                    });
                    if replies.borrow().len() == count {
                        let replies = replies.take();
                        world.learn(id, Answer::Failsafe { sent_at, replies });
                    }
                });
            });
        }
    }

    fn take_ping(&mut self, id: Id, peer: &Peer, ping: Ping) -> Result<Option<Lsn>, String> {
        let other = self.find(&peer.name).ok_or("no such host")?;
        if !self.reaches(id, other) {
            return Err("timed out".to_owned());
        }
        let (now, ttl) = (self.clock(other), self.plan.ttl());
        let member = &mut self.members[other];
        if !member.agent.is_alive {
            return Err("connection refused".to_owned());
        }
        if !member.agent.promise.accept(ping, now, ttl) {
            self.marks.hit("failsafe: running as a leader");
            return Err("Running as a leader".to_owned());
        }
        self.note(other, || "promises to take no key".to_owned());
        Ok(self.members[other].agent.memory().last_position)
    }

    fn peer_status(&self, id: Id, peer: &Peer) -> Result<PeerStatus, String> {
        let other = self.find(&peer.name).ok_or("no such host")?;
        if !self.reaches(id, other) {
            return Err("timed out".to_owned());
        }
        let member = &self.members[other];
        if !member.agent.is_alive {
            return Err("connection refused".to_owned());
        }
        let data = member.server.data.as_ref().filter(|_| member.server.is_up());
        let data = data.ok_or("its server does not run")?;
        let in_recovery = member.server.process == Process::Standby;
        let mut position = data.at.lsn;
        if self.plan.peers_are_stale
            && let Some(told) = member.agent.memory().last_position
        {
            position = told;
        }
        Ok(PeerStatus {
            in_recovery,
            position: Some(position),
            replayed: Some(data.replayed),
            timeline: Some(self.wal.timeline(data.at.branch)),
            origin: self.wal.origin(data.at.branch),
            stands_back: member.agent.memory().stands_back,
            tags: Tags(member.node.tags.0.clone()),
            watchdog_failed: false,
        })
    }

    fn divergence(&self, id: Id, source: &Source) -> Divergence {
        let server = &self.members[id].server;
        let local = match &server.data {
            Some(data) if data.condition == Condition::Good => Ok(self.local_history(server.process, data)),
            Some(_) | None => Err("no usable data directory".to_owned()),
        };
        let remote = self.source_server(source);
        let remote = remote.filter(|other| self.reaches(id, *other));
        let remote = remote
            .map(|other| &self.members[other].server)
            .filter(|other| other.is_up());
        let remote = remote.and_then(|other| Some((other.process, other.data.as_ref()?)));
        let remote = remote.ok_or_else(|| "could not connect".to_owned());
        let remote = remote.map(|(process, data)| RemoteHistory {
            in_recovery: process == Process::Standby,
            timeline: self.wal.timeline(data.at.branch),
            history: self.wal.history(data.at.branch),
        });
        Divergence { local, remote }
    }

    fn local_history(&self, process: Process, data: &Data) -> LocalHistory {
        let timeline = self.wal.timeline(data.at.branch);
        let lineage = self.wal.lineage(data.at.branch).into_iter();
        let origins = lineage.filter_map(|branch| self.wal.origin(branch)).collect();
        let was_standby = matches!(
            data.state,
            DatabaseState::InArchiveRecovery | DatabaseState::ShutDownInRecovery
        );
        if was_standby || process == Process::Standby {
            return LocalHistory {
                timeline,
                lsn: data.replayed,
                was_standby: true,
                origins,
                checkpoint_end: None,
            };
        }
        let is_clean = data.state == DatabaseState::ShutDown;
        LocalHistory {
            timeline: data.checkpoint_timeline,
            lsn: data.checkpoint,
            was_standby: false,
            origins,
            checkpoint_end: is_clean.then_some(Lsn(data.checkpoint.0 + CHECKPOINT_RECORD)),
        }
    }

    fn history_file(&self, id: Id, timeline: Timeline) -> Option<Vec<HistoryEntry>> {
        let data = self.members[id].server.data.as_ref()?;
        let own = self.wal.lineage(data.at.branch).into_iter();
        let mut known = own.chain(data.histories.iter().copied());
        let known = known.find(|branch| self.wal.timeline(*branch) == timeline)?;
        Some(self.wal.history(known)).filter(|history| !history.is_empty())
    }

    fn recovery_drift(&self, id: Id, source: Option<&Source>) -> RecoveryDrift {
        let server = &self.members[id].server;
        if crate::actions::is_same_source(server.running_source.as_ref(), source) {
            RecoveryDrift::None
        } else if self.plan.is_old_postgresql {
            RecoveryDrift::Restart
        } else {
            RecoveryDrift::Reload
        }
    }
}

/// The query was not answered in time.
fn without_sql(facts: ServerFacts) -> ServerFacts {
    ServerFacts { sql: None, ..facts }
}
