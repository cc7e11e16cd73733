//! What the server says of itself: one query per cycle, and one for the REST API.

use crate::slots::Slot;
use crate::{Instant, Result, Server, ServerVersion};
use ha::pg::{Lsn, ReplicationState, SlotName, Timeline};

/// Which optional parts a cycle's query asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatusWants {
    /// Replication slots.
    pub slots: bool,
    /// WAL senders.
    pub wal_senders: bool,
}

/// What one query says of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlStatus {
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Primary: the timeline it writes. Standby: the one it receives, else the one of its last restart point.
    pub timeline: Option<Timeline>,
    /// Timeline of the latest checkpoint, from the control file.
    pub control_timeline: Timeline,
    /// Primary: flushed position. Standby: the larger of received and replayed.
    pub lsn: Lsn,
    /// Standby: received (written) position.
    pub received: Option<Lsn>,
    /// Standby: replayed position.
    pub replayed: Option<Lsn>,
    /// Standby: replay is paused.
    pub replay_paused: bool,
    /// Standby: the WAL receiver, if there is one.
    pub wal_receiver: Option<WalReceiver>,
    /// Standby: `restore_command` is set.
    pub has_restore_command: bool,
    /// `pg_postmaster_start_time()`, as `2026-01-31 12:34:56.123456+00:00`.
    pub postmaster_start_time: String,
    /// `server_version_num`.
    pub server_version: ServerVersion,
    /// Slots, if asked for.
    pub slots: Vec<Slot>,
    /// WAL senders, if asked for.
    pub wal_senders: Vec<WalSender>,
    /// `synchronous_commit`.
    pub synchronous_commit: String,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
}

/// `pg_stat_wal_receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReceiver {
    /// `streaming`, `starting`, ...
    pub status: String,
    /// `received_tli`, once it has received something.
    pub received_timeline: Option<Timeline>,
    /// `slot_name`.
    pub slot_name: Option<SlotName>,
    /// `conninfo`, as the server shows it (passwords hidden).
    pub conninfo: Option<String>,
    /// `latest_end_lsn`.
    pub latest_end_lsn: Option<Lsn>,
    /// `sender_host`
    pub sender_host: Option<String>,
    /// `sender_port`
    pub sender_port: Option<i32>,
}

/// One row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalSender {
    /// Process id.
    pub pid: i32,
    /// `application_name`
    pub application_name: String,
    /// `client_addr`; `None` on a Unix-domain socket.
    pub client_addr: Option<String>,
    /// `usename`
    pub usename: Option<String>,
    /// `state`
    pub state: String,
    /// `sync_state`
    pub sync_state: Option<String>,
    /// `sync_priority`
    pub sync_priority: Option<i32>,
    /// `sent_lsn`
    pub sent: Option<Lsn>,
    /// `write_lsn`
    pub write: Option<Lsn>,
    /// `flush_lsn`
    pub flush: Option<Lsn>,
    /// `replay_lsn`
    pub replay: Option<Lsn>,
}

/// What `GET /patroni` shows of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestStatus {
    /// `YYYY-MM-DD HH:MM:SS.ffffff+00:00`
    pub postmaster_start_time: String,
    /// `server_version_num`.
    pub server_version: ServerVersion,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// Primary: its timeline.
    pub timeline: Option<Timeline>,
    /// Primary: flushed position.
    pub location: Option<Lsn>,
    /// Standby: written, else received, else replayed position.
    pub received_location: Option<Lsn>,
    /// Standby: replayed position.
    pub replayed_location: Option<Lsn>,
    /// Standby: time of the last replayed transaction, `YYYY-MM-DD HH:MM:SS.ffffff+00:00`.
    pub replayed_timestamp: Option<String>,
    /// Standby: replay is paused.
    pub replay_paused: bool,
    /// Standby: how it gets its WAL.
    pub replication_state: Option<ReplicationState>,
    /// WAL senders.
    pub wal_senders: Vec<WalSender>,
    /// `pg_stat_replication` may be read and the latest end of the receiver is known.
    pub latest_end_lsn: Option<Lsn>,
}

impl Server {
    /// The facts of one cycle in a single query, repeated once within half of `retry_timeout` when the connection
    /// breaks.
    ///
    /// # Errors
    /// When the server does not answer; see [`crate::Error::is_statement_timeout`].
    pub async fn status(&self, wants: StatusWants, deadline: Instant) -> Result<SqlStatus> {
        todo!()
    }

    /// The facts of the REST API, over a connection of their own.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn rest_status(&self, deadline: Instant) -> Result<RestStatus> {
        todo!()
    }
}
