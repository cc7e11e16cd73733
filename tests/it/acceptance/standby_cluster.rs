//! Two clusters, one of which replicates from the other: its leader, its replicas, and how the two change places.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, seconds};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

/// The cluster `demo` of pg1 and pg2, which archive their WAL; pg3 and pg4 are to be of the cluster `other`.
struct Stage {
    cluster: Cluster,
    archive: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let cluster = Cluster::with(newest(), 4, 1, TIMERS);
        cluster.note_callbacks();
        let archive = cluster.share_archive();
        Self { cluster, archive }
    }

    fn member(&self, name: &str) -> &Member {
        self.cluster.member(name)
    }

    fn restore_command(&self) -> String {
        format!("cp {}/%f %p", self.archive.display())
    }

    /// The member is one of the standby cluster that follows this member of the other cluster.
    fn is_to_follow(&self, name: &str, remote: &str) {
        let port = self.member(remote).postgresql_port;
        let member = self.member(name);
        member.edit_config("scope: demo\n", "scope: other\n");
        member.edit_config(
            "    maximum_lag_on_failover: 1048576\n",
            &format!(
                "    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    standby_cluster: {{host: 127.0.0.1, port: {port}, primary_slot_name: pm_1}}
"
            ),
        );
    }

    /// The cluster's members as `list` shows them.
    fn list(&self, scope: &str) -> Vec<Value> {
        let output = self.cluster.ctl(&["list", scope, "-f", "json"]);
        let rows: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        rows.as_array().cloned().unwrap_or_default()
    }

    /// Waits until the member leads the standby cluster, in every respect.
    #[track_caller]
    fn wait_for_standby_leader(&self, name: &str, replication_state: &str, limit: Duration) {
        let member = self.member(name);
        eventually(&format!("{name} is the standby leader"), limit, || {
            let status = member.status()?;
            let is_one = status["role"] == "standby_leader" && status["state"] == "running";
            holds(is_one, || status.to_string())?;
            holds(status["replication_state"] == replication_state, || {
                status.to_string()
            })?;
            let codes =
                ["/standby-leader", "/primary", "/replica", "/leader"].map(|path| member.status_code(path));
            holds(codes == [200, 503, 503, 200], || format!("{codes:?}"))
        });
    }

    /// Waits until the member streams from that one.
    #[track_caller]
    fn wait_until_streaming(&self, name: &str, from: &str, limit: Duration) {
        let query = format!(
            "select count(*) from pg_stat_replication where state = 'streaming' and application_name = '{name}'"
        );
        eventually(&format!("{name} streams from {from}"), limit, || {
            let rows = self.member(from).query(&query)?;
            holds(rows == [[Some("1".to_owned())]], || format!("{rows:?}"))
        });
    }

    /// Makes a table on one member and waits until it is on the other.
    #[track_caller]
    fn replicates(&self, table: &str, from: &str, to: &str, limit: Duration) {
        let from_member = self.member(from);
        from_member.query(&format!("create table {table} ()")).unwrap();
        // In a transaction of its own, so that the segment holds the commit.
        from_member.query("select pg_switch_wal()").unwrap();
        eventually(&format!("{table} of {from} is on {to}"), limit, || {
            self.member(to).query(&format!("select from {table}")).map(drop)
        });
    }

    #[track_caller]
    fn wait_for_event(&self, name: &str, event: &str) {
        eventually(&format!("{name}: {event}"), seconds(5), || {
            let events = self.member(name).callbacks();
            holds(events.iter().any(|line| line == event), || format!("{events:?}"))
        });
    }
}

#[test]
fn a_data_directory_becomes_a_standby_cluster_and_the_clusters_change_places() {
    let mut stage = Stage::new();
    let demo = &mut stage.cluster;
    demo.member_mut("pg1").start();
    assert_eq!(demo.wait_for_primary(seconds(30)), "pg1");
    demo.member_mut("pg2").start();
    stage.wait_until_streaming("pg2", "pg1", seconds(30));
    let slots = json!({"slots": {"pm_1": {"type": "physical"}}});
    assert_eq!(
        stage.member("pg1").ask("PATCH", "/config", Some(&slots)).status,
        200
    );
    stage.replicates("one", "pg1", "pg2", seconds(15));
    stage.cluster.member_mut("pg1").stop();
    assert_eq!(stage.cluster.wait_for_primary(seconds(10)), "pg2");

    existing_data_becomes_a_standby_cluster(&mut stage);
    a_replica_joins(&mut stage);
    the_standby_leader_hands_over(&stage);
    the_standby_leader_is_killed(&mut stage);
    only_the_archive_is_followed(&stage);
    the_clusters_change_places(&stage);
}

