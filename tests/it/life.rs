//! What happens to a cluster of three in its life, in one go: from nothing through crashes, switchovers and restarts.
//! A client writes all the time; witnesses look out for two primaries.

use crate::harness::directory::wait_until_all_ended;
use crate::harness::versions::Postgresql;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, oldest, seconds};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Longer than the lease and the race for it take.
const LEASE_RUNS_OUT: Duration = seconds(30);
/// No lease has to run out: all is done by messages.
const HANDED_OVER: Duration = seconds(5);
/// Below `wal_retrieve_retry_interval`, which no step may wait for; half a second on a machine that is not busy.
const LONGEST_SILENCE: Duration = seconds(4);

#[test]
fn on_the_oldest_postgresql_with_three_members_of_etcd() {
    live(oldest(), 3);
}

#[test]
fn on_the_newest_postgresql() {
    live(newest(), 1);
}

fn live(postgresql: Postgresql, etcd_members: usize) {
    println!("PostgreSQL {}", postgresql.major);
    let mut cluster = Cluster::with(
        postgresql,
        3,
        etcd_members,
        crate::harness::cluster::Timers::SHORT,
    );
    let leader = cluster.bootstrap();
    the_cluster_is_set_up_as_configured(&cluster, &leader);
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    postmaster_is_killed(&cluster, &writer);
    switchover_by_rest(&cluster, &writer);
    switchover_by_ctl(&cluster, &writer);
    if etcd_members > 1 {
        a_member_of_etcd_is_killed(&mut cluster, &writer);
    }
    agent_of_the_primary_is_stopped(&mut cluster, &writer);
    all_of_the_primary_is_killed(&mut cluster, &writer);
    the_primary_dies_with_rows_that_nobody_else_has(&mut cluster, &writer);
    all_members_are_stopped_and_started(&mut cluster, &writer);

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
    history_has_every_promotion(&cluster);
}

fn the_cluster_is_set_up_as_configured(cluster: &Cluster, leader: &str) {
    let rows = cluster.list();
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in &rows {
        let (role, state) = if row["Member"] == leader {
            ("Leader", "running")
        } else {
            ("Replica", "streaming")
        };
        assert_eq!(
            (&row["Role"], &row["State"]),
            (&json!(role), &json!(state)),
            "{row}"
        );
        assert_eq!(
            (&row["Cluster"], &row["TL"]),
            (&json!("demo"), &json!(1)),
            "{row}"
        );
    }
    let primary = cluster.member(leader);
    let identifier = primary.value("select system_identifier from pg_control_system()");
    assert_eq!(cluster.key("initialize"), Some(identifier.clone()));
    assert_eq!(cluster.key("leader").as_deref(), Some(leader));
    assert_eq!(
        primary.status().unwrap()["database_system_identifier"],
        identifier
    );

    let roles = "select string_agg(rolname || ':' || rolsuper || ':' || rolreplication, ' ' order by rolname) \
                 from pg_roles where rolcanlogin";
    assert_eq!(
        primary.value(roles),
        "postgres:true:true replicator:false:true rewind_user:false:false"
    );
    assert_eq!(primary.value("show data_checksums"), "on");
    assert_eq!(primary.value("show max_connections"), "60");
    let slots = "select string_agg(slot_name, ' ' order by slot_name) from pg_replication_slots where active";
    assert_eq!(primary.value(slots), cluster.others(leader).join(" "));
    for member in &cluster.members {
        let file = |name: &str| std::fs::read_to_string(member.data_dir().join(name)).unwrap();
        assert!(file("pg_hba.conf").contains("host replication replicator 127.0.0.1/32 scram-sha-256"));
        assert!(file("postgresql.conf").contains("include 'postgresql.base.conf'"));
        assert!(file("patroni.dynamic.json").contains("\"loop_wait\""));
        let wrong = member.conninfo().replace("zalando super", "wrong");
        let refused = crate::harness::sql::query(&wrong, "select 1").unwrap_err();
        assert!(refused.contains("password authentication failed"), "{refused}");
        let log = member.log();
        for secret in ["zalando super", "rep-pass", "rewind'pass"] {
            assert!(
                !log.contains(secret),
                "{secret:?} stands in the log of {}",
                member.name
            );
        }
    }
}

