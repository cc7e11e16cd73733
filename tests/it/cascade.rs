//! Cascading replication by the tag `replicatefrom`.

use crate::harness::{Cluster, eventually, newest, seconds};

/// Each is to stream from the other: one of them streams from the leader, and says why.
#[test]
fn a_loop_of_replicatefrom_is_broken() {
    let mut cluster = Cluster::new(newest(), 3);
    let leader = cluster.bootstrap();
    let others = cluster.others(&leader);
    let (first, second) = (others[0].as_str(), others[1].as_str());
    for (member, from) in [(first, second), (second, first)] {
        let tag = format!("replicatefrom: {from}");
        cluster.member(member).reload_tags(&[&tag]);
    }
    let warning = format!("replicatefrom leads in a circle: {first} from {second} from {first}");
    cluster.member(first).wait_for_log(&warning, seconds(20));
    eventually(&format!("{second} streams from {first}"), seconds(20), || {
        let from = |member: &str| -> Result<Vec<String>, String> {
            let rows = cluster
                .member(member)
                .query("select application_name from pg_stat_replication where state = 'streaming'")?;
            Ok(rows.into_iter().flatten().flatten().collect())
        };
        let (of_leader, of_first, of_second) = (from(&leader)?, from(first)?, from(second)?);
        let is_broken = of_leader == [first] && of_first == [second] && of_second.is_empty();
        crate::harness::wait::holds(is_broken, || {
            format!("{of_leader:?}, {of_first:?}, {of_second:?}")
        })
    });
    for member in &others {
        cluster.wait_until_replicated(&leader, member, seconds(10));
    }
    let topology = cluster.ctl(&["topology", "demo"]).stdout;
    let shown = format!("{first} (replicatefrom loop: {first}, {second})");
    assert!(topology.contains(&shown), "{topology}");
}