/// The former primary's data directory, started with another scope, follows the other cluster through its slot.
fn existing_data_becomes_a_standby_cluster(stage: &mut Stage) {
    stage.is_to_follow("pg1", "pg2");
    let pg1 = stage.cluster.member_mut("pg1");
    // As the dynamic configuration in it goes before bootstrap.dcs.
    std::fs::remove_file(pg1.data_dir().join("patroni.dynamic.json")).unwrap();
    pg1.start();
    stage.wait_for_standby_leader("pg1", "streaming", seconds(20));
    stage.replicates("two", "pg2", "pg1", seconds(20));
    stage.wait_for_event("pg1", "on_role_change standby_leader other");
    let active = "select active from pg_replication_slots where slot_name = 'pm_1'";
    assert_eq!(stage.member("pg2").value(active), "t");
    let log = stage.member("pg1").log();
    for line in [
        "trying to follow a remote member because standby cluster is unhealthy",
        "promoted self to a standby leader by acquiring session lock",
        "no action. I am (pg1), the standby leader with the lock",
    ] {
        assert!(log.contains(line), "{line}");
    }
    assert_eq!(stage.list("other")[0]["Role"], "Standby Leader");
}

fn a_replica_joins(stage: &mut Stage) {
    stage.is_to_follow("pg3", "pg2");
    stage.cluster.member_mut("pg3").start();
    stage.wait_until_streaming("pg3", "pg1", seconds(24));
    stage.replicates("three", "pg2", "pg3", seconds(20));
    let pg3 = stage.member("pg3");
    pg3.wait_for_log(
        "no action. I am (pg3), a secondary, and following a standby leader (pg1)",
        seconds(5),
    );
    pg3.wait_until_streaming(seconds(5));
    // What is configured for a cluster with a primary has no meaning here.
    let names = "select setting from pg_settings where name = 'synchronous_standby_names'";
    assert_eq!(stage.member("pg1").value(names), "");
    stage.wait_for_event("pg3", "on_start replica other");
}

/// Nobody's server is stopped for it.
fn the_standby_leader_hands_over(stage: &Stage) {
    eventually("pg3 is known to stream", seconds(5), || {
        let members = stage.list("other");
        let streams = |member: &Value| member["Member"] == "pg3" && member["State"] == "streaming";
        holds(members.iter().any(streams), || format!("{members:?}"))
    });
    let started = stage.member("pg1").value("select pg_postmaster_start_time()");
    let output = stage.cluster.ctl(&["switchover", "other", "--force"]);
    assert_eq!(output.code, Some(0), "{} {}", output.stdout, output.stderr);
    stage.wait_for_standby_leader("pg3", "streaming", seconds(10));
    stage.wait_until_streaming("pg1", "pg3", seconds(32));
    stage.wait_for_event("pg3", "on_role_change standby_leader other");
    stage.wait_for_event("pg1", "on_role_change replica other");
    assert_eq!(
        stage.member("pg1").value("select pg_postmaster_start_time()"),
        started
    );
}

fn the_standby_leader_is_killed(stage: &mut Stage) {
    stage.cluster.member_mut("pg3").kill_all();
    stage.wait_for_standby_leader("pg1", "streaming", seconds(32));
    stage.replicates("four", "pg2", "pg1", seconds(20));
    let expected = [
        "on_role_change replica other",
        "on_role_change standby_leader other",
    ];
    let events = stage.member("pg1").callbacks();
    assert!(events.ends_with(&expected.map(str::to_owned)), "{events:?}");
}

fn only_the_archive_is_followed(stage: &Stage) {
    let change = json!({"standby_cluster":
        {"restore_command": stage.restore_command(), "host": null, "port": null, "primary_slot_name": null}});
    let answer = stage.member("pg1").ask("PATCH", "/config", Some(&change));
    assert_eq!(answer.status, 200, "{}", answer.body);
    stage.wait_for_standby_leader("pg1", "in archive recovery", seconds(30));
    stage.replicates("five", "pg2", "pg1", seconds(30));
    // The archive is not asked as often as a server is that may come back any moment.
    let interval = stage.member("pg1").value("show wal_retrieve_retry_interval");
    assert_eq!(interval, "5s");
}

