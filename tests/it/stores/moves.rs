//! One cluster moves from kind to kind of DCS by `store copy`, and keeps its data, its system identifier and its history.

use crate::harness::cluster::Timers;
use crate::harness::etcd::Etcd;
use crate::harness::store::{Consul, Store, Zookeeper};
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use rustix::process::Signal;
use serde_json::{Value, json};

const HEALTHY: std::time::Duration = seconds(60);

#[test]
fn a_cluster_moves_from_etcd_to_consul_to_zookeeper_to_etcd() {
    let mut cluster = Cluster::on(Etcd::new(1), newest(), 2, Timers::SHORT);
    let leader = cluster.bootstrap();
    let identifier = "select system_identifier from pg_control_system()";
    let system = cluster.member(&leader).value(identifier);
    cluster.member(&leader).value("create table moved (place text)");
    switch_over(&cluster);
    let places: [(&str, Box<dyn Store>); 3] = [
        ("consul", Box::new(Consul::new())),
        ("zookeeper", Box::new(Zookeeper::new())),
        ("etcd3", Box::new(Etcd::named("other", 1))),
    ];
    for (moves, (kind, store)) in places.into_iter().enumerate() {
        let before = history(&cluster);
        let leader = cluster.wait_until_healthy(HEALTHY);
        let place = format!("insert into moved values ('before {kind}')");
        cluster.member(&leader).value(&place);
        let postmasters: Vec<_> = cluster.members.iter().map(|member| member.postmaster()).collect();

        move_to(&mut cluster, store, kind);

        assert_eq!(cluster.wait_until_healthy(HEALTHY), leader);
        let now: Vec<_> = cluster.members.iter().map(|member| member.postmaster()).collect();
        assert_eq!(now, postmasters, "no server was stopped");
        assert_eq!(history(&cluster), before, "the history came along");
        let new_leader = switch_over(&cluster);
        let after = history(&cluster);
        assert_eq!(after[..before.len()], before[..], "the history goes on");
        assert_eq!(after.len(), before.len() + 1);
        assert_eq!(cluster.member(&new_leader).value(identifier), system);
        let rows = cluster.member(&new_leader).value("select count(*) from moved");
        assert_eq!(rows, (moves + 1).to_string());
    }
    let config = cluster.ctl(&["show-config"]).stdout;
    assert!(
        config.contains("maximum_lag_on_failover: 1048576\n") && !config.contains("pause"),
        "{config}"
    );
}

/// By the procedure of docs/operations.md.
fn move_to(cluster: &mut Cluster, mut store: Box<dyn Store>, kind: &str) {
    let directory = cluster.directory.clone();
    store.start(&directory);
    let (old, new) = (cluster.store().section(), store.section());
    let from = cluster.members[0].config_file.clone();
    let to = directory.write("moved.yml", &cluster.members[0].config().replace(&old, &new));
    let paused = cluster.ctl(&["pause", "--wait"]);
    assert_eq!(paused.code, Some(0), "{}{}", paused.stdout, paused.stderr);
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    let copied = cluster.ctl(&["store", "copy", "--from", from, "--to", to]);
    assert_eq!(copied.code, Some(0), "{}{}", copied.stdout, copied.stderr);
    let next = format!("Now stop all agents, have them use {kind}, start them again");
    assert!(copied.stdout.contains(&next), "{}", copied.stdout);
    for member in &mut cluster.members {
        member.agent().signal(Signal::TERM);
        member.wait_for_exit(seconds(30));
        member.edit_config(&old, &new);
    }
    cluster.store().stop();
    cluster.store = Some(store);
    cluster.start_all();
    eventually("a member leads there", HEALTHY, || {
        let primary = cluster.primary()?;
        let is_known = cluster.list().iter().any(|row| row["Role"] == "Leader");
        holds(is_known, || {
            format!("{} leads, and the DCS does not say so", primary.name)
        })
    });
    let resumed = cluster.ctl(&["resume", "--wait"]);
    assert_eq!(resumed.code, Some(0), "{}{}", resumed.stdout, resumed.stderr);
}

fn switch_over(cluster: &Cluster) -> String {
    let leader = cluster.wait_until_healthy(HEALTHY);
    let candidate = cluster.others(&leader).remove(0);
    let request = json!({ "leader": leader, "candidate": candidate });
    let answer = cluster.member(&leader).ask("POST", "/switchover", Some(&request));
    assert_eq!(answer.status, 200, "{answer:?}");
    let lines = history(cluster).len();
    assert_eq!(cluster.wait_until_healthy(HEALTHY), candidate);
    eventually("the promotion is in the history", seconds(15), || {
        let lines_now = history(cluster).len();
        holds(lines_now > 0 && lines_now >= lines, || {
            format!("{lines_now} lines")
        })
    });
    candidate
}

/// One line for each promotion.
fn history(cluster: &Cluster) -> Vec<Value> {
    let answer = cluster.primary().and_then(|primary| primary.get("/history"));
    let lines: Value = answer.map(|answer| answer.json()).unwrap_or_default();
    lines.as_array().cloned().unwrap_or_default()
}
