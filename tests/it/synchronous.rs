//! Synchronous replication: who is waited for is whoever may take over, and nothing that was acknowledged is lost.

use crate::harness::cluster::{Program, Timers};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, oldest, seconds, versions};
use serde_json::{Value, json};
use std::time::Instant;

const TIMERS: Timers = Timers {
    ttl: 5,
    loop_wait: 1,
    retry_timeout: 1,
};

/// The key `sync`.
fn sync(cluster: &Cluster) -> Value {
    let text = cluster.key("sync").unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn names(cluster: &Cluster, member: &str) -> String {
    cluster
        .member(member)
        .query("show synchronous_standby_names")
        .map(|rows| rows.into_iter().flatten().flatten().collect())
        .unwrap_or_else(|error| error)
}

/// Waits until the key is so, and `synchronous_standby_names` too.
#[track_caller]
fn wait_for(cluster: &Cluster, leader: &str, quorum: u64, standbys: &[&str], in_force: &str) {
    let standbys = match standbys {
        [] => Value::Null,
        several => several.join(",").into(),
    };
    let wanted = json!({"leader": leader, "quorum": quorum, "sync_standby": standbys});
    eventually(&format!("{wanted} and {in_force:?}"), seconds(15), || {
        let (key, set) = (sync(cluster), names(cluster, leader));
        holds(key == wanted && set == in_force, || format!("{key} and {set:?}"))
    });
}

fn patch(cluster: &Cluster, document: &Value) {
    let response = cluster.members[0].ask("PATCH", "/config", Some(document));
    assert_eq!(response.status, 200, "{}", response.body);
}

fn roles(cluster: &Cluster) -> Vec<String> {
    let role = |row: &Value| row["Role"].as_str().unwrap_or_default().to_owned();
    let mut roles: Vec<String> = cluster.list().iter().map(role).collect();
    roles.sort();
    roles
}

#[test]
fn one_standby_has_everything() {
    let mut cluster = Cluster::with(newest(), 3, 1, TIMERS);
    let leader = cluster.bootstrap();
    patch(&cluster, &json!({"synchronous_mode": true}));
    let standby = eventually("a standby is synchronous", seconds(10), || {
        let standby = sync(&cluster)["sync_standby"].as_str().map(str::to_owned);
        standby.ok_or_else(|| sync(&cluster).to_string())
    });
    wait_for(&cluster, &leader, 0, &[&standby], &standby);
    eventually("list shows it", seconds(10), || {
        let roles = roles(&cluster);
        holds(roles == ["Leader", "Replica", "Sync Standby"], || {
            format!("{roles:?}")
        })
    });
    assert_eq!(cluster.member(&standby).status_code("/sync"), 200);
    assert_eq!(cluster.member(&standby).status_code("/asynchronous"), 503);
    let metrics = cluster.member(&standby).get("/metrics").unwrap().body;
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("patroni_sync_standby{") && line.ends_with(" 1"))
    );
    for directory in ["data", "pg_wal"] {
        let label = format!("directory=\"{directory}\"}} ");
        eventually("the room is measured", seconds(5), || {
            let metrics = cluster.member(&standby).get("/metrics").unwrap().body;
            let mut samples = metrics.lines().filter_map(|line| line.split_once(label.as_str()));
            let free = samples.find(|(name, _)| name.starts_with("tamada_disk_free_bytes{"));
            let is_measured = free.is_some_and(|(_, bytes)| bytes.parse::<u64>().unwrap() > 0);
            holds(is_measured, || metrics.clone())
        });
    }
    let other = cluster
        .others(&leader)
        .into_iter()
        .find(|name| *name != standby)
        .unwrap();
    assert_eq!(cluster.member(&other).status_code("/async"), 200);

    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    // Its host is gone: commits wait for the other one.
    let begin = Instant::now();
    cluster.member_mut(&standby).kill_all();
    wait_for(&cluster, &leader, 0, &[&other], &other);
    writer.wait_for_write("with the other standby", seconds(5));
    let silence = writer.longest_silence(begin);
    println!("sync standby killed: no writes for {silence:?}");
    assert!(
        silence < crate::harness::patience(seconds(2)),
        "no writes for {silence:?}"
    );
    cluster.member_mut(&standby).start();
    cluster.wait_until_healthy(seconds(30));
    wait_for(&cluster, &leader, 0, &[&other], &other);

    // It stops in order: commits wait for the other one before it is gone.
    let begin = Instant::now();
    cluster.member_mut(&other).stop();
    wait_for(&cluster, &leader, 0, &[&standby], &standby);
    let silence = writer.longest_silence(begin);
    println!("sync standby stopped: no writes for {silence:?}");
    assert!(
        silence < crate::harness::patience(seconds(1)),
        "no writes for {silence:?}"
    );
    cluster.member_mut(&other).start();
    cluster.wait_until_healthy(seconds(30));

    // The primary's host is gone: only the synchronous standby takes over, and nothing is lost.
    cluster.member_mut(&leader).kill_all();
    let next = cluster.wait_for_other_primary(&leader, seconds(20));
    assert_eq!(next, standby);
    writer.wait_for_write("on the new primary", seconds(10));
    writer.assert_nothing_lost();
    wait_for(&cluster, &standby, 0, &[&other], &other);
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(seconds(30));

    // A switchover goes to the synchronous standby only.
    let body = json!({"leader": standby, "candidate": leader});
    let response = cluster.member(&standby).ask("POST", "/switchover", Some(&body));
    assert_eq!(response.status, 412, "{}", response.body);
    let response = cluster
        .member(&standby)
        .ask("POST", "/switchover", Some(&json!({"leader": standby})));
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(cluster.wait_for_other_primary(&standby, seconds(15)), other);
    cluster.wait_until_healthy(seconds(30));
    writer.wait_for_write("after the switchover", seconds(5));

    patch(&cluster, &json!({"synchronous_mode": null}));
    eventually("it is switched off", seconds(10), || {
        let (key, set) = (cluster.key("sync"), names(&cluster, &other));
        holds(key.is_none() && set.is_empty(), || format!("{key:?} and {set:?}"))
    });
    writer.assert_nothing_lost();
    witnesses.assert_never_two_primaries();
}

