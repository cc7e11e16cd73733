//! An archive that takes its time, and a primary that refuses a standby.

use crate::copies::{lines, script};
use crate::harness::versions::Postgresql;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, eventually, newest, oldest, seconds};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Where the archive of a member counts its calls.
fn calls(member: &Member) -> PathBuf {
    member.home().join("calls")
}

/// Two members with an archive that takes three seconds to say that it has nothing.
fn with_slow_archive(postgresql: Postgresql) -> (Cluster, String, String) {
    let mut cluster = Cluster::new(postgresql, 2);
    for name in ["pg1", "pg2"] {
        let member = cluster.member(name);
        let text = format!("echo \"$1\" >> {}; sleep 3; exit 1", calls(member).display());
        let archive = script(&cluster, member, "slow-archive", &text);
        let setting = format!(
            "  recovery_conf:\n    restore_command: {} %f\n",
            archive.display()
        );
        member.edit_config("  basebackup:\n", &format!("{setting}  basebackup:\n"));
    }
    let leader = cluster.bootstrap();
    let replica = cluster.others(&leader).remove(0);
    (cluster, leader, replica)
}

fn wait_for_setting(member: &Member, name: &str, value: &str, limit: u64) {
    eventually(&format!("{name} is {value:?}"), seconds(limit), || {
        let shown = member.query(&format!("show {name}"))?;
        holds(shown == [[Some(value.to_owned())]], || format!("{shown:?}"))
    });
}

/// While a standby streams its archive is not asked, and a switchover waits for none of its commands.
fn nobody_waits_for_the_archive(cluster: &Cluster, leader: &str, candidate: &str) {
    let member = cluster.member(candidate);
    wait_for_setting(member, "restore_command", "", 20);
    wait_for_setting(member, "wal_retrieve_retry_interval", "100ms", 5);
    // A command that was begun before is waited for.
    let asked = eventually("the archive is asked no more", seconds(20), || {
        let before = lines(&calls(member));
        std::thread::sleep(seconds(4));
        holds(lines(&calls(member)) == before, || "it still is".to_owned())?;
        Ok::<_, String>(before)
    });
    cluster.member(leader).query("select pg_switch_wal()").unwrap();
    cluster.wait_until_replicated(leader, candidate, seconds(10));
    let begin = Instant::now();
    let switchover = json!({ "leader": leader, "candidate": candidate });
    let answer = cluster
        .member(leader)
        .ask("POST", "/switchover", Some(&switchover));
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("the candidate takes writes", seconds(10), || {
        member.query("create temporary table t ()").map(drop)
    });
    println!(
        "switchover to {candidate}: {:.2} s",
        begin.elapsed().as_secs_f64()
    );
    assert_eq!(lines(&calls(member)), asked, "the promotion asked the archive");
    assert_eq!(cluster.wait_until_healthy(seconds(60)), candidate);
    // The former primary had it when it was started.
    assert!(lines(&calls(cluster.member(leader))) > 0);
}

#[test]
fn a_slow_archive_delays_no_switchover_on_the_oldest_postgresql() {
    let (cluster, leader, replica) = with_slow_archive(oldest());
    nobody_waits_for_the_archive(&cluster, &leader, &replica);
    nobody_waits_for_the_archive(&cluster, &replica, &leader);
}

#[test]
fn a_slow_archive_delays_no_switchover_and_a_refused_standby_asks_seldom() {
    let (cluster, former, leader) = with_slow_archive(newest());
    nobody_waits_for_the_archive(&cluster, &former, &leader);
    let (primary, replica) = (cluster.member(&leader), cluster.member(&former));
    wait_for_setting(replica, "restore_command", "", 20);

    let (allowed, refused) = (
        "host replication replicator 127.0.0.1/32 scram-sha-256",
        "host replication replicator 127.0.0.1/32 reject",
    );
    primary.edit_config(allowed, refused);
    assert_eq!(primary.ask("POST", "/reload", None).status, 202);
    eventually("the primary refuses", seconds(10), || {
        primary.query("select pg_terminate_backend(pid) from pg_stat_replication")?;
        holds(primary.log().contains("pg_hba.conf rejects"), || {
            "not yet".to_owned()
        })
    });
    // Not in force while the leader may be about to fail.
    eventually("the archive is asked again", seconds(20), || {
        let shown = replica.query("show restore_command")?.concat();
        holds(
            shown.iter().flatten().any(|text| text.contains("slow-archive")),
            || format!("{shown:?}"),
        )
    });
    wait_for_setting(replica, "wal_retrieve_retry_interval", "5s", 30);
    let row = cluster
        .list()
        .into_iter()
        .find(|row| row["Member"] == former.as_str())
        .unwrap();
    let reason = row["Reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with(&format!("this member does not stream from {leader}")),
        "{row}"
    );
    assert!(
        replica.log().contains("it tries again every 5 s"),
        "{}",
        replica.log()
    );

    primary.edit_config(refused, allowed);
    assert_eq!(primary.ask("POST", "/reload", None).status, 202);
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    wait_for_setting(replica, "restore_command", "", 20);
    wait_for_setting(replica, "wal_retrieve_retry_interval", "100ms", 5);
    let rows = cluster.list();
    assert!(rows.iter().all(|row| row.get("Reason").is_none()), "{rows:?}");
}
