//! What befalls a whole host: it is cut off, or it stands still as a virtual machine that is paused.

use crate::harness::cluster::Timers;
use crate::harness::link::Link;
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
