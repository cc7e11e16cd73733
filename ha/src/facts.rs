//! What a cycle knows: what is given to it at its start, and the answers to what it asked.

mod peer;
mod slot;

pub use peer::{Peer, PeerAnswer, PeerStatus};
pub use slot::{LogicalSlot, Slot, SlotHorizons};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::DynamicConfig;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Origin, PendingRestartReason, ScheduledRestart, Tags, Version};
use crate::failsafe::Accepted;
use crate::pg::{ControlData, HistoryEntry, Lsn, MemberName, ReplicationState, Role, SlotName, Timeline};
use crate::step::{RequestId, Task, TaskOutcome};

/// A reading of the machine's boot-time clock, which goes on while the machine is suspended (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment(pub Duration);

impl Moment {
    /// This moment and `duration` more.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long it is from `earlier` until this moment; zero when it lies before it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What the local configuration says about this member, and what does not change within a cycle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// This member's name.
    pub name: MemberName,
    /// The scope: the cluster's name.
    pub scope: String,
    /// Its published address for PostgreSQL, `postgres://host:port/dbname`.
    pub conn_url: String,
    /// Its published address for the REST API.
    pub api_url: String,
    /// Its published proxy address.
    pub proxy_url: Option<String>,
    /// Its tags, as they are published.
    pub tags: Tags,
    /// The agent's version in Patroni's numbering, as published.
    pub version: String,
    /// The section `bootstrap` is there: this member may create the cluster.
    pub may_bootstrap: bool,
    /// `bootstrap.method` is a script of the user's, not initdb.
    pub has_custom_bootstrap: bool,
    /// `postgresql.use_slots`: members use replication slots.
    pub use_slots: bool,
    /// A replica method is configured that needs no running member (`no_leader`).
    pub has_method_without_leader: bool,
    /// `postgresql.use_pg_rewind` is set and `pg_rewind` can be run.
    pub use_pg_rewind: bool,
    /// `postgresql.remove_data_directory_on_rewind_failure`.
    pub remove_data_directory_on_rewind_failure: bool,
    /// `postgresql.remove_data_directory_on_diverged_timelines`.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// The dynamic configuration to write when the cluster has none: the one in force, as JSON.
    pub config_json: String,
    /// `citus.group`: 0 is the coordinator.
    #[serde(default)]
    pub citus_group: Option<u32>,
    /// The server's version, as in `server_version_num`; 0 when its binaries could not be asked.
    pub server_version: u32,
}

/// What is there at the start of every cycle without asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Given {
    /// Now, on the boot-time clock.
    pub now: Moment,
    /// Now, on the wall clock; for schedules and texts only.
    pub wall_clock: Timestamp,
    /// This member.
    #[serde(with = "crate::event::shared::arc")]
    pub node: Arc<Node>,
    /// The dynamic configuration in force.
    #[serde(with = "crate::event::shared::dynamic_config")]
    pub config: Arc<DynamicConfig>,
    /// What the one long job is doing.
    pub task: TaskStatus,
    /// The checkpoint after a promotion, which runs beside everything else.
    pub checkpoint: CheckpointStatus,
    /// What people asked of this member and has not been answered.
    pub requests: Vec<Request>,
    /// The restart that somebody wants at a certain time, until [`crate::step::Outcome::unscheduled`] names it.
    pub scheduled_restart: Option<PlannedRestart>,
    /// The ping of a leader that does not reach the DCS, if this member has accepted one and it still counts.
    pub failsafe: Option<Accepted>,
    /// The agent has been told to end (SIGTERM).
    pub is_stopping: bool,
    /// A guard is required (`guard.mode`), and there is none: this member may not be primary.
    pub guard_is_missing: bool,
    /// A watchdog device is required (`watchdog.mode`) and cannot be used: this member may not be primary.
    pub watchdog_is_missing: bool,
    /// The primary gives no sign of life, if `primary_probe_timeout` has somebody look for some.
    #[serde(default)]
    pub unresponsive: Option<Unresponsive>,
}

/// The server runs and does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unresponsive {
    /// When the first look at it began that has not succeeded.
    pub since: Moment,
    /// What does not work.
    pub why: String,
}

/// The long job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TaskStatus {
    /// None.
    Idle,
    /// It runs.
    Running {
        /// Which.
        task: Task,
        /// Since when.
        since: Moment,
        /// How far it is.
        progress: Progress,
    },
    /// It has ended. Told to exactly one cycle.
    Done {
        /// Which.
        task: Task,
        /// How.
        outcome: TaskOutcome,
    },
}

