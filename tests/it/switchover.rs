//! Switchovers in quick succession: each finds servers that have only just become what they are.

use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds};
use rustix::process::Signal;
use serde_json::json;
use std::time::Instant;

/// Below `wal_retrieve_retry_interval`, which no step may wait for.
const LONGEST_SILENCE: std::time::Duration = seconds(4);

/// Far below `loop_wait`.
const FOLLOWS: std::time::Duration = seconds(3);

#[test]
fn ten_times_in_a_row() {
    let mut cluster = Cluster::new(newest(), 3);
    cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    for _ in 0..10 {
        let begin = Instant::now();
        let leader = cluster.primary().unwrap();
        let response = leader.ask("POST", "/switchover", Some(&json!({ "leader": leader.name })));
        assert_eq!(response.status, 200, "{}", response.body);
        writer.wait_for_write("after a switchover", seconds(10));
        let silence = writer.longest_silence(begin);
        println!("no writes for {silence:?}");
        assert!(
            silence < crate::harness::patience(LONGEST_SILENCE),
            "no writes for {silence:?}"
        );
        cluster.wait_until_healthy(seconds(20));
        writer.assert_nothing_lost();
    }
    witnesses.assert_never_two_primaries();
}

/// With cycles ten seconds apart only a watch can tell the others in time.
#[test]
fn the_others_follow_in_the_same_moment() {
    let timers = crate::harness::cluster::Timers {
        ttl: 30,
        loop_wait: 10,
        retry_timeout: 10,
    };
    let mut cluster = Cluster::with(newest(), 3, 1, timers);
    cluster.bootstrap();
    let writer = Writer::start(&cluster);
    for _ in 0..3 {
        let leader = cluster.primary().unwrap().name.clone();
        let begin = Instant::now();
        let request = json!({ "leader": leader });
        let response = cluster.member(&leader).ask("POST", "/switchover", Some(&request));
        assert_eq!(response.status, 200, "{}", response.body);
        println!("switchover: answered after {:?}", begin.elapsed());
        let successor = cluster.wait_for_other_primary(&leader, seconds(5));
        let bystander = cluster
            .others(&leader)
            .into_iter()
            .find(|name| *name != successor)
            .unwrap();
        let streams = format!(
            "select count(*) from pg_stat_replication where state = 'streaming' and application_name = '{bystander}'"
        );
        eventually("the bystander follows", FOLLOWS, || {
            let rows = cluster.member(&successor).query(&streams)?;
            holds(rows == [[Some("1".to_owned())]], || format!("{rows:?}"))
        });
        println!("switchover: followed after {:?}", begin.elapsed());
        writer.wait_for_write("after a switchover", seconds(5));
        println!("switchover: no writes for {:?}", writer.longest_silence(begin));
        cluster.wait_until_healthy(seconds(20));
    }
    writer.assert_nothing_lost();
}

/// The primary stops, nobody gets its last WAL, and it goes on where it was. What was written before is there.
#[test]
fn without_the_shutdown_checkpoint_nobody_takes_over() {
    let timers = crate::harness::cluster::Timers::PATRONI;
    let mut cluster = Cluster::with(newest(), 2, 1, timers);
    let leader = cluster.bootstrap();
    let candidate = cluster.others(&leader).remove(0);
    cluster
        .member(&leader)
        .value("create table kept (n int); insert into kept values (1)");
    cluster.wait_until_replayed(&leader);
    // Connected, and it takes nothing.
    cluster.member(&candidate).wait_until_streaming(seconds(15));
    let stalled = cluster
        .member(&candidate)
        .signal_backends("walreceiver", Signal::STOP);
    assert_eq!(stalled, 1);
    let begin = Instant::now();
    let request = json!({ "leader": leader, "candidate": candidate });
    let response = cluster.member(&leader).ask("POST", "/switchover", Some(&request));
    println!(
        "switchover: {} {} after {:?}",
        response.status,
        response.body,
        begin.elapsed()
    );
    assert_eq!(response.status, 503, "{}", response.body);
    let reason = ["shutdown checkpoint", "is slow or stalled"];
    let is_told = reason.iter().any(|reason| response.body.contains(reason));
    assert!(
        response.body.starts_with("Switchover failed: ") && is_told,
        "{}",
        response.body
    );
    assert_eq!(cluster.wait_for_primary(seconds(15)), leader, "it goes on");
    eventually("it takes writes", seconds(10), || {
        cluster.member(&leader).query("insert into kept values (2)")
    });
    cluster
        .member(&candidate)
        .signal_backends("walreceiver", Signal::CONT);
    cluster.wait_until_healthy(seconds(30));
    assert_eq!(cluster.member(&leader).value("select count(*) from kept"), "2");
    // And now it can be done.
    let response = cluster.member(&leader).ask("POST", "/switchover", Some(&request));
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(cluster.wait_for_other_primary(&leader, seconds(10)), candidate);
    assert_eq!(cluster.member(&candidate).value("select count(*) from kept"), "2");
}

/// The same when the agent is told to end: its key runs out unless it comes back.
#[test]
fn an_agent_that_comes_back_keeps_what_nobody_else_has() {
    let mut cluster = Cluster::with(newest(), 2, 1, crate::harness::cluster::Timers::PATRONI);
    let leader = cluster.bootstrap();
    let other = cluster.others(&leader).remove(0);
    cluster.member(&leader).value("create table kept (n int)");
    cluster.wait_until_replayed(&leader);
    cluster.member_mut(&other).kill_all();
    cluster.member(&leader).value("insert into kept values (1)");
    cluster.member_mut(&leader).stop();
    cluster.member_mut(&leader).start();
    cluster.member_mut(&other).start();
    cluster.wait_until_healthy(seconds(60));
    assert_eq!(cluster.wait_for_primary(seconds(15)), leader);
    assert_eq!(cluster.member(&leader).value("select count(*) from kept"), "1");
}

/// A member that restores from the archive only is refused before anything is stopped.
#[test]
fn a_candidate_that_does_not_stream_is_refused() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let candidate = cluster.others(&leader).remove(0);
    cluster.member(&candidate).reload_tags(&["nostream: true"]);
    cluster.wait_for_member_key(&candidate, "tags", &json!({"nostream": true}), seconds(10));
    let postmaster = cluster.member(&leader).postmaster();
    let request = json!({ "leader": leader, "candidate": candidate });
    let response = cluster.member(&leader).ask("POST", "/switchover", Some(&request));
    assert_eq!(response.status, 412, "{}", response.body);
    assert!(response.body.contains("nostream"), "{}", response.body);
    assert_eq!(
        cluster.member(&leader).postmaster(),
        postmaster,
        "nothing was stopped"
    );
}
