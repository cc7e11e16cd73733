//! Permanent slots, physical and logical, and those of members: where they are, that they move, and that they live through a
//! failover (`slots`, `member_slots_ttl`, `ignore_slots`).

use std::collections::BTreeMap;

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use serde_json::{Value, json};

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

/// The slots of a member, with `confirmed_flush_lsn` or `restart_lsn`.
fn slots(cluster: &Cluster, member: &str) -> Result<BTreeMap<String, String>, String> {
    let query =
        "select slot_name, coalesce(confirmed_flush_lsn, restart_lsn)::text from pg_replication_slots";
    let rows = cluster.member(member).query(query)?;
    let pair = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        Some((row.next()??, row.next()?.unwrap_or_default()))
    };
    Ok(rows.into_iter().filter_map(pair).collect())
}

#[track_caller]
fn wait_for_slots(cluster: &Cluster, member: &str, expected: &[&str]) {
    eventually(&format!("{member} has {expected:?}"), seconds(20), || {
        let found: Vec<String> = slots(cluster, member)?.into_keys().collect();
        holds(found == expected, || format!("{found:?}"))
    });
}

/// Waits until a slot stands at the same position on both members.
#[track_caller]
fn wait_until_in_sync(cluster: &Cluster, slot: &str, one: &str, other: &str) {
    eventually(
        &format!("{slot} is in sync on {one} and {other}"),
        seconds(20),
        || {
            let (here, there) = (slots(cluster, one)?, slots(cluster, other)?);
            let (here, there) = (here.get(slot), there.get(slot));
            holds(here.is_some() && here == there, || format!("{here:?} {there:?}"))
        },
    );
}

/// Whatever has come is consumed; there is WAL behind it.
fn consume(cluster: &Cluster, primary: &str) -> Vec<String> {
    let changes =
        "select data from pg_logical_slot_get_changes('feed', null, null) where data like 'table public.t:%'";
    let rows = cluster.member(primary).query(changes).unwrap();
    cluster
        .member(primary)
        .query("create table if not exists behind (a int); insert into behind values (1)")
        .unwrap();
    rows.into_iter().flatten().flatten().collect()
}

fn status(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.key("status").unwrap()).unwrap()
}

