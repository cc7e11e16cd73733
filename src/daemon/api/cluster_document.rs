//! `GET /cluster`: the members and what they say of themselves (Patroni documentation, "Patroni REST API", "Cluster
//! status endpoints").

use config::{DynamicConfig, SynchronousMode};
use ha::cluster::{Cluster, Member};
use ha::pg::Lsn;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::time::{Schedule, parse_schedule};

/// The document.
pub(crate) fn document(cluster: &Cluster, config: &DynamicConfig, scope: &str) -> Value {
    let mut members: Vec<&Member> = cluster.members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let members: Vec<Value> = members
        .iter()
        .map(|member| describe(member, cluster, config))
        .collect();
    let mut object = Map::new();
    object.insert("members".to_owned(), members.into());
    if config.pause {
        object.insert("pause".to_owned(), true.into());
    }
    if let Some((failover, text)) = cluster
        .failover
        .as_ref()
        .and_then(|it| Some((it, it.scheduled_at_text.as_deref()?)))
    {
        // In the zone that it was asked for in.
        let at = parse_schedule(text, Timestamp::MIN).map_or_else(|_| text.to_owned(), Schedule::iso_format);
        let mut switchover = Map::from_iter([("at".to_owned(), at.into())]);
        for (key, name) in [("from", &failover.leader), ("to", &failover.candidate)] {
            switchover.extend(name.as_ref().map(|name| (key.to_owned(), name.as_str().into())));
        }
        object.insert("scheduled_switchover".to_owned(), switchover.into());
    }
    object.insert("scope".to_owned(), scope.into());
    Value::Object(object)
}

fn role(member: &Member, cluster: &Cluster, config: &DynamicConfig) -> &'static str {
    let is_voter = || cluster.sync.lists(&member.name, false);
    if cluster.is_leader(&member.name) {
        return if config.standby_cluster.is_some() {
            "standby_leader"
        } else {
            "leader"
        };
    }
    match config.synchronous_mode() {
        SynchronousMode::On if is_voter() => "sync_standby",
        SynchronousMode::Quorum if is_voter() => "quorum_standby",
        SynchronousMode::Off | SynchronousMode::On | SynchronousMode::Quorum => "replica",
    }
}