/// How far a long job is, where that matters to the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// Nothing to tell.
    Working,
    /// A stop: the shutdown checkpoint is written; the server only waits for its WAL senders or archiver.
    ShutDown {
        /// Where the shutdown checkpoint's record begins (`Latest checkpoint location`).
        checkpoint: Lsn,
    },
    /// A start: the postmaster is there and does not accept connections yet.
    Starting,
    /// A restart: the server is down and about to be started again.
    Restarting,
}

/// The checkpoint that is made in the background after a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointStatus {
    /// None was asked for.
    Idle,
    /// It runs.
    Running,
    /// It is done. Told until the next one begins.
    Done,
    /// It failed; it may be asked for again.
    Failed,
}

/// What a person asked of this member through the REST API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Restart PostgreSQL.
    Restart {
        /// To answer it.
        id: RequestId,
        /// Conditions and limits.
        conditions: RestartConditions,
    },
    /// Remove the data directory and clone it anew.
    Reinitialize {
        /// To answer it.
        id: RequestId,
        /// End a running job first.
        force: bool,
        /// Clone from the leader, and with `pg_basebackup`, only.
        from_leader: bool,
    },
}

/// When a restart that was asked for shall be done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestartConditions {
    /// Only in this role.
    pub role: Option<Role>,
    /// Only while the server's version (`server_version_num`) is below this one.
    pub version_below: Option<u32>,
    /// Only while a setting waits for a restart.
    pub only_pending: bool,
    /// How long the start may take; the configured `primary_start_timeout` otherwise.
    pub timeout: Option<Duration>,
}

/// A restart of this server at a certain time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedRestart {
    /// To tell it from the next one.
    pub id: RequestId,
    /// When.
    pub at: Timestamp,
    /// Conditions and limits.
    pub conditions: RestartConditions,
    /// As it is published in the member key.
    pub shown: ScheduledRestart,
}

/// Why something could not be found out from or done in the DCS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DcsFailure(pub String);

/// The answer to an attempt to take or keep the leader key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockAnswer {
    /// The key is ours.
    Held {
        /// When the request that proved it was sent: the lease runs from here at the earliest.
        sent_at: Moment,
    },
    /// The key is ours, bound to a lease that the DCS keeps alive, but the DCS refuses to write: nobody can be superseded
    /// or take a free key until it is mended.
    HeldByLeaseAlone {
        /// As for [`LockAnswer::Held`].
        sent_at: Moment,
        /// Why it refuses.
        why: DcsFailure,
    },
    /// The key is certainly not ours.
    NotHeld,
    /// It could not be found out.
    Unknown(DcsFailure),
}

impl LockAnswer {
    /// The key is ours: when the request that proved it was sent.
    #[must_use]
    pub fn held_since(&self) -> Option<Moment> {
        match self {
            Self::Held { sent_at } | Self::HeldByLeaseAlone { sent_at, .. } => Some(*sent_at),
            Self::NotHeld | Self::Unknown(_) => None,
        }
    }
}

/// The local server, as seen at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Server {
    /// Whether a postmaster runs on the data directory.
    pub running: Running,
    /// When that postmaster was started, in seconds since 1970; changes when it is another one.
    pub postmaster_started: Option<i64>,
    /// Whether it lets clients in.
    pub accepts: Accepts,
    /// What the one query of this cycle told; `None` when it failed.
    pub sql: Option<SqlFacts>,
}

impl Server {
    /// A postmaster is there, that is certain.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running == Running::Yes
    }

    /// No postmaster is there, that is certain.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.running == Running::No
    }
}

/// Whether a postmaster runs. That it could not be found out is an answer of its own: nothing is demoted, started, replaced
/// or released for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Running {
    /// Its process is alive.
    Yes,
    /// Its process has ended, or there was none.
    #[default]
    No,
    /// Nobody could look, and why.
    Unknown(String),
}

/// Whether the server lets clients in, as `pg_isready` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Accepts {
    /// It does.
    Yes,
    /// It answers that it does not yet, or not any more.
    Rejecting,
    /// It does not answer.
    #[default]
    NoResponse,
}

