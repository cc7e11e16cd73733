//! A new copy that takes long: what is told of it, what ends it, and that the data it replaces stays until it runs.

use crate::harness::cluster::Cluster;
use crate::harness::directory::processes_below;
use crate::harness::member::Member;
use crate::harness::wait::holds;
use crate::harness::{eventually, newest, seconds};
use rustix::process::{Pid, Signal};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const FAST: &str = "  - no-sync\n";
/// A copy takes half a minute then: much longer than all that is done meanwhile.
const SLOW: &str = "  - no-sync\n  - max-rate: 2M\n";

/// What lies in the data directory that a copy replaces.
const MARK: &str = "base/of_the_data_before";

/// Much less than a copy takes.
const SOON: Duration = seconds(10);

#[test]
fn a_copy_is_told_begun_anew_and_survived() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let name = cluster.others(&leader).remove(0);
    // A copy has WAL from the begin on, which does not count among the databases.
    let filler = "create table filler as select repeat('x', 1000) as filling from generate_series(1, 50000)";
    cluster.member(&leader).query(filler).unwrap();
    cluster.wait_until_replayed(&leader);
    let replica = cluster.member(&name);
    std::fs::write(replica.data_dir().join(MARK), "").unwrap();
    replica.edit_config(FAST, SLOW);
    assert_eq!(replica.ask("POST", "/reload", None).status, 202);

    assert_eq!(
        reinitialize(replica, false),
        (200, "reinitialize started".to_owned())
    );
    let first = wait_for_copy(replica);
    it_is_told(&cluster, replica);
    let second = force_another(replica, &leader, first);
    stop_and_start(&mut cluster, &name, second);
    die_and_start(&mut cluster, &name);

    stop_and_start_in_pause(&mut cluster, &name);
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    cluster.wait_until_replicated(&leader, &name, seconds(10));
    let replica = cluster.member(&name);
    eventually("what the copy replaced is removed", SOON, || {
        holds(!former(replica).exists(), || "it is still there".to_owned())
    });
    assert!(!replica.data_dir().join(MARK).exists(), "it is a copy");
    let status = replica.status().unwrap();
    assert_eq!(status.get("tamada_clone"), None, "{status}");
    let left = kept_under_other_names(replica);
    assert_eq!(left, Vec::<String>::new(), "nothing else was set aside");
}

fn it_is_told(cluster: &Cluster, replica: &Member) {
    let status = eventually("the status tells how far the copy is", SOON, || {
        let status = replica.status()?;
        let clone = &status["tamada_clone"];
        let is_known = clone["bytes"].as_u64() > Some(1 << 20)
            && clone["total_bytes"].as_u64() > Some(10 << 20)
            && clone["bytes_per_second"].as_u64() > Some(0)
            && clone["seconds_left"].as_u64() > Some(0);
        holds(is_known, || status.to_string())?;
        Ok::<_, String>(status)
    });
    assert_eq!(status["state"], "creating replica", "{status}");
    assert_ne!(replica.status_code("/replica"), 200);
    let rows = cluster.list();
    let row = rows.iter().find(|row| row["Member"] == replica.name.as_str());
    let row = row.unwrap_or_else(|| panic!("{rows:?}"));
    assert_eq!(row["State"], "creating replica", "{row}");
    // For example `4 MB of 22 MB, 1 MB/s, 18 s left`.
    let clone = row["Tags"]["clone"].as_str().unwrap_or_default();
    assert!(clone.contains(" MB of ") && clone.contains(" MB/s, "), "{row}");
}

/// One at a time, unless it is said that the one that runs is to be ended. Returns the process of the new one.
fn force_another(replica: &Member, leader: &str, first: Pid) -> Pid {
    let job = format!("bootstrap from leader '{leader}'");
    assert_eq!(
        reinitialize(replica, false),
        (503, format!("{job} already in progress"))
    );
    let restart = replica.ask("POST", "/restart", None);
    assert_eq!(
        (restart.status, restart.body),
        (503, format!("{job} already in progress"))
    );
    let unsupported = replica.ask("DELETE", "/reinitialize", None);
    assert_eq!(unsupported.status, 501, "{unsupported:?}");
    assert_eq!(copies(replica), [first], "the first copy goes on");

    assert_eq!(
        reinitialize(replica, true),
        (200, "reinitialize started".to_owned())
    );
    let second = eventually("another copy runs, and no other", SOON, || {
        match copies(replica).as_slice() {
            [copy] if *copy != first => Ok(*copy),
            others => Err(format!("{others:?}, {first:?} was the first")),
        }
    });
    is_kept(replica);
    second
}

