//! The REST API of a living cluster: what its health checks say, and what it does when it is told to.

use crate::harness::versions::Postgresql;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, oldest, seconds};
use serde_json::{Value, json};

#[test]
fn on_the_oldest_postgresql() {
    steer(oldest());
}

#[test]
fn on_the_newest_postgresql() {
    steer(newest());
}

fn steer(postgresql: Postgresql) {
    let mut cluster = Cluster::new(postgresql, 2);
    let leader = cluster.bootstrap();
    let replica = cluster.others(&leader).remove(0);
    let (primary, replica) = (cluster.member(&leader), cluster.member(&replica));

    health_checks(primary, replica);
    requests_that_make_no_sense(primary, replica);
    a_setting_changes_while_servers_run(&cluster, primary, replica);
    a_setting_that_needs_a_restart(&cluster, primary, replica);
    the_local_file_is_read_again(primary, replica);
    the_replica_is_made_anew(&cluster, primary, replica);
}

/// Paths and the status codes that the primary and the replica give.
const HEALTH_CHECKS: [(&str, u16, u16); 18] = [
    ("/", 200, 503),
    ("/primary", 200, 503),
    ("/master", 200, 503),
    ("/read-write", 200, 503),
    ("/leader", 200, 503),
    ("/standby-leader", 503, 503),
    ("/replica", 503, 200),
    ("/replica?lag=16MB", 503, 200),
    ("/replica?tag_color=green", 503, 503),
    ("/read-only", 200, 200),
    ("/health", 200, 200),
    ("/liveness", 200, 200),
    ("/readiness", 200, 200),
    ("/async", 503, 200),
    ("/sync", 503, 503),
    ("/patroni", 200, 200),
    ("/cluster", 200, 200),
    ("/no-such-path", 503, 503),
];

fn health_checks(primary: &Member, replica: &Member) {
    for (path, on_primary, on_replica) in HEALTH_CHECKS {
        for (member, expected) in [(primary, on_primary), (replica, on_replica)] {
            let response = member.get(path).unwrap();
            assert_eq!(
                response.status, expected,
                "GET {path} on {}: {}",
                member.name, response.body
            );
            // These have handlers for GET only, and count as unknown paths otherwise.
            let for_get_only = ["/patroni", "/cluster", "/liveness", "/readiness"].contains(&path);
            let by_head = if for_get_only { 503 } else { expected };
            for method in ["HEAD", "OPTIONS"] {
                let response = member.ask(method, path, None);
                assert_eq!(response.status, by_head, "{method} {path} on {}", member.name);
                assert_eq!(response.body, "", "{method} {path} on {}", member.name);
            }
        }
    }
    let status = primary.status().unwrap();
    assert_eq!(
        (&status["state"], &status["role"]),
        (&json!("running"), &json!("primary")),
        "{status}"
    );
    assert_eq!(status["patroni"]["scope"], "demo", "{status}");
    assert!(status["xlog"]["location"].is_u64(), "{status}");
    assert_eq!(
        status["replication"][0]["application_name"],
        replica.name.as_str(),
        "{status}"
    );
    let status = replica.status().unwrap();
    assert_eq!(
        (&status["state"], &status["role"]),
        (&json!("running"), &json!("replica")),
        "{status}"
    );
    assert!(status["xlog"]["received_location"].is_u64(), "{status}");
    assert_eq!(status["replication_state"], "streaming", "{status}");
}

