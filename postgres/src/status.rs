//! What the server says of itself: one query per cycle, and one for the REST API.

use crate::connection::Purpose;
use crate::server::locked;
use crate::slots::{SLOT_COLUMNS, Slot};
use crate::{Error, Instant, Result, Server, ServerVersion};
use ha::pg::{Lsn, ReplicationState, SlotName, Timeline};
use serde_json::Value;
use tokio_postgres::SimpleQueryRow;

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
    /// Primary: the timeline it writes. Standby: the one it receives, else the newest that it was seen on since its start, at
    /// least the one of its last restart point.
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
    /// Standby: time of the last replayed transaction, `YYYY-MM-DD HH:MM:SS.ffffff+00:00`.
    pub replayed_timestamp: Option<String>,
    /// `synchronous_commit`.
    pub synchronous_commit: String,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// The checkpointer waits for work, so it has read the settings that were there when it began to wait. It tells
    /// all backends whether to wait for standbys at all, and reads no settings while it syncs files.
    pub checkpointer_is_current: bool,
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
    /// The replication slot that it uses.
    pub slot_name: Option<SlotName>,
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
    /// As in [`SqlStatus::timeline`].
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
    /// Standby: `latest_end_lsn` of its WAL receiver.
    pub latest_end_lsn: Option<Lsn>,
}

impl SqlStatus {
    /// How a standby gets its WAL; `None` on a primary, and when it gets none.
    #[must_use]
    pub fn replication_state(&self) -> Option<ReplicationState> {
        if !self.in_recovery {
            None
        } else if self
            .wal_receiver
            .as_ref()
            .is_some_and(|receiver| receiver.status == "streaming")
        {
            Some(ReplicationState::Streaming)
        } else {
            self.has_restore_command
                .then_some(ReplicationState::InArchiveRecovery)
        }
    }
}

/// Texts of times as Patroni's REST API shows them.
fn time_text(expression: &str) -> String {
    format!("to_char({expression} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00:00'")
}

/// Everything in one statement. Where a function exists on one side of a promotion only, a CASE guards it.
fn query(wants: StatusWants) -> String {
    let nothing = || "NULL".to_owned();
    let aggregate = |columns: &str, from: &str| {
        format!("(SELECT json_agg(row_to_json(rows)) FROM (SELECT {columns} FROM {from}) AS rows)")
    };
    let slots = if wants.slots {
        aggregate(SLOT_COLUMNS, "pg_replication_slots AS slot WHERE NOT temporary")
    } else {
        nothing()
    };
    let senders = if wants.wal_senders {
        let columns = "pid, (SELECT slot.slot_name FROM pg_replication_slots AS slot \
                       WHERE slot.active_pid = pid LIMIT 1) AS slot_name, application_name, \
                       host(client_addr) AS client_addr, usename, state, sync_state, \
                       sync_priority, sent_lsn, write_lsn, flush_lsn, replay_lsn";
        aggregate(columns, "pg_stat_replication")
    } else {
        nothing()
    };
    format!(
        "SELECT pg_is_in_recovery() AS in_recovery, \
         CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END AS wal_file, \
         CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END AS flushed, \
         pg_last_wal_receive_lsn() AS received, pg_last_wal_replay_lsn() AS replayed, \
         CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused, \
         (SELECT row_to_json(receiver) FROM pg_stat_wal_receiver AS receiver) AS receiver, \
         current_setting('restore_command') <> '' AS has_restore_command, \
         (SELECT timeline_id FROM pg_control_checkpoint()) AS control_timeline, \
         (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery_timeline, \
         {} AS started, {} AS replayed_at, \
         current_setting('server_version_num') AS version, \
         current_setting('synchronous_commit') AS synchronous_commit, \
         current_setting('synchronous_standby_names') AS synchronous_standby_names, \
         (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'checkpointer') \
         IN ('CheckpointerMain', 'CheckpointWriteDelay') AS checkpointer_is_current, \
         {slots} AS slots, {senders} AS senders",
        time_text("pg_postmaster_start_time()"),
        time_text("pg_last_xact_replay_timestamp()"),
    )
}

