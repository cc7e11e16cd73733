//! Replicas of a replica, and one that gets its WAL from the archive alone (`replicatefrom`, `clonefrom`, `nostream`).

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

/// Who streams from the member, by name.
fn streams_from(cluster: &Cluster, member: &str) -> Result<String, String> {
    let query = "select string_agg(application_name, ' ' order by application_name) from pg_stat_replication \
                 where state = 'streaming' and application_name <> 'pg_basebackup'";
    let rows = cluster.member(member).query(query)?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

fn wait_until_served(cluster: &Cluster, member: &str, by: &str) {
    eventually(&format!("{by} stream from {member}"), seconds(20), || {
        let found = streams_from(cluster, member)?;
        holds(found == by, || found.clone())
    });
}

fn slots(cluster: &Cluster, member: &str) -> Vec<String> {
    let query = "select slot_name from pg_replication_slots where active order by 1";
    let rows = cluster.member(member).query(query).unwrap();
    rows.into_iter().flatten().flatten().collect()
}

#[test]
fn replicas_of_a_replica_and_of_the_archive() {
    let mut cluster = Cluster::with(newest(), 5, 1, TIMERS);
    cluster.share_archive();
    cluster.member("pg2").set_tags(&["clonefrom: true"]);
    cluster.member("pg3").set_tags(&["replicatefrom: pg2"]);
    cluster.member("pg4").set_tags(&["nostream: true"]);
    cluster.member("pg5").set_tags(&["replicatefrom: pg4"]);
    cluster.member_mut("pg1").start();
    cluster.wait_for_primary(seconds(30));
    cluster.member_mut("pg2").start();
    cluster.member("pg2").wait_until_streaming(seconds(20));

    // What lies in a data directory tells whose copy another one is.
    for name in ["pg1", "pg2"] {
        let marker = cluster.member(name).data_dir().join(format!("marker.{name}"));
        std::fs::write(&marker, "").unwrap();
        cluster.give_away(&marker);
    }
    cluster.wait_for_member_key("pg2", "state", &"running".into(), seconds(12));
    cluster.member_mut("pg3").start();
    cluster.wait_until_replicated("pg1", "pg3", seconds(30));
    let copied = cluster.member("pg3").data_dir();
    assert!(copied.join("marker.pg2").exists() && !copied.join("marker.pg1").exists());
    wait_until_served(&cluster, "pg1", "pg2");
    wait_until_served(&cluster, "pg2", "pg3");
    assert_eq!(slots(&cluster, "pg2"), ["pg3"]);

    // Only the archive.
    cluster.member_mut("pg4").start();
    let restores = "in archive recovery".into();
    cluster.wait_for_member_key("pg4", "replication_state", &restores, seconds(10));
    assert_eq!(
        cluster.member("pg4").status().unwrap()["replication_state"],
        restores
    );
    assert_eq!(cluster.member("pg4").value("show primary_conninfo"), "");
    cluster.member("pg1").query("create table archived ()").unwrap();
    cluster.member("pg1").query("select pg_switch_wal()").unwrap();
    eventually("the archive's WAL is replayed", seconds(30), || {
        cluster.member("pg4").query("select from archived").map(drop)
    });
    cluster.member_mut("pg5").start();
    wait_until_served(&cluster, "pg4", "pg5");
    eventually("so does its own replica", seconds(10), || {
        cluster.member("pg5").query("select from archived").map(drop)
    });
    assert_eq!(streams_from(&cluster, "pg1").unwrap(), "pg2");
    let has_slot = "select count(*) from pg_replication_slots where slot_name = 'pg4'";
    assert_eq!(cluster.member("pg1").value(has_slot), "0");

    // Replay that is paused is resumed.
    cluster
        .member("pg3")
        .query("select pg_wal_replay_pause()")
        .unwrap();
    cluster
        .member("pg3")
        .wait_for_log("Resuming paused WAL replay for PostgreSQL 14+", seconds(5));
    cluster.wait_until_replicated("pg1", "pg3", seconds(10));
}
