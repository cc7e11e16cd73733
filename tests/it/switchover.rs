//! Switchovers in quick succession: each finds servers that have only just become what they are.

use crate::harness::{Cluster, Witnesses, Writer, newest, seconds};
use serde_json::json;
use std::time::Instant;

/// Below `wal_retrieve_retry_interval`, which no step may wait for.
const LONGEST_SILENCE: std::time::Duration = seconds(4);

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
        assert!(silence < LONGEST_SILENCE, "no writes for {silence:?}");
        cluster.wait_until_healthy(seconds(20));
        writer.assert_nothing_lost();
    }
    witnesses.assert_never_two_primaries();
}