#[test]
fn strict_mode_acknowledges_nothing_on_the_primary_alone() {
    let mut cluster = Cluster::with(oldest(), 2, 1, TIMERS);
    let leader = cluster.bootstrap();
    let standby = cluster.others(&leader).remove(0);
    patch(
        &cluster,
        &json!({"synchronous_mode": "on", "synchronous_mode_strict": true}),
    );
    wait_for(&cluster, &leader, 0, &[&standby], &standby);
    cluster
        .member(&leader)
        .query("create table strict (id int)")
        .unwrap();
    cluster.member_mut(&standby).stop();
    cluster
        .member(&leader)
        .wait_for_log("synchronous_mode_strict is requested", seconds(10));
    let alone = cluster.member(&leader).query("insert into strict values (1)");
    assert!(alone.is_err(), "nobody else has it: {alone:?}");
    let begin = Instant::now();
    let conninfo = cluster.member(&leader).conninfo();
    let writer = std::thread::spawn(move || {
        let result = crate::harness::sql::query(&conninfo, "insert into strict values (2)");
        (result, Instant::now())
    });
    cluster.member_mut(&standby).start();
    cluster.wait_until_healthy(seconds(30));
    let (_, end) = writer.join().unwrap();
    println!("a commit waited for {:?}", end - begin);
    wait_for(&cluster, &leader, 0, &[&standby], &standby);
    cluster
        .member(&leader)
        .query("insert into strict values (3)")
        .unwrap();
}

#[test]
fn a_quorum_of_two_and_three() {
    let mut cluster = Cluster::with(newest(), 3, 1, TIMERS);
    let leader = cluster.bootstrap();
    let others = cluster.others(&leader);
    let (b, c) = (others[0].clone(), others[1].clone());
    patch(&cluster, &json!({"synchronous_mode": "quorum"}));
    wait_for(&cluster, &leader, 1, &[&b, &c], &format!("ANY 1 ({b},{c})"));
    eventually("list shows them", seconds(10), || {
        let roles = roles(&cluster);
        holds(roles == ["Leader", "Quorum Standby", "Quorum Standby"], || {
            format!("{roles:?}")
        })
    });
    assert_eq!(cluster.member(&b).status_code("/quorum"), 200);
    patch(&cluster, &json!({"synchronous_node_count": 2}));
    wait_for(&cluster, &leader, 0, &[&b, &c], &format!("ANY 2 ({b},{c})"));
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    let begin = Instant::now();
    cluster.member_mut(&c).kill_all();
    wait_for(&cluster, &leader, 0, &[&b], &format!("ANY 1 ({b})"));
    writer.wait_for_write("with one standby", seconds(5));
    println!(
        "one of two killed: no writes for {:?}",
        writer.longest_silence(begin)
    );
    cluster.member_mut(&c).start();
    cluster.wait_until_healthy(seconds(30));
    patch(&cluster, &json!({"synchronous_node_count": 1}));
    wait_for(&cluster, &leader, 1, &[&b, &c], &format!("ANY 1 ({b},{c})"));

    cluster.member_mut(&leader).kill_all();
    let next = cluster.wait_for_other_primary(&leader, seconds(20));
    let left = if next == b { &c } else { &b };
    writer.wait_for_write("on the new primary", seconds(10));
    writer.assert_nothing_lost();
    wait_for(&cluster, &next, 0, &[left], &format!("ANY 1 ({left})"));
    // With one vote alone nobody would know who has everything.
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(seconds(30));
    wait_for_quorum_again(&cluster, &next);
    writer.assert_nothing_lost();
    witnesses.assert_never_two_primaries();
}

fn wait_for_quorum_again(cluster: &Cluster, leader: &str) {
    let others = cluster.others(leader);
    let (b, c) = (&others[0], &others[1]);
    wait_for(cluster, leader, 1, &[b, c], &format!("ANY 1 ({b},{c})"));
}