/// What the one query of a cycle told of the local server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SqlFacts {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// A primary's own; a standby's as its WAL receiver, else its control data or `IDENTIFY_SYSTEM` tells it.
    pub timeline: Option<Timeline>,
    /// Which promotion that timeline comes from, as far as its beginning is still in `pg_wal`.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// Primary: `pg_current_wal_flush_lsn()`.
    pub flushed: Option<Lsn>,
    /// Standby: the larger of written and received.
    pub received: Option<Lsn>,
    /// Standby: `pg_last_wal_replay_lsn()`.
    pub replayed: Option<Lsn>,
    /// Standby: replay is paused.
    pub replay_paused: bool,
    /// Standby: how it gets its WAL.
    pub replication_state: Option<ReplicationState>,
    /// Settings that wait for a restart.
    pub pending_restart: BTreeMap<String, PendingRestartReason>,
    /// Replication slots, temporary ones left out.
    pub slots: Vec<Slot>,
    /// What the leader last said of them.
    pub slot_horizons: Option<SlotHorizons>,
    /// Who streams from this server.
    pub wal_senders: Vec<WalSender>,
    /// `synchronous_standby_names` in force.
    pub synchronous_standby_names: String,
    /// What a commit that waits for a standby waits for (`synchronous_commit`).
    pub waits_for: WaitsFor,
    /// The checkpointer has read the settings. It is the process that tells all others whether to wait for standbys
    /// at all, and reads them late while it writes a checkpoint.
    pub checkpointer_is_current: bool,
}

impl SqlFacts {
    /// The position to compare with others: a primary's flush position; the larger of received and replayed else.
    #[must_use]
    pub fn position(&self) -> Option<Lsn> {
        if self.in_recovery {
            self.received.max(self.replayed)
        } else {
            self.flushed
        }
    }
}

/// How far a standby must be for a commit that waits for it (PostgreSQL manual, `synchronous_commit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WaitsFor {
    /// The WAL is written to the standby's operating system (`remote_write`).
    Write,
    /// It is durable there.
    #[default]
    Flush,
    /// It is visible there (`remote_apply`).
    Replay,
}

/// A connection that streams WAL from this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSender {
    /// `application_name`: a member's name, or whatever somebody has chosen.
    pub application_name: String,
    /// `state` is `streaming`.
    pub is_streaming: bool,
    /// `state` is `catchup`: it will stream.
    #[serde(default)]
    pub is_catching_up: bool,
    /// The slot that it uses.
    #[serde(default)]
    pub slot: Option<SlotName>,
    /// `client_addr`; `None` over a Unix-domain socket.
    #[serde(default)]
    pub client: Option<String>,
    /// `sync_state`.
    pub sync_state: String,
    /// `write_lsn`.
    pub written: Option<Lsn>,
    /// `flush_lsn`.
    pub flushed: Option<Lsn>,
    /// `replay_lsn`.
    pub replayed: Option<Lsn>,
}

impl WalSender {
    /// How far the standby is, as a commit counts it.
    #[must_use]
    pub fn position(&self, waits_for: WaitsFor) -> Option<Lsn> {
        match waits_for {
            WaitsFor::Write => self.written,
            WaitsFor::Flush => self.flushed,
            WaitsFor::Replay => self.replayed,
        }
    }
}

/// The data directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum DataDirectory {
    /// It is missing, or holds nothing of PostgreSQL's.
    Empty,
    /// It cannot be read, or not understood; why.
    Inaccessible(String),
    /// A cluster's data.
    Present {
        /// What `pg_controldata` tells; `Err` when it could not be run.
        control: Result<ControlData, String>,
        /// `standby.signal` or `recovery.signal` is there.
        has_recovery_signal: bool,
        /// `backup_label` is there: the copy of a base backup that has not been recovered yet.
        has_backup_label: bool,
        /// pg_rewind has begun to change it and has not come to its end: no server may be started on it.
        is_half_rewound: bool,
    },
}

/// What a crash has left to be replayed: the WAL from the last checkpoint on (PostgreSQL manual, "WAL Internals").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CrashRecovery {
    /// Where the replay begins: `Latest checkpoint's REDO location`.
    pub redo: Lsn,
    /// Where the last valid record ends. No process of the crashed server is there any more that could add one.
    pub end: Lsn,
}

impl CrashRecovery {
    /// How much has to be replayed.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.redo.behind(self.end)
    }
}

/// A server to replicate from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The member; `None` for the remote side of a standby cluster.
    pub member: Option<MemberName>,
    /// Where it takes connections: `postgres://host:port/dbname` of a member, `host='a,b' port='5432'` of a remote
    /// cluster. Empty when the remote cluster is followed by its archive alone.
    pub conn_url: String,
    /// The slot to use on it.
    pub slot: Option<SlotName>,
    /// How soon a connection that failed is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// Streaming works, so that no `restore_command` is in force: a promotion would wait for it.
    #[serde(default)]
    pub only_streams: bool,
}

