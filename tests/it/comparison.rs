//! The REST API beside Patroni's: one member of a cluster is Patroni, each of the two leads in turn, and what they answer
//! in the same state is the same, field by field. What is different on purpose is named in [`difference`].

use crate::harness::cluster::{Program, Timers};
use crate::harness::http::{self, Response};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, seconds, versions};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// What load balancers and people ask.
const CHECKS: [&str; 37] = [
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby_leader",
    "/standby-leader",
    "/replica",
    "/replica?lag=1MB",
    "/replica?lag=0",
    "/replica?lag=nonsense",
    "/replica?tag_clonefrom=false",
    "/replica?tag_key=1",
    "/replica?replication_state=streaming",
    "/replica?replication_state=x",
    "/read-only",
    "/read-only?lag=10MB",
    "/read-only-sync",
    "/read-only-synchronous",
    "/read-only-quorum",
    "/sync",
    "/synchronous",
    "/quorum",
    "/async",
    "/asynchronous",
    "/health",
    "/liveness",
    "/readiness",
    "/readiness?lag=1MB",
    "/readiness?mode=apply",
    "/readiness?mode=write",
    "/patroni",
    "/patroni/more",
    "/failsafe",
    "/nothing",
    "/myleaderx",
    "/replicas",
];

/// What all members say alike.
const OF_THE_CLUSTER: [&str; 3] = ["/cluster", "/history", "/config"];

