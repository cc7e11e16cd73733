//! What a user sees of a cluster of three, whatever its DCS is.

use crate::harness::cluster::Timers;
use crate::harness::process::{command, run};
use crate::harness::store::Store;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, patience, seconds};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Beyond the lease: the race for the leader key, the promotion, the client's search for the new primary.
const BEYOND_THE_LEASE: Duration = seconds(4);
/// No lease has to run out: all is done by messages.
const HANDED_OVER: Duration = seconds(5);
const HEALTHY: Duration = seconds(60);

/// Switchovers and members that fail; everything that `tamada ctl` has to do with the DCS.
pub fn members_fail(store: impl Store + 'static) {
    let mut cluster = Cluster::on(store, newest(), 3, Timers::SHORT);
    let leader = cluster.bootstrap();
    commands_show_the_cluster(&cluster, &leader);
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    the_cluster_is_paused_and_resumed(&cluster);
    switchover(&cluster, &writer);
    the_agent_of_the_primary_is_killed(&mut cluster, &writer);
    the_host_of_the_primary_is_lost(&mut cluster, &writer);

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
    drop((writer, witnesses));
    all_are_stopped_and_the_cluster_is_removed(&mut cluster);
}

/// The DCS is stopped, starts again with what it had, and does not answer.
pub fn the_store_fails(store: impl Store + 'static, kind: &str) {
    the_store_fails_within(store, kind, Timers::SHORT);
}