fn describe(member: &Member, cluster: &Cluster, config: &DynamicConfig) -> Value {
    let data = &member.data;
    let role = role(member, cluster, config);
    let replication_state = data
        .replication_state
        .map(|state| state.as_str())
        .filter(|_| role != "leader");
    let state = replication_state
        .or(data.state.map(|state| state.as_str()))
        .unwrap_or_default();
    let mut object = Map::new();
    let mut put = |key: String, value: Value| object.insert(key, value);
    put("name".to_owned(), member.name.as_str().into());
    put("role".to_owned(), role.into());
    put("state".to_owned(), state.into());
    put("api_url".to_owned(), json!(data.api_url));
    if let Some((host, port)) = data.host_and_port() {
        put("host".to_owned(), host.into());
        put("port".to_owned(), port.into());
    }
    if let Some(timeline) = data.timeline {
        put("timeline".to_owned(), json!(timeline));
    }
    if data.pending_restart {
        put("pending_restart".to_owned(), true.into());
    }
    if !data.pending_restart_reason.is_empty() {
        put(
            "pending_restart_reason".to_owned(),
            json!(data.pending_restart_reason),
        );
    }
    if let Some(restart) = &data.scheduled_restart {
        put("scheduled_restart".to_owned(), json!(restart));
    }
    if !data.tags.0.is_empty() {
        put("tags".to_owned(), json!(data.tags));
    }
    if !cluster.is_leader(&member.name) {
        let leader = cluster.status.optime.unwrap_or_default();
        let positions = [
            ("receive_", data.receive_lsn),
            ("replay_", data.replay_lsn),
            ("", data.xlog_location),
        ];
        for (prefix, lsn) in positions {
            // Patroni's order of the two is another one when they are not known.
            match lsn.filter(|lsn| *lsn != Lsn::ZERO) {
                Some(lsn) => {
                    put(format!("{prefix}lag"), json!(lsn.behind(leader)));
                    put(format!("{prefix}lsn"), lsn.to_string().into());
                }
                None => {
                    put(format!("{prefix}lsn"), "unknown".into());
                    put(format!("{prefix}lag"), "unknown".into());
                }
            }
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use config::Minimums;
    use ha::cluster::{Failover, Leader, MemberData, Status, SyncState, Version};

    use super::*;
    use crate::daemon::api::json::to_text;

    fn member(name: &str, json: &str) -> Member {
        Member {
            version: Version(1),
            name: name.into(),
            session: "1".to_owned(),
            data: MemberData::parse(json),
        }
    }

    fn cluster() -> Cluster {
        Cluster {
            leader: Some(Leader {
                version: Version(1),
                name: "b".into(),
                session: "1".to_owned(),
            }),
            status: Status {
                optime: Some(Lsn(0x3000_0100)),
                ..Status::default()
            },
            members: vec![
                member(
                    "b",
                    r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://10.0.0.2:8008/patroni",
                    "state":"running","role":"primary","xlog_location":805306624,"timeline":2,"tags":{"clonefrom":true}}"#,
                ),
                member(
                    "a",
                    r#"{"conn_url":"postgres://10.0.0.1:5433/postgres","api_url":"http://10.0.0.1:8008/patroni",
                    "state":"running","replication_state":"streaming","role":"replica","xlog_location":805306368,
                    "receive_lsn":805307368,"replay_lsn":0,"timeline":2,"pending_restart":true}"#,
                ),
                member("c", "{}"),
            ],
            ..Cluster::default()
        }
    }

    fn text(cluster: &Cluster, config: Value) -> String {
        to_text(&document(
            cluster,
            &DynamicConfig::read(&config, Minimums::PATRONI).0,
            "demo",
        ))
    }

    #[test]
    fn members_are_listed_by_name_with_their_lag() {
        assert_eq!(
            text(&cluster(), json!({})),
            r#"{"members": [{"name": "a", "role": "replica", "state": "streaming", "api_url": "http://10.0.0.1:8008/patroni", "host": "10.0.0.1", "port": 5433, "timeline": 2, "pending_restart": true, "receive_lag": 0, "receive_lsn": "0/300003E8", "replay_lsn": "unknown", "replay_lag": "unknown", "lag": 256, "lsn": "0/30000000"}, {"name": "b", "role": "leader", "state": "running", "api_url": "http://10.0.0.2:8008/patroni", "host": "10.0.0.2", "port": 5432, "timeline": 2, "tags": {"clonefrom": true}}, {"name": "c", "role": "replica", "state": "", "api_url": null, "receive_lsn": "unknown", "receive_lag": "unknown", "replay_lsn": "unknown", "replay_lag": "unknown", "lsn": "unknown", "lag": "unknown"}], "scope": "demo"}"#
        );
    }

    #[test]
    fn roles_follow_the_modes_of_the_cluster() {
        let mut cluster = cluster();
        cluster.sync = SyncState::parse(Version(1), r#"{"leader":"b","sync_standby":"a"}"#);
        let roles = |config| {
            let document = document(
                &cluster,
                &DynamicConfig::read(&config, Minimums::PATRONI).0,
                "demo",
            );
            let roles: Vec<String> = document["members"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|member| member["role"].as_str().unwrap_or_default().to_owned())
                .collect();
            roles.join(" ")
        };
        assert_eq!(roles(json!({})), "replica leader replica");
        assert_eq!(
            roles(json!({"synchronous_mode": true})),
            "sync_standby leader replica"
        );
        assert_eq!(
            roles(json!({"synchronous_mode": "quorum"})),
            "quorum_standby leader replica"
        );
        let standby = json!({"synchronous_mode": true, "standby_cluster": {"host": "elsewhere"}});
        assert_eq!(roles(standby), "replica standby_leader replica");
    }

    #[test]
    fn pause_and_scheduled_switchover_are_shown() {
        let scheduled = r#"{"leader":"b","scheduled_at":"2026-12-05T10:00:00+02:00"}"#;
        let cluster = Cluster {
            failover: Failover::parse(Version(1), scheduled),
            ..Cluster::default()
        };
        assert_eq!(
            text(&cluster, json!({"pause": true})),
            r#"{"members": [], "pause": true, "scheduled_switchover": {"at": "2026-12-05T10:00:00+02:00", "from": "b"}, "scope": "demo"}"#
        );
    }
}
