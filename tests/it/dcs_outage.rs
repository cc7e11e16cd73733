//! etcd that is not there yet, that hangs, that is gone, and that comes back.

use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, patience, seconds};
use rustix::process::Signal;
use std::time::Instant;

#[test]
fn etcd_comes_and_goes() {
    let mut cluster = Cluster::without_etcd(newest(), 2, 1, crate::harness::cluster::Timers::SHORT);
    absent_at_the_start(&mut cluster);
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    gone_for_a_moment(&mut cluster, &writer);
    hanging(&cluster, &writer);
    gone(&mut cluster, &writer);
    replica_is_started_without_etcd(&mut cluster, &writer);
    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

fn absent_at_the_start(cluster: &mut Cluster) {
    cluster.members[0].start();
    cluster.members[0].wait_for_log("waiting on etcd", seconds(10));
    assert!(!cluster.members[0].data_dir().exists());
    // It can be stopped although it waits.
    let begin = Instant::now();
    cluster.members[0].agent().signal(Signal::TERM);
    assert!(cluster.members[0].wait_for_exit(seconds(5)).success());
    println!("stopped while waiting: {:?}", begin.elapsed());

    cluster.start_all();
    cluster.members[1].wait_for_log("waiting on etcd", seconds(10));
    cluster.etcd.start(&cluster.directory);
    cluster.wait_until_healthy(seconds(60));
}

/// A restart of etcd, shorter than `retry_timeout`, harms nobody.
fn gone_for_a_moment(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    let begin = Instant::now();
    cluster.etcd.kill();
    cluster.etcd.start(&cluster.directory);
    for _ in 0..cluster.timers.retry_timeout * 2 {
        writer.wait_for_write("after a restart of etcd", seconds(2));
    }
    let silence = writer.longest_silence(begin);
    assert!(
        silence < crate::harness::patience(seconds(1)),
        "no writes for {silence:?}"
    );
    assert_eq!(cluster.wait_until_healthy(seconds(10)), leader);
    assert!(!cluster.member(&leader).log().contains("demoted self"));
}

fn hanging(cluster: &Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    cluster.etcd.freeze();
    demoted_in_time(cluster, &leader);
    cluster.etcd.thaw();
    comes_back(cluster, writer);
}

fn gone(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    cluster.etcd.kill();
    demoted_in_time(cluster, &leader);
    cluster.etcd.start(&cluster.directory);
    comes_back(cluster, writer);
}

/// The primary ends writes before its lease runs out, and goes on to answer reads.
fn demoted_in_time(cluster: &Cluster, leader: &str) {
    let former = cluster.member(leader);
    // The lease may just have been renewed when etcd vanished.
    let lease = seconds(cluster.timers.ttl + 1);
    eventually("the primary takes no writes", lease, || {
        let refused = former.query("create temporary table written ()").is_err();
        holds(refused, || "it still does".to_owned())
    });
    eventually("the former primary reads", seconds(10), || {
        let rows = former.query("select pg_is_in_recovery()")?;
        holds(rows == [[Some("t".to_owned())]], || format!("{rows:?}"))
    });
    assert!(
        former
            .log()
            .contains("demoted self because DCS is not accessible and I was a leader")
    );
    list_shows_the_local_member(cluster);
    for member in &cluster.members {
        assert_eq!(member.status_code("/primary"), 503, "{}", member.name);
        assert_eq!(member.status_code("/liveness"), 200, "{}", member.name);
    }
    eventually("replicas may still be read from", seconds(5), || {
        let codes: Vec<u16> = cluster
            .members
            .iter()
            .map(|member| member.status_code("/health"))
            .collect();
        holds(codes.iter().all(|code| *code == 200), || format!("{codes:?}"))
    });
}

/// `list` does not wait for a store that does not answer: it shows what the agent on this host knows, and says so.
fn list_shows_the_local_member(cluster: &Cluster) {
    let begin = Instant::now();
    let output = cluster.ctl(&["list"]);
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    assert!(begin.elapsed() < patience(seconds(6)), "{:?}", begin.elapsed());
    let local = &cluster.members[0].name;
    assert!(
        output.stdout.contains(" Cluster: demo (local member only) "),
        "{}{}",
        output.stdout,
        output.stderr
    );
    assert!(
        output.stdout.contains(&format!("| {local} ")),
        "{}",
        output.stdout
    );
    assert!(!output.stdout.contains("Leader"), "{}", output.stdout);
    assert!(
        output.stderr.contains("the DCS is unreachable ("),
        "{}",
        output.stderr
    );
}

fn comes_back(cluster: &Cluster, writer: &Writer) {
    let begin = Instant::now();
    cluster.wait_until_healthy(seconds(30));
    println!("healthy {:?} after etcd came back", begin.elapsed());
    writer.wait_for_write("etcd is back", seconds(5));
    writer.assert_nothing_lost();
}

/// Who starts while etcd is away starts as soon as it is there.
fn replica_is_started_without_etcd(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    let replica = cluster.others(&leader).remove(0);
    cluster.member_mut(&replica).stop();
    cluster.etcd.kill();
    cluster.member_mut(&replica).start();
    cluster
        .member(&replica)
        .wait_for_log("waiting on etcd", seconds(10));
    cluster.etcd.start(&cluster.directory);
    comes_back(cluster, writer);
}
