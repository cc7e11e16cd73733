//! One of three members is Patroni, on any DCS: switchovers both ways, and each side takes over from the other.

use crate::harness::cluster::{Program, Timers};
use crate::harness::store::Store;
use crate::harness::{Cluster, Witnesses, Writer, newest, seconds, versions};
use crate::patroni::{both_tools_show_the_same, patronictl_switches_over, switchover};
use std::time::{Duration, Instant};

/// Patroni sleeps in steps of seconds, and its members wait for the lease in the DCS itself: Consul's lasts up to twice as long.
const TAKEN_OVER: Duration = seconds(60);

pub fn with_patroni(store: impl Store + 'static) {
    let bin = versions::patroni();
    let mut cluster = Cluster::on(store, newest(), 2, Timers::PATRONI);
    let program = Program {
        path: bin.join("patroni"),
        arguments: Vec::new(),
    };
    cluster.add_member("patroni", program);
    // Ours come first, so that Patroni finds all keys as we write them.
    cluster.members[0].start();
    cluster.members[1].start();
    cluster.wait_for_primary(seconds(30));
    cluster.member_mut("patroni").start();
    let ours = cluster.wait_until_healthy(seconds(60));
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    both_tools_show_the_same(&cluster, &bin);

    switchover(&cluster, &ours, "patroni");
    both_tools_show_the_same(&cluster, &bin);
    writer.assert_nothing_lost();
    switchover(&cluster, "patroni", &ours);
    both_tools_show_the_same(&cluster, &bin);
    writer.assert_nothing_lost();
    patronictl_switches_over(&cluster, &bin, &ours);
    writer.assert_nothing_lost();

    the_host_of_the_primary_is_lost(&mut cluster, &writer);
    witnesses.assert_never_two_primaries();
}

fn the_host_of_the_primary_is_lost(cluster: &mut Cluster, writer: &Writer) {
    let begin = Instant::now();
    cluster.member_mut("patroni").kill_all();
    cluster.wait_for_other_primary("patroni", TAKEN_OVER);
    writer.wait_for_write("after Patroni's host was lost", seconds(5));
    println!(
        "Patroni's host lost: no writes for {:?}",
        writer.longest_silence(begin)
    );
    cluster.member_mut("patroni").start();
    cluster.wait_until_healthy(seconds(60));
    writer.assert_lost_at_most_a_second_before(begin);
}
