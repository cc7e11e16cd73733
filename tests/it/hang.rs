//! A primary that runs and does not work: with `primary_probe_timeout` another member takes over.

use crate::harness::directory::give_away;
use crate::harness::wait::holds;
use crate::harness::{Cluster, Witnesses, Writer, eventually, newest, oldest, seconds};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Two members, of which commits wait for both.
fn cluster_that_probes(cluster: &mut Cluster) -> String {
    let leader = cluster.bootstrap();
    cluster.patch(&json!({"synchronous_mode": true, "primary_probe_timeout": 3}));
    eventually("the standby is synchronous", seconds(20), || {
        let key = cluster.key("sync").unwrap_or_default();
        holds(key.contains(r#""sync_standby":"pg"#), || key.clone())
    });
    leader
}

#[test]
fn a_postmaster_that_hangs_is_failed_over() {
    let mut cluster = Cluster::new(oldest(), 2);
    let leader = cluster_that_probes(&mut cluster);
    let (writer, witnesses) = (Writer::start(&cluster), Witnesses::start(&cluster));
    writer.wait_for_write("at first", seconds(10));
    let member = cluster.member(&leader);
    let postmaster = member.postmaster().unwrap();

    let begin = Instant::now();
    kill_process(postmaster, Signal::STOP).unwrap();
    let successor = cluster.wait_for_other_primary(&leader, seconds(20));
    writer.wait_for_write("after the failover", seconds(10));
    println!("no writes for {:?}", writer.longest_silence(begin));
    let said = member.log();
    assert!(said.contains("a new connection is not answered"), "{said}");
    assert!(said.contains("demoting self because PostgreSQL gives no sign of life"));

    assert_eq!(cluster.wait_until_healthy(seconds(60)), successor);
    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
}

#[test]
fn a_postmaster_that_hangs_goes_on_leading_where_nobody_wants_it_otherwise() {
    let mut cluster = Cluster::new(newest(), 2);
    let leader = cluster.bootstrap();
    let member = cluster.member(&leader);
    let postmaster = member.postmaster().unwrap();
    kill_process(postmaster, Signal::STOP).unwrap();
    let key = cluster.key("leader");
    let renewals = || member.status().unwrap()["dcs_last_seen"].as_i64().unwrap();
    let begin = renewals();
    let ttl = i64::try_from(cluster.timers.ttl).unwrap();
    eventually("a whole lease is over", seconds(30), || {
        holds(renewals() > begin + ttl, || "not yet".to_owned())
    });
    assert_eq!(cluster.key("leader"), key);
    assert!(!member.log().contains("no sign of life"));
    kill_process(postmaster, Signal::CONT).unwrap();
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
}

#[test]
fn a_disk_that_hangs_is_failed_over() {
    let mut cluster = Cluster::new(newest(), 2);
    let Some(disks) = Disks::mount(&cluster) else {
        println!("not tested: this user may not mount file systems here");
        return;
    };
    let leader = cluster_that_probes(&mut cluster);
    let (writer, witnesses) = (Writer::start(&cluster), Witnesses::start(&cluster));
    writer.wait_for_write("at first", seconds(10));

    let home = cluster.member(&leader).home();
    let begin = Instant::now();
    let frozen = disks.freeze(&home);
    let successor = cluster.wait_for_other_primary(&leader, seconds(30));
    writer.wait_for_write("after the failover", seconds(10));
    println!("no writes for {:?}", writer.longest_silence(begin));
    drop(frozen);
    // The disk hangs for the probe's own write, or for the connection that it has just begun: whichever comes first.
    eventually("the reason is logged", seconds(10), || {
        let said = cluster.member(&leader).log();
        let write = said.contains("a write to ") && said.contains(" does not end");
        holds(write || said.contains("a new connection is not answered"), || {
            said
        })
    });

    assert_eq!(cluster.wait_until_healthy(seconds(60)), successor);
    witnesses.assert_never_two_primaries();
    writer.assert_nothing_lost();
    drop(witnesses);
    drop(writer);
    for member in &mut cluster.members {
        member.kill_all();
    }
}

/// A file system of its own for each member.
struct Disks(Vec<PathBuf>);

impl Disks {
    /// `None` where nobody may mount any.
    fn mount(cluster: &Cluster) -> Option<Self> {
        let mut disks = Self(Vec::new());
        for member in &cluster.members {
            let (home, image) = (member.home(), member.home().with_extension("img"));
            std::fs::create_dir_all(&home).unwrap();
            std::fs::File::create(&image).unwrap().set_len(2 << 30).unwrap();
            let made = done("mkfs.ext4", &["-q".as_ref(), &image]);
            if !made || !done("mount", &["-o".as_ref(), "loop".as_ref(), &image, &home]) {
                return None;
            }
            give_away(&home);
            disks.0.push(home);
        }
        Some(disks)
    }

    /// Nothing is written to it until the answer is dropped: who tries to waits, and cannot even be killed.
    fn freeze(&self, home: &Path) -> FrozenDisk {
        assert!(done("fsfreeze", &["-f".as_ref(), home]));
        FrozenDisk(home.to_owned())
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for home in &self.0 {
            done("umount", &["--lazy".as_ref(), home]);
        }
    }
}

struct FrozenDisk(PathBuf);

impl Drop for FrozenDisk {
    fn drop(&mut self) {
        done("fsfreeze", &["-u".as_ref(), &self.0]);
    }
}

fn done(program: &str, arguments: &[&Path]) -> bool {
    let ended = Command::new(program).args(arguments).output();
    ended.is_ok_and(|ended| ended.status.success())
}