/// Patroni sleeps in steps of seconds.
const WITH_PATRONI: std::time::Duration = seconds(40);

#[test]
fn beside_patroni_nothing_is_lost_either() {
    let bin = versions::patroni();
    let mut cluster = Cluster::with(newest(), 2, 1, Timers::PATRONI);
    let program = Program {
        path: bin.join("patroni"),
        arguments: Vec::new(),
    };
    cluster.add_member("patroni", program);
    cluster.members[0].start();
    cluster.members[1].start();
    cluster.wait_for_primary(seconds(30));
    cluster.member_mut("patroni").start();
    let ours = cluster.wait_until_healthy(seconds(60));
    patch(&cluster, &json!({"synchronous_mode": "quorum"}));
    wait_for_voters(&cluster, &ours, 1, 2);
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    // Each takes over from the other, by request and by a crash.
    hand_over(&cluster, &ours, Some("patroni"));
    wait_for_voters(&cluster, "patroni", 1, 2);
    writer.assert_nothing_lost();
    cluster.member_mut("patroni").kill_all();
    let ours = cluster.wait_for_other_primary("patroni", WITH_PATRONI);
    writer.wait_for_write("with Patroni dead", seconds(10));
    wait_for_voters(&cluster, &ours, 0, 1);
    writer.assert_nothing_lost();
    cluster.member_mut("patroni").start();
    cluster.wait_until_healthy(seconds(60));
    wait_for_voters(&cluster, &ours, 1, 2);

    patch(&cluster, &json!({"synchronous_mode": "on"}));
    wait_for_voters(&cluster, &ours, 0, 1);
    let mut leader = ours;
    for _ in 0..3 {
        let standby = sync(&cluster)["sync_standby"].as_str().unwrap().to_owned();
        hand_over(&cluster, &leader, None);
        assert_eq!(cluster.wait_until_healthy(WITH_PATRONI), standby);
        wait_for_voters(&cluster, &standby, 0, 1);
        writer.wait_for_write("after a switchover", seconds(10));
        writer.assert_nothing_lost();
        leader = standby;
    }
    witnesses.assert_never_two_primaries();
}

/// Waits until the key is of this leader, with so many voters.
#[track_caller]
fn wait_for_voters(cluster: &Cluster, leader: &str, quorum: u64, voters: usize) {
    eventually(
        &format!("{leader} with quorum {quorum} of {voters}"),
        WITH_PATRONI,
        || {
            let key = sync(cluster);
            let listed = key["sync_standby"]
                .as_str()
                .map_or(0, |names| names.split(',').count());
            let is_so = key["leader"] == leader && key["quorum"] == quorum && listed == voters;
            holds(is_so, || format!("{key} and {:?}", names(cluster, leader)))
        },
    );
}

#[track_caller]
fn hand_over(cluster: &Cluster, from: &str, to: Option<&str>) {
    let body = match to {
        Some(to) => json!({"leader": from, "candidate": to}),
        None => json!({"leader": from}),
    };
    let response = cluster.member(from).ask("POST", "/switchover", Some(&body));
    assert_eq!(response.status, 200, "{}", response.body);
    cluster.wait_for_other_primary(from, WITH_PATRONI);
    cluster.wait_until_healthy(WITH_PATRONI);
}

/// Whoever may replicate can call itself by a member's name: commits do not wait for that name while it does.
#[test]
fn a_stranger_with_a_members_name_is_not_waited_for() {
    use crate::harness::sql::REPLICATION_PASSWORD;
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    let leader = cluster.bootstrap();
    let standby = cluster.others(&leader).remove(0);
    patch(
        &cluster,
        &json!({"synchronous_mode": true, "synchronous_mode_strict": true}),
    );
    wait_for(&cluster, &leader, 0, &[&standby], &standby);
    let port = cluster.member(&leader).postgresql_port;
    let folder = cluster.directory.path().join("stranger");
    std::fs::create_dir(&folder).unwrap();
    cluster.give_away(&folder);
    let mut command =
        crate::harness::process::command(&cluster.directory, cluster.postgresql.bin.join("pg_receivewal"));
    command
        .arg("--synchronous")
        .arg("--directory")
        .arg(&folder)
        .arg("--dbname")
        .arg(format!(
            "host=127.0.0.1 port={port} user=replicator application_name={standby}"
        ))
        .env("PGPASSWORD", REPLICATION_PASSWORD);
    let mut stranger = crate::harness::process::Process::spawn(&cluster.directory, "stranger", command);
    // Rather nobody than somebody who has nothing.
    eventually("the name is not waited for", seconds(15), || {
        let set = names(&cluster, &leader);
        holds(
            !set.split(['(', ',', ')', ' ']).any(|name| name == standby),
            || set.clone(),
        )
    });
    cluster
        .member(&leader)
        .wait_for_log("does not use its slot", seconds(10));
    stranger.kill();
    wait_for(&cluster, &leader, 0, &[&standby], &standby);
}
