//! A member `a` of the cluster `demo`, as the daemon and its server show themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::{DynamicConfig, LocalConfig, Minimums};
use ha::cluster::{Cluster, Leader, Member, MemberData, Status, SyncState, Tags, Version};
use ha::facts::{Moment, Node, TaskStatus};
use ha::pg::{Lsn, ReplicationState, Role, ServerState, Timeline};
use postgres::{RestStatus, ServerVersion, WalSender};
use serde_json::{Value, json};

use crate::daemon::view::View;

/// The moment at which views are looked at; the daemon's clock is later than it in tests of the whole server.
pub(crate) const NOW: Moment = Moment(Duration::from_secs(1_000));

pub(crate) fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

pub(crate) fn dynamic(document: &Value) -> DynamicConfig {
    DynamicConfig::read(document, Minimums::TAMADA).0
}

/// The node's configuration with these lines in `restapi`.
pub(crate) fn local(restapi: &str) -> LocalConfig {
    let text = format!(
        "{{name: a, scope: demo, etcd3: {{host: '127.0.0.1:2379'}},
          restapi: {{listen: '127.0.0.1:0', connect_address: '127.0.0.1:8008', {restapi}}},
          postgresql: {{listen: '127.0.0.1:5432', data_dir: /nowhere/data, authentication: {{
            superuser: {{username: s, password: s}}, replication: {{username: r, password: r}}}}}}}}"
    );
    let tree = config::yaml::parse("test.yml", &text).unwrap();
    LocalConfig::read(tree.as_map().cloned().unwrap()).unwrap().0
}

pub(crate) fn member(name: &str, data: &Value) -> Member {
    Member {
        version: Version(1),
        name: name.into(),
        session: "1".to_owned(),
        data: MemberData::parse(&data.to_string()),
    }
}

pub(crate) fn leader(name: &str) -> Option<Leader> {
    Some(Leader {
        version: Version(1),
        name: name.into(),
        session: "1".to_owned(),
    })
}

/// A cluster that `holder` leads, at position 1000000.
pub(crate) fn cluster(holder: &str) -> Cluster {
    Cluster {
        leader: leader(holder),
        status: Status {
            optime: Some(Lsn(1_000_000)),
            ..Status::default()
        },
        members: vec![member("a", &json!({})), member("b", &json!({}))],
        ..Cluster::default()
    }
}

pub(crate) fn voters(names: &str) -> SyncState {
    SyncState::parse(
        Version(1),
        &json!({"leader": "b", "sync_standby": names}).to_string(),
    )
}

/// A running replica that has read the DCS just now.
pub(crate) fn replica(config: &Value) -> View {
    View {
        node: Arc::new(Node {
            name: "a".into(),
            scope: "demo".to_owned(),
            conn_url: "postgres://127.0.0.1:5432/postgres".to_owned(),
            api_url: "http://127.0.0.1:8008/patroni".to_owned(),
            proxy_url: None,
            tags: Tags::default(),
            version: "4.1.5".to_owned(),
            may_bootstrap: true,
            has_custom_bootstrap: false,
            has_method_without_leader: false,
            use_slots: true,
            use_pg_rewind: false,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            config_json: "{}".to_owned(),
            citus_group: None,
            server_version: 160_004,
        }),
        local: Arc::new(local("")),
        config: Arc::new(dynamic(config)),
        cluster: Some((Arc::new(cluster("b")), NOW)),
        lock_valid_until: None,
        role: Role::Replica,
        state: ServerState::Running,
        sql: None,
        timeline: Some(Timeline(2)),
        origin: None,
        stands_back: false,
        latest_end_lsn: None,
        system_identifier: "7268616322854375442".parse().ok(),
        pending_restart: BTreeMap::new(),
        scheduled_restart: None,
        task: TaskStatus::Idle,
        next_run: NOW.after(Duration::from_secs(10)),
        dcs_last_seen: 1_767_607_200,
        dcs_refuses_writes: None,
        trouble: None,
        watchdog_failed: false,
        guard_is_missing: None,
        strangers: 0,
        failsafe_until: None,
        failsafe_members: None,
        failed_handover: None,
        status_line: String::new(),
    }
}

/// A primary that holds the lock.
pub(crate) fn primary(config: &Value) -> View {
    View {
        role: Role::Primary,
        cluster: Some((Arc::new(cluster("a")), NOW)),
        lock_valid_until: Some(NOW.after(Duration::from_secs(30))),
        ..replica(config)
    }
}

pub(crate) fn with_tags(mut view: View, tags: Value) -> View {
    Arc::make_mut(&mut view.node).tags = Tags(object(tags));
    view
}

pub(crate) fn with_voters(mut view: View, names: &str) -> View {
    let mut cluster = cluster("b");
    cluster.sync = voters(names);
    view.cluster = Some((Arc::new(cluster), NOW));
    view
}

/// What a primary's server says.
pub(crate) fn primary_sql() -> RestStatus {
    RestStatus {
        postmaster_start_time: "2026-01-05 10:00:00.123456+00:00".to_owned(),
        server_version: ServerVersion(160_004),
        in_recovery: false,
        timeline: Some(Timeline(2)),
        location: Some(Lsn(67_395_656)),
        received_location: None,
        replayed_location: None,
        replayed_timestamp: None,
        replay_paused: false,
        replication_state: None,
        wal_senders: vec![WalSender {
            pid: 1,
            application_name: "b".to_owned(),
            client_addr: Some("10.0.0.2".to_owned()),
            slot_name: None,
            usename: Some("replicator".to_owned()),
            state: "streaming".to_owned(),
            sync_state: Some("async".to_owned()),
            sync_priority: Some(0),
            sent: None,
            write: None,
            flush: None,
            replay: None,
        }],
        latest_end_lsn: None,
    }
}

/// What a streaming standby's server says: it has received 999000 and replayed 990000.
pub(crate) fn standby_sql() -> RestStatus {
    RestStatus {
        in_recovery: true,
        timeline: None,
        location: None,
        received_location: Some(Lsn(999_000)),
        replayed_location: Some(Lsn(990_000)),
        replication_state: Some(ReplicationState::Streaming),
        wal_senders: Vec::new(),
        latest_end_lsn: Some(Lsn(999_500)),
        ..primary_sql()
    }
}
