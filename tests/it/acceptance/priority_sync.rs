//! `sync_priority`, and what it says beside `nosync`: who becomes the synchronous standby.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use serde_json::{Value, json};
use std::time::Duration;

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

/// Waits until this member is the synchronous standby of pg1, or nobody is.
#[track_caller]
fn wait_for_standby(cluster: &Cluster, standby: Option<&str>, limit: Duration) {
    wait_for_pair(cluster, "pg1", standby, limit);
}

#[track_caller]
fn wait_for_pair(cluster: &Cluster, leader: &str, standby: Option<&str>, limit: Duration) {
    let wanted = json!({"leader": leader, "quorum": 0, "sync_standby": standby});
    eventually(&format!("/sync is {wanted}"), limit, || {
        let key: Value = serde_json::from_str(&cluster.key("sync").unwrap_or_default()).unwrap_or_default();
        holds(key == wanted, || key.to_string())
    });
}

#[test]
fn who_is_waited_for_before_others() {
    let mut cluster = Cluster::with(newest(), 4, 1, TIMERS);
    for (member, priority) in cluster.members.iter().zip([1, 0, 1, 2]) {
        member.set_tags(&[&format!("sync_priority: {priority}")]);
    }
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.patch(&json!({"synchronous_mode": true, "synchronous_node_count": 1}));

    // Priority 0 is never waited for.
    cluster.members[1].start();
    cluster.member("pg2").wait_until_streaming(seconds(20));
    wait_for_standby(&cluster, None, seconds(20));

    // Of two the one with the higher priority is.
    cluster.members[2].start();
    cluster.members[3].start();
    cluster.member("pg3").wait_until_streaming(seconds(20));
    cluster.member("pg4").wait_until_streaming(seconds(20));
    wait_for_standby(&cluster, Some("pg4"), seconds(10));

    // Two tags that contradict each other: the older one counts, and it is said.
    for (member, nosync, priority) in [("pg4", true, 2), ("pg2", false, 0)] {
        let begin = cluster.member(member).log_end();
        cluster.member(member).reload_tags(&[
            &format!("nosync: {nosync}"),
            &format!("sync_priority: {priority}"),
        ]);
        let word = if nosync { "True" } else { "False" };
        let warning = format!(
            "Conflicting configuration between nosync: {word} and sync_priority: {priority}. Defaulting to nosync: {word}"
        );
        cluster
            .member(member)
            .wait_for_log_after(begin, &warning, seconds(5));
        eventually("both tags are published", seconds(10), || {
            let key: Value =
                serde_json::from_str(&cluster.key(&format!("members/{member}")).unwrap()).unwrap();
            let tags = &key["tags"];
            holds(
                tags["nosync"] == json!(nosync) && tags["sync_priority"] == json!(priority),
                || tags.to_string(),
            )
        });
        if nosync {
            wait_for_standby(&cluster, Some("pg3"), seconds(10));
        }
    }
    cluster.member_mut("pg3").stop();
    wait_for_standby(&cluster, Some("pg2"), seconds(3));
}

/// A primary is lost in strict mode: it stays in `/sync` as the standby that is waited for, since it is the only one that may be.
#[test]
fn a_strict_primary_is_lost_and_waited_for() {
    let mut cluster = Cluster::with(newest(), 3, 1, TIMERS);
    cluster.bootstrap();
    cluster.patch(&json!({"synchronous_mode": true, "synchronous_mode_strict": true}));
    let key = || serde_json::from_str::<Value>(&cluster.key("sync").unwrap_or_default()).unwrap_or_default();
    let listed = eventually("somebody is waited for", seconds(20), || {
        let name = key()["sync_standby"].as_str().map(str::to_owned);
        name.ok_or_else(|| "nobody".to_owned())
    });
    let leader = cluster.wait_for_primary(seconds(5));
    let others = cluster.others(&leader);
    let other = others.iter().find(|name| **name != listed).unwrap().clone();
    let names = |member: &str, wanted: &str| {
        eventually("synchronous_standby_names follows", seconds(10), || {
            let found = cluster.member(member).value("show synchronous_standby_names");
            holds(found.trim_matches('"') == wanted, || found)
        });
    };
    // Whoever is listed may not be any more; the other is.
    cluster.member(&listed).reload_tags(&["nosync: true"]);
    wait_for_pair(&cluster, &leader, Some(&other), seconds(10));
    names(&leader, &other);

    cluster.member_mut(&leader).kill_all();
    eventually("the other one leads", seconds(15), || {
        holds(cluster.member(&other).status_code("/primary") == 200, || {
            "not yet".to_owned()
        })
    });
    wait_for_pair(&cluster, &other, Some(&leader), seconds(10));
    let found = cluster.member(&other).value("show synchronous_standby_names");
    assert_eq!(found.trim_matches('"'), leader);
    // Nothing is acknowledged without it, and it comes back.
    cluster.member_mut(&leader).start();
    cluster.member(&leader).wait_until_streaming(seconds(30));
    cluster.member(&other).query("create table back (a int)").unwrap();
}
