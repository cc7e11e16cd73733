//! A store that refuses writes, and one that was wiped or restored from a backup: the primary stays.

use crate::harness::cluster::Timers;
use crate::harness::etcd::Etcd;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, oldest, seconds};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Writes of 100 kB until the quota is used up, or room again.
fn fill(cluster: &Cluster, is_full: bool) {
    let etcdctl = |arguments: &[&str]| cluster.etcd.etcdctl(&cluster.directory, arguments);
    if is_full {
        let value = "x".repeat(100_000);
        let is_refused =
            |number: u32| etcdctl(&["put", &format!("/filler/{number}"), &value]).code != Some(0);
        assert!((0..200).any(is_refused), "the quota is not used up");
        return;
    }
    assert_eq!(etcdctl(&["del", "--prefix", "/filler/"]).code, Some(0));
    let status: Value = serde_json::from_str(&etcdctl(&["endpoint", "status", "-w", "json"]).stdout).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    for arguments in [
        &["compact", revision.as_str()][..],
        &["defrag"],
        &["alarm", "disarm"],
    ] {
        let output = etcdctl(arguments);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }
}

/// What a role may do with the cluster's keys.
fn grant(cluster: &Cluster, permission: &str) {
    let output = cluster.etcd.etcdctl(
        &cluster.directory,
        &[
            "--user=root:root",
            "role",
            "grant-permission",
            "agents",
            permission,
            "/service/",
            "--prefix",
        ],
    );
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

/// Passwords for the agents, who may write.
fn switch_authentication_on(cluster: &Cluster) {
    for member in &cluster.members {
        member.edit_config("etcd3:\n", "etcd3:\n  username: agent\n  password: secret\n");
        assert_eq!(member.ask("POST", "/reload", None).status, 202);
    }
    for arguments in [
        &["user", "add", "root:root"][..],
        &["user", "add", "agent:secret"],
        &["role", "add", "root"],
        &["role", "add", "agents"],
        &["user", "grant-role", "root", "root"],
        &["user", "grant-role", "agent", "agents"],
        &[
            "role",
            "grant-permission",
            "agents",
            "readwrite",
            "/service/",
            "--prefix",
        ],
        &["auth", "enable"],
    ] {
        let output = cluster.etcd.etcdctl(&cluster.directory, arguments);
        assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
    }
}

/// The leader stays for longer than its lease, and everybody who looks is told.
fn leads_on(cluster: &Cluster, leader: &str, writer: &Writer, why: &str) {
    let member = cluster.member(leader);
    let log_end = member.log_end();
    eventually("the status says that writes are refused", seconds(10), || {
        let status = member.status()?;
        let told = status["dcs_refuses_writes"].as_str().unwrap_or_default();
        holds(told.contains(why), || status.to_string())
    });
    assert!(
        member.log().contains("the DCS refuses writes ("),
        "{}",
        &member.log()[log_end..]
    );
    let metrics = member.get("/metrics").unwrap().body;
    let metric = metrics
        .lines()
        .find(|line| line.starts_with("patroni_dcs_refuses_writes{"));
    assert!(metric.is_some_and(|line| line.ends_with(" 1")), "{metric:?}");
    let row = cluster
        .list()
        .into_iter()
        .find(|row| row["Member"] == leader)
        .unwrap();
    let reason = row["Reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("the DCS refuses writes (") && reason.contains(why),
        "{row}"
    );
    assert_eq!(row["Role"], "Leader", "{row}");
    let why_text = cluster.ctl(&["why"]).stdout;
    assert!(why_text.contains("the DCS refuses writes ("), "{why_text}");
    for _ in 0..cluster.timers.ttl + 2 {
        writer.wait_for_write("while the DCS refuses writes", seconds(2));
        std::thread::sleep(seconds(1));
    }
    assert_eq!(member.status_code("/primary"), 200);
    for name in cluster.others(leader) {
        assert_eq!(cluster.member(&name).status_code("/replica"), 200, "{name}");
    }
}

fn all_is_normal(cluster: &Cluster, leader: &str) {
    eventually("the DCS accepts writes", seconds(20), || {
        let status = cluster.member(leader).status()?;
        holds(status.get("dcs_refuses_writes").is_none(), || status.to_string())
    });
    assert_eq!(cluster.wait_until_healthy(seconds(20)), leader);
    let rows = cluster.list();
    assert!(rows.iter().all(|row| row.get("Reason").is_none()), "{rows:?}");
}

#[test]
fn a_store_that_refuses_writes_takes_no_primary_away() {
    let mut cluster = Cluster::without_etcd(newest(), 2, 1, Timers::SHORT);
    cluster.etcd.options = vec!["--quota-backend-bytes=4000000".to_owned()];
    cluster.etcd.start(&cluster.directory);
    let leader = cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    fill(&cluster, true);
    leads_on(&cluster, &leader, &writer, "database space exceeded");
    fill(&cluster, false);
    all_is_normal(&cluster, &leader);

    switch_authentication_on(&cluster);
    all_is_normal(&cluster, &leader);
    grant(&cluster, "read");
    leads_on(&cluster, &leader, &writer, "permission denied");
    grant(&cluster, "readwrite");
    all_is_normal(&cluster, &leader);
    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

/// The keys that only the cluster's members know.
const KEPT: [&str; 6] = ["config", "failsafe", "history", "initialize", "origin", "sync"];

fn keys(cluster: &Cluster) -> BTreeMap<&'static str, Value> {
    let value = |key: &'static str| (key, cluster.document(key));
    KEPT.into_iter().map(value).collect()
}

#[test]
fn a_store_that_was_wiped_or_restored_is_filled_again() {
    // The lease outlives the time in which three members of etcd are stopped, emptied and started.
    let timers = Timers {
        ttl: 40,
        loop_wait: 2,
        retry_timeout: 5,
    };
    let mut cluster = Cluster::with(oldest(), 2, 3, timers);
    let first = cluster.bootstrap();
    let snapshot = cluster.directory.path().join("snapshot");
    cluster.etcd.save(&cluster.directory, &snapshot);
    let leader = cluster.others(&first).remove(0);
    let switchover = json!({ "leader": first, "candidate": leader });
    let answer = cluster
        .member(&first)
        .ask("POST", "/switchover", Some(&switchover));
    assert_eq!(answer.status, 200, "{answer:?}");
    cluster.wait_until_healthy(seconds(30));
    cluster
        .patch(&json!({ "failsafe_mode": true, "synchronous_mode": true, "maximum_lag_on_failover": 4711 }));
    let complete = |cluster: &Cluster| {
        let keys = keys(cluster);
        let is_complete = keys["sync"]["sync_standby"] == first.as_str()
            && keys["failsafe"]
                .as_object()
                .is_some_and(|members| members.len() == 2)
            && keys.values().all(|value| !value.is_null());
        holds(is_complete, || format!("{keys:?}"))?;
        Ok::<_, String>(keys)
    };
    let before = eventually("all keys are written", seconds(20), || complete(&cluster));
    assert_eq!(cluster.wait_until_healthy(seconds(20)), leader);
    let postmasters: Vec<_> = cluster.members.iter().map(|member| member.postmaster()).collect();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    for backup in [None, Some(snapshot.as_path())] {
        writer.wait_for_write("before the store is replaced", seconds(5));
        cluster.etcd.replace(&cluster.directory, backup);
        // They are read one after the other, while they are written.
        eventually(
            &format!("the keys are written again after {backup:?}"),
            seconds(30),
            || {
                let after = complete(&cluster)?;
                holds(after == before, || format!("{after:?}"))
            },
        );
        assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
        assert_eq!(cluster.key("leader").as_deref(), Some(leader.as_str()));
        writer.wait_for_write("after the store was replaced", seconds(10));
        let now: Vec<_> = cluster.members.iter().map(|member| member.postmaster()).collect();
        assert_eq!(now, postmasters, "no server was stopped");
    }
    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

/// Somebody names a replica in the leader key, or a member that there is not: nobody leads beside whom the key does not name any more,
/// and the cluster takes writes again.
#[test]
fn a_leader_key_that_is_written_by_hand_makes_no_second_primary() {
    // Long enough for a member that believed the key to be seen beside the leader, which looks once a loop_wait.
    let timers = Timers {
        ttl: 13,
        loop_wait: 5,
        retry_timeout: 4,
    };
    let mut cluster = Cluster::with(newest(), 3, 1, timers);
    let mut leader = cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    for named in [cluster.others(&leader).remove(0), "nobody".to_owned()] {
        writer.wait_for_write("before the key is written", seconds(5));
        let before = cluster.member(&leader);
        let output = cluster
            .etcd
            .etcdctl(&cluster.directory, &["put", "/service/demo/leader", &named]);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        eventually("the leader has found out", seconds(10), || {
            let status = before.status_code("/primary");
            holds(status != 200, || format!("{status}"))
        });
        leader = cluster.wait_until_healthy(seconds(60));
        writer.wait_for_write("after the key was written", seconds(10));
    }
    witnesses.assert_never_two_primaries();
}

/// By Patroni's procedure, and `store copy`: PostgreSQL runs on, and the history of the cluster comes along.
#[test]
fn a_paused_cluster_moves_to_another_store() {
    let mut cluster = Cluster::new(newest(), 2);
    let first = cluster.bootstrap();
    let candidate = cluster.others(&first).remove(0);
    let request = json!({ "leader": first, "candidate": candidate });
    assert_eq!(
        cluster
            .member(&first)
            .ask("POST", "/switchover", Some(&request))
            .status,
        200
    );
    let leader = cluster.wait_until_healthy(seconds(30));
    cluster
        .patch(&json!({ "synchronous_mode": true, "failsafe_mode": true, "maximum_lag_on_failover": 4711 }));
    let listed = |cluster: &Cluster| {
        let keys = keys(cluster);
        holds(
            keys["sync"]["sync_standby"] == first.as_str() && keys["failsafe"].is_object(),
            || format!("{keys:?}"),
        )
    };
    eventually("sync and failsafe are written", seconds(20), || listed(&cluster));
    let mut other = Etcd::named("other", 1);
    other.start(&cluster.directory);
    let old = cluster.members[0].config_file.clone();
    let config = std::fs::read_to_string(&old).unwrap();
    let moved = config.replace(&cluster.etcd.endpoints()[0], &other.endpoints()[0]);
    let new = cluster.directory.write("moved.yml", &moved);
    let (old, new) = (old.to_str().unwrap().to_owned(), new.to_str().unwrap().to_owned());
    let copy = ["store", "copy", "--from", &old, "--to", &new];

    let refused = cluster.ctl(&copy);
    assert!(
        refused.stderr.contains("cluster demo is not paused"),
        "{}",
        refused.stderr
    );
    assert_eq!(cluster.ctl(&["pause", "--wait"]).code, Some(0));
    let before = keys(&cluster);
    for _ in 0..2 {
        let output = cluster.ctl(&copy);
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        assert!(
            output
                .stdout
                .contains("Copied config, history, sync, failsafe, origin, initialize of cluster demo"),
            "{}",
            output.stdout
        );
    }
    let postmasters: Vec<_> = cluster.members.iter().map(|member| member.postmaster()).collect();
    for member in &mut cluster.members {
        member.agent().signal(rustix::process::Signal::TERM);
        member.wait_for_exit(seconds(30));
        member.edit_config(&cluster.etcd.endpoints()[0], &other.endpoints()[0]);
    }
    cluster.etcd.kill();
    cluster.etcd = other;
    cluster.start_all();
    eventually("the leader leads there", seconds(30), || {
        let key = cluster.key("leader");
        holds(key.as_deref() == Some(leader.as_str()), || format!("{key:?}"))
    });
    let output = cluster.ctl(&copy);
    assert!(
        output.stderr.contains(&format!("has a leader, {leader}")),
        "{}",
        output.stderr
    );
    assert_eq!(cluster.ctl(&["resume", "--wait"]).code, Some(0));
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    let now: Vec<_> = cluster.members.iter().map(|member| member.postmaster()).collect();
    assert_eq!(now, postmasters, "no server was stopped");
    let after = keys(&cluster);
    for key in ["initialize", "history", "origin"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    eventually("sync and failsafe are written", seconds(20), || listed(&cluster));
    let request = json!({ "leader": leader, "candidate": first });
    assert_eq!(
        cluster
            .member(&leader)
            .ask("POST", "/switchover", Some(&request))
            .status,
        200
    );
    assert_eq!(cluster.wait_until_healthy(seconds(30)), first);
    assert_eq!(
        cluster.document("history").as_array().map(Vec::len),
        before["history"].as_array().map(|lines| lines.len() + 1),
        "the history goes on"
    );
}
