//! Keys as annotations: which annotations of which object make up a key, and what they say. Patroni's names and forms.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ha::cluster::{Heartbeat, Sent};
use serde_json::{Map, Value, json};

use super::objects::{GROUP_LABEL, Names, Object, Place};
use crate::{Key, Layout};

/// Ours: which agent has written the leader record or the member's status.
pub(super) const SESSION: &str = "tamada-session";
pub(super) const STATUS: &str = "status";

/// What the leader record consists of. It has changed if one of these has.
const RECORD: [&str; 5] = ["leader", "acquireTime", "ttl", "renewTime", "transitions"];

/// Annotations to be written, or with `None` removed.
pub(super) type Annotations = Vec<(&'static str, Option<String>)>;

/// One key as the objects have it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) path: String,
    pub(super) value: String,
    /// The key was written again if this is another text.
    pub(super) identity: String,
    /// The agent's session, 0 for none.
    pub(super) session: i64,
    /// The object's version.
    pub(super) revision: i64,
}

/// The object that a key lies in.
pub(super) fn object_of(key: Key, names: &Names) -> &str {
    match key {
        Key::Initialize | Key::Config | Key::History | Key::Origin => &names.config,
        Key::Status | Key::Failsafe => &names.leader,
        Key::Failover => &names.failover,
        Key::Sync => &names.sync,
    }
}

fn parts_of(key: Key) -> &'static [&'static str] {
    match key {
        Key::Initialize => &["initialize"],
        Key::Config => &["config"],
        Key::History => &["history"],
        Key::Origin => &["origin"],
        Key::Failsafe => &["failsafe"],
        Key::Status => &["optime", "slots", "retain_slots"],
        Key::Failover => &["leader", "member", "scheduled_at"],
        Key::Sync => &["leader", "quorum", "sync_standby"],
    }
}

fn is_one_annotation(key: Key) -> bool {
    match key {
        Key::Initialize | Key::Config | Key::History | Key::Origin | Key::Failsafe => true,
        Key::Status | Key::Failover | Key::Sync => false,
    }
}

/// A key's value as annotations; `None` removes them.
pub(super) fn annotations(key: Key, value: Option<&str>) -> Annotations {
    let parts = parts_of(key).iter().copied();
    if is_one_annotation(key) {
        return parts.map(|part| (part, value.map(str::to_owned))).collect();
    }
    let object: Map<String, Value> = value
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let text = |part: &str| match object.get(part)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    };
    parts.map(|part| (part, text(part))).collect()
}

/// A key's value, if one of its annotations is there.
pub(super) fn value(key: Key, object: &Object) -> Option<String> {
    let parts = parts_of(key);
    if is_one_annotation(key) {
        return object.annotations.get(parts[0]).cloned();
    }
    let found = parts
        .iter()
        .filter_map(|part| Some(((*part).to_owned(), json!(object.annotations.get(*part)?))));
    let found: Map<String, Value> = found.collect();
    (!found.is_empty()).then(|| Value::Object(found).to_string())
}

/// Whether the object has exactly these.
pub(super) fn are_written(object: &Object, annotations: &Annotations) -> bool {
    annotations
        .iter()
        .all(|(name, value)| object.annotations.get(*name) == value.as_ref())
}

/// Which agent has renewed the leader record last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session<'a> {
    pub(super) id: i64,
    /// The leader's name then.
    pub(super) leader: &'a str,
    /// When the renewal was sent, on that agent's clock.
    sent: Option<Sent>,
}

/// The last renewal's session. Counts only beside the `renewTime` that was written with it: Patroni and kubectl leave it as it is.
pub(super) fn last_session(object: &Object) -> Option<Session<'_>> {
    let mut parts = object.annotation(SESSION)?.splitn(4, ' ');
    let (id, renewed, sent, leader) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sent = sent.split_once('.').and_then(|(agent, at_ms)| {
        let (agent, at_ms) = (agent.parse().ok()?, at_ms.parse().ok()?);
        Some(Sent { agent, at_ms })
    });
    let id = id.parse().ok()?;
    (object.annotation("renewTime") == Some(renewed)).then_some(Session { id, leader, sent })
}

pub(super) fn session_text(session: i64, renew_time: &str, sent: Sent, leader: &str) -> String {
    format!("{session} {renew_time} {}.{} {leader}", sent.agent, sent.at_ms)
}

fn present_session(object: &Object) -> Option<Session<'_>> {
    last_session(object).filter(|session| object.annotation("leader") == Some(session.leader))
}

/// The holder's session; 0 where the record was not written by an agent of ours.
pub(super) fn holder_session(object: &Object) -> i64 {
    present_session(object).map_or(0, |session| session.id)
}