/// How soon a standby connects again to a source that has refused it or does not answer (`wal_retrieve_retry_interval`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Retry {
    /// At once: it is new, or was there a moment ago.
    #[default]
    AtOnce,
    /// It has failed for some time.
    Soon,
    /// It has failed for long.
    Later,
}

impl Retry {
    /// The interval; `None` for the default of a standby.
    #[must_use]
    pub fn interval(self) -> Option<Duration> {
        match self {
            Self::AtOnce => None,
            Self::Soon => Some(Duration::from_secs(5)),
            Self::Later => Some(Duration::from_secs(30)),
        }
    }
}

impl Source {
    /// It is what a standby cluster replicates from.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.member.is_none()
    }

    /// WAL can be streamed from it; from an archive alone it cannot.
    #[must_use]
    pub fn can_be_connected_to(&self) -> bool {
        !self.conn_url.is_empty()
    }

    /// What to call it.
    #[must_use]
    pub fn name(&self) -> &str {
        self.member.as_ref().map_or("remote_member", MemberName::as_str)
    }
}

/// What a member answered to a leader that does not reach the DCS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailsafeReply {
    /// Its name.
    pub name: MemberName,
    /// It accepts: its position, if it told one. Else why not.
    pub accepts: Result<Option<Lsn>, String>,
}

/// What is needed to tell whether this member's WAL diverged from another server's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// This member's side; `Err` when it could not be found out.
    pub local: Result<LocalHistory, String>,
    /// The other server's side; `Err` when it could not be asked.
    pub remote: Result<RemoteHistory, String>,
}

/// Where this member's WAL ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LocalHistory {
    /// Its timeline.
    pub timeline: Timeline,
    /// Running: what it has replayed. Stopped: `Minimum recovery ending location`, or a primary's last checkpoint.
    pub lsn: Lsn,
    /// It is, or was when it stopped, a standby.
    pub was_standby: bool,
    /// Which promotions the timeline and those before it come from, as far as their beginnings are still in `pg_wal`.
    #[serde(default)]
    pub origins: Vec<Origin>,
    /// Where the record of a former primary's shutdown checkpoint ends; `None` when not asked or not found out.
    pub checkpoint_end: Option<Lsn>,
}

/// What the server that we want to follow says of its WAL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoteHistory {
    /// It is in recovery: its timeline says nothing yet.
    pub in_recovery: bool,
    /// Its timeline, by `IDENTIFY_SYSTEM`.
    pub timeline: Timeline,
    /// Its history, by `TIMELINE_HISTORY`; empty on timeline 1.
    pub history: Vec<HistoryEntry>,
}

/// Whether the server's recovery settings are those that following a source needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecoveryDrift {
    /// They are.
    None,
    /// A reload brings them into force.
    Reload,
    /// Only a restart does.
    Restart,
}

/// The answer to a question, or the result of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "a cycle has few answers, and moves none of them often"
)]
pub enum Answer {
    /// To [`crate::step::Question::Cluster`].
    Cluster(#[serde(with = "crate::event::shared::arc_result")] Result<Arc<Cluster>, DcsFailure>),
    /// To [`crate::step::Question::Server`].
    Server(Server),
    /// To [`crate::step::Question::DataDirectory`].
    DataDirectory(DataDirectory),
    /// To [`crate::step::Question::CrashRecovery`]; why not else.
    CrashRecovery(Result<CrashRecovery, String>),
    /// To [`crate::step::Question::Peers`], in the order of the question.
    Peers(Vec<PeerAnswer>),
    /// To [`crate::step::Question::Failsafe`].
    Failsafe {
        /// A moment before the first request was sent.
        sent_at: Moment,
        /// In the order of the question.
        replies: Vec<FailsafeReply>,
    },
    /// To [`crate::step::Question::Divergence`].
    Divergence(Divergence),
    /// To [`crate::step::Question::HistoryFile`]; `None` when there is none.
    HistoryFile(Option<Vec<HistoryEntry>>),
    /// To [`crate::step::Question::RecoveryDrift`].
    RecoveryDrift(RecoveryDrift),
    /// To an action that takes, keeps or gives up the leader key.
    Lock(LockAnswer),
    /// To an action that writes or deletes a key: the key's new version, or `None` when the precondition did not hold.
    Written(Result<Option<Version>, DcsFailure>),
    /// To [`crate::step::Action::TouchMember`]: another agent of this member's name lives.
    NameTaken,
    /// To any other action: done, or why not.
    Done(Result<(), String>),
}
