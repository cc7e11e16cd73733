//! What has happened can be told afterwards, by whoever is left, with one command.

use crate::harness::cluster::Cluster;
use crate::harness::wait::holds;
use crate::harness::{eventually, newest, seconds};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

#[test]
fn a_failover_and_a_switchover_are_told() {
    let mut cluster = Cluster::new(newest(), 3);
    let first = cluster.bootstrap();

    cluster.member_mut(&first).kill_all();
    let second = cluster.wait_for_other_primary(&first, seconds(30));
    tell_failover(&cluster, &first, &second);
    decide_once_more(&cluster, &second);

    // Half a line, as a machine leaves it that loses its power, and what no program has written.
    let path = events_file(&cluster, &first);
    let before = ids(&std::fs::read_to_string(&path).unwrap());
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"\xff\xfe\nnonsense\n{\"v\":1,\"id\":").unwrap();
    cluster.member_mut(&first).start();
    cluster.wait_until_healthy(seconds(60));
    let events = events(&cluster, &["--limit", "1000", &first]);
    let started = events.iter().filter(|event| event["Kind"] == "agent_started");
    assert_eq!(started.count(), 2, "both lives of {first}: {events:#?}");
    let after: Vec<u64> = events.iter().filter_map(|event| event["Id"].as_u64()).collect();
    assert!(
        after.starts_with(&before) && after.is_sorted(),
        "{before:?} {after:?}"
    );

    let asked_at = jiff::Timestamp::now();
    let request = json!({ "leader": second, "candidate": first });
    let response = cluster.member(&second).ask("POST", "/switchover", Some(&request));
    assert_eq!(response.status, 200, "{}", response.body);
    // The answer comes with the leader key; the promotion may end a moment later.
    cluster.wait_until_healthy(seconds(30));
    let took = jiff::Timestamp::now().duration_since(asked_at).as_secs_f64();
    tell_switchover(&cluster, &second, &first, (asked_at, took));
    the_steady_tell_nothing(&cluster, &first);

    // An orderly end of the agent, as at a poweroff.
    let stopped_at = jiff::Timestamp::now();
    cluster.member_mut(&first).stop();
    let third = cluster.wait_for_other_primary(&first, seconds(30));
    cluster.member_mut(&first).start();
    cluster.wait_until_healthy(seconds(60));
    let told = why(&cluster, "planned hand-over", &first, &third);
    begins_after(&told, stopped_at);

    let killed_at = jiff::Timestamp::now();
    cluster.member_mut(&third).kill_all();
    let fourth = cluster.wait_for_other_primary(&third, seconds(30));
    let told = why(&cluster, "failover", &third, &fourth);
    begins_after(&told, killed_at);
    assert!(times(&told).starts_with("no writes for at most "), "{told:#}");
}

/// What `why` says, once the new leader is primary.
fn why(cluster: &Cluster, kind: &str, from: &str, to: &str) -> Value {
    let headline = format!("{kind}: {to} took the leader key from {from} at ");
    eventually(&headline, seconds(20), || {
        let output = cluster.ctl(&["why", "-f", "json"]);
        let told: Value = serde_json::from_str(&output.stdout).map_err(|error| error.to_string())?;
        let is_so = told["headline"]
            .as_str()
            .is_some_and(|line| line.starts_with(&headline));
        holds(is_so && times(&told).contains("until it was primary"), || {
            format!("{told:#}\n{}", output.stderr)
        })?;
        Ok::<_, String>(told)
    })
}

fn times(told: &Value) -> String {
    let lines = told["conclusions"].as_array().unwrap().iter();
    let mut lines = lines.filter_map(Value::as_str);
    lines
        .find(|line| line.contains("no writes for "))
        .unwrap_or_default()
        .to_owned()
}

/// Nothing of an earlier story is told. An observer may have seen a renewal before that was the last one.
fn begins_after(told: &Value, moment: jiff::Timestamp) {
    let steps = told["steps"].as_array().unwrap();
    assert!(!steps.is_empty(), "{told:#}");
    for step in steps {
        let at: jiff::Timestamp = step["at"].as_str().unwrap().parse().unwrap();
        // Times are cut to milliseconds.
        assert!(
            at.as_millisecond() >= moment.as_millisecond(),
            "{step} is of another story: {told:#}"
        );
    }
}