fn requests_that_make_no_sense(primary: &Member, replica: &Member) {
    let leader = primary.name.as_str();
    let cases = [
        (primary, "POST", "/switchover", json!({}), 400, ""),
        (
            primary,
            "POST",
            "/switchover",
            json!({ "candidate": replica.name }),
            400,
            "Switchover could be performed only from a specific leader",
        ),
        (
            primary,
            "POST",
            "/switchover",
            json!({ "leader": leader, "candidate": leader }),
            400,
            "Switchover target and source are the same",
        ),
        (
            primary,
            "POST",
            "/switchover",
            json!({ "leader": "nobody" }),
            412,
            "leader name does not match",
        ),
        (
            primary,
            "POST",
            "/switchover",
            json!({ "leader": leader, "candidate": "nobody" }),
            412,
            "candidate does not exists",
        ),
        (
            primary,
            "POST",
            "/failover",
            json!({ "leader": leader }),
            400,
            "Failover could be performed only to a specific candidate",
        ),
        (
            primary,
            "POST",
            "/reinitialize",
            json!({ "force": true }),
            503,
            "I am the leader, can not reinitialize",
        ),
        (
            replica,
            "POST",
            "/restart",
            json!({ "role": "primary" }),
            503,
            "restart conditions are not satisfied",
        ),
        (
            replica,
            "POST",
            "/restart",
            json!({ "no_such_filter": 1 }),
            400,
            "Unknown filter for the scheduled restart: no_such_filter",
        ),
        (primary, "PATCH", "/config", json!("no object"), 400, ""),
    ];
    for (member, method, path, body, status, text) in cases {
        let response = member.ask(method, path, Some(&body));
        assert_eq!(
            response.status, status,
            "{method} {path} {body}: {}",
            response.body
        );
        assert!(
            text.is_empty() || response.body == text,
            "{method} {path} {body}: {}",
            response.body
        );
    }
    assert_eq!(
        primary.ask("POST", "/nonsense", Some(&json!({ "a": 1 }))).status,
        501
    );
    assert_eq!(primary.ask("DELETE", "/switchover", None).status, 404);
}

#[track_caller]
fn wait_for_setting(member: &Member, name: &str, value: &str) {
    eventually(
        &format!("{name} is {value} on {}", member.name),
        seconds(10),
        || {
            let rows = member.query(&format!("show {name}"))?;
            holds(rows == [[Some(value.to_owned())]], || format!("{rows:?}"))
        },
    );
}

fn a_setting_changes_while_servers_run(cluster: &Cluster, primary: &Member, replica: &Member) {
    let before = primary.get("/config").unwrap().json();
    assert_eq!(before["loop_wait"], cluster.timers.loop_wait, "{before}");
    let started = primary.value("select pg_postmaster_start_time()");
    let patch = json!({ "postgresql": { "parameters": { "work_mem": "7MB", "max_connections": null } } });
    let response = primary.ask("PATCH", "/config", Some(&patch));
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.json()["postgresql"]["parameters"]["work_mem"], "7MB");
    assert_eq!(
        response.json()["postgresql"]["parameters"].get("max_connections"),
        None
    );
    wait_for_setting(primary, "work_mem", "7MB");
    wait_for_setting(replica, "work_mem", "7MB");
    assert_eq!(primary.value("select pg_postmaster_start_time()"), started);
    // Without the entry the default holds; put back what runs.
    let patch = json!({ "postgresql": { "parameters": { "max_connections": 60, "work_mem": null } } });
    assert_eq!(replica.ask("PATCH", "/config", Some(&patch)).status, 200);
    wait_for_setting(primary, "work_mem", "4MB");
    wait_for_setting(replica, "work_mem", "4MB");
    assert_eq!(replica.get("/config").unwrap().json(), before);
    let output = cluster.ctl(&["show-config"]);
    assert!(
        output.stdout.contains("loop_wait: 2\n"),
        "{}{}",
        output.stdout,
        output.stderr
    );
}

fn is_pending(member: &Member) -> Result<(), String> {
    let status = member.status()?;
    holds(status["pending_restart"] == true, || status.to_string())
}