/// The agent is told to stop, and does not wait for the copy. It makes another one when it is back.
fn stop_and_start(cluster: &mut Cluster, name: &str, copy: Pid) {
    let replica = cluster.member_mut(name);
    replica.agent().signal(Signal::TERM);
    let status = replica.wait_for_exit(SOON);
    assert!(status.success(), "{status}");
    assert_eq!(copies(replica), [], "{copy:?} outlived the agent");
    is_kept(replica);
    replica.start();
    wait_for_copy(replica);
    is_kept(replica);
}

/// The agent is killed in the first moments of a copy, before PostgreSQL's main files are there, and what it has
/// started goes on without it: the next agent ends that.
fn die_and_start(cluster: &mut Cluster, name: &str) {
    let replica = cluster.member_mut(name);
    let copy = wait_for_copy(replica);
    replica.kill_agent();
    assert_eq!(copies(replica), [copy], "it was to be a copy without an agent");
    replica.start();
    eventually("another copy runs, and no other", SOON, || {
        match copies(replica).as_slice() {
            [other] if *other != copy => Ok(()),
            others => Err(format!("{others:?}, {copy:?} was of the killed agent")),
        }
    });
    is_kept(replica);
}

/// In pause the agent leaves PostgreSQL alone when it ends, but no copy behind; and it makes none when it is back.
fn stop_and_start_in_pause(cluster: &mut Cluster, name: &str) {
    wait_for_copy(cluster.member(name));
    assert_eq!(cluster.ctl(&["pause"]).code, Some(0));
    let replica = cluster.member_mut(name);
    replica.wait_for_log("PAUSE: bootstrap from leader", SOON);
    replica.agent().signal(Signal::TERM);
    let status = replica.wait_for_exit(SOON);
    assert!(status.success(), "{status}");
    assert_eq!(copies(replica), [], "it outlived the agent");
    is_kept(replica);
    replica.edit_config(SLOW, FAST);
    replica.start();
    replica.wait_for_log("PAUSE: running with empty data directory", SOON);
    is_kept(replica);
    assert_eq!(cluster.ctl(&["resume"]).code, Some(0));
}

fn reinitialize(replica: &Member, force: bool) -> (u16, String) {
    let answer = replica.ask("POST", "/reinitialize", Some(&json!({ "force": force })));
    (answer.status, answer.body)
}

/// The processes that copy to this member; pg_basebackup itself starts another one, for the WAL.
fn copies(replica: &Member) -> Vec<Pid> {
    let pgdata = format!("--pgdata={}", replica.data_dir().display());
    let mut copies: Vec<Pid> = processes_below(&replica.data_dir())
        .into_iter()
        .filter(|(_, line)| line.contains("pg_basebackup") && line.contains(&pgdata))
        .map(|(pid, _)| pid)
        .collect();
    let parents = copies.clone();
    copies.retain(|copy| parent(*copy).is_none_or(|parent| !parents.contains(&parent)));
    copies
}

fn parent(process: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    Pid::from_raw(parent)
}

/// Waits until a copy is on its way: its directory is marked as soon as anything is in it.
fn wait_for_copy(replica: &Member) -> Pid {
    eventually("a copy has begun", SOON, || {
        let begun = replica.data_dir().join("tamada.unfinished").exists();
        match copies(replica).as_slice() {
            [copy] if begun => Ok(*copy),
            others => Err(format!("{others:?}, marked: {begun}")),
        }
    })
}

fn former(replica: &Member) -> PathBuf {
    replica.home().join("data.former")
}

#[track_caller]
fn is_kept(replica: &Member) {
    assert!(
        former(replica).join(MARK).exists(),
        "the data before the copies was to be kept: {:?}",
        kept_under_other_names(replica)
    );
}

/// What stands beside the data directory and looks like it.
fn kept_under_other_names(replica: &Member) -> Vec<String> {
    std::fs::read_dir(replica.home())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("data."))
        .collect()
}