fn tell_failover(cluster: &Cluster, from: &str, to: &str) {
    let mut told = String::new();
    eventually("the failover is told", seconds(20), || {
        let output = cluster.ctl(&["why"]);
        told = output.stdout;
        holds(told.contains("promote is done"), || told.clone())
    });
    println!("{told}");
    let headline = format!("failover: {to} took the leader key from {from} at ");
    assert!(told.starts_with(&headline), "{told}");
    for part in [
        format!("  {to}  won the race: I am at "),
        format!("{from} has told nothing of its end, as when its agent or its machine is gone"),
        format!("{to} took over at "),
        format!("s from the last renewal of {from} until {to} took the leader key, "),
        format!("now {to} leads"),
        format!("{from} has not told its part: "),
    ] {
        assert!(told.contains(&part), "{part:?} is missing in\n{told}");
    }
    let third = cluster.others(from).into_iter().find(|name| name != to).unwrap();
    let output = cluster.ctl(&["why", &cluster_name(cluster), &third]);
    let about_third = output.stdout.lines().find(|line| line.starts_with(&third));
    assert!(about_third.is_some(), "{}", output.stdout);
}

fn tell_switchover(cluster: &Cluster, from: &str, to: &str, (asked_at, took): (jiff::Timestamp, f64)) {
    let told = why(cluster, "switchover", from, to);
    println!("{}", cluster.ctl(&["why"]).stdout);
    begins_after(&told, asked_at);
    assert_eq!(told["steps"][0]["kind"], "asked", "{told:#}");
    let line = times(&told);
    let number = line
        .strip_prefix("no writes for ")
        .and_then(|rest| rest.split(' ').next());
    let without_writes: f64 = number.unwrap().parse().unwrap();
    assert!(without_writes <= took, "{line}, but all was well after {took} s");
    let kinds: Vec<&str> = told["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["kind"].as_str())
        .collect();
    for kind in [
        "asked",
        "demotion",
        "shutdown_checkpoint",
        "lock_lost",
        "race",
        "lock_gained",
        "task_ended",
    ] {
        assert!(kinds.contains(&kind), "{kind} is missing in {told:#}");
    }
    eventually("all have told their part", seconds(20), || {
        let output = cluster.ctl(&["why", "-f", "json"]);
        let told: Value = serde_json::from_str(&output.stdout).map_err(|error| error.to_string())?;
        holds(told["silent"] == json!({}), || told["silent"].to_string())
    });
}

/// What a member has kept of its cycles leads to the same decisions here.
fn decide_once_more(cluster: &Cluster, member: &str) {
    let path = events_file(cluster, member)
        .with_extension("")
        .with_extension("journals.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut promotions = 0;
    // The last line may be on its way to the file.
    let (whole, _) = text.rsplit_once('\n').unwrap();
    for line in whole.lines() {
        let record: ha::event::Record = serde_json::from_str(line).unwrap();
        assert_eq!(record.replay().as_ref(), Some(&record.outcome), "{line}");
        promotions += usize::from(record.outcome.reason == ha::reason::Reason::PromotedByAcquiringLock);
    }
    assert_eq!(promotions, 1, "{text}");
}

/// A cluster in which all is well writes no events.
fn the_steady_tell_nothing(cluster: &Cluster, leader: &str) {
    let newest = || -> Value {
        let body = cluster.member(leader).get("/events?limit=0").unwrap().body;
        serde_json::from_str::<Value>(&body).unwrap()["newest"].clone()
    };
    let mut settled = newest();
    eventually("nothing happens for two cycles", seconds(30), || {
        let known = settled.as_u64().unwrap();
        let answer = cluster
            .member(leader)
            .get(&format!("/events?since={known}&wait=5"))?;
        settled = newest();
        holds(settled == known, || answer.body)
    });
}

fn events(cluster: &Cluster, arguments: &[&str]) -> Vec<Value> {
    let (member, options) = arguments.split_last().unwrap();
    let name = cluster_name(cluster);
    let output = cluster.ctl(&[&["events", &name, member, "-f", "json"], options].concat());
    serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", output.stdout, output.stderr))
}

fn ids(text: &str) -> Vec<u64> {
    let id = |line: &str| serde_json::from_str::<Value>(line).ok()?["id"].as_u64();
    text.lines().filter_map(id).collect()
}

fn events_file(cluster: &Cluster, member: &str) -> PathBuf {
    let name = format!("{}-{member}.events.jsonl", cluster_name(cluster));
    cluster.member(member).home().join(name)
}

fn cluster_name(cluster: &Cluster) -> String {
    let config = cluster.members[0].config();
    let scope = config.lines().find_map(|line| line.strip_prefix("scope: "));
    scope.unwrap().trim().to_owned()
}
