//! A paused cluster: agents watch, and touch nothing that nobody asked for.

use crate::harness::cluster::Timers;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, seconds};
use rustix::process::Signal;
use serde_json::json;

const TIMERS: Timers = Timers {
    ttl: 8,
    loop_wait: 1,
    retry_timeout: 2,
};

fn pause(cluster: &Cluster, is_paused: bool) {
    let verb = if is_paused { "pause" } else { "resume" };
    let output = cluster.ctl(&[verb, "demo", "--wait"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
}

#[track_caller]
fn ctl(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.ctl(arguments);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    output.stdout
}

/// Longer than an agent needs to do what it must not do.
fn nothing_happens(cluster: &Cluster) {
    std::thread::sleep(seconds(3 * cluster.timers.loop_wait));
}

fn started(member: &Member) -> String {
    member.value("select pg_postmaster_start_time()")
}

#[test]
fn servers_are_left_alone_and_requests_are_done() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.members[1].start();
    assert_eq!(cluster.wait_until_healthy(seconds(30)), "pg1");
    pause(&cluster, true);

    // A replica that dies stays dead, and says so.
    cluster.member("pg2").kill_postmaster();
    eventually("it is seen", seconds(10), || {
        holds(cluster.member("pg2").status_code("/replica") == 503, || {
            "200".to_owned()
        })
    });
    cluster.wait_for_member_key("pg2", "state", &json!("stopped"), seconds(10));
    nothing_happens(&cluster);
    assert_eq!(cluster.member("pg2").postmaster(), None);
    cluster
        .member("pg2")
        .wait_for_log("PAUSE: postgres is not running", seconds(5));
    // Until somebody asks for it.
    let output = ctl(&cluster, &["restart", "demo", "pg2", "--force"]);
    assert!(output.contains("Success: restart on member pg2"), "{output}");
    cluster.wait_until_replicated("pg1", "pg2", seconds(20));
    assert_eq!(cluster.member("pg2").status_code("/replica"), 200);
    cluster.wait_for_member_key("pg2", "state", &json!("running"), seconds(5));

    let output = ctl(
        &cluster,
        &["reinit", "demo", "pg2", "--force", "--from-leader", "--wait"],
    );
    assert!(
        output.contains("Success: reinitialize for member pg2"),
        "{output}"
    );
    cluster.member("pg2").wait_until_streaming(seconds(30));
    let before = started(cluster.member("pg1"));
    let output = ctl(&cluster, &["restart", "demo", "pg1", "--force"]);
    assert!(output.contains("Success: restart on member pg1"), "{output}");
    assert_eq!(cluster.wait_for_primary(seconds(5)), "pg1");
    assert_ne!(started(cluster.member("pg1")), before);

    // A switchover has to name its candidate, and nothing is scheduled.
    let pg1 = cluster.member("pg1");
    let open = pg1.ask("POST", "/switchover", Some(&json!({"leader": "pg1"})));
    assert_eq!(open.status, 400, "{}", open.body);
    let later = json!({"leader": "pg1", "candidate": "pg2", "scheduled_at": "2099-01-01T00:00:00Z"});
    let refused = pg1.ask("POST", "/switchover", Some(&later));
    assert_eq!(refused.body, "Can't schedule switchover in the paused state");
    let output = cluster.ctl(&[
        "switchover",
        "demo",
        "--leader",
        "pg1",
        "--candidate",
        "pg2",
        "--scheduled",
        "2099-01-01T00:00",
        "--force",
    ]);
    assert_eq!(output.code, Some(1));
    assert!((output.stdout + &output.stderr).contains("Can't schedule switchover in the paused state"));
    cluster.member("pg2").wait_until_streaming(seconds(10));
    let named = json!({"leader": "pg1", "candidate": "pg2"});
    let done = cluster.member("pg1").ask("POST", "/switchover", Some(&named));
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(cluster.wait_for_other_primary("pg1", seconds(10)), "pg2");
    assert_eq!(cluster.wait_until_healthy(seconds(20)), "pg2");
    cluster.wait_until_replicated("pg2", "pg1", seconds(20));
    assert_eq!(cluster.key("failover").as_deref(), Some("{}"));
    for (path, of_pg1, of_pg2) in [("/primary", 503, 200), ("/replica", 200, 503)] {
        assert_eq!(cluster.member("pg1").status_code(path), of_pg1);
        assert_eq!(cluster.member("pg2").status_code(path), of_pg2);
    }
    pause(&cluster, false);
    assert_eq!(cluster.wait_until_healthy(seconds(10)), "pg2");
}

#[test]
fn a_primary_is_stopped_and_another_promoted_by_hand() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.members[1].start();
    cluster.wait_until_healthy(seconds(30));
    pause(&cluster, true);

    // Nobody promotes anything for a primary that somebody stops.
    cluster.pg_ctl("pg1", &["stop", "-m", "fast"]);
    cluster.member("pg1").wait_for_log(
        "PAUSE: removed leader lock because postgres is not running",
        seconds(5),
    );
    nothing_happens(&cluster);
    assert_eq!(cluster.key("leader"), None);
    assert_eq!(cluster.member("pg1").postmaster(), None);
    assert_eq!(cluster.member("pg2").value("select pg_is_in_recovery()"), "t");

    // Whom somebody promotes takes the key that is free.
    let row = "create table by_hand (id int); insert into by_hand values (1)";
    cluster.pg_ctl("pg2", &["promote"]);
    assert_eq!(cluster.wait_for_primary(seconds(5)), "pg2");
    cluster
        .member("pg2")
        .wait_for_log("PAUSE: acquired session lock as a leader", seconds(5));
    cluster.member("pg2").query(row).unwrap();

    // The other one runs beside it as it is started, without the key, and steps back when the pause ends.
    cluster.pg_ctl("pg1", &["start", "-l", "/dev/null"]);
    cluster
        .member("pg1")
        .wait_for_log("PAUSE: continue to run as primary without lock", seconds(10));
    cluster
        .member("pg1")
        .query("create table nobodys (id int)")
        .unwrap();
    nothing_happens(&cluster);
    assert_eq!(cluster.member("pg1").status_code("/primary"), 503);
    assert_eq!(cluster.key("leader").as_deref(), Some("pg2"));
    cluster.ctl(&["resume", "demo"]);
    assert_eq!(cluster.wait_until_healthy(seconds(30)), "pg2");
    let pg1 = cluster.member("pg1");
    assert_eq!(pg1.value("select id from by_hand"), "1");
    assert_eq!(pg1.value("select to_regclass('nobodys') is null"), "t");
    assert!(pg1.log().contains("running pg_rewind from pg2"));
}

