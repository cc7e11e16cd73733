//! `GET /metrics`: Prometheus's text format with Patroni's names (Patroni documentation, "Patroni REST API",
//! "Monitoring endpoint"). Dashboards and alerts out there are made of these names.

use std::fmt::{Display, Write};

use ha::facts::Moment;
use ha::pg::{Lsn, ReplicationState, Role, ServerState};

use super::status::{Shown, SyncFlag};
use crate::daemon::disk::Room;
use crate::daemon::view::View;

/// The text.
pub(crate) fn text(view: &View, now: Moment, server: Shown<'_>, rooms: &[Room]) -> String {
    let mut metrics = Metrics::new(&view.node.scope, view.node.name.as_str());
    metrics.gauge(
        "version",
        "The version as a number, two digits for each part.",
        version_number(&view.node.version),
    );
    put_role(&mut metrics, server);
    put_standby(&mut metrics, server);
    metrics.gauge(
        "postgres_server_version",
        "PostgreSQL's version as a number; 0 if unknown.",
        server.sql.map_or(0, |sql| sql.server_version.0),
    );
    put_cluster(&mut metrics, view, now, timeline(view, server));
    metrics.states(server.state);
    metrics.gauge(
        "failover_priority",
        "The failover priority; 0 if this member may not be promoted.",
        view.node.tags.failover_priority(),
    );
    if let Some(is_missing) = view.guard_is_missing {
        metrics.sample(
            "tamada_guard_missing",
            "1 if PostgreSQL is without the guard that guard.mode asks for, else 0.",
            u8::from(is_missing),
        );
    }
    metrics.sample(
        "tamada_member_names_taken",
        "As the primary: how many members' names are used for streaming by connections that are not theirs.",
        view.strangers,
    );
    put_rooms(&mut metrics, rooms);
    metrics.text
}

/// Ours: Patroni has no such metrics.
fn put_rooms(metrics: &mut Metrics, rooms: &[Room]) {
    metrics.family(
        "tamada_disk_free_bytes",
        "Bytes that PostgreSQL can still write to the file system of this directory.",
        rooms.iter().map(|room| (room, room.free_bytes)),
    );
    metrics.family(
        "tamada_disk_size_bytes",
        "The size of the file system of this directory, in bytes.",
        rooms.iter().map(|room| (room, room.size_bytes)),
    );
}

fn put_role(metrics: &mut Metrics, server: Shown<'_>) {
    let sql = server.sql;
    let state = Some(ServerState::Running);
    metrics.flag(
        "postgres_running",
        "1 if PostgreSQL runs, else 0.",
        server.state == state,
    );
    metrics.gauge(
        "postmaster_start_time",
        "When PostgreSQL was started, in seconds since 1970; 0 if unknown.",
        epoch(sql.map(|sql| sql.postmaster_start_time.as_str())),
    );
    metrics.flag(
        "primary",
        "1 if this member is the primary, else 0.",
        server.role == Role::Primary,
    );
    metrics.counter(
        "xlog_location",
        "A primary's position in the WAL in bytes, else 0.",
        bytes(sql.and_then(|sql| sql.location)),
    );
    metrics.flag(
        "standby_leader",
        "1 if this member leads a standby cluster, else 0.",
        server.role == Role::StandbyLeader,
    );
    metrics.flag(
        "replica",
        "1 if this member is a replica, else 0.",
        server.role == Role::Replica,
    );
    metrics.flag(
        "sync_standby",
        "1 if this member is a synchronous standby, else 0.",
        server.sync == Some(SyncFlag::Sync),
    );
    metrics.flag(
        "quorum_standby",
        "1 if this member is a quorum standby, else 0.",
        server.sync == Some(SyncFlag::Quorum),
    );
}

/// A primary has none of these, and they are 0.
fn put_standby(metrics: &mut Metrics, server: Shown<'_>) {
    let sql = server.sql;
    let standby = sql.filter(|sql| sql.in_recovery);
    metrics.counter(
        "xlog_received_location",
        "Up to where a replica has received WAL, in bytes, else 0.",
        bytes(standby.and_then(|sql| sql.received_location)),
    );
    metrics.counter(
        "xlog_replayed_location",
        "Up to where a replica has replayed WAL, in bytes, else 0.",
        bytes(standby.and_then(|sql| sql.replayed_location)),
    );
    metrics.gauge(
        "xlog_replayed_timestamp",
        "When the transaction that was replayed last was committed, in seconds since 1970; 0 if unknown.",
        epoch(standby.and_then(|sql| sql.replayed_timestamp.as_deref())),
    );
    metrics.flag(
        "xlog_paused",
        "1 if a replica's replay is paused, else 0.",
        standby.is_some_and(|sql| sql.replay_paused),
    );
    if sql.is_some() {
        let state = sql.and_then(|sql| sql.replication_state);
        metrics.flag(
            "postgres_streaming",
            "1 if a replica streams WAL, else 0.",
            state == Some(ReplicationState::Streaming),
        );
        metrics.flag(
            "postgres_in_archive_recovery",
            "1 if a replica restores WAL from the archive, else 0.",
            state == Some(ReplicationState::InArchiveRecovery),
        );
    }
}

fn bytes(lsn: Option<Lsn>) -> u64 {
    lsn.unwrap_or_default().0
}