impl Server {
    /// The facts of one cycle in a single query, repeated once within half of `retry_timeout` when the connection
    /// breaks.
    ///
    /// # Errors
    /// When the server does not answer; see [`crate::Error::is_statement_timeout`].
    pub async fn status(&self, wants: StatusWants, deadline: Instant) -> Result<SqlStatus> {
        self.status_over(Purpose::Heartbeat, wants, deadline).await
    }

    async fn status_over(
        &self,
        purpose: Purpose,
        wants: StatusWants,
        deadline: Instant,
    ) -> Result<SqlStatus> {
        let rows = self
            .query_kept(purpose, "reading the server's state", &query(wants), deadline)
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| Error::parse("the server's state", "no row came"))?;
        let mut status = read_status(row)?;
        if status.in_recovery {
            let mut known = locked(&self.shared.standby_timeline);
            status.timeline = known.see(&status.postmaster_start_time, status.timeline);
        }
        Ok(status)
    }

    /// The facts of the REST API, over a connection of their own.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn rest_status(&self, deadline: Instant) -> Result<RestStatus> {
        let wants = StatusWants {
            slots: false,
            wal_senders: true,
        };
        let status = self.status_over(Purpose::Rest, wants, deadline).await?;
        let standby = status.in_recovery;
        Ok(RestStatus {
            replication_state: status.replication_state(),
            timeline: status.timeline,
            location: (!standby).then_some(status.lsn),
            received_location: status.received.or(status.replayed).filter(|_| standby),
            replayed_location: status.replayed.filter(|_| standby),
            replayed_timestamp: status.replayed_timestamp.filter(|_| standby),
            replay_paused: status.replay_paused,
            latest_end_lsn: status.wal_receiver.and_then(|receiver| receiver.latest_end_lsn),
            wal_senders: status.wal_senders,
            postmaster_start_time: status.postmaster_start_time,
            server_version: status.server_version,
            in_recovery: standby,
        })
    }
}

/// The newest timeline that a standby was seen on since its server was started. While its source is away only the control
/// data speaks of timelines, and there stands that of the last restart point, which may be from before a promotion.
#[derive(Debug, Default)]
pub(crate) struct StandbyTimeline {
    postmaster_start_time: String,
    timeline: Option<Timeline>,
}

impl StandbyTimeline {
    /// What it is, now that it was seen to be `seen`.
    fn see(&mut self, postmaster_start_time: &str, seen: Option<Timeline>) -> Option<Timeline> {
        if self.postmaster_start_time != postmaster_start_time {
            postmaster_start_time.clone_into(&mut self.postmaster_start_time);
            self.timeline = None;
        }
        self.timeline = self.timeline.max(seen);
        self.timeline
    }
}

fn read_status(row: &SimpleQueryRow) -> Result<SqlStatus> {
    let bad = |column: &str| Error::parse("the server's state", format!("bad {column}"));
    let text = |column: &str| row.get(column).map(str::to_owned);
    let flag = |column: &str| row.get(column) == Some("t");
    let lsn = |column: &str| row.get(column).and_then(|text| text.parse::<Lsn>().ok());
    let number = |column: &str| row.get(column).and_then(|text| text.parse::<u32>().ok());
    let json = |column: &str| {
        row.get(column).map_or(Ok(Value::Null), |text| {
            serde_json::from_str(text).map_err(|_| bad(column))
        })
    };

    let in_recovery = flag("in_recovery");
    let control_timeline = Timeline(number("control_timeline").ok_or_else(|| bad("control_timeline"))?);
    let wal_receiver = read_receiver(&json("receiver")?);
    let written = wal_receiver.as_ref().and_then(|(_, written)| *written);
    let wal_receiver = wal_receiver.map(|(receiver, _)| receiver).filter(|_| in_recovery);
    let (received, replayed) = (lsn("received").max(written), lsn("replayed"));
    let received_timeline = wal_receiver
        .as_ref()
        .and_then(|receiver| receiver.received_timeline);
    let from_control = Some(control_timeline).max(number("recovery_timeline").map(Timeline));
    let written_timeline = row.get("wal_file").and_then(timeline_of_file);
    let (timeline, position) = if in_recovery {
        (received_timeline.or(from_control), received.max(replayed))
    } else {
        (written_timeline, lsn("flushed"))
    };
    let slots = json("slots")?;
    let senders = json("senders")?;
    Ok(SqlStatus {
        in_recovery,
        timeline,
        control_timeline,
        lsn: position.unwrap_or_default(),
        received: received.filter(|_| in_recovery),
        replayed: replayed.filter(|_| in_recovery),
        replay_paused: flag("paused"),
        wal_receiver,
        has_restore_command: flag("has_restore_command"),
        postmaster_start_time: text("started").ok_or_else(|| bad("started"))?,
        replayed_timestamp: text("replayed_at").filter(|_| in_recovery),
        server_version: ServerVersion(number("version").ok_or_else(|| bad("version"))?),
        slots: slots
            .as_array()
            .map(|rows| rows.iter().filter_map(Slot::from_json).collect())
            .unwrap_or_default(),
        wal_senders: senders
            .as_array()
            .map(|rows| rows.iter().filter_map(read_sender).collect())
            .unwrap_or_default(),
        synchronous_commit: text("synchronous_commit").unwrap_or_default(),
        synchronous_standby_names: text("synchronous_standby_names").unwrap_or_default(),
        checkpointer_is_current: flag("checkpointer_is_current"),
    })
}