fn postmaster_is_killed(cluster: &Cluster, writer: &Writer) {
    let begin = Instant::now();
    cluster.primary().unwrap().kill_postmaster();
    writer.wait_for_write("after SIGKILL of the postmaster", seconds(20));
    println!(
        "SIGKILL of the postmaster: no writes for {:?}",
        writer.longest_silence(begin)
    );
    cluster.wait_until_healthy(seconds(30));
    writer.assert_lost_at_most_a_second_before(begin);
}

fn switchover_by_rest(cluster: &Cluster, writer: &Writer) {
    let begin = Instant::now();
    let leader = cluster.primary().unwrap();
    let response = leader.ask("POST", "/switchover", Some(&json!({ "leader": leader.name })));
    let successor = cluster.wait_for_other_primary(&leader.name, HANDED_OVER);
    assert_eq!(
        (response.status, response.body.as_str()),
        (
            200,
            format!("Successfully switched over to \"{successor}\"").as_str()
        )
    );
    handed_over("switchover by REST", cluster, writer, begin);
}

fn switchover_by_ctl(cluster: &Cluster, writer: &Writer) {
    let begin = Instant::now();
    let leader = cluster.primary().unwrap().name.clone();
    let candidate = cluster.others(&leader).pop().unwrap();
    let output = cluster.ctl(&[
        "switchover",
        "demo",
        "--leader",
        &leader,
        "--candidate",
        &candidate,
        "--force",
    ]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    let expected = format!("Successfully switched over to \"{candidate}\"");
    assert!(
        output.stdout.contains(&expected),
        "{}{}",
        output.stdout,
        output.stderr
    );
    assert_eq!(cluster.wait_for_other_primary(&leader, HANDED_OVER), candidate);
    handed_over("switchover by ctl", cluster, writer, begin);
}

/// After a change of the primary without a crash: writes went on soon, nothing is lost, the former primary streams.
fn handed_over(what: &str, cluster: &Cluster, writer: &Writer, begin: Instant) {
    writer.wait_for_write(what, HANDED_OVER);
    let silence = writer.longest_silence(begin);
    println!("{what}: no writes for {silence:?}");
    assert!(
        silence < crate::harness::patience(LONGEST_SILENCE),
        "{what}: no writes for {silence:?}"
    );
    cluster.wait_until_healthy(seconds(30));
    writer.assert_nothing_lost();
}

fn a_member_of_etcd_is_killed(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    let begin = Instant::now();
    cluster.etcd.kill_one();
    // Longer than the lease: whoever cannot reach the other members of etcd has lost it then.
    let lease = seconds(cluster.timers.ttl + cluster.timers.loop_wait);
    while begin.elapsed() < lease {
        writer.wait_for_write("with a member of etcd less", seconds(3));
        assert_eq!(cluster.key("leader").as_deref(), Some(leader.as_str()));
    }
    let silence = writer.longest_silence(begin);
    assert!(
        silence < crate::harness::patience(seconds(1)),
        "no writes for {silence:?} because one member of etcd is down"
    );
    cluster.etcd.start(&cluster.directory);
    cluster.wait_until_healthy(seconds(10));
}

fn agent_of_the_primary_is_stopped(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    let begin = Instant::now();
    cluster.member_mut(&leader).stop();
    println!("the agent of the primary stopped after {:?}", begin.elapsed());
    cluster.wait_for_other_primary(&leader, HANDED_OVER);
    writer.wait_for_write("without the former primary", HANDED_OVER);
    let silence = writer.longest_silence(begin);
    println!("stop of the primary's agent: no writes for {silence:?}");
    assert!(
        silence < crate::harness::patience(LONGEST_SILENCE),
        "stop of the primary's agent: no writes for {silence:?}"
    );
    writer.assert_nothing_lost();
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(seconds(30));
    writer.assert_nothing_lost();
}

fn all_of_the_primary_is_killed(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    let begin = Instant::now();
    cluster.member_mut(&leader).kill_all();
    cluster.wait_for_other_primary(&leader, LEASE_RUNS_OUT);
    writer.wait_for_write("after SIGKILL of all of the primary", HANDED_OVER);
    println!(
        "SIGKILL of all of the primary: no writes for {:?}",
        writer.longest_silence(begin)
    );
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(seconds(60));
    cluster.member(&leader).wait_until_streaming(seconds(1));
    writer.assert_lost_at_most_a_second_before(begin);
}

/// The former primary's WAL has diverged then: it can only come back by pg_rewind.
fn the_primary_dies_with_rows_that_nobody_else_has(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.primary().unwrap().name.clone();
    let primary = cluster.member(&leader);
    primary.value("create table diverged (id int)");
    writer.pause();
    cluster.wait_until_replayed(&leader);
    assert!(primary.signal_backends("walsender", Signal::STOP) >= 2);
    primary.value("insert into diverged values (1)");
    cluster.member_mut(&leader).kill_all();
    let successor = cluster.wait_for_other_primary(&leader, LEASE_RUNS_OUT);
    writer.resume();
    cluster
        .member(&successor)
        .value("insert into diverged values (2)");
    writer.wait_for_write("after the primary died alone", HANDED_OVER);

    let marker = cluster.member(&leader).data_dir().join("marker");
    std::fs::write(&marker, "").unwrap();
    cluster.give_away(&marker);
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(seconds(60));
    let returned = cluster.member(&leader);
    eventually(
        "the former primary has the successor's rows only",
        seconds(5),
        || {
            let rows = returned.query("select id from diverged")?;
            holds(rows == [[Some("2".to_owned())]], || format!("{rows:?}"))
        },
    );
    let log = returned.log();
    assert!(
        log.contains("running pg_rewind from"),
        "{leader} came back without pg_rewind"
    );
    writer.assert_nothing_lost();
}

/// The primary is written to until it stops, when nobody replicates from it any more. It comes back first, yet its
/// server is up no sooner than the others: they know that they lack something, and wait for it.
fn all_members_are_stopped_and_started(cluster: &mut Cluster, writer: &Writer) {
    writer.assert_nothing_lost();
    let leader = cluster.primary().unwrap().name.clone();
    for member in &mut cluster.members {
        member.agent().signal(Signal::TERM);
    }
    for member in &mut cluster.members {
        member.wait_until_stopped();
        wait_until_all_ended(&member.home());
    }
    let begin = Instant::now();
    cluster.member_mut(&leader).start();
    eventually("the former primary starts its server", seconds(10), || {
        let key = cluster.key(&format!("members/{leader}")).unwrap_or_default();
        holds(!key.contains("\"state\":\"stopped\""), || key)
    });
    cluster.start_all();
    cluster.wait_until_healthy(seconds(60));
    println!("all members started: healthy after {:?}", begin.elapsed());
    writer.wait_for_write("after a restart of all members", HANDED_OVER);
    writer.assert_nothing_lost();
}

fn history_has_every_promotion(cluster: &Cluster) {
    let primary = cluster.primary().unwrap();
    let timeline = primary.value("select timeline_id from pg_control_checkpoint()");
    let timeline: usize = timeline.parse().unwrap();
    assert!(timeline > 5, "the primary is on timeline {timeline}");
    eventually("history is complete", seconds(10), || {
        let history = primary.get("/history")?.json();
        let lines = history.as_array().cloned().unwrap_or_default();
        let timelines: Vec<&Value> = lines.iter().map(|line| &line[0]).collect();
        holds(timelines.len() == timeline - 1, || history.to_string())?;
        let written: Option<Value> = cluster
            .key("history")
            .map(|text| serde_json::from_str(&text).unwrap());
        holds(written == Some(history.clone()), || {
            format!("{history} is not {written:?}")
        })
    });
}
