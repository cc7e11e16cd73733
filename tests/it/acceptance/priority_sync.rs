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

/// Waits until this member is the synchronous standby, or nobody is.
#[track_caller]
fn wait_for_standby(cluster: &Cluster, standby: Option<&str>, limit: Duration) {
    let wanted = json!({"leader": "pg1", "quorum": 0, "sync_standby": standby});
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