/// What a request that changes nothing gets.
const REFUSED: [(&str, &str, Option<&str>); 29] = [
    ("POST", "/restart", Some("[1]")),
    ("POST", "/restart", Some("{")),
    ("POST", "/restart", Some(r#"{"role": "x"}"#)),
    ("POST", "/restart", Some(r#"{"postgres_version": "x"}"#)),
    ("POST", "/restart", Some(r#"{"timeout": 0}"#)),
    ("POST", "/restart", Some(r#"{"unknown": 1}"#)),
    ("POST", "/restart", Some(r#"{"schedule": "yesterday"}"#)),
    ("POST", "/restart", Some(r#"{"schedule": "2020-01-01T00:00:00"}"#)),
    (
        "POST",
        "/restart",
        Some(r#"{"schedule": "2020-01-01T00:00:00+00:00"}"#),
    ),
    ("POST", "/restart", Some(r#"{"postgres_version": "9.0"}"#)),
    ("DELETE", "/restart", None),
    ("POST", "/switchover", None),
    ("POST", "/switchover", Some("{}")),
    ("POST", "/switchover", Some("[]")),
    ("POST", "/switchover", Some(r#"{"leader": "nobody"}"#)),
    (
        "POST",
        "/switchover",
        Some(r#"{"leader": "SELF", "candidate": "nobody"}"#),
    ),
    (
        "POST",
        "/switchover",
        Some(r#"{"leader": "SELF", "scheduled_at": "2020-01-01T00:00:00+00:00"}"#),
    ),
    (
        "POST",
        "/switchover",
        Some(r#"{"leader": "SELF", "scheduled_at": "soon"}"#),
    ),
    ("POST", "/failover", Some(r#"{"foo": "bar"}"#)),
    ("POST", "/failover", Some(r#"{"candidate": "nobody"}"#)),
    ("POST", "/failover", None),
    ("DELETE", "/switchover", None),
    ("PATCH", "/config", Some("1")),
    ("PATCH", "/config", None),
    ("PUT", "/config", Some("[]")),
    ("DELETE", "/config", None),
    ("POST", "/unknown", Some("{}")),
    ("PUT", "/restart", Some("{}")),
    ("PATCH", "/switchover", Some("{}")),
];

/// Values that move or are the member's own: only what they are is compared.
const VOLATILE: [&str; 16] = [
    "postmaster_start_time",
    "location",
    "received_location",
    "replayed_location",
    "replayed_timestamp",
    "dcs_last_seen",
    "latest_end_lsn",
    "receive_lsn",
    "replay_lsn",
    "lag",
    "receive_lag",
    "replay_lag",
    "timeline",
    "xlogpos",
    // Which settings wait is compared; the values follow from the order of the states here.
    "old_value",
    "new_value",
];

type Answers = BTreeMap<String, (u16, String, Value)>;

/// Why an answer may be another than that of Patroni 4.1.5; such ones are not compared.
fn difference(request: &str) -> Option<&'static str> {
    match request {
        "GET /replica?replication_state=x " => Some("a filter that Patroni has not released yet"),
        _ => None,
    }
}

/// Metrics that Patroni has not released yet.
const MORE_METRICS: [&str; 3] = [
    "patroni_failover_priority",
    "patroni_failsafe_member",
    "patroni_failsafe_mode_enabled",
];

/// The document with values that move replaced by what they are, without what only we say.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let field = |(key, value): (String, Value)| {
                let value = match VOLATILE.contains(&key.as_str()) {
                    true => kind(&value).into(),
                    false => normal(value),
                };
                (key, value)
            };
            let theirs = map.into_iter().filter(|(key, _)| !key.starts_with("tamada_"));
            // Where nothing stays of a list there is no field.
            let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
            let fields = theirs.map(field).filter(|(_, value)| !is_empty(value));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        // A look at the WAL of a possible source is a connection too, for a moment.
        Value::Array(list) => {
            let stays = |value: &Value| value["application_name"] != json!("Patroni heartbeat");
            Value::Array(list.into_iter().filter(stays).map(normal).collect())
        }
        other => other,
    }
}

/// The members' names and ports replaced by whose they are.
fn anonymous(cluster: &Cluster, member: &Member, value: Value) -> Value {
    let again = |value| anonymous(cluster, member, value);
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, again(value))).collect(),
        Value::Array(list) => list.into_iter().map(again).collect(),
        Value::Number(number) => {
            let is_port = |other: &&Member| {
                number.as_u64().is_some_and(|n| {
                    [other.postgresql_port, other.rest_port]
                        .map(u64::from)
                        .contains(&n)
                })
            };
            match cluster.members.iter().find(is_port) {
                Some(other) => json!(format!("port of {}", whose(other, member))),
                None => Value::Number(number),
            }
        }
        Value::String(text) => {
            let rename = |text: String, other: &Member| {
                text.replace(&other.name, whose(other, member))
                    .replace(&format!(":{}", other.postgresql_port), ":port")
                    .replace(&format!(":{}", other.rest_port), ":port")
            };
            Value::String(cluster.members.iter().fold(text, rename))
        }
        other => other,
    }
}

fn whose(other: &Member, member: &Member) -> &'static str {
    if other.name == member.name {
        "SELF"
    } else {
        "OTHER"
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

fn answer(cluster: &Cluster, member: &Member, response: &Response) -> (u16, String, Value) {
    let value = match serde_json::from_str(&response.body) {
        Ok(value) => normal(value),
        // Pages of errors are for people, and in other words.
        Err(_) if response.body.starts_with("<!DOCTYPE") => json!("a page"),
        Err(_) if response.body.starts_with(&format!("{} ", response.status)) => json!("a page"),
        Err(_) => Value::String(response.body.clone()),
    };
    // Patroni's texts and pages are HTML; ours never are.
    let is_text =
        response.content_type.starts_with("text/html") || response.content_type.ends_with("charset=utf-8");
    let kind = if is_text { "a text" } else { &response.content_type };
    (
        response.status,
        kind.to_owned(),
        anonymous(cluster, member, value),
    )
}

fn answers(cluster: &Cluster, name: &str) -> Answers {
    let member = cluster.member(name);
    let mut answers = Answers::new();
    let mut ask = |method: &str, path: &str, body: Option<&str>| {
        let text = body.map(|body| body.replace("SELF", name));
        let response = http::send(member.rest_port, method, path, text.as_deref(), seconds(30)).unwrap();
        let request = format!("{method} {path} {}", body.unwrap_or_default());
        answers.insert(request, answer(cluster, member, &response));
    };
    for path in CHECKS {
        ask("GET", path, None);
    }
    for path in ["/primary", "/replica", "/patroni", "/liveness"] {
        ask("HEAD", path, None);
        ask("OPTIONS", path, None);
    }
    for (method, path, body) in REFUSED {
        ask(method, path, body);
    }
    let metrics = metrics(member)
        .into_iter()
        .map(|(name, kind)| (name, kind.into()));
    answers.insert(
        "GET /metrics".to_owned(),
        (200, "text/plain".to_owned(), Value::Object(metrics.collect())),
    );
    answers
}

/// Names of metrics with type and names of labels, without those that Patroni does not have.
fn metrics(member: &Member) -> BTreeMap<String, String> {
    let text = member.get("/metrics").unwrap().body;
    let types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("tamada_"))
        .filter_map(|line| {
            let (name, rest) = line.split_once('{')?;
            if MORE_METRICS.contains(&name) {
                return None;
            }
            let labels: Vec<&str> = rest
                .split_once('}')?
                .0
                .split(',')
                .filter_map(|pair| Some(pair.split_once('=')?.0))
                .collect();
            Some((
                name.to_owned(),
                format!("{} {}", types.get(name).unwrap_or(&"untyped"), labels.join(",")),
            ))
        })
        .collect()
}

/// What is not the same, of documents only the fields.
fn differing(ours: Option<&(u16, String, Value)>, theirs: &(u16, String, Value)) -> String {
    let both = (ours.and_then(|ours| ours.2.as_object()), theirs.2.as_object());
    let ((Some(ours_map), Some(theirs_map)), Some(ours)) = (both, ours) else {
        return format!("\n  ours   {ours:?}\n  theirs {theirs:?}");
    };
    let mut text = String::new();
    if (ours.0, &ours.1) != (theirs.0, &theirs.1) {
        text = format!(" {} {} instead of {} {}", ours.0, ours.1, theirs.0, theirs.1);
    }
    for key in ours_map
        .keys()
        .chain(theirs_map.keys().filter(|key| !ours_map.contains_key(*key)))
    {
        let (ours, theirs) = (ours_map.get(key), theirs_map.get(key));
        if ours != theirs {
            text.push_str(&format!("\n  {key}: ours {ours:?}, theirs {theirs:?}"));
        }
    }
    text
}

struct Comparison {
    ours: BTreeMap<(String, &'static str), Answers>,
    theirs: BTreeMap<(String, &'static str), Answers>,
}

impl Comparison {
    /// Both members in the state `state`, whose leader is `leader`.
    fn look(&mut self, cluster: &Cluster, state: &str, leader: &str) {
        for name in ["pg1", "python"] {
            let role = if name == leader { "leader" } else { "replica" };
            let found = answers(cluster, name);
            let side = if name == "python" {
                &mut self.theirs
            } else {
                &mut self.ours
            };
            side.insert((state.to_owned(), role), found);
        }
        for path in OF_THE_CLUSTER {
            // The two look at the store at different moments.
            eventually(&format!("{state}: {path} is the same"), seconds(10), || {
                let of = |name: &str| {
                    let response = cluster.member(name).get(path)?;
                    Ok::<_, String>((
                        response.status,
                        response.content_type.clone(),
                        normal(response.json()),
                    ))
                };
                let (ours, theirs) = (of("pg1")?, of("python")?);
                holds(ours == theirs, || {
                    format!("{state}, {path}:\n  ours   {ours:?}\n  theirs {theirs:?}")
                })
            });
        }
    }

    fn compare(self) {
        let mut differences = Vec::new();
        for (key, theirs) in &self.theirs {
            let Some(ours) = self.ours.get(key) else {
                continue;
            };
            for (request, answer) in theirs {
                if difference(request).is_none() && ours.get(request) != Some(answer) {
                    let (state, role) = key;
                    differences.push(format!(
                        "{state}, {role}, {request}: {}",
                        differing(ours.get(request), answer)
                    ));
                }
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

fn hand_over(cluster: &Cluster, from: &str, to: &str) {
    let body = json!({ "leader": from, "candidate": to });
    assert_eq!(
        cluster
            .member(from)
            .ask("POST", "/switchover", Some(&body))
            .status,
        200
    );
    assert_eq!(cluster.wait_for_other_primary(from, seconds(30)), to);
    assert_eq!(cluster.wait_until_healthy(seconds(30)), to);
}

/// Waits until both members show what `check` wants of `/patroni`.
fn wait_for_both(cluster: &Cluster, what: &str, check: impl Fn(&Value) -> bool) {
    for member in &cluster.members {
        eventually(&format!("{}: {what}", member.name), seconds(30), || {
            let status = member.status()?;
            holds(check(&status), || status.to_string())
        });
    }
}

#[test]
#[ignore = "long: make test-all"]
fn the_rest_api_answers_as_patronis_in_every_state() {
    let mut cluster = Cluster::with(newest(), 1, 1, Timers::PATRONI);
    let patroni = Program {
        path: versions::patroni().join("patroni"),
        arguments: Vec::new(),
    };
    cluster.add_member("python", patroni);
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.member_mut("python").start();
    assert_eq!(cluster.wait_until_healthy(seconds(60)), "pg1");
    let mut comparison = Comparison {
        ours: BTreeMap::new(),
        theirs: BTreeMap::new(),
    };
    let mut leader = "pg1";
    for other in ["python", "pg1"] {
        let replica = if leader == "pg1" { "python" } else { "pg1" };
        let of_replica = |key: &str| {
            cluster
                .member(replica)
                .status()
                .unwrap_or_default()
                .get(key)
                .cloned()
        };
        eventually("the replica streams", seconds(30), || {
            holds(
                of_replica("replication_state") == Some(json!("streaming")),
                || format!("{:?}", of_replica("replication_state")),
            )
        });
        comparison.look(&cluster, "running", leader);
        for mode in ["on", "quorum"] {
            cluster.patch(&json!({ "synchronous_mode": mode }));
            let state = if mode == "on" { "sync" } else { "quorum" };
            let flag = format!("{state}_standby");
            eventually("the standby is waited for", seconds(30), || {
                let status = cluster.member(leader).status()?;
                let of_standby = of_replica(&flag);
                let is_so =
                    of_standby == Some(json!(true)) && status["replication"][0]["sync_state"] == json!(state);
                holds(is_so, || format!("{status} {of_standby:?}"))
            });
            comparison.look(&cluster, mode, leader);
            // From on to quorum Patroni leaves a single standby's name as it is, and we say ANY 1: begin anew.
            cluster.patch(&json!({ "synchronous_mode": null }));
            eventually("nobody is waited for", seconds(30), || {
                let status = cluster.member(leader).status()?;
                let is_so = status["replication"][0]["sync_state"] == json!("async");
                holds(is_so && of_replica(&flag).is_none(), || status.to_string())
            });
        }
        let connections = if leader == "pg1" { 70 } else { 80 };
        cluster.patch(&json!({ "postgresql": { "parameters": { "max_connections": connections } } }));
        wait_for_both(&cluster, "a restart is pending", |status| {
            status["pending_restart"] == json!(true) && status.get("sync_standby").is_none()
        });
        comparison.look(&cluster, "pending restart", leader);
        // A parameter that grows may not be larger on the primary: the replica's server would end by itself.
        for name in [replica, leader] {
            assert_eq!(
                cluster
                    .member(name)
                    .ask("POST", "/restart", Some(&json!({})))
                    .status,
                200
            );
        }
        wait_for_both(&cluster, "restarted", |status| {
            status.get("pending_restart").is_none() && status["state"] == json!("running")
        });
        cluster.patch(&json!({ "pause": true }));
        wait_for_both(&cluster, "paused", |status| status["pause"] == json!(true));
        eventually("the replica streams", seconds(30), || {
            holds(
                of_replica("replication_state") == Some(json!("streaming")),
                || format!("{:?}", of_replica("replication_state")),
            )
        });
        comparison.look(&cluster, "paused", leader);
        cluster.pg_ctl(replica, &["stop", "-m", "fast"]);
        eventually("the server is seen to be stopped", seconds(30), || {
            let rows = cluster.list();
            let state = |row: &Value| row["Member"] == json!(replica) && row["State"] == json!("stopped");
            holds(rows.iter().any(state), || format!("{rows:?}"))
        });
        comparison.look(&cluster, "stopped", leader);
        assert_eq!(
            cluster
                .member(replica)
                .ask("POST", "/restart", Some(&json!({})))
                .status,
            200
        );
        cluster.patch(&json!({ "pause": null }));
        wait_for_both(&cluster, "goes on", |status| {
            status.get("pause").is_none() && status["state"] == json!("running")
        });
        if other == "python" {
            hand_over(&cluster, leader, other);
            leader = other;
        }
    }
    understood_by_prometheus(cluster.member("pg1"));
    standby_cluster(&cluster, &mut comparison);
    comparison.compare();
}

/// Prometheus's own check of what `/metrics` says. Names that are Patroni's stay as they are.
fn understood_by_prometheus(member: &Member) {
    let metrics = member.get("/metrics").unwrap().body;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus: scripts/install-deps.sh installs it");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let findings =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let ours: Vec<&str> = findings
        .lines()
        .filter(|line| !line.starts_with("patroni_"))
        .collect();
    assert!(ours.is_empty(), "{findings}");
}

/// Each leads once while the cluster follows another, which is not there: that changes nothing about what they are.
fn standby_cluster(cluster: &Cluster, comparison: &mut Comparison) {
    let standby_leader = |other_than: &str| {
        eventually("there is a standby leader with a replica", seconds(40), || {
            let states: Vec<(String, Value)> = cluster
                .members
                .iter()
                .map(|member| Ok((member.name.clone(), member.status()?)))
                .collect::<Result<_, String>>()?;
            let is = |status: &Value, role: &str| {
                status["role"] == json!(role) && status["state"] == json!("running")
            };
            let leader = states
                .iter()
                .find(|(name, status)| name != other_than && is(status, "standby_leader"));
            let streams = |status: &Value| status["replication_state"] == json!("streaming");
            let replica = states
                .iter()
                .find(|(_, status)| is(status, "replica") && streams(status));
            let leader = leader.filter(|(_, status)| status["replication"][0]["state"] == json!("streaming"));
            match (leader, replica) {
                (Some((name, _)), Some(_)) => Ok(name.clone()),
                _ => Err(format!("{states:?}")),
            }
        })
    };
    cluster
        .patch(&json!({ "standby_cluster": { "host": "127.0.0.1", "port": crate::harness::ports::free() } }));
    let first = standby_leader("");
    comparison.look(cluster, "standby cluster", &first);
    let body = json!({ "leader": first, "candidate": cluster.others(&first).remove(0) });
    assert_eq!(
        cluster
            .member(&first)
            .ask("POST", "/switchover", Some(&body))
            .status,
        200
    );
    let second = standby_leader(&first);
    comparison.look(cluster, "standby cluster", &second);
}