/// The first cluster becomes a standby cluster, and all that it has written is in the archive: so the second one, which
/// has nothing else, goes on where that ended, and the first can follow it.
fn the_clusters_change_places(stage: &Stage) {
    stage.member("pg2").query("create table six ()").unwrap();
    let restore = format!("--restore-command={}", stage.restore_command());
    let output = stage
        .cluster
        .ctl(&["demote-cluster", "demo", "--force", &restore]);
    assert_eq!(output.code, Some(0), "{} {}", output.stdout, output.stderr);
    assert!(
        output.stdout.contains("cluster is successfully demoted"),
        "{}",
        output.stdout
    );
    stage.wait_for_standby_leader("pg2", "in archive recovery", seconds(10));
    let log = stage.member("pg2").log();
    assert!(log.contains("Demoting self (demote-cluster)"), "{log}");
    assert!(log.contains("which holds the shutdown checkpoint"), "{log}");
    stage.wait_for_event("pg2", "on_role_change standby_leader demo");
    eventually(
        "the last segment has come through the archive",
        seconds(20),
        || stage.member("pg1").query("select from six").map(drop),
    );

    let output = stage.cluster.ctl(&["promote-cluster", "other", "--force"]);
    assert_eq!(output.code, Some(0), "{} {}", output.stdout, output.stderr);
    assert!(
        output.stdout.contains("cluster is successfully promoted"),
        "{}",
        output.stdout
    );
    assert_eq!(stage.member("pg1").status_code("/primary"), 200);
    stage.wait_for_event("pg1", "on_role_change primary other");
    stage.replicates("seven", "pg1", "pg2", seconds(20));
    assert_eq!(stage.member("pg2").status_code("/standby-leader"), 200);
    assert!(!stage.member("pg2").log().contains("running pg_rewind"));
}

/// A new standby cluster is a copy of the remote one; of several hosts it takes the primary. Promoting the remote
/// cluster's replica does not stop it, nor does the end of the agent of its leader.
#[test]
fn a_standby_cluster_is_made_and_outlives_a_failover_of_the_remote_one() {
    let mut stage = Stage::new();
    for name in ["pg1", "pg2"] {
        stage.cluster.member_mut(name).start();
    }
    let primary = stage.cluster.wait_for_primary(seconds(30));
    let replica = if primary == "pg1" { "pg2" } else { "pg1" };
    stage.wait_until_streaming(replica, &primary, seconds(30));
    let ports = [replica, &primary].map(|name| stage.member(name).postgresql_port);
    for name in ["pg3", "pg4"] {
        stage.is_to_follow(name, "pg1");
        let pg1 = stage.member("pg1").postgresql_port;
        stage.member(name).edit_config(
            &format!("host: 127.0.0.1, port: {pg1}, primary_slot_name: pm_1"),
            &format!(
                "host: ['127.0.0.1', '127.0.0.1'], port: '{},{}', create_replica_methods: [mine]",
                ports[0], ports[1]
            ),
        );
        let seen = stage.member(name).home().join("copy.args");
        let text = format!(
            "#!/bin/sh
echo \"$@\" > {}
for word; do case $word in --datadir=*) to=${{word#*=}};; --connstring=*) from=${{word#*=}};; esac; done
exec {}/pg_basebackup -c fast -D \"$to\" -d \"$from\"
",
            seen.display(),
            stage.cluster.postgresql.bin.display()
        );
        let script = stage.cluster.script(&format!("copy-{name}"), &text);
        stage.member(name).edit_config(
            "  basebackup:\n",
            &format!(
                "  mine: {{command: {}, speed: low}}\n  basebackup:\n",
                script.display()
            ),
        );
    }
    stage.cluster.member_mut("pg3").start();
    stage.wait_for_standby_leader("pg3", "streaming", seconds(30));
    stage.wait_until_streaming("pg3", &primary, seconds(10));
    let arguments = std::fs::read_to_string(stage.member("pg3").home().join("copy.args")).unwrap();
    for word in [
        "--speed=low",
        "--scope=other",
        "--role=replica",
        "--datadir=",
        "--connstring=",
    ] {
        assert!(arguments.contains(word), "{arguments}");
    }
    stage.wait_for_event("pg3", "on_start standby_leader other");
    stage.cluster.member_mut("pg4").start();
    stage.wait_until_streaming("pg4", "pg3", seconds(30));
    // The methods of standby_cluster are for copies of the remote cluster.
    assert!(!stage.member("pg4").home().join("copy.args").exists());
    stage.replicates("one", &primary, "pg4", seconds(10));

    let answer = stage
        .member(&primary)
        .ask("POST", "/switchover", Some(&json!({ "leader": primary })));
    assert_eq!(answer.status, 200, "{}", answer.body);
    stage.wait_until_streaming("pg3", replica, seconds(20));
    stage.replicates("two", replica, "pg4", seconds(10));

    // As the agent ends its server does, and the key goes over.
    stage.cluster.member_mut("pg3").agent().signal(Signal::TERM);
    stage.cluster.member_mut("pg3").wait_until_stopped();
    stage.wait_for_standby_leader("pg4", "streaming", seconds(10));
    stage.wait_until_streaming("pg4", replica, seconds(10));
    stage.cluster.member_mut("pg3").start();
    stage.wait_until_streaming("pg3", "pg4", seconds(10));
    stage.replicates("three", replica, "pg3", seconds(10));
}
