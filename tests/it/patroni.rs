//! One of three members is Patroni: each side follows the other, hands over to it and takes over from it.

use crate::harness::cluster::{Program, Timers};
use crate::harness::process::{command, run};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, seconds, versions};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// Patroni sleeps in steps of seconds.
const HANDED_OVER: Duration = seconds(30);

#[test]
fn patroni_and_tamada_run_one_cluster() {
    let bin = versions::patroni();
    let mut cluster = Cluster::with(newest(), 2, 1, Timers::PATRONI);
    cluster.add_member(
        "patroni",
        Program {
            path: bin.join("patroni"),
            arguments: Vec::new(),
        },
    );

    // Ours comes first, so that Patroni finds all keys as we write them.
    cluster.members[0].start();
    cluster.members[1].start();
    cluster.wait_for_primary(seconds(30));
    cluster.member_mut("patroni").start();
    let ours = cluster.wait_until_healthy(seconds(60));
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);
    both_tools_show_the_same(&cluster, &bin);

    switchover(&cluster, &ours, "patroni");
    both_tools_show_the_same(&cluster, &bin);
    writer.assert_nothing_lost();
    settings_reach_everyone(&cluster, "patroni");

    switchover(&cluster, "patroni", &ours);
    both_tools_show_the_same(&cluster, &bin);
    writer.assert_nothing_lost();
    settings_reach_everyone(&cluster, &ours);

    patronictl_switches_over(&cluster, &bin, &ours);
    writer.assert_nothing_lost();
    patroni_is_stopped_and_one_of_us_takes_over(&mut cluster);
    writer.wait_for_write("with Patroni stopped", seconds(5));
    writer.assert_nothing_lost();
    witnesses.assert_never_two_primaries();
}

pub fn switchover(cluster: &Cluster, from: &str, to: &str) {
    let body = json!({ "leader": from, "candidate": to });
    let response = cluster.member(from).ask("POST", "/switchover", Some(&body));
    let expected = format!("Successfully switched over to \"{to}\"");
    assert_eq!((response.status, response.body), (200, expected));
    assert_eq!(cluster.wait_for_other_primary(from, HANDED_OVER), to);
    assert_eq!(cluster.wait_until_healthy(HANDED_OVER), to);
}

/// What Patroni's own tool prints.
#[track_caller]
pub fn patronictl(cluster: &Cluster, bin: &std::path::Path, arguments: &[&str]) -> String {
    let mut patronictl = command(&cluster.directory, bin.join("patronictl"));
    patronictl
        .arg("-c")
        .arg(&cluster.member("patroni").config_file)
        .args(arguments);
    let output = run(patronictl);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    output.stdout
}

pub fn both_tools_show_the_same(cluster: &Cluster, bin: &std::path::Path) {
    // Positions move while one tool asks after the other.
    let without_positions = |rows: Vec<Value>| -> Vec<Value> {
        let still = |mut row: Value| {
            let members = row.as_object_mut().unwrap();
            members.retain(|column, _| !column.contains("LSN") && !column.contains("Lag"));
            row
        };
        rows.into_iter().map(still).collect()
    };
    eventually("both tools show the same", seconds(15), || {
        let theirs: Vec<Value> =
            serde_json::from_str(&patronictl(cluster, bin, &["list", "-f", "json"])).unwrap();
        let ours = cluster.list();
        let columns = |rows: &[Value]| -> Vec<Vec<String>> {
            rows.iter()
                .map(|row| row.as_object().unwrap().keys().cloned().collect())
                .collect()
        };
        assert_eq!(columns(&ours), columns(&theirs));
        let (ours, theirs) = (without_positions(ours), without_positions(theirs));
        holds(ours == theirs && ours.len() == 3, || {
            format!("ours: {ours:?}\ntheirs: {theirs:?}")
        })
    });
    assert_eq!(
        cluster.ctl(&["show-config"]).stdout,
        patronictl(cluster, bin, &["show-config"])
    );
    let documents: Vec<Value> = cluster
        .members
        .iter()
        .map(|member| member.get("/cluster").unwrap().json())
        .collect();
    let roles = |document: &Value| -> Vec<(Value, Value, Value)> {
        let members = document["members"].as_array().unwrap();
        members
            .iter()
            .map(|m| (m["name"].clone(), m["role"].clone(), m["state"].clone()))
            .collect()
    };
    for document in &documents {
        assert_eq!(roles(document), roles(&documents[0]), "{document}");
    }
}

fn settings_reach_everyone(cluster: &Cluster, leader: &str) {
    let work_mem = if leader == "patroni" { "6MB" } else { "5MB" };
    let patch = json!({ "postgresql": { "parameters": { "work_mem": work_mem } } });
    assert_eq!(
        cluster
            .member(leader)
            .ask("PATCH", "/config", Some(&patch))
            .status,
        200
    );
    for member in &cluster.members {
        eventually(
            &format!("work_mem changes on {}", member.name),
            seconds(15),
            || {
                let rows = member.query("show work_mem")?;
                holds(rows == [[Some(work_mem.to_owned())]], || format!("{rows:?}"))
            },
        );
    }
}

pub fn patronictl_switches_over(cluster: &Cluster, bin: &std::path::Path, leader: &str) {
    let output = patronictl(
        cluster,
        bin,
        &[
            "switchover",
            "demo",
            "--leader",
            leader,
            "--candidate",
            "patroni",
            "--force",
        ],
    );
    assert!(
        output.contains("Successfully switched over to \"patroni\""),
        "{output}"
    );
    assert_eq!(cluster.wait_until_healthy(HANDED_OVER), "patroni");
}

fn patroni_is_stopped_and_one_of_us_takes_over(cluster: &mut Cluster) {
    cluster.member_mut("patroni").agent().signal(Signal::TERM);
    let successor = cluster.wait_for_other_primary("patroni", HANDED_OVER);
    cluster.member_mut("patroni").wait_until_stopped();
    println!("{successor} took over");
    cluster.member_mut("patroni").start();
    assert_eq!(cluster.wait_until_healthy(seconds(60)), successor);
}
