//! Restarts and switchovers for later: what their conditions hold back, and that they are done in time (acceptance 10.4,
//! 10.7).

use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, seconds};
use jiff::{Timestamp, ToSpan};
use serde_json::json;

fn in_seconds(later: i64) -> String {
    (Timestamp::now() + later.seconds()).to_string()
}

fn has(member: &Member, field: &str) -> Result<bool, String> {
    Ok(!member.status()?[field].is_null())
}

/// It was accepted, is shown, and its time comes.
fn schedule_restart(member: &Member, condition: &str, value: &serde_json::Value) {
    let body = json!({"schedule": in_seconds(4), condition: value});
    let answer = member.ask("POST", "/restart", Some(&body));
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(has(member, "scheduled_restart"), Ok(true));
    eventually("its time has come", seconds(15), || {
        holds(!has(member, "scheduled_restart")?, || {
            "it is still to come".to_owned()
        })
    });
}

#[test]
fn restarts_and_switchovers_are_done_when_they_are_wanted() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let other = cluster.others(&leader).remove(0);
    let (primary, replica) = (cluster.member(&leader), cluster.member(&other));

    let change = ["edit-config", "-p", "superuser_reserved_connections=6", "--force"];
    let output = cluster.ctl(&change);
    assert!(
        output.stdout.contains("+    superuser_reserved_connections: 6"),
        "{}",
        output.stdout
    );
    for member in [primary, replica] {
        eventually("a restart is pending", seconds(5), || {
            holds(has(member, "pending_restart")?, || "not yet".to_owned())
        });
    }
    let started = primary.value("select pg_postmaster_start_time()");
    schedule_restart(primary, "role", &json!("replica"));
    assert_eq!(
        has(primary, "pending_restart"),
        Ok(true),
        "it is for replicas alone"
    );
    assert_eq!(primary.value("select pg_postmaster_start_time()"), started);
    schedule_restart(primary, "restart_pending", &json!(true));
    eventually("it is restarted", seconds(10), || {
        holds(!has(primary, "pending_restart")?, || {
            "it is still pending".to_owned()
        })
    });
    assert_eq!(primary.value("show superuser_reserved_connections"), "6");
    eventually("it is the primary still", seconds(10), || {
        holds(primary.status_code("/primary") == 200, || "it is not".to_owned())
    });
    // Nothing is pending any more, so that condition holds it back.
    let started = primary.value("select pg_postmaster_start_time()");
    schedule_restart(primary, "restart_pending", &json!(true));
    assert_eq!(primary.value("select pg_postmaster_start_time()"), started);

    let at = in_seconds(4);
    let output = cluster.ctl(&[
        "switchover",
        "demo",
        "--candidate",
        &other,
        "--scheduled",
        &at,
        "--force",
    ]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert!(
        output.stdout.contains(&format!(" to: {other}")),
        "{}",
        output.stdout
    );
    assert_eq!(
        primary.status_code("/primary"),
        200,
        "before its time nothing happens"
    );
    eventually("the other member is the primary", seconds(20), || {
        let codes = [(replica, "/primary"), (primary, "/replica")];
        holds(
            codes.iter().all(|(member, path)| member.status_code(path) == 200),
            || "not yet".to_owned(),
        )
    });
    assert_eq!(cluster.wait_until_healthy(seconds(25)), other);
}