fn a_setting_that_needs_a_restart(cluster: &Cluster, primary: &Member, replica: &Member) {
    let patch = json!({ "postgresql": { "parameters": { "max_connections": 70 } } });
    assert_eq!(primary.ask("PATCH", "/config", Some(&patch)).status, 200);
    for member in [primary, replica] {
        eventually(&format!("{} has to restart", member.name), seconds(15), || {
            is_pending(member)?;
            let reason = &member.status()?["pending_restart_reason"]["max_connections"];
            let expected = json!({ "old_value": "60", "new_value": "70" });
            holds(*reason == expected, || reason.to_string())
        });
        assert_eq!(member.value("show max_connections"), "60");
    }
    eventually("list shows it", seconds(10), || {
        let rows = cluster.list();
        holds(rows.iter().all(|row| row["Pending restart"] == "*"), || {
            format!("{rows:?}")
        })
    });
    // The replica first: one that has less than its primary stops by itself, and comes back with what it needs.
    for member in [replica, primary] {
        let output = cluster.ctl(&["restart", "demo", &member.name, "--force"]);
        let success = format!("Success: restart on member {}", member.name);
        assert!(
            output.stdout.contains(&success),
            "{}{}",
            output.stdout,
            output.stderr
        );
        wait_for_setting(member, "max_connections", "70");
        eventually(&format!("{} need not restart", member.name), seconds(10), || {
            holds(is_pending(member).is_err(), || "it is still pending".to_owned())
        });
    }
    assert_eq!(cluster.wait_until_healthy(seconds(20)), primary.name);
    let rows = eventually("list shows it no longer", seconds(10), || {
        let rows = cluster.list();
        let is_gone = rows
            .iter()
            .all(|row| row.get("Pending restart").is_none_or(|mark| mark == ""));
        holds(is_gone, || format!("{rows:?}")).map(|()| rows)
    });
    assert!(
        rows.iter().all(|row| row["TL"] == 1),
        "a restart needs no new timeline: {rows:?}"
    );
}

fn the_local_file_is_read_again(primary: &Member, replica: &Member) {
    replica.edit_config(
        "    log_checkpoints: off\n",
        "    log_checkpoints: off\n    work_mem: 5MB\n",
    );
    replica.edit_config("tags:\n", "tags:\n  color: green\n");
    let response = replica.ask("POST", "/reload", Some(&json!({})));
    assert_eq!(
        (response.status, response.body.as_str()),
        (202, "reload scheduled")
    );
    wait_for_setting(replica, "work_mem", "5MB");
    assert_eq!(primary.value("show work_mem"), "4MB");
    eventually("the tag counts", seconds(10), || {
        holds(replica.status_code("/replica?tag_color=green") == 200, || {
            "not yet".to_owned()
        })
    });
    eventually("the tag is published", seconds(10), || {
        let cluster: Value = primary.get("/cluster")?.json();
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        let tags = members
            .iter()
            .find(|member| member["name"] == replica.name.as_str())
            .map(|found| &found["tags"]);
        holds(tags.is_some_and(|tags| tags["color"] == "green"), || {
            cluster.to_string()
        })
    });
    // A file that cannot be read leaves what holds as it is.
    let good = replica.config();
    replica.write_config(&format!("{good}\nbroken: [\n"));
    assert_eq!(replica.ask("POST", "/reload", Some(&json!({}))).status, 202);
    replica.wait_for_log("pg", seconds(1));
    let file = replica.config_file.to_str().unwrap();
    eventually("the error is logged with its place", seconds(5), || {
        let log = replica.log();
        let complaint = log
            .lines()
            .any(|line| line.contains(file) && line.contains("ERROR"));
        holds(complaint, || "it is not".to_owned())
    });
    assert_eq!(replica.status_code("/replica?tag_color=green"), 200);
    replica.write_config(&good);
}

fn the_replica_is_made_anew(cluster: &Cluster, primary: &Member, replica: &Member) {
    let marker = replica.data_dir().join("marker");
    std::fs::write(&marker, "").unwrap();
    let response = replica.ask("POST", "/reinitialize", Some(&json!({})));
    assert_eq!(
        (response.status, response.body.as_str()),
        (200, "reinitialize started")
    );
    eventually("the old data are gone", seconds(20), || {
        holds(!marker.exists(), || "the marker is still there".to_owned())
    });
    assert_eq!(cluster.wait_until_healthy(seconds(30)), primary.name);
    let output = cluster.ctl(&["reinit", "demo", &replica.name, "--force", "--wait"]);
    let success = format!("Success: reinitialize for member {}", replica.name);
    assert!(
        output.stdout.contains(&success),
        "{}{}",
        output.stdout,
        output.stderr
    );
    assert_eq!(cluster.wait_until_healthy(seconds(30)), primary.name);
}
