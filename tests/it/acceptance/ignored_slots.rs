//! `ignore_slots`, and slots that PostgreSQL itself moves to a standby: what the agents leave alone.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use serde_json::json;

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

/// Created by hand and matched: by name alone, and by ever more of what they are.
const KEPT: [&str; 4] = ["by_name", "by_type", "by_database", "by_plugin"];

fn slots(cluster: &Cluster, member: &str) -> Result<Vec<String>, String> {
    let rows = cluster
        .member(member)
        .query("select slot_name from pg_replication_slots order by 1")?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

fn wait_for(cluster: &Cluster, member: &str, present: &[&str], absent: &[&str]) {
    eventually(
        &format!("{member} has {present:?} and not {absent:?}"),
        seconds(20),
        || {
            let found = slots(cluster, member)?;
            let has = |name: &&&str| found.iter().any(|slot| slot == **name);
            holds(
                present.iter().filter(has).count() == present.len() && !absent.iter().any(|name| has(&name)),
                || format!("{found:?}"),
            )
        },
    );
}

#[test]
fn matched_slots_are_left_alone_and_others_are_dropped() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    cluster
        .member("pg1")
        .edit_config("wal_level: replica", "wal_level: logical");
    cluster.members[0].start();
    assert_eq!(cluster.wait_for_primary(seconds(30)), "pg1");
    cluster.patch(&json!({"ignore_slots": [
        {"name": "by_name"},
        {"name": "by_type", "type": "logical"},
        {"name": "by_database", "type": "logical", "database": "postgres"},
        {"name": "by_plugin", "type": "logical", "database": "postgres", "plugin": "test_decoding"},
        {"name": "other", "plugin": "pgoutput"},
    ]}));
    for name in KEPT.iter().chain(&["other"]) {
        let create = format!("select pg_create_logical_replication_slot('{name}', 'test_decoding')");
        cluster.member("pg1").query(&create).unwrap();
    }
    cluster.members[1].start();
    cluster.wait_until_healthy(seconds(40));

    // As a replica it drops what nobody has a use for, and leaves alone what is matched.
    let body = json!({"leader": "pg1", "candidate": "pg2"});
    assert_eq!(
        cluster
            .member("pg1")
            .ask("POST", "/switchover", Some(&body))
            .status,
        200
    );
    assert_eq!(cluster.wait_until_healthy(seconds(30)), "pg2");
    wait_for(&cluster, "pg1", &KEPT, &["other"]);
    cluster.member_mut("pg2").stop();
    assert_eq!(cluster.wait_for_other_primary("pg2", seconds(20)), "pg1");
    wait_for(&cluster, "pg1", &KEPT, &["other"]);
    cluster.member_mut("pg2").start();
    assert_eq!(cluster.wait_until_healthy(seconds(40)), "pg1");

    // A slot that PostgreSQL 17 and newer keep in step on standbys is no agent's business.
    cluster.patch(&json!({"postgresql": {"parameters": {"hot_standby_feedback": "on", "sync_replication_slots": "on"}}}));
    let create = "select pg_create_logical_replication_slot('synced', 'test_decoding', false, false, true)";
    cluster.member("pg1").query(create).unwrap();
    wait_for(&cluster, "pg2", &["synced"], &[]);
    let body = json!({"leader": "pg1", "candidate": "pg2"});
    assert_eq!(
        cluster
            .member("pg1")
            .ask("POST", "/switchover", Some(&body))
            .status,
        200
    );
    assert_eq!(cluster.wait_until_healthy(seconds(30)), "pg2");
    wait_for(&cluster, "pg2", &["synced"], &[]);
    eventually(
        "the former primary's own is replaced by one that is kept in step",
        seconds(30),
        || {
            let rows = cluster
                .member("pg1")
                .query("select synced from pg_replication_slots where slot_name = 'synced'")?;
            holds(rows == [[Some("t".to_owned())]], || format!("{rows:?}"))
        },
    );
}
