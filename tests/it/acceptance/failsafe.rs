//! `failsafe_mode`: etcd stands still, and the primary goes on while all members accept that.

use crate::harness::cluster::{Program, Timers};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds, versions};
use serde_json::{Value, json};
use std::time::Instant;

/// What Patroni's scenarios allow from the outage on.
const NOTICED: std::time::Duration = seconds(12);

#[test]
fn a_primary_goes_on_while_all_members_accept() {
    let mut cluster = Cluster::new(newest(), 3);
    cluster.members[0].start();
    assert_eq!(cluster.wait_for_primary(seconds(30)), "pg1");
    cluster.patch(&json!({"failsafe_mode": true}));
    wait_until_listed(&cluster, &["pg1"]);

    // Alone it has nobody to ask.
    cluster.etcd.freeze();
    goes_on(&cluster, &["pg1"]);
    cluster.etcd.thaw();

    cluster.members[1].start();
    cluster.members[2].start();
    assert_eq!(cluster.wait_until_healthy(seconds(40)), "pg1");
    wait_until_listed(&cluster, &["pg1", "pg2", "pg3"]);
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    let begin = Instant::now();
    cluster.etcd.freeze();
    goes_on(&cluster, &["pg1", "pg2", "pg3"]);
    cluster.wait_until_replicated("pg1", "pg2", seconds(10));
    cluster.etcd.thaw();
    assert_eq!(cluster.wait_until_healthy(seconds(20)), "pg1");
    let silence = writer.longest_silence(begin);
    assert!(
        silence < crate::harness::patience(seconds(2)),
        "no writes for {silence:?}"
    );
    assert!(!cluster.member("pg1").log().contains("demoted self"));

    // One of them does not answer any more. Its key had run out, so that the leader may have left it out for a moment.
    wait_until_listed(&cluster, &["pg1", "pg2", "pg3"]);
    cluster.etcd.freeze();
    is_active(&cluster, "pg1");
    cluster.member_mut("pg2").kill_all();
    eventually("the primary stops", NOTICED, || {
        let refused = cluster
            .member("pg1")
            .query("create temporary table written ()")
            .is_err();
        holds(refused, || "it takes writes".to_owned())
    });
    cluster.member("pg1").wait_for_log(
        "demoted self because DCS is not accessible and I was a leader",
        seconds(5),
    );
    cluster.etcd.thaw();
    cluster.member_mut("pg2").start();
    cluster.wait_until_healthy(seconds(40));
    writer.wait_for_write("etcd is back", seconds(5));
    a_stranger_does_not_lead(&mut cluster);
    writer.wait_for_write("another one leads", seconds(5));
    writer.assert_nothing_lost();
    witnesses.assert_never_two_primaries();
}

/// Each side accepts the other's request.
#[test]
#[ignore = "long: make test-all"]
fn patroni_and_tamada_accept_each_other() {
    let mut cluster = Cluster::with(newest(), 1, 1, Timers::PATRONI);
    let patroni = Program {
        path: versions::patroni().join("patroni"),
        arguments: Vec::new(),
    };
    cluster.add_member("patroni", patroni);
    cluster.members[0].start();
    assert_eq!(cluster.wait_for_primary(seconds(30)), "pg1");
    cluster.patch(&json!({"failsafe_mode": true}));
    cluster.member_mut("patroni").start();
    cluster.wait_until_healthy(seconds(60));
    for leader in ["pg1", "patroni"] {
        if cluster.wait_for_primary(seconds(20)) != leader {
            let to = json!({"leader": "pg1", "candidate": leader});
            assert_eq!(
                cluster.member("pg1").ask("POST", "/switchover", Some(&to)).status,
                200
            );
            assert_eq!(cluster.wait_until_healthy(seconds(40)), leader);
        }
        wait_until_listed(&cluster, &["patroni", "pg1"]);
        cluster.etcd.freeze();
        is_active(&cluster, leader);
        let end = Instant::now() + seconds(cluster.timers.ttl + 2);
        while Instant::now() < end {
            takes_writes(&cluster, leader);
        }
        cluster.etcd.thaw();
        assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
        assert!(!cluster.member(leader).log().contains("demoted self because DCS"));
        // Who has accepted takes nobody else for the leader as long as that holds, on either side.
        is_over(&cluster);
    }
}

fn is_over(cluster: &Cluster) {
    eventually("failsafe mode is over", seconds(cluster.timers.ttl + 15), || {
        for member in &cluster.members {
            let status = member.status()?;
            if status
                .get("failsafe_mode_is_active")
                .is_some_and(|active| active == true)
            {
                return Err(status.to_string());
            }
        }
        Ok(())
    });
}

fn wait_until_listed(cluster: &Cluster, names: &[&str]) {
    eventually("all are listed", seconds(10), || {
        let response = cluster.member("pg1").get("/failsafe")?;
        let listed: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let map = listed.as_object().cloned().unwrap_or_default();
        let expected = names.iter().all(|name| {
            let address = format!("http://127.0.0.1:{}/patroni", cluster.member(name).rest_port);
            map.get(*name) == Some(&json!(address))
        });
        holds(expected && map.len() == names.len(), || response.body)
    });
}

fn is_active(cluster: &Cluster, name: &str) {
    eventually("failsafe mode is active", NOTICED, || {
        let status = cluster.member(name).status()?;
        holds(status["failsafe_mode_is_active"] == true, || status.to_string())
    });
}

fn takes_writes(cluster: &Cluster, name: &str) {
    cluster
        .member(name)
        .query("create temporary table written ()")
        .unwrap();
    assert_eq!(cluster.member(name).status_code("/primary"), 200);
    std::thread::sleep(std::time::Duration::from_millis(200));
}

/// Longer than a lease lasts.
fn goes_on(cluster: &Cluster, names: &[&str]) {
    for name in names {
        is_active(cluster, name);
    }
    let end = Instant::now() + seconds(cluster.timers.ttl + 2);
    while Instant::now() < end {
        takes_writes(cluster, "pg1");
    }
    cluster.member("pg1").wait_for_log(
        "continue to run as a leader because failsafe mode is enabled and all members are accessible",
        seconds(5),
    );
    for name in &names[1..] {
        assert_eq!(cluster.member(name).status_code("/replica"), 200, "{name}");
    }
}

/// A leader without the DCS asks nobody but those that are listed: who is not may not lead.
fn a_stranger_does_not_lead(cluster: &mut Cluster) {
    let leader = cluster.wait_for_primary(seconds(5));
    let others = cluster.others(&leader);
    wait_until_listed(cluster, &["pg1", "pg2", "pg3"]);
    let list = cluster.key("failsafe").unwrap();
    cluster.member_mut(&leader).kill_all();
    let put = |value: &str| {
        let key = "/service/demo/failsafe";
        cluster.etcd.etcdctl(&cluster.directory, &["put", key, value]);
    };
    put(&json!({"pg9": "http://127.0.0.1:1/patroni"}).to_string());
    for other in &others {
        let text = format!("{other} is not listed in the key failsafe");
        cluster
            .member(other)
            .wait_for_log(&text, seconds(cluster.timers.ttl + 10));
    }
    assert!(cluster.primary().is_err());
    put(&list);
    cluster.wait_for_other_primary(&leader, seconds(10));
}