/// The same, with a lease that outlives a restart of this DCS.
pub fn the_store_fails_within(store: impl Store + 'static, kind: &str, timers: Timers) {
    let mut cluster = Cluster::on(store, newest(), 3, timers);
    the_configuration_is_checked(&mut cluster, kind);
    cluster.bootstrap();
    let writer = Writer::start(&cluster);
    let witnesses = Witnesses::start(&cluster);

    it_restarts(&mut cluster, &writer);
    nobody_reaches_it(&mut cluster, &writer);
    nobody_reaches_it_in_failsafe_mode(&mut cluster, &writer);

    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

/// `--validate-config` accepts the section, and names a server that does not answer.
fn the_configuration_is_checked(cluster: &mut Cluster, kind: &str) {
    let validate = |cluster: &Cluster| {
        let mut tamada = command(&cluster.directory, &cluster.tamada);
        tamada
            .arg("run")
            .arg("--validate-config")
            .arg(&cluster.members[0].config_file);
        run(tamada)
    };
    let member = &cluster.members[0];
    let used = member.config();
    member.write_config(&used.replace("connect_address: 127.0.0.1", "connect_address: 192.0.2.1"));
    let accepted = validate(cluster);
    assert_eq!((accepted.code, accepted.stderr.as_str()), (Some(0), ""));

    cluster.store().stop();
    let refused = validate(cluster);
    let line = refused.stderr.as_str();
    let is_named = line.contains(&format!("{kind}.host")) || line.contains(&format!("{kind}: "));
    assert!(is_named && line.contains("127.0.0.1:"), "{line}");
    let is_explained =
        line.contains("is not reachable: ") || line.contains(" answers, but cannot be used as ");
    assert!(is_explained && refused.code == Some(1), "{line}");
    println!("{line}");
    cluster.members[0].write_config(&used);
    let directory = cluster.directory.clone();
    cluster.store().start(&directory);
}

fn commands_show_the_cluster(cluster: &Cluster, leader: &str) {
    let rows = cluster.list();
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in &rows {
        let expected = match row["Member"] == leader {
            true => ["Leader", "running"],
            false => ["Replica", "streaming"],
        };
        assert_eq!([&row["Role"], &row["State"]], expected, "{row}");
    }
    let shown = |arguments: &[&str]| {
        let output = cluster.ctl(arguments);
        assert_eq!(
            (output.code, output.stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
        output.stdout
    };
    let topology = shown(&["topology", "demo"]);
    for replica in cluster.others(leader) {
        assert!(topology.contains(&format!("| + {replica} ")), "{topology}");
    }
    let settings = shown(&["show-config"]);
    assert!(
        settings.contains(&format!("ttl: {}\n", cluster.timers.ttl)),
        "{settings}"
    );
    shown(&["edit-config", "--force", "--quiet", "--pg", "work_mem=5MB"]);
    for member in &cluster.members {
        eventually(
            &format!("work_mem changes on {}", member.name),
            seconds(15),
            || {
                let rows = member.query("show work_mem")?;
                holds(rows == [[Some("5MB".to_owned())]], || format!("{rows:?}"))
            },
        );
    }
}

fn the_cluster_is_paused_and_resumed(cluster: &Cluster) {
    for (verb, done) in [("pause", "paused"), ("resume", "resumed")] {
        let output = cluster.ctl(&[verb, "--wait"]);
        let success = format!("Success: cluster management is {done}");
        assert!(
            output.stdout.contains(&success),
            "{}{}",
            output.stdout,
            output.stderr
        );
    }
}

fn switchover(cluster: &Cluster, writer: &Writer) {
    let begin = Instant::now();
    let leader = cluster.wait_until_healthy(HEALTHY);
    let candidate = cluster.others(&leader).pop().unwrap();
    let arguments = [
        "switchover",
        "demo",
        "--leader",
        &leader,
        "--candidate",
        &candidate,
        "--force",
    ];
    let output = cluster.ctl(&arguments);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(cluster.wait_for_other_primary(&leader, HANDED_OVER), candidate);
    writer.wait_for_write("after a switchover", HANDED_OVER);
    told("switchover", writer, begin, HANDED_OVER);
    cluster.wait_until_healthy(HEALTHY);
    writer.assert_nothing_lost();
}

fn the_agent_of_the_primary_is_killed(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(HEALTHY);
    let begin = Instant::now();
    cluster.member_mut(&leader).kill_agent();
    taken_over("agent killed", cluster, writer, &leader, begin);
    assert_eq!(
        cluster.member(&leader).postmaster(),
        None,
        "the guard has stopped it"
    );
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(HEALTHY);
    writer.assert_nothing_lost();
}

fn the_host_of_the_primary_is_lost(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(HEALTHY);
    let begin = Instant::now();
    cluster.member_mut(&leader).kill_all();
    taken_over("host lost", cluster, writer, &leader, begin);
    cluster.member_mut(&leader).start();
    cluster.wait_until_healthy(HEALTHY);
    writer.assert_lost_at_most_a_second_before(begin);
}

fn taken_over(what: &str, cluster: &Cluster, writer: &Writer, leader: &str, begin: Instant) {
    let limit = seconds(cluster.timers.ttl) + BEYOND_THE_LEASE;
    cluster.wait_for_other_primary(leader, limit);
    writer.wait_for_write(what, HANDED_OVER);
    told(what, writer, begin, limit);
}

pub fn told(what: &str, writer: &Writer, begin: Instant, limit: Duration) {
    let silence = writer.longest_silence(begin);
    println!("{what}: no writes for {silence:?}");
    assert!(silence < patience(limit), "{what}: no writes for {silence:?}");
}

/// Within the lease: nobody notices.
fn it_restarts(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(HEALTHY);
    let log = cluster.member(&leader).log_end();
    let directory = cluster.directory.clone();
    let begin = Instant::now();
    cluster.store().stop();
    cluster.store().start(&directory);
    println!("the store was down for {:?}", begin.elapsed());
    let cycles = seconds(cluster.timers.ttl + cluster.timers.loop_wait);
    while begin.elapsed() < cycles {
        writer.wait_for_write("after a restart of the store", seconds(2));
    }
    told("store restarted", writer, begin, seconds(1));
    assert_eq!(cluster.wait_until_healthy(HEALTHY), leader);
    let log = cluster.member(&leader).log().split_off(log);
    assert!(!log.contains("demoted self"), "{log}");
}

/// The primary takes no writes when its lease is over, and all may still be read from.
pub fn nobody_reaches_it(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(HEALTHY);
    cluster.store().freeze();
    let former = cluster.member(&leader);
    let lease = seconds(cluster.timers.ttl + 1);
    eventually("the primary takes no writes", lease, || {
        let refused = former.query("create temporary table written ()").is_err();
        holds(refused, || "it still does".to_owned())
    });
    eventually("all are read from", seconds(10), || {
        for member in &cluster.members {
            let rows = member.query("select pg_is_in_recovery()")?;
            holds(rows == [[Some("t".to_owned())]], || format!("{rows:?}"))?;
        }
        Ok::<_, String>(())
    });
    for member in &cluster.members {
        assert_eq!(member.status_code("/primary"), 503, "{}", member.name);
        assert_eq!(member.status_code("/liveness"), 200, "{}", member.name);
    }
    let begin = Instant::now();
    cluster.store().thaw();
    cluster.wait_until_healthy(HEALTHY);
    println!("healthy {:?} after the store was back", begin.elapsed());
    writer.wait_for_write("the store is back", HANDED_OVER);
    writer.assert_nothing_lost();
}

/// All members answer each other, and the primary goes on.
pub fn nobody_reaches_it_in_failsafe_mode(cluster: &mut Cluster, writer: &Writer) {
    let leader = cluster.wait_until_healthy(HEALTHY);
    cluster.patch(&json!({"failsafe_mode": true}));
    eventually("the members for failsafe are known", seconds(15), || {
        let answer = cluster.member(&leader).get("/failsafe")?;
        let members = serde_json::from_str::<Value>(&answer.body).unwrap_or_default();
        let is_complete = members
            .as_object()
            .is_some_and(|members| members.len() == cluster.members.len());
        holds(is_complete, || answer.body.clone())
    });
    let begin = Instant::now();
    cluster.store().freeze();
    while begin.elapsed() < seconds(cluster.timers.ttl + 2) {
        writer.wait_for_write("in failsafe mode", seconds(3));
    }
    cluster.store().thaw();
    told("failsafe mode", writer, begin, seconds(2));
    assert_eq!(cluster.wait_until_healthy(HEALTHY), leader);
    writer.assert_nothing_lost();
}

fn all_are_stopped_and_the_cluster_is_removed(cluster: &mut Cluster) {
    let leader = cluster.primary().unwrap().name.clone();
    for replica in cluster.others(&leader) {
        cluster.member_mut(&replica).stop();
    }
    cluster.member_mut(&leader).stop();
    let typed = format!("demo\nYes I am aware\n{leader}\n");
    let output = cluster.ctl_with(&typed, &["remove", "demo"]);
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    assert_eq!(cluster.ctl(&["show-config"]).stdout.trim(), "");
    // Kubernetes: the pods stay.
    let left = cluster.list();
    assert!(
        left.iter()
            .all(|row| row["Role"] == "Replica" && row["State"] == "stopped"),
        "{left:?}"
    );
}
