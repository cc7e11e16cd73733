//! What only Consul does: an agent that is restarted ends the sessions of its host at once.

use crate::harness::cluster::Timers;
use crate::harness::store::Consul;
use crate::harness::{Cluster, Witnesses, Writer, newest, patience, seconds};
use std::any::Any;
use std::time::Instant;

/// The leader key goes with the session, while the primary still counts on its lock: nobody else takes it.
#[test]
fn the_consul_agent_of_a_living_primary_is_restarted() {
    let store = Consul::with_clients(3);
    let (server, clients) = store.addresses();
    let mut cluster = Cluster::on(store, newest(), 3, Timers::SHORT);
    for (member, client) in cluster.members.iter().zip(&clients) {
        member.edit_config(&server, client);
    }
    let leader = cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    let place = cluster
        .members
        .iter()
        .position(|member| member.name == leader)
        .unwrap();
    let directory = cluster.directory.clone();
    let log = cluster.member(&leader).log_end();

    let begin = Instant::now();
    let store: &mut dyn Any = cluster.store();
    let consul = store.downcast_mut::<Consul>().unwrap();
    consul.restart_client(place, &directory);
    println!("restarted after {:?}", begin.elapsed());
    while begin.elapsed() < 2 * seconds(cluster.timers.ttl) {
        writer.wait_for_write("beside a restart of Consul's agent", seconds(3));
    }
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    let silence = writer.longest_silence(begin);
    assert!(silence < patience(seconds(1)), "no writes for {silence:?}");
    let log = cluster.member(&leader).log().split_off(log);
    assert!(!log.contains("demot"), "{log}");
    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}
