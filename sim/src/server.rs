//! A simulated PostgreSQL: its data directory, its process, and how it starts, stops, dies and is promoted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ha::facts::Source;
use ha::pg::{DatabaseState, Lsn, SlotName, Timeline};
use ha::standby_names::StandbyNames;
use ha::step::{StartAs, StopMode};

use crate::slots::Slot;
use crate::wal::{Branch, Position};
use crate::world::{Id, Owner, World};

/// The length of a checkpoint's record.
pub(crate) const CHECKPOINT_RECORD: u64 = 0x78;

/// How long before the end of the lease the guard acts.
const GUARD_MARGIN: Duration = Duration::from_millis(100);

/// Whether the data directory can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Good,
    /// A copy that was broken off, without a control file.
    Partial,
    /// A rewind that was broken off.
    Damaged,
}

/// A data directory.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub(crate) condition: Condition,
    pub(crate) system_identifier: String,
    /// Where its WAL ends.
    pub(crate) at: Position,
    pub(crate) replayed: Lsn,
    pub(crate) state: DatabaseState,
    pub(crate) checkpoint: Lsn,
    /// The control file's timeline: that of the last checkpoint.
    pub(crate) checkpoint_timeline: Timeline,
    pub(crate) has_recovery_signal: bool,
    pub(crate) has_backup_label: bool,
    /// `primary_conninfo` and `primary_slot_name` in the configuration files.
    pub(crate) source: Option<Source>,
    pub(crate) slots: BTreeMap<SlotName, Slot>,
    /// The oldest WAL that is here.
    pub(crate) wal_from: Lsn,
    /// The branches whose history files are in `pg_wal`.
    pub(crate) histories: BTreeSet<Branch>,
    /// `synchronous_standby_names` in the configuration files.
    pub(crate) names: StandbyNames,
    /// Roles and passwords are there: clients can log in.
    pub(crate) takes_clients: bool,
}

/// What the server's process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Process {
    #[default]
    Down,
    Starting {
        as_primary: bool,
    },
    Primary,
    Standby,
    /// Takes no sessions any more. `has_checkpoint`: the shutdown checkpoint is written.
    Stopping {
        was_primary: bool,
        has_checkpoint: bool,
    },
}

/// A WAL receiver's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receiver {
    pub(crate) upstream: Id,
    /// Something sent did not arrive.
    pub(crate) is_stalled: bool,
}

/// A server.
#[derive(Debug, Default)]
pub(crate) struct Server {
    /// Goes up whenever a process begins or ends.
    pub(crate) life: u64,
    /// Goes up whenever a process begins.
    pub(crate) started: i64,
    pub(crate) data: Option<Data>,
    pub(crate) process: Process,
    pub(crate) receiver: Option<Receiver>,
    /// Until then its WAL receiver takes nothing.
    pub(crate) stuck_until: Duration,
    /// `pg_promote` was called.
    pub(crate) is_promoting: bool,
    /// The settings of the running process, which may need a restart to change.
    pub(crate) running_source: Option<Source>,
    /// `synchronous_standby_names` of the running process.
    pub(crate) running_names: StandbyNames,
    /// Commits that wait for standbys, and since when.
    pub(crate) waiting: Vec<(Position, Duration)>,
    /// `hot_standby_feedback`, when it runs as a standby.
    pub(crate) has_feedback: bool,
    /// Whether its promotion came with a warning that the logical slot might be unsafe; `None` until that is known.
    pub(crate) is_slot_doubtful: Option<bool>,
}

impl Server {
    pub(crate) fn is_good(&self) -> bool {
        self.data
            .as_ref()
            .is_some_and(|data| data.condition == Condition::Good)
    }

    /// Sessions can be opened.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.process, Process::Primary | Process::Standby)
    }
}

