//! The status document: what `GET /patroni` and the bodies of health checks say (Patroni documentation, "Patroni REST
//! API", "Monitoring endpoint"). The order of its keys is Patroni's, since people compare its text.

use ha::cluster::{Cluster, Origin};
use ha::facts::{Moment, PeerStatus};
use ha::pg::{Lsn, Role, ServerState};
use postgres::{CloneProgress, RestStatus, WalSender};
use serde_json::{Map, Value, json};

use crate::daemon::view::View;

/// The server as it is shown: what was just asked of it, with the view's word where it did not answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// Its state; `None` when it should answer and does not.
    pub(crate) state: Option<ServerState>,
    /// Its role.
    pub(crate) role: Role,
    /// Its own answer.
    pub(crate) sql: Option<&'a RestStatus>,
    /// It is a synchronous standby.
    pub(crate) sync: Option<SyncFlag>,
}

/// As what a synchronous standby is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncFlag {
    /// By priority.
    Sync,
    /// By quorum.
    Quorum,
}

impl<'a> Shown<'a> {
    /// The server by the view and its own answer, if there is one.
    pub(crate) fn new(view: &View, now: Moment, sql: Option<&'a RestStatus>) -> Self {
        let Some(sql) = sql.filter(|_| may_answer(view.state)) else {
            let state = Some(view.state).filter(|state| *state != ServerState::Running);
            return Self {
                state,
                role: view.role,
                sql: None,
                sync: None,
            };
        };
        let is_standby_cluster = view.config.standby_cluster.is_some();
        let role = match (sql.in_recovery, is_standby_cluster) {
            (false, _) => Role::Primary,
            (true, true) => view.role,
            (true, false) => Role::Replica,
        };
        let is_voter = || {
            view.cluster(now)
                .is_some_and(|cluster| cluster.sync.lists(&view.node.name, false))
        };
        let flag = match view.config.synchronous_mode() {
            config::SynchronousMode::Off => None,
            config::SynchronousMode::On => Some(SyncFlag::Sync),
            config::SynchronousMode::Quorum => Some(SyncFlag::Quorum),
        };
        let sync = flag.filter(|_| role == Role::Replica && is_voter());
        Self {
            state: Some(view.state),
            role,
            sql: Some(sql),
            sync,
        }
    }

    /// The leader's newest known position: the one it published, or the one our WAL receiver heard of; 0 if none.
    pub(crate) fn leader_lsn(&self, cluster: Option<&Cluster>) -> Lsn {
        let published = cluster.and_then(|cluster| cluster.status.optime);
        let heard = self.sql.and_then(|sql| sql.latest_end_lsn);
        published.max(heard).unwrap_or_default()
    }
}

/// Whether a server in that state is worth a query.
pub(crate) fn may_answer(state: ServerState) -> bool {
    matches!(
        state,
        ServerState::Running | ServerState::Restarting | ServerState::Starting
    )
}

/// The document.
pub(crate) fn document(view: &View, now: Moment, server: Shown<'_>) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put(
        "state",
        server.state.map_or("unknown", ServerState::as_str).into(),
    );
    if let Some(sql) = server.sql {
        put("postmaster_start_time", sql.postmaster_start_time.as_str().into());
    }
    put("role", server.role.as_str().into());
    if let Some(sql) = server.sql {
        put("server_version", json!(sql.server_version.0));
        put("xlog", positions(sql));
        match server.sync {
            Some(SyncFlag::Sync) => drop(put("sync_standby", true.into())),
            Some(SyncFlag::Quorum) => drop(put("quorum_standby", true.into())),
            None => {}
        }
        let timeline = if sql.in_recovery {
            // A vote in a race counts by it: the newest one that is known.
            view.timeline.max(sql.timeline)
        } else {
            sql.timeline
        };
        put("timeline", json!(timeline));
        if let Some(state) = sql.replication_state {
            put("replication_state", state.as_str().into());
        }
        if !sql.wal_senders.is_empty() {
            put("replication", sql.wal_senders.iter().map(wal_sender).collect());
        }
    }
    put_cluster(view, now, &mut put);
    put_member(view, &mut put);
    put_origin(view, &mut object);
    Value::Object(object)
}

/// Which promotion the timeline comes from that is shown, under a key that Patroni does not have.
fn put_origin(view: &View, object: &mut Map<String, Value>) {
    let timeline = object.get("timeline").and_then(Value::as_u64);
    let is_of_it = |origin: &&Origin| Some(u64::from(origin.timeline.0)) == timeline;
    if let Some(origin) = view.origin.as_ref().filter(is_of_it) {
        let mut origin = origin.to_json();
        if view.stands_back {
            origin["stands_back"] = true.into();
        }
        object.insert(PeerStatus::ORIGIN.to_owned(), origin);
    }
}

/// How far the copy is that is being made here, under a key that Patroni does not have.
pub(crate) fn put_clone(document: &mut Value, progress: CloneProgress) {
    if let Some(object) = document.as_object_mut() {
        let clone = json!({
            "bytes": progress.bytes,
            "total_bytes": progress.total_bytes,
            "bytes_per_second": progress.bytes_per_second(),
            "seconds": progress.elapsed.as_secs(),
            "seconds_left": progress.time_left().map(|left| left.as_secs()),
        });
        object.insert("tamada_clone".to_owned(), clone);
    }
}

fn put_cluster(view: &View, now: Moment, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
    if view.is_paused() {
        put("pause", true.into());
    }
    if view.cluster(now).is_none_or(|cluster| cluster.is_unlocked()) {
        put("cluster_unlocked", true.into());
    }
    if view.failsafe_is_active(now) {
        put("failsafe_mode_is_active", true.into());
    }
    if let Some(why) = &view.dcs_refuses_writes {
        put("dcs_refuses_writes", why.as_str().into());
    }
    if let Some(why) = &view.trouble {
        put("tamada_trouble", why.as_str().into());
    }
    put("dcs_last_seen", view.dcs_last_seen.into());
}

fn put_member(view: &View, put: &mut impl FnMut(&str, Value) -> Option<Value>) {
    let node = &view.node;
    if !node.tags.0.is_empty() {
        put("tags", json!(node.tags));
    }
    if let Some(identifier) = &view.system_identifier {
        put("database_system_identifier", identifier.as_str().into());
    }
    if !view.pending_restart.is_empty() {
        put("pending_restart", true.into());
        put("pending_restart_reason", json!(view.pending_restart));
    }
    put(
        "patroni",
        json!({"version": node.version, "scope": node.scope, "name": node.name}),
    );
    if let Some(restart) = &view.scheduled_restart {
        let mut shown = restart.0.clone();
        shown.shift_remove("postmaster_start_time");
        put("scheduled_restart", Value::Object(shown));
    }
    if view.watchdog_failed {
        put("watchdog_failed", true.into());
    }
}

fn positions(sql: &RestStatus) -> Value {
    if sql.in_recovery {
        json!({
            "received_location": sql.received_location,
            "replayed_location": sql.replayed_location,
            "replayed_timestamp": sql.replayed_timestamp,
            "paused": sql.replay_paused,
        })
    } else {
        json!({"location": sql.location})
    }
}

fn wal_sender(sender: &WalSender) -> Value {
    json!({
        "usename": sender.usename,
        "application_name": sender.application_name,
        "client_addr": sender.client_addr,
        "state": sender.state,
        "sync_state": sender.sync_state,
        "sync_priority": sender.sync_priority,
    })
}
