//! Timers at the edge of the rule `loop_wait + 2 * retry_timeout <= ttl`: the leader's service is complete all the same.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use serde_json::json;

/// Patroni's defaults; what is left of them below a ttl of 20 s is loop_wait 1 and retry_timeout 9.
const DEFAULTS: Timers = Timers {
    ttl: 30,
    loop_wait: 10,
    retry_timeout: 10,
};

#[test]
fn a_leader_whose_timers_fill_the_lease_publishes_everything() {
    let mut cluster = Cluster::with(newest(), 2, 1, DEFAULTS);
    cluster.bootstrap();
    for patch in [
        json!({ "ttl": 20 }),
        json!({ "ttl": 20, "loop_wait": 2, "retry_timeout": 9 }),
        json!({ "ttl": 8, "loop_wait": 2, "retry_timeout": 3 }),
    ] {
        let mut patch = patch;
        patch["synchronous_mode"] = json!(true);
        cluster.patch(&patch);
        let leader = cluster.wait_until_healthy(seconds(30));
        publishes(&cluster, &leader, &patch.to_string());
        let candidate = cluster.others(&leader).remove(0);
        let request = json!({ "leader": leader, "candidate": candidate });
        let answer = cluster.member(&leader).ask("POST", "/switchover", Some(&request));
        assert_eq!(answer.status, 200, "{patch}: {}", answer.body);
        assert_eq!(cluster.wait_until_healthy(seconds(30)), candidate);
        publishes(&cluster, &candidate, &patch.to_string());
        cluster.patch(
            &json!({ "synchronous_mode": null, "loop_wait": null, "retry_timeout": null, "ttl": null }),
        );
        eventually("sync is empty", seconds(30), || {
            let sync = cluster.document("sync");
            holds(sync["leader"].is_null(), || sync.to_string())
        });
    }
}

/// Its member key, the position and the slots in `status`, and `sync`.
fn publishes(cluster: &Cluster, leader: &str, timers: &str) {
    let member = cluster.member(leader);
    member.reload_tags(&[&format!("seen_under: '{timers}'")]);
    member
        .query("create table if not exists t (); drop table t")
        .unwrap();
    let written: u64 = member
        .value("select pg_current_wal_lsn() - '0/0'")
        .parse()
        .unwrap();
    let replica = cluster.others(leader).remove(0);
    eventually(&format!("{leader} publishes under {timers}"), seconds(30), || {
        let tags = &cluster.document(&format!("members/{leader}"))["tags"];
        holds(tags["seen_under"] == timers, || format!("member key: {tags}"))?;
        let status = cluster.document("status");
        holds(status["optime"].as_u64() >= Some(written), || {
            format!("status: {status}")
        })?;
        holds(status["slots"][&replica].is_u64(), || format!("slots: {status}"))?;
        let sync = cluster.document("sync");
        let is_synchronous = sync["leader"] == leader && sync["sync_standby"] == replica.as_str();
        holds(is_synchronous, || format!("sync: {sync}"))
    });
}
