//! The keys `members/<name>`: what each member says of itself, in Patroni's order of fields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Origin, Tags, Version};
use crate::pg::{Lsn, MemberName, ReplicationState, Role, ServerState, Timeline};

/// A setting that differs from the running one, and both values in human units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRestartReason {
    /// What the server runs with.
    pub old_value: String,
    /// What it will run with after a restart.
    pub new_value: String,
    /// Why the server could not be restarted with it; Patroni does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A restart that was asked for at a later time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScheduledRestart(pub Map<String, Value>);

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberData {
    /// `postgres://host:port/dbname`.
    pub conn_url: Option<String>,
    /// `http(s)://host:port/patroni`.
    pub api_url: Option<String>,
    /// What its server is doing.
    pub state: Option<ServerState>,
    /// Its role.
    pub role: Option<Role>,
    /// The version of the agent, in Patroni's numbering.
    pub version: Option<String>,
    /// The address of a proxy in front of it.
    pub proxy_url: Option<String>,
    /// `Some(false)` on a leader until the checkpoint after its promotion is done.
    pub checkpoint_after_promote: Option<bool>,
    /// Its tags.
    pub tags: Tags,
    /// A setting waits for a restart.
    pub pending_restart: bool,
    /// Which settings do.
    pub pending_restart_reason: BTreeMap<String, PendingRestartReason>,
    /// Primary: flush position. Standby: the larger of received and replayed.
    pub xlog_location: Option<Lsn>,
    /// Standby: replayed position.
    pub replay_lsn: Option<Lsn>,
    /// Standby: received position.
    pub receive_lsn: Option<Lsn>,
    /// Standby: how it gets its WAL.
    pub replication_state: Option<ReplicationState>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// Primary: which promotion that timeline comes from; Patroni does not say.
    pub origin: Option<Origin>,
    /// A restart scheduled on it.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// It has seen that the cluster is paused.
    pub pause: bool,
    /// Which program the agent is, with its own version; Patroni does not say.
    pub agent: Option<String>,
}

/// A member key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The key's revision.
    pub version: Version,
    /// The member's name.
    pub name: MemberName,
    /// The lease or session the key is bound to.
    pub session: String,
    /// The key's value.
    pub data: MemberData,
}

impl MemberData {
    /// What this program says in `agent`.
    pub const AGENT: &str = concat!("tamada ", env!("CARGO_PKG_VERSION"));

    /// Whether this program is the agent: it permits shorter timers than Patroni does.
    #[must_use]
    pub fn is_of_tamada(&self) -> bool {
        self.agent
            .as_deref()
            .is_some_and(|agent| agent.starts_with("tamada "))
    }

