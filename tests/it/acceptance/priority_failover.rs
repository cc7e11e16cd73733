//! `failover_priority`, and what it says beside `nofailover`.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use serde_json::json;

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

#[test]
fn who_may_and_who_goes_before_others() {
    let mut cluster = Cluster::with(newest(), 4, 1, TIMERS);
    for (member, priority) in cluster.members.iter().zip([1, 0, 1, 2]) {
        member.set_tags(&[&format!("failover_priority: {priority}")]);
    }
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.members[1].start();
    cluster.member("pg2").wait_until_streaming(seconds(20));

    // Priority 0 is never promoted.
    cluster.member_mut("pg1").stop();
    cluster.member("pg2").wait_for_log(
        "following a different leader because I am not allowed to promote",
        seconds(5),
    );
    assert_eq!(cluster.key("leader"), None);
    cluster.member_mut("pg1").start();
    assert_eq!(cluster.wait_for_primary(seconds(10)), "pg1");

    // Of two that have the same WAL the one with the higher priority is.
    cluster.members[2].start();
    cluster.members[3].start();
    cluster.wait_until_healthy(seconds(30));
    cluster.member_mut("pg1").stop();
    assert_eq!(cluster.wait_for_other_primary("pg1", seconds(10)), "pg4");
    eventually("pg3 says why it is not", seconds(5), || {
        let log = cluster.member("pg3").log();
        let equal = "pg4 has equally tolerable WAL position and priority 2, while this node has priority 1";
        let ahead = "Wal position of pg4 is ahead of my wal position";
        holds(log.contains(equal) || log.contains(ahead), || {
            "neither line".to_owned()
        })
    });

    // Two tags that contradict each other: the older one counts, and it is said.
    let pg3 = cluster.member("pg3");
    pg3.reload_tags(&["nofailover: true", "failover_priority: 1"]);
    pg3.wait_for_log(
        "WARNING: Conflicting configuration between nofailover: True and failover_priority: 1. Defaulting to nofailover: True",
        seconds(5),
    );
    let both = json!({"nofailover": true, "failover_priority": 1});
    cluster.wait_for_member_key("pg3", "tags", &both, seconds(10));
    let to = json!({"candidate": "pg3"});
    let refused = cluster.member("pg4").ask("POST", "/failover", Some(&to));
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (
            412,
            "failover is not possible: no good candidates have been found"
        )
    );

    let pg2 = cluster.member("pg2");
    pg2.reload_tags(&["nofailover: false", "failover_priority: 0"]);
    pg2.wait_for_log(
        "WARNING: Conflicting configuration between nofailover: False and failover_priority: 0. Defaulting to nofailover: False",
        seconds(5),
    );
    let both = json!({"nofailover": false, "failover_priority": 0});
    cluster.wait_for_member_key("pg2", "tags", &both, seconds(10));
    pg2.wait_until_streaming(seconds(10));
    let done = cluster
        .member("pg4")
        .ask("POST", "/failover", Some(&json!({"candidate": "pg2"})));
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(cluster.wait_for_other_primary("pg4", seconds(10)), "pg2");
}