/// The first eight digits of a WAL file's name.
fn timeline_of_file(name: &str) -> Option<Timeline> {
    u32::from_str_radix(name.get(..8)?, 16).ok().map(Timeline)
}

pub(crate) fn json_text(row: &Value, key: &str) -> Option<String> {
    row.get(key).and_then(Value::as_str).map(str::to_owned)
}

pub(crate) fn json_lsn(row: &Value, key: &str) -> Option<Lsn> {
    row.get(key).and_then(Value::as_str)?.parse().ok()
}

/// The receiver, and how far it has written (13 and later).
fn read_receiver(row: &Value) -> Option<(WalReceiver, Option<Lsn>)> {
    let latest_end_lsn = json_lsn(row, "latest_end_lsn");
    let timeline = row
        .get("received_tli")
        .and_then(Value::as_u64)
        .and_then(|number| u32::try_from(number).ok());
    let receiver = WalReceiver {
        status: json_text(row, "status")?,
        // Before anything was received it is the timeline that was asked for, not one that is there.
        received_timeline: timeline.map(Timeline).filter(|_| latest_end_lsn.is_some()),
        slot_name: json_text(row, "slot_name")
            .filter(|name| !name.is_empty())
            .map(SlotName),
        conninfo: json_text(row, "conninfo"),
        latest_end_lsn,
        sender_host: json_text(row, "sender_host"),
        sender_port: row
            .get("sender_port")
            .and_then(Value::as_i64)
            .and_then(|port| i32::try_from(port).ok()),
    };
    Some((receiver, json_lsn(row, "written_lsn")))
}

fn read_sender(row: &Value) -> Option<WalSender> {
    let number = |key: &str| {
        row.get(key)
            .and_then(Value::as_i64)
            .and_then(|number| i32::try_from(number).ok())
    };
    Some(WalSender {
        pid: number("pid")?,
        application_name: json_text(row, "application_name").unwrap_or_default(),
        client_addr: json_text(row, "client_addr"),
        slot_name: json_text(row, "slot_name").map(SlotName),
        usename: json_text(row, "usename"),
        state: json_text(row, "state").unwrap_or_default(),
        sync_state: json_text(row, "sync_state"),
        sync_priority: number("sync_priority"),
        sent: json_lsn(row, "sent_lsn"),
        write: json_lsn(row, "write_lsn"),
        flush: json_lsn(row, "flush_lsn"),
        replay: json_lsn(row, "replay_lsn"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_does_not_go_back_to_an_older_timeline_while_its_server_runs() {
        let mut known = StandbyTimeline::default();
        let timeline = |number| Some(Timeline(number));
        assert_eq!(known.see("today", timeline(1)), timeline(1));
        assert_eq!(known.see("today", timeline(2)), timeline(2), "it receives");
        assert_eq!(
            known.see("today", timeline(1)),
            timeline(2),
            "the receiver is gone"
        );
        assert_eq!(known.see("today", None), timeline(2));
        assert_eq!(
            known.see("tomorrow", timeline(1)),
            timeline(1),
            "another start, perhaps of other data"
        );
    }
}