#[test]
fn an_agent_that_stops_leaves_its_server_alone() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.members[1].start();
    cluster.wait_until_healthy(seconds(30));
    pause(&cluster, true);
    let server = cluster.member("pg1").postmaster();
    for signal in [Signal::TERM, Signal::KILL] {
        let before = cluster.member("pg1").log_end();
        let pg1 = cluster.member_mut("pg1");
        pg1.agent().signal(signal);
        pg1.wait_for_exit(seconds(10));
        if signal == Signal::TERM {
            pg1.wait_for_log_after(
                before,
                "Leader key is not deleted and Postgresql is not stopped due paused state",
                seconds(1),
            );
        }
        // The key runs out, and nobody takes it; the guard has nothing to do.
        eventually("the key has run out", seconds(TIMERS.ttl + 5), || {
            holds(cluster.key("leader").is_none(), || "still there".to_owned())
        });
        nothing_happens(&cluster);
        assert_eq!(cluster.key("leader"), None);
        assert_eq!(cluster.member("pg1").postmaster(), server);
        cluster.member("pg1").query("select txid_current()").unwrap();
        cluster.member_mut("pg1").start();
        assert_eq!(cluster.wait_for_primary(seconds(10)), "pg1");
        assert_eq!(cluster.member("pg1").postmaster(), server);
    }
    pause(&cluster, false);
    assert_eq!(cluster.wait_until_healthy(seconds(15)), "pg1");
    assert_eq!(cluster.member("pg1").postmaster(), server);
    assert_eq!(cluster.document("history"), json!([]));
}
