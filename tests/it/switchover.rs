//! Switchovers in quick succession: each finds servers that have only just become what they are.

use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds};
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