/// The session that has written a pod's status.
pub(super) fn member_session(pod: &Object) -> i64 {
    pod.annotation(SESSION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// All keys, of all groups that are read. `ttl` stands in where a leader record has none.
pub(super) fn read(
    place: &Place,
    ttl: Duration,
    objects: &BTreeMap<String, Object>,
    pods: &BTreeMap<String, Object>,
) -> Vec<Item> {
    let mut items = Vec::new();
    let own = place.layout.citus_group();
    read_group(&place.layout, &place.names, own, ttl, objects, pods, &mut items);
    let labels = objects
        .values()
        .chain(pods.values())
        .filter_map(|object| object.labels.get(GROUP_LABEL));
    let groups: BTreeSet<u32> = labels.filter_map(|label| label.parse().ok()).collect();
    for group in groups.into_iter().filter(|group| Some(*group) != own) {
        if let Some(layout) = place.layout.worker(group) {
            read_group(
                &layout,
                &place.names_of(group),
                Some(group),
                ttl,
                objects,
                pods,
                &mut items,
            );
        }
    }
    items
}

fn read_group(
    layout: &Layout,
    names: &Names,
    group: Option<u32>,
    ttl: Duration,
    objects: &BTreeMap<String, Object>,
    pods: &BTreeMap<String, Object>,
    items: &mut Vec<Item>,
) {
    let is_here = |object: &&Object| {
        group.is_none_or(|group| object.labels.get(GROUP_LABEL) == Some(&group.to_string()))
    };
    let get = |name: &str| objects.get(name).filter(is_here);
    for key in [
        Key::Initialize,
        Key::Config,
        Key::History,
        Key::Origin,
        Key::Status,
        Key::Failsafe,
        Key::Failover,
        Key::Sync,
    ] {
        if let Some(object) = get(object_of(key, names))
            && let Some(value) = value(key, object)
        {
            items.push(Item {
                path: layout.key(key),
                identity: value.clone(),
                value,
                session: 0,
                revision: object.revision.number,
            });
        }
    }
    if let Some(object) = get(&names.leader) {
        read_leader(layout, object, ttl, items);
    }
    for pod in pods.values().filter(is_here) {
        // A pod whose agent has published nothing yet is no member yet.
        if let Some(status) = pod.annotations.get(STATUS) {
            let session = member_session(pod);
            items.push(Item {
                path: layout.member(&pod.name.as_str().into()),
                value: status.clone(),
                identity: format!("{session} {status}"),
                session,
                revision: pod.revision.number,
            });
        }
    }
}

/// The leader record is leader key and heartbeat at once: each renewal writes it again.
fn read_leader(layout: &Layout, object: &Object, ttl: Duration, items: &mut Vec<Item>) {
    let Some(leader) = object.annotation("leader") else {
        return;
    };
    let session = holder_session(object);
    let revision = object.revision.number;
    let acquired = object.annotation("acquireTime").unwrap_or_default();
    items.push(Item {
        path: layout.leader(),
        value: leader.to_owned(),
        identity: format!("{session} {acquired} {leader}"),
        session,
        revision,
    });
    let written = object
        .annotation("ttl")
        .and_then(|text| text.trim().parse::<u64>().ok());
    let ttl = written
        .filter(|seconds| *seconds > 0)
        .map_or(ttl, Duration::from_secs);
    let record: Vec<&str> = RECORD
        .iter()
        .map(|part| object.annotation(part).unwrap_or_default())
        .collect();
    items.push(Item {
        path: layout.heartbeat(),
        value: Heartbeat::without_lease(
            &leader.into(),
            ttl,
            present_session(object).and_then(|session| session.sent),
        ),
        identity: record.join("\n"),
        session: 0,
        revision,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(annotations: &Value) -> Object {
        let value = json!({"metadata": {"name": "x", "resourceVersion": "7", "annotations": annotations}});
        Object::parse(&value).unwrap()
    }

    #[test]
    fn keys_are_written_as_patroni_writes_them() {
        let written = |key, value| {
            let pairs = annotations(key, value).into_iter();
            pairs
                .map(|(name, value)| format!("{name}={}", value.unwrap_or_else(|| "-".into())))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let sync = r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#;
        assert_eq!(
            written(Key::Sync, Some(sync)),
            "leader=a quorum=1 sync_standby=b,c"
        );
        assert_eq!(written(Key::Sync, None), "leader=- quorum=- sync_standby=-");
        assert_eq!(
            written(Key::Failover, Some("{}")),
            "leader=- member=- scheduled_at=-"
        );
        assert_eq!(
            written(Key::Failover, Some(r#"{"member":"b"}"#)),
            "leader=- member=b scheduled_at=-"
        );
        let status = r#"{"optime":5,"slots":{"a":7},"retain_slots":["a"]}"#;
        assert_eq!(
            written(Key::Status, Some(status)),
            r#"optime=5 slots={"a":7} retain_slots=["a"]"#
        );
        assert_eq!(written(Key::Initialize, Some("")), "initialize=");
    }

    #[test]
    fn keys_are_read_as_patroni_writes_them() {
        let sync = object(&json!({"leader": "a", "quorum": "1", "sync_standby": "b"}));
        assert_eq!(
            value(Key::Sync, &sync).as_deref(),
            Some(r#"{"leader":"a","quorum":"1","sync_standby":"b"}"#)
        );
        assert_eq!(value(Key::Sync, &object(&json!({}))), None);
        assert_eq!(
            value(Key::Initialize, &object(&json!({"initialize": ""}))).as_deref(),
            Some("")
        );
    }

    #[test]
    fn a_session_counts_beside_its_own_renewal_only() {
        let record = |leader: &str, renewed: &str| {
            object(
                &json!({"leader": leader, "renewTime": renewed, SESSION: session_text(7, "t1", Sent { agent: 1, at_ms: 5 }, "a b")}),
            )
        };
        assert_eq!(holder_session(&record("a b", "t1")), 7);
        assert_eq!(
            holder_session(&record("a b", "t2")),
            0,
            "renewed by Patroni since"
        );
        assert_eq!(holder_session(&record("x", "t1")), 0, "overwritten by hand");
        let last = record("", "t1");
        let sent = Some(Sent { agent: 1, at_ms: 5 });
        assert_eq!(
            last_session(&last),
            Some(Session {
                id: 7,
                leader: "a b",
                sent
            }),
            "released"
        );
    }
}
