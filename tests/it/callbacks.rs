//! The callbacks that a member's life calls, with their roles, are those that Patroni calls.

use crate::harness::cluster::{Program, Timers};
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds, versions};
use serde_json::json;

/// Patroni sleeps in steps of seconds, and a lease is 20 s.
const LIMIT: std::time::Duration = seconds(60);

const TIMERS: Timers = Timers {
    loop_wait: 1,
    ..Timers::PATRONI
};

#[test]
fn a_switchover_a_restart_an_outage_and_the_end_call_what_patroni_calls() {
    let ours = Cluster::with(newest(), 2, 1, TIMERS);
    let mut theirs = Cluster::with(newest(), 0, 1, TIMERS);
    for name in ["pg1", "pg2"] {
        let program = Program {
            path: versions::patroni().join("patroni"),
            arguments: Vec::new(),
        };
        theirs.add_member(name, program);
    }
    let [ours, theirs] = [ours, theirs].map(story);
    assert_eq!(ours, theirs);
    println!("{ours:#?}");
}

/// What happens, and what it has called on each member.
fn story(mut cluster: Cluster) -> [Vec<String>; 2] {
    cluster.note_callbacks();
    cluster.members[0].start();
    cluster.wait_for_primary(LIMIT);
    cluster.members[1].start();
    cluster.wait_until_healthy(LIMIT);
    waits_for(&cluster, "pg2", "on_start replica demo");

    let switchover = json!({"leader": "pg1", "candidate": "pg2"});
    ask(&cluster, "pg1", "/switchover", &switchover.to_string());
    cluster.wait_until_healthy(LIMIT);
    waits_for(&cluster, "pg1", "on_role_change replica demo");
    ask(&cluster, "pg1", "/restart", "{}");
    waits_for(&cluster, "pg1", "on_restart replica demo");
    cluster.members[0].stop();
    waits_for(&cluster, "pg1", "on_stop replica demo");

    cluster.etcd.kill();
    waits_for(&cluster, "pg2", "on_role_change replica demo");
    cluster.etcd.start(&cluster.directory.clone());
    cluster.wait_for_primary(LIMIT);
    waits_for(&cluster, "pg2", "on_role_change primary demo");
    cluster.members[1].stop();
    waits_for(&cluster, "pg2", "on_stop primary demo");
    ["pg1", "pg2"].map(|name| cluster.member(name).callbacks())
}

/// The newest callback is this one.
#[track_caller]
fn waits_for(cluster: &Cluster, member: &str, callback: &str) {
    eventually(&format!("{member}: {callback}"), LIMIT, || {
        let called = cluster.member(member).callbacks();
        let newest = called.last().is_some_and(|line| line == callback);
        holds(newest, || called.join("; "))
    });
}

#[track_caller]
fn ask(cluster: &Cluster, member: &str, path: &str, body: &str) {
    eventually(&format!("{path} at {member}"), LIMIT, || {
        let body = serde_json::from_str(body).unwrap();
        let answer = cluster.member(member).ask("POST", path, Some(&body));
        holds(answer.status == 200, || answer.body)
    });
}

/// `on_stop` may take an address away from this host: that it is called at the very end must not be the end of it.
#[test]
fn what_runs_when_the_agent_ends_runs_on() {
    let mut cluster = Cluster::new(newest(), 1);
    let done = cluster.directory.make("done");
    cluster.give_away(&done);
    let script = "#!/bin/bash\nuntil [ -e \"$1/go\" ]; do sleep 0.1; done\ntouch \"$1/$2\"\n";
    let script = cluster.script("slow", script);
    let callbacks = format!(
        "\n  callbacks:\n    on_stop: {} {}\n  basebackup:\n",
        script.display(),
        done.display()
    );
    cluster.members[0].edit_config("\n  basebackup:\n", &callbacks);
    cluster.bootstrap();
    cluster.members[0].stop();
    std::fs::write(done.join("go"), "").unwrap();
    eventually("the callback comes to its end", seconds(10), || {
        holds(done.join("on_stop").exists(), || "not yet".to_owned())
    });
}

/// Its server does not start again. A script that takes the address away from it begins before another member can lead and
/// take the address.
#[test]
fn the_former_primary_is_told_before_the_next_one() {
    let mut cluster = Cluster::new(newest(), 2);
    let calls = cluster.directory.make("calls");
    cluster.give_away(&calls);
    let log = calls.join("log");
    let script = cluster.script("note", "#!/bin/bash\necho \"$2 $4\" >>\"$1\"\n");
    for member in &cluster.members {
        let callbacks = format!(
            "\n  callbacks:\n    on_role_change: {} {} {}\n  basebackup:\n",
            script.display(),
            log.display(),
            member.name
        );
        member.edit_config("\n  basebackup:\n", &callbacks);
    }
    for _ in 0..3 {
        cluster.start_all();
        let leader = cluster.wait_until_healthy(LIMIT);
        let next = cluster.others(&leader).remove(0);
        let called = || std::fs::read_to_string(&log).unwrap_or_default();
        let begin = called().len();
        let settings = cluster.member(&leader).data_dir().join("postgresql.auto.conf");
        let good = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, "this is no setting\n").unwrap();
        cluster.member(&leader).kill_postmaster();
        cluster.wait_for_other_primary(&leader, LIMIT);
        let expected = format!("{leader} demoted\n{next} primary\n");
        eventually("both have been told, in this order", LIMIT, || {
            let seen = called().split_off(begin);
            holds(seen.starts_with(&expected), || seen)
        });
        std::fs::write(&settings, good).unwrap();
    }
}