    /// Reads the key's value. Malformed JSON yields an empty description; a field of a wrong type counts as absent.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.starts_with("postgres") {
            return Self::parse_url(text);
        }
        let object: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let lsn = |key: &str| object.get(key).and_then(Value::as_u64).map(Lsn);
        let flag = |key: &str| object.get(key).and_then(Value::as_bool);
        let map = |key: &str| object.get(key).and_then(Value::as_object).cloned();
        Self {
            conn_url: text("conn_url"),
            api_url: text("api_url"),
            state: text("state").and_then(|state| ServerState::parse(&state)),
            role: text("role").and_then(|role| Role::parse(&role)),
            version: text("version"),
            proxy_url: text("proxy_url"),
            checkpoint_after_promote: flag("checkpoint_after_promote"),
            tags: Tags(map("tags").unwrap_or_default()),
            pending_restart: flag("pending_restart").unwrap_or(false),
            pending_restart_reason: object
                .get("pending_restart_reason")
                .and_then(|reasons| serde_json::from_value(reasons.clone()).ok())
                .unwrap_or_default(),
            xlog_location: lsn("xlog_location"),
            replay_lsn: lsn("replay_lsn"),
            receive_lsn: lsn("receive_lsn"),
            replication_state: text("replication_state").and_then(|words| ReplicationState::parse(&words)),
            timeline: object
                .get("timeline")
                .and_then(Value::as_u64)
                .and_then(|t| t.try_into().ok())
                .map(Timeline),
            origin: object.get("origin").and_then(Origin::from_json),
            scheduled_restart: map("scheduled_restart").map(ScheduledRestart),
            pause: flag("pause").unwrap_or(false),
            agent: text("agent"),
        }
    }

    /// Patroni's oldest form: a connection URL whose parameter `application_name` is the REST address.
    fn parse_url(text: &str) -> Self {
        let (conn_url, query) = text.split_once('?').unwrap_or((text, ""));
        let api_url = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("application_name="));
        Self {
            conn_url: Some(conn_url.to_owned()),
            api_url: api_url.map(str::to_owned),
            ..Self::default()
        }
    }

    /// The key's value, compact, optional fields left out.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(key.to_owned(), value);
            }
        };
        put("conn_url", self.conn_url.as_deref().map(Value::from));
        put("api_url", self.api_url.as_deref().map(Value::from));
        put("state", self.state.map(|state| state.as_str().into()));
        put("role", self.role.map(|role| role.as_str().into()));
        put("version", self.version.as_deref().map(Value::from));
        put("proxy_url", self.proxy_url.as_deref().map(Value::from));
        put(
            "checkpoint_after_promote",
            self.checkpoint_after_promote.map(Value::from),
        );
        put("tags", (!self.tags.0.is_empty()).then(|| json!(self.tags)));
        put(
            "pending_restart",
            self.pending_restart.then_some(Value::Bool(true)),
        );
        let reasons = &self.pending_restart_reason;
        put(
            "pending_restart_reason",
            (self.pending_restart && !reasons.is_empty()).then(|| json!(reasons)),
        );
        put("xlog_location", self.xlog_location.map(|lsn| json!(lsn)));
        put("replay_lsn", self.replay_lsn.map(|lsn| json!(lsn)));
        put("receive_lsn", self.receive_lsn.map(|lsn| json!(lsn)));
        put(
            "replication_state",
            self.replication_state.map(|state| state.as_str().into()),
        );
        put("timeline", self.timeline.map(|timeline| json!(timeline)));
        put("origin", self.origin.as_ref().map(Origin::to_json));
        put(
            "scheduled_restart",
            self.scheduled_restart.as_ref().map(|restart| json!(restart)),
        );
        put("pause", self.pause.then_some(Value::Bool(true)));
        put("agent", self.agent.as_deref().map(Value::from));
        Value::Object(object).to_string()
    }

    /// The host and port of `conn_url`; the port is 5432 when the URL names none.
    #[must_use]
    pub fn host_and_port(&self) -> Option<(String, u16)> {
        let url = self.conn_url.as_deref()?;
        let address = url.split_once("://")?.1.split(['/', '?']).next()?;
        let address = address.rsplit_once('@').map_or(address, |(_, address)| address);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (address, 5432),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| (host.to_owned(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_what_it_prints() {
        let text = concat!(
            r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","#,
            r#""state":"running","role":"replica","version":"4.1.5","tags":{"clonefrom":true,"x":"y"},"#,
            r#""pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","#,
            r#""new_value":"200"}},"xlog_location":67108968,"replay_lsn":67108968,"receive_lsn":67108968,"#,
            r#""replication_state":"streaming","timeline":2,"origin":{"timeline":2,"switch_lsn":7,"nonce":"0000002a"},"pause":true,"agent":"tamada 0.1.0"}"#
        );
        assert_eq!(MemberData::parse(text).to_json(), text);
    }

    #[test]
    fn malformed_values_are_tolerated() {
        assert_eq!(MemberData::parse("{broken"), MemberData::default());
        let odd = MemberData::parse(r#"{"state":"dancing","role":"master","timeline":"x"}"#);
        assert_eq!(
            (odd.state, odd.role, odd.timeline),
            (None, Some(Role::Primary), None)
        );
        let old = MemberData::parse("postgres://u@h:5433/postgres?application_name=http://h:8008/patroni");
        assert_eq!(old.api_url.as_deref(), Some("http://h:8008/patroni"));
        assert_eq!(old.host_and_port(), Some(("h".to_owned(), 5433)));
    }

    #[test]
    fn a_host_may_be_an_ipv6_address() {
        let data = MemberData {
            conn_url: Some("postgres://[::1]:5433/postgres".into()),
            ..MemberData::default()
        };
        assert_eq!(data.host_and_port(), Some(("::1".to_owned(), 5433)));
        let data = MemberData {
            conn_url: Some("postgres://[fe80::1]/postgres".into()),
            ..MemberData::default()
        };
        assert_eq!(data.host_and_port(), Some(("fe80::1".to_owned(), 5432)));
    }
}