fn names(value: &Value) -> Vec<String> {
    match value {
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect(),
        Value::Object(slots) => slots.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

#[test]
fn permanent_slots_live_through_a_failover() {
    let mut cluster = Cluster::with(newest(), 5, 1, TIMERS);
    cluster.share_archive();
    cluster
        .member("pg1")
        .edit_config("wal_level: replica", "wal_level: logical");
    cluster.member("pg3").set_tags(&["nofailover: true"]);
    cluster.member("pg4").set_tags(&["replicatefrom: pg3"]);
    cluster.member("pg5").set_tags(&["nostream: true"]);
    cluster.member_mut("pg1").start();
    assert_eq!(cluster.wait_for_primary(seconds(30)), "pg1");
    let feed = json!({"type": "logical", "database": "postgres", "plugin": "test_decoding"});
    cluster.patch(&json!({"slots": {"test_physical": {"type": "physical"}, "pg4": {}, "feed": feed}}));
    eventually("the logical slot is there", seconds(10), || {
        let found = slots(&cluster, "pg1")?;
        holds(found.contains_key("feed"), || format!("{found:?}"))
    });
    for name in ["pg2", "pg3", "pg5", "pg4"] {
        cluster.member_mut(name).start();
    }
    for name in ["pg2", "pg3", "pg4"] {
        cluster.member(name).wait_until_streaming(seconds(40));
    }
    let restores = "in archive recovery".into();
    cluster.wait_for_member_key("pg5", "replication_state", &restores, seconds(20));

    // Where they may be needed, and nowhere else.
    wait_for_slots(&cluster, "pg1", &["feed", "pg2", "pg3", "pg4", "test_physical"]);
    wait_for_slots(&cluster, "pg2", &["feed", "pg1", "pg3", "pg4", "test_physical"]);
    wait_for_slots(&cluster, "pg3", &["pg4"]);
    wait_for_slots(&cluster, "pg4", &["feed", "pg1", "pg2", "pg3", "test_physical"]);
    let found: Vec<String> = slots(&cluster, "pg5").unwrap().into_keys().collect();
    assert!(!found.contains(&"feed".to_owned()), "{found:?}");
    for (name, expected) in [
        ("pg2", "on"),
        ("pg3", "on"),
        ("pg4", "on"),
        ("pg5", "off"),
        ("pg1", "off"),
    ] {
        let found = cluster.member(name).value("show hot_standby_feedback");
        assert_eq!(found, expected, "{name}");
    }
    cluster
        .member("pg2")
        .wait_for_log("Copying logical slots ['feed'] from the primary", seconds(1));

    // They move.
    cluster
        .member("pg1")
        .query("create table t (a int); insert into t values (1)")
        .unwrap();
    assert_eq!(consume(&cluster, "pg1"), ["table public.t: INSERT: a[integer]:1"]);
    cluster
        .member("pg1")
        .query("select pg_replication_slot_advance('test_physical', pg_current_wal_flush_lsn())")
        .unwrap();
    consume(&cluster, "pg1");
    for name in ["pg2", "pg4"] {
        wait_until_in_sync(&cluster, "feed", "pg1", name);
        wait_until_in_sync(&cluster, "test_physical", "pg1", name);
    }
    wait_until_in_sync(&cluster, "pg4", "pg3", "pg1");
    for name in ["pg2", "pg4"] {
        let member = cluster.member(name);
        member.wait_for_log(
            "Logical slot feed is safe to be used after a failover",
            seconds(20),
        );
    }

    let published = status(&cluster);
    let positions = names(&published["slots"]);
    assert_eq!(positions, ["feed", "pg1", "pg2", "pg3", "pg4", "test_physical"]);
    assert_eq!(names(&published["retain_slots"]), ["pg1", "pg2", "pg3"]);

    // What is written is neither lost nor told twice when another member takes over.
    cluster.member("pg1").query("insert into t values (2)").unwrap();
    cluster.wait_until_replicated("pg1", "pg2", seconds(10));
    for name in ["pg4", "pg5", "pg3", "pg1"] {
        cluster.member_mut(name).stop();
    }
    assert_eq!(cluster.wait_for_primary(seconds(20)), "pg2");
    assert_eq!(consume(&cluster, "pg2"), ["table public.t: INSERT: a[integer]:2"]);
    let log = cluster.member("pg2").log();
    assert!(!log.contains("might be unsafe to use after promote"));
    wait_for_slots(&cluster, "pg2", &["feed", "pg1", "pg3", "pg4", "test_physical"]);

    // The former primary comes back with its slots, the logical one as well.
    cluster.member_mut("pg1").start();
    cluster.member("pg1").wait_until_streaming(seconds(30));
    wait_for_slots(&cluster, "pg1", &["feed", "pg2", "pg3", "pg4", "test_physical"]);
    wait_until_in_sync(&cluster, "feed", "pg2", "pg1");
    let kept = "select count(*) from pg_replication_slots where slot_name = 'pg2' and xmin is not null";
    assert_eq!(cluster.member("pg1").value(kept), "0");
}

/// While all members accept a primary without the DCS, it tells them where its slots stand (`failsafe_mode`).
#[test]
fn slots_move_on_while_the_dcs_is_away() {
    let mut cluster = Cluster::with(newest(), 3, 1, TIMERS);
    cluster
        .member("pg1")
        .edit_config("wal_level: replica", "wal_level: logical");
    cluster.member("pg3").set_tags(&["replicatefrom: pg2"]);
    cluster.member_mut("pg1").start();
    assert_eq!(cluster.wait_for_primary(seconds(30)), "pg1");
    let feed = json!({"type": "logical", "database": "postgres", "plugin": "test_decoding"});
    cluster.patch(
        &json!({"failsafe_mode": true, "slots": {"test_physical": {"type": "physical"}, "feed": feed}}),
    );
    for name in ["pg2", "pg3"] {
        cluster.member_mut(name).start();
    }
    for name in ["pg2", "pg3"] {
        cluster.member(name).wait_until_streaming(seconds(40));
        wait_until_in_sync(&cluster, "feed", "pg1", name);
    }
    // Another one in its place.
    let newer = json!({"feed": null, "fresh": {"type": "logical", "database": "postgres", "plugin": "test_decoding"}});
    cluster.patch(&json!({"slots": newer}));
    for name in ["pg2", "pg3"] {
        wait_until_in_sync(&cluster, "fresh", "pg1", name);
    }
    let all_list = || {
        let listed = cluster.member("pg1").get("/failsafe")?.json();
        holds(names(&listed) == ["pg1", "pg2", "pg3"], || listed.to_string())
    };
    eventually("all are listed", seconds(10), all_list);

    cluster.etcd.freeze();
    eventually("failsafe mode is active", seconds(12), || {
        let status = cluster.member("pg1").status()?;
        holds(status["failsafe_mode_is_active"] == true, || status.to_string())
    });
    let before = slots(&cluster, "pg2").unwrap();
    for sql in [
        "create table t (a int); insert into t values (1)",
        "select pg_logical_slot_get_changes('fresh', null, null)",
        "select pg_replication_slot_advance('test_physical', pg_current_wal_flush_lsn())",
        "insert into t values (2)",
    ] {
        cluster.member("pg1").query(sql).unwrap();
    }
    for name in ["pg2", "pg3"] {
        for slot in ["fresh", "test_physical"] {
            wait_until_in_sync(&cluster, slot, "pg1", name);
        }
    }
    let after = slots(&cluster, "pg2").unwrap();
    for slot in ["fresh", "test_physical"] {
        assert_ne!(before[slot], after[slot], "{slot} has moved");
    }
    // Roles are as they were, and nobody has been told by the store.
    assert_eq!(cluster.member("pg1").status_code("/primary"), 200);
    assert_eq!(cluster.member("pg2").status_code("/replica"), 200);
    let status = cluster.member("pg1").status().unwrap();
    assert_eq!(status["failsafe_mode_is_active"], true, "{status}");
    cluster.etcd.thaw();
    eventually("failsafe mode is over", seconds(20), || {
        let status = cluster.member("pg1").status()?;
        holds(status["failsafe_mode_is_active"].is_null(), || status.to_string())
    });
    assert_eq!(cluster.wait_for_primary(seconds(5)), "pg1");
}
