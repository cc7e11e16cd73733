//! What befalls a whole host: it is cut off, or it stands still as a virtual machine that is paused.

use crate::harness::cluster::Timers;
use crate::harness::link::Link;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds};
use std::time::{Duration, Instant};

/// As short as a busy machine bears.
const TIMERS: Timers = Timers {
    ttl: 5,
    loop_wait: 1,
    retry_timeout: 1,
};

/// Longer than the lease and the race for it take.
const LEASE_RUNS_OUT: Duration = seconds(20);

/// How long a former primary may take to be stopped once it wakes up, on a busy machine.
const STOPPED: Duration = seconds(1);

/// The primary loses etcd and nothing else: the others and every client still reach it, the worst place to be wrong.
#[test]
fn the_primary_is_cut_off_from_etcd() {
    let mut cluster = Cluster::with(newest(), 3, 1, TIMERS);
    let endpoint = cluster.etcd.endpoints().remove(0);
    let links: Vec<Link> = cluster.members.iter().map(|_| Link::to(&endpoint)).collect();
    for (member, link) in cluster.members.iter().zip(&links) {
        member.edit_config(&endpoint, &link.address);
        // It would learn the address of etcd itself.
        member.edit_config("etcd3:\n", "etcd3:\n  use_proxies: true\n");
    }
    let leader = cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    let place = cluster.members.iter().position(|member| member.name == leader);
    let link = &links[place.unwrap()];

    let begin = Instant::now();
    link.cut();
    cluster.wait_for_other_primary(&leader, LEASE_RUNS_OUT);
    writer.wait_for_write("without the former primary", seconds(5));
    println!(
        "cut off from etcd: no writes for {:?}",
        writer.longest_silence(begin)
    );
    // Where it serves reads, it does so as a replica.
    assert_ne!(cluster.member(&leader).status_code("/primary"), 200);
    link.mend();
    cluster.wait_until_healthy(seconds(60));

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

/// All its processes stop at once, and go on when another member leads.
#[test]
fn the_host_of_the_primary_stands_still() {
    let mut cluster = Cluster::with(newest(), 3, 1, TIMERS);
    let leader = cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    let begin = Instant::now();
    let postmaster = cluster.member(&leader).postmaster();
    let frozen = cluster.member(&leader).freeze();
    cluster.wait_for_other_primary(&leader, LEASE_RUNS_OUT);
    writer.wait_for_write("while the host stands still", seconds(30));
    println!(
        "host stands still: no writes for {:?}",
        writer.longest_silence(begin)
    );
    let woken = Instant::now();
    frozen.thaw();
    eventually("the former primary is stopped", seconds(20), || {
        if cluster.member(&leader).postmaster() == postmaster {
            Err("its postmaster runs")
        } else {
            Ok(())
        }
    });
    println!("stopped {:?} after it woke up", woken.elapsed());
    cluster.wait_until_healthy(seconds(60));

    let overlap = witnesses.longest_overlap();
    assert!(overlap < STOPPED, "two servers took writes for {overlap:?}");
    writer.assert_lost_at_most_a_second_before(begin);
}

/// It sleeps past its lease. Meanwhile another member leads, commits and dies: the leader key is free, and what was committed
/// would be lost if the one that wakes up took the key as its own, or because its own WAL goes further: crash recovery has
/// switched to the next segment.
#[test]
fn a_host_that_wakes_up_does_not_lead_again_after_a_leader_that_died() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    let sleeper = cluster.bootstrap();
    let frozen = cluster.member(&sleeper).freeze();
    let leader = cluster.wait_for_other_primary(&sleeper, LEASE_RUNS_OUT);
    // More than maximum_lag_on_failover.
    let commit = "create table committed as select repeat('x', 100) from generate_series(1, 50000)";
    cluster.member(&leader).query(commit).unwrap();
    let written = cluster
        .member(&leader)
        .value("select pg_current_wal_lsn() - '0/0'");
    eventually("the position is published", seconds(10), || {
        let status = cluster.document("status");
        let is_published = status["optime"].as_u64() >= written.parse().ok();
        holds(is_published, || status.to_string())
    });
    cluster.member_mut(&leader).kill_all();
    eventually("nobody holds the leader key", LEASE_RUNS_OUT, || {
        cluster.key("leader").map_or(Ok(()), Err)
    });
    let begin = cluster.member(&sleeper).log_end();
    frozen.thaw();
    let refusal = "My wal position exceeds maximum replication lag";
    cluster
        .member(&sleeper)
        .wait_for_log_after(begin, refusal, seconds(30));
    assert_eq!(cluster.key("leader"), None);

    cluster.member_mut(&leader).start();
    assert_eq!(cluster.wait_until_healthy(seconds(60)), leader);
    for member in &cluster.members {
        assert_eq!(member.value("select count(*) from committed"), "50000");
    }
}