impl World {
    /// Starts a server. Its end is told to the agent by [`World::server_is_up`] or [`World::server_is_down`].
    pub(crate) fn start_server(&mut self, id: Id, start_as: &StartAs) {
        let data = self.members[id].server.data.as_ref();
        if data.is_some_and(|data| data.condition == Condition::Damaged) {
            self.break_rule(id, "started a server on data that is half rewound");
        }
        let server = &mut self.members[id].server;
        server.life += 1;
        server.started += 1;
        server.is_promoting = false;
        server.receiver = None;
        let as_primary = matches!(start_as, StartAs::Primary);
        server.process = Process::Starting { as_primary };
        let mut has_crashed = false;
        if let Some(data) = server.data.as_mut() {
            data.has_recovery_signal = !as_primary;
            if let StartAs::Standby(source) = start_as {
                data.source.clone_from(source);
                data.names = StandbyNames::default();
            }
            server.running_names.clone_from(&data.names);
            has_crashed =
                data.state != DatabaseState::ShutDown && data.state != DatabaseState::ShutDownInRecovery;
            server.running_source.clone_from(&data.source);
        }
        // A port that is taken, memory that is not there: a start may fail for reasons of its own.
        let is_good = server.is_good() && !self.random.percent(2);
        let mut delay = self.random.millis(60, 400);
        if has_crashed {
            let ttl = self.plan.ttl().as_millis() as u64;
            delay += self.random.mostly(50, 2000, 10, ttl * 2);
        }
        self.note(id, || {
            format!(
                "server starts as {}",
                if as_primary { "primary" } else { "standby" }
            )
        });
        let owner = self.as_server(id);
        if is_good {
            self.schedule(delay, owner, move |world| world.end_start(id, as_primary));
        } else {
            self.schedule(delay, owner, move |world| world.server_dies(id));
        }
    }

    fn end_start(&mut self, id: Id, as_primary: bool) {
        let server = &mut self.members[id].server;
        let Some(data) = server.data.as_mut() else { return };
        data.has_backup_label = false;
        if as_primary {
            if data.state != DatabaseState::ShutDown {
                data.checkpoint = data.at.lsn;
                data.checkpoint_timeline = self.wal.timeline(data.at.branch);
                data.at.lsn = Lsn(data.at.lsn.0 + CHECKPOINT_RECORD);
            }
            data.replayed = data.at.lsn;
            data.state = DatabaseState::InProduction;
            server.process = Process::Primary;
        } else {
            data.replayed = data.at.lsn;
            data.state = DatabaseState::InArchiveRecovery;
            server.process = Process::Standby;
        }
        if as_primary {
            self.check_becomes_primary(id, "started as primary");
        }
        self.note(id, || "server accepts connections".to_owned());
        self.server_is_up(id);
        self.connect_receiver(id);
    }

    /// Ends a server's process at once.
    pub(crate) fn server_dies(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        if server.process == Process::Down {
            return;
        }
        server.life += 1;
        server.process = Process::Down;
        server.waiting.clear();
        server.receiver = None;
        server.is_promoting = false;
        self.members[id].hangs_since = None;
        self.note(id, || "server is down".to_owned());
        for other in 0..self.members.len() {
            if self.upstream(other) == Some(id) {
                self.disconnect_receiver(other);
            }
        }
        for other in 0..self.members.len() {
            self.end_stop_if_drained(other);
        }
        self.server_is_down(id);
    }

    /// Stops a server.
    pub(crate) fn stop_server(&mut self, id: Id, mode: StopMode, checkpoint_first: bool) {
        let process = self.members[id].server.process;
        let was_primary = process == Process::Primary;
        if mode == StopMode::Immediate || matches!(process, Process::Starting { .. }) {
            self.members[id].server.process = Process::Stopping {
                was_primary: false,
                has_checkpoint: false,
            };
            self.members[id].server.waiting.clear();
            self.bump_server(id);
            let delay = self.random.millis(10, 80);
            let owner = self.as_server(id);
            self.note(id, || "server stops at once".to_owned());
            self.schedule(delay, owner, move |world| world.server_dies(id));
            return;
        }
        let owner = self.as_server(id);
        let delay = if checkpoint_first && was_primary {
            self.random.mostly(20, 400, 10, 3000)
        } else {
            Duration::ZERO
        };
        self.schedule(delay, owner, move |world| world.begin_fast_stop(id));
    }

    /// A new life of the process with the same streams: what was scheduled for it no longer happens.
    fn bump_server(&mut self, id: Id) {
        self.members[id].server.life += 1;
    }

    fn begin_fast_stop(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        let was_primary = server.process == Process::Primary;
        if !server.is_up() {
            return;
        }
        server.process = Process::Stopping {
            was_primary,
            has_checkpoint: false,
        };
        server.waiting.clear();
        let receiver = server.receiver.take();
        self.bump_server(id);
        if let Some(receiver) = receiver {
            self.end_stop_if_drained(receiver.upstream);
        }
        self.note(id, || "server stops fast".to_owned());
        let delay = self.random.mostly(20, 300, 10, 3000);
        let owner = self.as_server(id);
        self.schedule(delay, owner, move |world| world.write_shutdown_checkpoint(id));
    }

