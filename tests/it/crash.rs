//! SIGKILL of the primary's postmaster: it comes back in place, unless a replica that lacks nothing is faster.

use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds};
use std::time::Instant;

#[test]
fn a_long_recovery_is_not_waited_for() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    short_recovery(&cluster, &leader, &writer);
    long_recovery(&cluster, &leader, &writer);

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

fn short_recovery(cluster: &Cluster, leader: &str, writer: &Writer) {
    let member = cluster.member(leader);
    let postmaster = member.postmaster();
    let begin = Instant::now();
    member.kill_postmaster();
    eventually("another postmaster runs", seconds(10), || {
        let now = member.postmaster();
        holds(now.is_some() && now != postmaster, || "not yet".to_owned())
    });
    writer.wait_for_write("after a short recovery", seconds(10));
    println!(
        "a short recovery: no writes for {:?}",
        writer.longest_silence(begin)
    );
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    let timeline = "select timeline_id from pg_control_checkpoint()";
    assert_eq!(member.value(timeline), "1", "nobody was promoted");
}

fn long_recovery(cluster: &Cluster, leader: &str, writer: &Writer) {
    let member = cluster.member(leader);
    writer.pause();
    member.value("create table bulk (t text); checkpoint");
    member.value("insert into bulk select repeat('x', 1000) from generate_series(1, 330000)");
    cluster.wait_until_replayed(leader);
    let begin = Instant::now();
    member.kill_postmaster();
    let successor = cluster.wait_for_other_primary(leader, seconds(10));
    println!("a long recovery: another primary after {:?}", begin.elapsed());
    writer.resume();
    writer.wait_for_write("after the failover", seconds(10));
    let rows = "select count(*) from bulk";
    assert_eq!(cluster.member(&successor).value(rows), "330000");
    assert!(member.log().contains("of WAL to replay, which would take about"));
    assert_eq!(cluster.wait_until_healthy(seconds(60)), successor);
}