fn timeline(view: &View, server: Shown<'_>) -> u32 {
    let timeline = server.sql.and_then(|sql| {
        if sql.in_recovery {
            view.timeline
        } else {
            sql.timeline
        }
    });
    timeline.map_or(0, |timeline| timeline.0)
}

fn put_cluster(metrics: &mut Metrics, view: &View, now: Moment, timeline: u32) {
    let cluster = view.cluster(now);
    let is_unlocked = cluster.is_none_or(|cluster| cluster.is_unlocked());
    metrics.flag(
        "cluster_unlocked",
        "1 if nobody holds the leader key, or the DCS does not answer, else 0.",
        is_unlocked,
    );
    metrics.flag(
        "failsafe_mode_is_active",
        "1 if the cluster goes on without the DCS, else 0.",
        view.failsafe_is_active(now),
    );
    metrics.flag(
        "failsafe_mode_enabled",
        "1 if failsafe_mode is on, else 0.",
        view.config.failsafe_mode,
    );
    let is_failsafe_member = view
        .failsafe_members
        .as_ref()
        .is_some_and(|members| members.contains_key(&view.node.name));
    metrics.flag(
        "failsafe_member",
        "1 if this member is listed in the key failsafe, else 0.",
        is_failsafe_member,
    );
    metrics.gauge(
        "postgres_timeline",
        "PostgreSQL's timeline; 0 if unknown.",
        timeline,
    );
    metrics.gauge(
        "dcs_last_seen",
        "When the DCS was last read, in seconds since 1970.",
        view.dcs_last_seen,
    );
    if view.dcs_refuses_writes.is_some() {
        metrics.flag(
            "dcs_refuses_writes",
            "1 if this member leads by its lease alone because the DCS refuses writes: no failover is possible.",
            true,
        );
    }
    metrics.flag(
        "pending_restart",
        "1 if a setting waits for a restart, else 0.",
        !view.pending_restart.is_empty(),
    );
    metrics.flag(
        "is_paused",
        "1 if the cluster is paused, else 0.",
        view.is_paused(),
    );
}

struct Metrics {
    text: String,
    labels: String,
}

impl Metrics {
    fn new(scope: &str, name: &str) -> Self {
        let escape = |text: &str| {
            text.replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        };
        let labels = format!("{{scope=\"{}\",name=\"{}\"}}", escape(scope), escape(name));
        Self {
            text: String::with_capacity(6000),
            labels,
        }
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.put(name, help, "", "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.put(name, help, "", "counter", value);
    }

    fn states(&mut self, state: Option<ServerState>) {
        let values: Vec<String> = ServerState::ALL
            .iter()
            .enumerate()
            .map(|(index, state)| format!("{index}={}", constant(*state)))
            .collect();
        let comment = format!("# Values: {}\n", values.join(", "));
        let index = state.and_then(|state| ServerState::ALL.iter().position(|it| *it == state));
        let value = index.map_or_else(|| "-1".to_owned(), |index| index.to_string());
        self.put(
            "postgres_state",
            "PostgreSQL's state as a number; -1 if unknown.",
            &comment,
            "gauge",
            value,
        );
    }

    /// One sample for each directory; nothing at all where there is none.
    fn family<'a>(&mut self, name: &str, help: &str, samples: impl Iterator<Item = (&'a Room, u64)>) {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge\n");
        let labels = self.labels.trim_end_matches('}');
        for (room, value) in samples {
            let _ = writeln!(
                self.text,
                "{name}{labels},directory=\"{}\"}} {value}",
                room.directory
            );
        }
    }

    /// One of ours, by its full name.
    fn sample(&mut self, name: &str, help: &str, value: impl Display) {
        let labels = &self.labels;
        // Writing to a String cannot fail.
        let _ = write!(
            self.text,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}\n"
        );
    }

    fn put(&mut self, name: &str, help: &str, comment: &str, kind: &str, value: impl Display) {
        let labels = &self.labels;
        // Writing to a String cannot fail.
        let _ = write!(
            self.text,
            "# HELP patroni_{name} {help}\n{comment}# TYPE patroni_{name} {kind}\npatroni_{name}{labels} {value}\n"
        );
    }
}

/// The names of the states in the comment about them.
fn constant(state: ServerState) -> &'static str {
    match state {
        ServerState::Initializing => "initdb",
        ServerState::InitdbFailed => "initdb_failed",
        ServerState::CustomBootstrap => "custom_bootstrap",
        ServerState::CustomBootstrapFailed => "custom_bootstrap_failed",
        ServerState::CreatingReplica => "creating_replica",
        ServerState::Running => "running",
        ServerState::Starting => "starting",
        ServerState::StartingAfterCustomBootstrap => "bootstrap_starting",
        ServerState::StartFailed => "start_failed",
        ServerState::Restarting => "restarting",
        ServerState::RestartFailed => "restart_failed",
        ServerState::Stopping => "stopping",
        ServerState::Stopped => "stopped",
        ServerState::StopFailed => "stop_failed",
        ServerState::Crashed => "crashed",
    }
}

/// `4.1.5` is `040105`.
fn version_number(version: &str) -> String {
    version.split('.').map(|part| format!("{part:0>2}")).collect()
}

/// Seconds since 1970 of PostgreSQL's text for a time, with the fraction that it has.
fn epoch(text: Option<&str>) -> String {
    let time = text.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.map_or_else(
        || "0".to_owned(),
        |time| format!("{:?}", time.as_microsecond() as f64 / 1e6),
    )
}
