//! Settings with which PostgreSQL does not start: nobody goes down for them.

use crate::harness::versions::Postgresql;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, oldest, seconds};
use rustix::process::Pid;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

#[test]
fn nobody_goes_down_for_them_on_the_oldest_postgresql() {
    nobody_goes_down_for_them(oldest());
}

#[test]
fn nobody_goes_down_for_them_on_the_newest_postgresql() {
    nobody_goes_down_for_them(newest());
}

fn libraries(cluster: &Cluster, value: &Value) {
    cluster.patch(&json!({ "postgresql": { "parameters": { "shared_preload_libraries": value } } }));
}

fn postmasters(cluster: &Cluster, names: &[String]) -> Vec<Option<Pid>> {
    names
        .iter()
        .map(|name| cluster.member(name).postmaster())
        .collect()
}

/// Every member's row says why it still waits for a restart.
fn rows_say(cluster: &Cluster, names: &[String], text: &str) {
    eventually("list says why", seconds(20), || {
        let rows = cluster.list();
        let says = |name: &String| {
            rows.iter().any(|row| {
                row["Member"] == **name
                    && row["Pending restart"] == "*"
                    && row["Pending restart reason"]
                        .as_str()
                        .is_some_and(|reason| reason.contains(text))
            })
        };
        holds(names.iter().all(says), || format!("{rows:?}"))
    });
}

fn nobody_goes_down_for_them(postgresql: Postgresql) {
    const REASON: &str = "could not access file \"pg_cronn\": No such file or directory";
    let mut cluster = Cluster::new(postgresql, 3);
    // A trial of settings needs no such folder.
    for member in &mut cluster.members {
        member.environment.push(("TMPDIR", "/nowhere".to_owned()));
    }
    let leader = cluster.bootstrap();
    cluster.wait_until_healthy(seconds(30));
    let names = [vec![leader.clone()], cluster.others(&leader)].concat();
    let before = postmasters(&cluster, &names);

    libraries(&cluster, &json!("pg_cronn"));
    rows_say(&cluster, &names, "pg_cronn");
    let output = cluster.ctl(&["restart", "demo", "--force"]);
    assert_ne!(output.code, Some(0), "{}", output.stdout);
    let text = format!("{}{}", output.stdout, output.stderr);
    assert!(text.contains(REASON), "{text}");
    assert!(text.contains("not restarted, because the restart of"), "{text}");
    assert_eq!(text.matches("Failed: restart for member").count(), 1, "{text}");
    assert_eq!(postmasters(&cluster, &names), before);
    for name in &names {
        let output = cluster.ctl(&["restart", "demo", name, "--force"]);
        assert!(
            output.stdout.contains(REASON),
            "{}{}",
            output.stdout,
            output.stderr
        );
    }
    assert_eq!(postmasters(&cluster, &names), before);
    rows_say(&cluster, &names, &format!("restart failed: {REASON}"));
    a_crash_is_survived(&cluster, &names);
    rows_say(&cluster, &names, &format!("restart failed: {REASON}"));
    what_no_trial_finds_is_taken_back(&cluster, &names[1]);
    who_mends_it_restarts_all(&cluster, &names);
    a_start_that_fails_is_explained(&cluster, &names[2]);
}

/// The server comes back with the settings that have worked.
fn a_crash_is_survived(cluster: &Cluster, names: &[String]) {
    let replica = cluster.member(&names[1]);
    let before = replica.postmaster();
    replica.kill_postmaster();
    eventually("the crashed replica is back", seconds(30), || {
        let now = replica.postmaster();
        holds(now.is_some() && now != before, || format!("{now:?}"))
    });
    cluster.wait_until_healthy(seconds(30));
}

/// A start that fails after all: the former settings are used, and whoever asked for the restart is told that it failed.
fn what_no_trial_finds_is_taken_back(cluster: &Cluster, replica: &str) {
    cluster.patch(&json!({ "postgresql": { "parameters": {
        "shared_preload_libraries": null, "logging_collector": "on", "log_directory": "/proc/nothing"
    } } }));
    let names = [replica.to_owned()];
    rows_say(cluster, &names, "logging_collector");
    let output = cluster.ctl(&["restart", "demo", replica, "--force"]);
    let text = format!("{}{}", output.stdout, output.stderr);
    assert!(text.contains("runs with the former ones"), "{text}");
    assert!(text.contains("Failed: restart for member"), "{text}");
    rows_say(cluster, &names, "restart failed: could not open log file");
    cluster.wait_until_healthy(seconds(30));
    assert_eq!(cluster.member(replica).value("SHOW logging_collector"), "off");
}

fn who_mends_it_restarts_all(cluster: &Cluster, names: &[String]) {
    cluster.patch(&json!({ "postgresql": { "parameters": {
        "shared_preload_libraries": "auto_explain", "logging_collector": null, "log_directory": null
    } } }));
    rows_say(cluster, names, "auto_explain");
    let output = cluster.ctl(&["restart", "demo", "--force"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    for name in names {
        let member = cluster.member(name);
        assert_eq!(
            member.value("SHOW shared_preload_libraries"),
            "auto_explain",
            "{name}"
        );
    }
    eventually("nothing waits for a restart", seconds(20), || {
        let rows = cluster.list();
        let waits = rows.iter().any(|row| row["Pending restart"] == "*");
        holds(!waits, || format!("{rows:?}"))
    });
}

/// No setting is the cause, so there is nothing to fall back to: `list` has the reason beside the state.
fn a_start_that_fails_is_explained(cluster: &Cluster, replica: &str) {
    let member = cluster.member(replica);
    let slots = member.data_dir().join("pg_replslot");
    let permit = |mode| fs::set_permissions(&slots, Permissions::from_mode(mode)).unwrap();
    permit(0o000);
    member.kill_postmaster();
    eventually("list says why it does not start", seconds(20), || {
        let rows = cluster.list();
        let says = rows.iter().any(|row| {
            row["Member"] == *replica
                && row["State"] == "start failed"
                && row["Reason"]
                    .as_str()
                    .is_some_and(|reason| reason.contains("pg_replslot"))
        });
        holds(says, || format!("{rows:?}"))
    });
    permit(0o700);
    cluster.wait_until_healthy(seconds(30));
}
