//! Three servers of a DCS: one dies, their leader dies, and for longer than the lease there are too few of them.

use super::story::{nobody_reaches_it, nobody_reaches_it_in_failsafe_mode, told};
use crate::harness::cluster::Timers;
use crate::harness::store::Ensemble;
use crate::harness::{Cluster, Witnesses, Writer, newest, seconds};
use std::any::Any;
use std::time::Instant;

/// The lease outlives an election of the servers on a busy machine.
const TIMERS: Timers = Timers {
    ttl: 20,
    loop_wait: 2,
    retry_timeout: 5,
};

pub fn servers_fail<S: Ensemble>(store: S) {
    let mut cluster = Cluster::on(store, newest(), 2, TIMERS);
    cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    let leads = servers::<S>(&mut cluster).leader();
    one_dies::<S>(&mut cluster, &writer, (leads + 1) % 3);
    let leads = servers::<S>(&mut cluster).leader();
    one_dies::<S>(&mut cluster, &writer, leads);
    nobody_reaches_it(&mut cluster, &writer);
    nobody_reaches_it_in_failsafe_mode(&mut cluster, &writer);

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

fn servers<S: Ensemble>(cluster: &mut Cluster) -> &mut S {
    let store: &mut dyn Any = cluster.store();
    store.downcast_mut().unwrap()
}

/// Nobody notices, for longer than the lease.
fn one_dies<S: Ensemble>(cluster: &mut Cluster, writer: &Writer, number: usize) {
    let leader = cluster.wait_until_healthy(seconds(60));
    let log = cluster.member(&leader).log_end();
    let directory = cluster.directory.clone();
    let begin = Instant::now();
    servers::<S>(cluster).kill_one(number);
    while begin.elapsed() < seconds(cluster.timers.ttl + cluster.timers.loop_wait) {
        writer.wait_for_write("with two servers of three", seconds(2));
    }
    told("one of three servers killed", writer, begin, seconds(1));
    assert_eq!(cluster.wait_until_healthy(seconds(60)), leader);
    let log = cluster.member(&leader).log().split_off(log);
    assert!(!log.contains("demoted self"), "{log}");
    servers::<S>(cluster).start_one(number, &directory);
}
