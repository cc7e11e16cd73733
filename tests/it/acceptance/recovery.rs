//! A server that dies, a start that fails, a primary that wrote on, and new copies on request.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use rustix::process::Signal;
use serde_json::json;
use std::io::Write as _;
use std::time::Duration;

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

fn wait_for_code(cluster: &Cluster, member: &str, path: &str, code: u16, limit: Duration) {
    eventually(&format!("{path} of {member} answers {code}"), limit, || {
        let got = cluster.member(member).status_code(path);
        holds(got == code, || format!("it answers {got}"))
    });
}

#[test]
fn what_died_comes_back_and_is_copied_or_rewound() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    cluster.note_callbacks();
    cluster.start_all();
    let leader = cluster.wait_until_healthy(seconds(60));
    let replica = cluster.others(&leader)[0].clone();

    dead_servers(&cluster, &leader, &replica);
    let leader = cluster.wait_until_healthy(seconds(30));
    let replica = cluster.others(&leader)[0].clone();
    a_start_that_fails(&cluster, &leader, &replica);
    new_copy_in_pause(&cluster, &replica, &leader);
    a_former_primary_that_wrote_on(&mut cluster, &replica, &leader);
}

fn dead_servers(cluster: &Cluster, leader: &str, replica: &str) {
    let dead = cluster.member(leader).postmaster();
    cluster.member(leader).kill_postmaster();
    eventually("it is primary on timeline 1", seconds(10), || {
        // The status may be of the time before the death.
        let postmaster = cluster.member(leader).postmaster();
        holds(postmaster.is_some() && postmaster != dead, || {
            format!("{postmaster:?}, {dead:?} was killed")
        })?;
        cluster.member(leader).query("select 1")?;
        let status = cluster.member(leader).status()?;
        holds(
            status["role"] == "primary" && status["timeline"] == 1 && status["state"] == "running",
            || status.to_string(),
        )
    });
    cluster.wait_until_replicated(leader, replica, seconds(15));

    cluster.patch(&json!({"master_start_timeout": 0}));
    eventually("the setting is known", seconds(5), || {
        let known = cluster.member(leader).get("/config")?.json();
        holds(known["master_start_timeout"] == 0, || known.to_string())
    });
    cluster.member(leader).kill_postmaster();
    assert_eq!(cluster.wait_for_other_primary(leader, seconds(10)), replica);
    cluster.patch(&json!({"master_start_timeout": null}));
    wait_for_code(cluster, leader, "/replica", 200, seconds(20));
}

/// The leader's server cannot be started any more: the key goes to the other member.
fn a_start_that_fails(cluster: &Cluster, leader: &str, replica: &str) {
    let member = cluster.member(leader);
    let path = member.data_dir().join("postgresql.auto.conf");
    let before = std::fs::read(&path).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    writeln!(file, "max_connections = not-a-number").unwrap();
    drop(file);
    member.kill_postmaster();
    assert_eq!(cluster.wait_for_other_primary(leader, seconds(10)), replica);
    eventually("the callback was called", seconds(5), || {
        let called = member.callbacks();
        let wanted = "on_role_change demoted demo";
        holds(called.iter().any(|line| line == wanted), || called.join("; "))
    });
    std::fs::write(&path, before).unwrap();
    wait_for_code(cluster, leader, "/replica", 200, seconds(30));
}

fn new_copy_in_pause(cluster: &Cluster, leader: &str, replica: &str) {
    let refused = cluster
        .member(leader)
        .ask("POST", "/reinitialize", Some(&json!({"force": true})));
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (503, "I am the leader, can not reinitialize")
    );
    assert_eq!(cluster.ctl(&["pause", "--wait"]).code, Some(0));
    let member = cluster.member(replica);
    let marked = member.data_dir().join("base/of_the_copy_before");
    std::fs::write(&marked, "").unwrap();
    let copied = cluster.ctl(&["reinit", "demo", replica, "--force", "--from-leader", "--wait"]);
    assert_eq!(copied.code, Some(0), "{}{}", copied.stdout, copied.stderr);
    let success = format!("Success: reinitialize for member {replica}");
    assert!(copied.stdout.contains(&success), "{}", copied.stdout);
    wait_for_code(cluster, replica, "/replica", 200, seconds(30));
    cluster.wait_until_replicated(leader, replica, seconds(20));
    assert!(!marked.exists(), "it is another copy");
    member.wait_for_log("is kept as", seconds(5));
    eventually("what the copy replaced is removed", seconds(10), || {
        let former = member.home().join("data.former");
        holds(!former.exists(), || "it is still there".to_owned())
    });
    assert_eq!(cluster.ctl(&["resume", "--wait"]).code, Some(0));
}

fn a_former_primary_that_wrote_on(cluster: &mut Cluster, leader: &str, replica: &str) {
    cluster.wait_until_healthy(seconds(20));
    assert_eq!(cluster.ctl(&["pause", "--wait"]).code, Some(0));
    let member = cluster.member_mut(leader);
    member.agent().signal(Signal::TERM);
    member.wait_for_exit(seconds(10));
    assert!(
        cluster.member(leader).postmaster().is_some(),
        "in pause it runs on"
    );
    let on = cluster.member(replica);
    let resumed = on.ask("PATCH", "/config", Some(&json!({"pause": null})));
    assert_eq!(resumed.status, 200);
    assert_eq!(cluster.wait_for_other_primary(leader, seconds(24)), replica);
    cluster
        .member(leader)
        .value("create table written_on as select 1");
    cluster
        .member(replica)
        .value("create table after_promotion as select 2 as a");

    cluster.member_mut(leader).start();
    wait_for_code(cluster, leader, "/replica", 200, seconds(20));
    cluster.wait_until_replicated(replica, leader, seconds(20));
    let member = cluster.member(leader);
    assert_eq!(member.value("select a from after_promotion"), "2");
    let lost = "select count(*) from pg_class where relname = 'written_on'";
    assert_eq!(member.value(lost), "0");
    assert!(
        member
            .log()
            .contains(&format!("running pg_rewind from {replica}"))
    );
}
