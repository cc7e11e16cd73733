//! Failover slots of PostgreSQL 17 and newer: the server brings them to the standbys itself, and logical replication waits for
//! the slots of the members (`synchronized_standby_slots: members`).

use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use serde_json::json;

/// The parameter, as the primary has it.
#[track_caller]
fn wait_until_waited_for(cluster: &Cluster, primary: &str, expected: &str) {
    eventually(&format!("{primary} waits for {expected:?}"), seconds(20), || {
        let rows = cluster.member(primary).query("SHOW synchronized_standby_slots")?;
        holds(rows == [[Some(expected.to_owned())]], || format!("{rows:?}"))
    });
}

/// What a consumer gets that has not got it yet.
fn consume(cluster: &Cluster, primary: &str) -> Result<Vec<String>, String> {
    let changes = "set statement_timeout = '5s'; \
                   select data from pg_logical_slot_get_changes('feed', null, null) where data like 'table public.t:%'";
    let rows = cluster.member(primary).query(changes)?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

#[test]
fn a_consumer_goes_on_after_a_switchover_of_failover_slots() {
    let mut cluster = Cluster::new(newest(), 3);
    for name in ["pg1", "pg2", "pg3"] {
        cluster
            .member(name)
            .edit_config("wal_level: replica", "wal_level: logical");
    }
    let primary = cluster.bootstrap();
    cluster.wait_until_healthy(seconds(30));
    let others = cluster.others(&primary);
    cluster.patch(&json!({
        "synchronized_standby_slots": "members",
        "postgresql": { "parameters": { "sync_replication_slots": "on", "hot_standby_feedback": "on" } },
    }));
    wait_until_waited_for(&cluster, &primary, &others.join(", "));
    let sql = |member: &str, text: &str| cluster.member(member).query(text).unwrap();
    sql(&primary, "CREATE TABLE t (n int)");
    sql(
        &primary,
        "SELECT pg_create_logical_replication_slot('feed', 'test_decoding', false, false, true)",
    );
    let (next, third) = (&others[0], &others[1]);
    eventually("the slot is synchronized", seconds(40), || {
        // A slot is brought to a standby when it has come as far as that was at first: its consumer moves it.
        sql(&primary, "SELECT pg_log_standby_snapshot()");
        consume(&cluster, &primary)?;
        let query =
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'feed' AND synced AND NOT temporary";
        let rows = cluster.member(next).query(query)?;
        holds(rows == [[Some("1".to_owned())]], || format!("{rows:?}"))
    });
    sql(&primary, "INSERT INTO t VALUES (1)");
    assert_eq!(
        consume(&cluster, &primary).unwrap(),
        ["table public.t: INSERT: n[integer]:1"]
    );

    // A standby that is down holds no consumer up.
    cluster.member_mut(third).stop();
    wait_until_waited_for(&cluster, &primary, next);
    cluster
        .member(&primary)
        .query("INSERT INTO t VALUES (2)")
        .unwrap();
    eventually("the consumer gets it", seconds(20), || {
        let found = consume(&cluster, &primary)?;
        holds(found == ["table public.t: INSERT: n[integer]:2"], || {
            format!("{found:?}")
        })
    });
    cluster.member_mut(third).start();
    cluster.wait_until_healthy(seconds(30));
    wait_until_waited_for(&cluster, &primary, &others.join(", "));

    cluster
        .member(&primary)
        .query("INSERT INTO t VALUES (3)")
        .unwrap();
    let switchover = [
        "switchover",
        "demo",
        "--leader",
        &primary,
        "--candidate",
        next,
        "--force",
    ];
    let output = cluster.ctl(&switchover);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    cluster.wait_until_healthy(seconds(30));
    let mut waited_for = [primary.as_str(), third.as_str()];
    waited_for.sort_unstable();
    wait_until_waited_for(&cluster, next, &waited_for.join(", "));
    // What came last may be sent once more, and nothing is missing.
    let found = consume(&cluster, next).unwrap();
    let last = "table public.t: INSERT: n[integer]:3";
    assert_eq!(found.last().map(String::as_str), Some(last), "{found:?}");
    cluster.member(next).query("INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(
        consume(&cluster, next).unwrap(),
        ["table public.t: INSERT: n[integer]:4"]
    );
}