    fn write_shutdown_checkpoint(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        let Process::Stopping { was_primary, .. } = server.process else {
            return;
        };
        server.process = Process::Stopping {
            was_primary,
            has_checkpoint: true,
        };
        let Some(data) = server.data.as_mut() else { return };
        data.checkpoint_timeline = self.wal.timeline(data.at.branch);
        if was_primary {
            data.checkpoint = data.at.lsn;
            data.at.lsn = Lsn(data.at.lsn.0 + CHECKPOINT_RECORD);
            data.state = DatabaseState::ShutDown;
            self.note(id, || "shutdown checkpoint is written".to_owned());
            self.ship(id);
            self.stop_has_checkpoint(id);
        } else {
            data.state = DatabaseState::ShutDownInRecovery;
        }
        self.end_stop_if_drained(id);
    }

    /// A stopping server ends when those who stream from it have everything.
    pub(crate) fn end_stop_if_drained(&mut self, id: Id) {
        let Process::Stopping {
            has_checkpoint: true, ..
        } = self.members[id].server.process
        else {
            return;
        };
        let Some(position) = self.position(id) else { return };
        let waits = (0..self.members.len()).any(|other| {
            self.upstream(other) == Some(id)
                && self
                    .position(other)
                    .is_none_or(|theirs| !self.wal.includes(theirs, position))
        });
        if waits {
            return;
        }
        let delay = self.random.millis(5, 60);
        let owner = self.as_server(id);
        self.schedule(delay, owner, move |world| world.server_dies(id));
    }

    /// `pg_promote`: from here on it cannot be taken back.
    pub(crate) fn promote_server(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        if server.process != Process::Standby || server.is_promoting {
            return;
        }
        server.is_promoting = true;
        self.check_promotion(id);
        self.note(id, || "server is promoted".to_owned());
        let delay = self.random.mostly(20, 200, 10, 5500);
        let owner = self.as_server(id);
        self.schedule(delay, owner, move |world| world.end_promotion(id));
    }

    fn end_promotion(&mut self, id: Id) {
        let server = &mut self.members[id].server;
        let Some(data) = server.data.as_mut() else { return };
        let known = data
            .histories
            .iter()
            .chain([&data.at.branch])
            .map(|branch| self.wal.timeline(*branch).0);
        let timeline = Timeline(known.max().unwrap_or(1) + 1);
        let branch = self.wal.fork(data.at, timeline);
        data.histories.insert(branch);
        data.at = Position {
            branch,
            lsn: Lsn(data.at.lsn.0 + 0xA0),
        };
        data.replayed = data.at.lsn;
        data.state = DatabaseState::InProduction;
        data.has_recovery_signal = false;
        server.is_promoting = false;
        server.process = Process::Primary;
        if let Some(receiver) = server.receiver.take() {
            self.end_stop_if_drained(receiver.upstream);
        }
        self.note(id, || format!("is a primary on timeline {timeline}"));
        self.marks.hit("promotion");
        self.check_becomes_primary(id, "was promoted");
        self.check_handover(id);
        self.ship(id);
        self.promotion_ended(id);
    }

    /// A checkpoint in the background.
    pub(crate) fn checkpoint_server(&mut self, id: Id) -> bool {
        let server = &mut self.members[id].server;
        let Some(data) = server
            .data
            .as_mut()
            .filter(|_| server.process == Process::Primary)
        else {
            return false;
        };
        data.checkpoint = data.at.lsn;
        data.checkpoint_timeline = self.wal.timeline(data.at.branch);
        data.at.lsn = Lsn(data.at.lsn.0 + CHECKPOINT_RECORD);
        self.ship(id);
        true
    }

    /// Whether this server takes a client's writes at this moment.
    pub(crate) fn takes_writes(&self, id: Id) -> bool {
        let member = &self.members[id];
        member.server.process == Process::Primary
            && !member.is_frozen
            && id < self.plan.members
            && member.server.data.as_ref().is_some_and(|data| data.takes_clients)
    }

    /// The guard: the lease is over, so the server is stopped at once.
    pub(crate) fn guard(&mut self, id: Id) {
        let member = &self.members[id];
        let now = self.clock(id).after(GUARD_MARGIN);
        let is_due = member
            .agent
            .guard_deadline
            .is_some_and(|deadline| deadline <= now);
        let may_write = match member.server.process {
            Process::Primary | Process::Starting { as_primary: true } => true,
            Process::Standby => member.server.is_promoting,
            Process::Down | Process::Starting { as_primary: false } | Process::Stopping { .. } => false,
        };
        // What the agent has told it last: of a pause that was begun while the host stood still it does not know.
        if is_due && may_write && !member.is_frozen && !member.agent.is_paused() {
            self.marks.hit("guard");
            self.note(id, || "the guard kills the server".to_owned());
            self.server_dies(id);
        }
    }

    /// Owner of events that go on whoever restarts.
    pub(crate) const WORLD: Owner = Owner::World;
}
