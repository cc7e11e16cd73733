//! The lease stands on its own feet: whatever else the leader's agent has to wait for, it is prolonged in time.

use crate::harness::cluster::Timers;
use crate::harness::member::descendants;
use crate::harness::process::command;
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, seconds};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A cycle may wait for the server for longer than it is until the next renewal.
const TIMERS: Timers = Timers {
    ttl: 12,
    loop_wait: 1,
    retry_timeout: 4,
};

/// `loop_wait`, and a little: the rest is for a busy machine. The first of the waits for a hung server alone is longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(1900);

/// Several cycles, and several times what one of them waits for.
const HANGS: Duration = seconds(8);

#[test]
fn it_is_prolonged_in_time_whatever_hangs() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    let script = cluster.directory.path().join("hangs.sh");
    std::fs::write(&script, "exec sleep 600\n").unwrap();
    cluster.give_away(&script);
    for member in &cluster.members {
        let callbacks = format!(
            "  callbacks:\n    on_start: sh {script}\n    on_role_change: sh {script}\n  parameters:\n",
            script = script.display()
        );
        member.edit_config("  parameters:\n    unix", &format!("{callbacks}    unix"));
    }
    let leader = cluster.bootstrap();
    let renewals = Renewals::watch(&cluster);
    eventually("renewals are seen", seconds(10), || {
        holds(renewals.count() >= 2, || "none yet".to_owned())
    });

    backends_hang(&cluster, &leader, &renewals);
    the_whole_server_hangs(&cluster, &leader, &renewals);
    a_catalog_is_locked(&cluster, &leader, &renewals);
    a_member_never_answers(&mut cluster, &leader, &renewals);

    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    let log = cluster.member(&leader).log();
    assert!(!log.contains("Demoting self"), "nobody was demoted");
}

/// Each query of the agent's is stopped half way, as by a disk that hangs.
fn backends_hang(cluster: &Cluster, leader: &str, renewals: &Renewals) {
    let begin = Instant::now();
    let member = cluster.member(leader);
    while begin.elapsed() < HANGS {
        member.signal_backends("postgres postgres", Signal::STOP);
        std::thread::sleep(Duration::from_millis(20));
    }
    renewals.assert_in_time("backends hang", begin);
    let postmaster = member.postmaster().unwrap();
    for pid in descendants(postmaster) {
        let _ = kill_process(pid, Signal::CONT);
    }
    settle(cluster, leader);
}

fn the_whole_server_hangs(cluster: &Cluster, leader: &str, renewals: &Renewals) {
    let member = cluster.member(leader);
    let processes = descendants(member.postmaster().unwrap());
    let signal_all = |signal| {
        for pid in &processes {
            let _ = kill_process(*pid, signal);
        }
    };
    let begin = Instant::now();
    signal_all(Signal::STOP);
    while begin.elapsed() < HANGS {
        std::thread::sleep(seconds(1));
        assert_eq!(member.status_code("/primary"), 200, "it still leads");
    }
    renewals.assert_in_time("the server hangs", begin);
    signal_all(Signal::CONT);
    settle(cluster, leader);
}

/// New connections and the view of WAL senders wait for this lock.
fn a_catalog_is_locked(cluster: &Cluster, leader: &str, renewals: &Renewals) {
    let begin = Instant::now();
    let statements = format!(
        "begin; lock table pg_authid in access exclusive mode; select pg_sleep({}); commit",
        HANGS.as_secs()
    );
    cluster.member(leader).query(&statements).unwrap();
    assert!(begin.elapsed() >= HANGS, "the lock was held all the time");
    renewals.assert_in_time("a catalog is locked", begin);
    settle(cluster, leader);
}

/// Its kernel takes connections, and nobody reads from them. The leader asks it whether it may take over.
fn a_member_never_answers(cluster: &mut Cluster, leader: &str, renewals: &Renewals) {
    let silent = cluster.others(leader).remove(0);
    let request = format!(r#"{{"leader":"{leader}","member":"{silent}"}}"#);
    cluster.member_mut(&silent).agent().signal(Signal::STOP);
    let begin = Instant::now();
    for _ in 0..2 {
        let put = cluster
            .etcd
            .etcdctl(&cluster.directory, &["put", "/service/demo/failover", &request]);
        assert_eq!(put.code, Some(0), "{}", put.stderr);
        eventually("the request is turned down", seconds(10), || {
            let key = cluster.key("failover").unwrap_or_default();
            holds(!key.contains(&silent), || key)
        });
    }
    renewals.assert_in_time("a member never answers", begin);
    cluster.member_mut(&silent).agent().signal(Signal::CONT);
}

/// What was held up has been done, so that it is not counted again.
fn settle(cluster: &Cluster, leader: &str) {
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
}

/// The moments of the leader's renewals, as etcd tells them.
struct Renewals {
    watch: Child,
    seen: Arc<Mutex<Vec<Instant>>>,
}

impl Renewals {
    fn watch(cluster: &Cluster) -> Self {
        let mut watch = command(&cluster.directory, "etcdctl");
        watch.env("ETCDCTL_API", "3");
        watch.arg(format!("--endpoints={}", cluster.etcd.endpoints().join(",")));
        watch.args(["watch", "/service/demo/heartbeat"]);
        let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.starts_with('{') {
                    sink.lock().unwrap().push(Instant::now());
                }
            }
        });
        Self { watch, seen }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// From the last renewal before `begin` until now.
    #[track_caller]
    fn assert_in_time(&self, what: &str, begin: Instant) {
        let now = Instant::now();
        let seen = self.seen.lock().unwrap();
        let first = seen.iter().rposition(|at| *at <= begin).unwrap_or_default();
        let mut moments: Vec<Instant> = seen.iter().skip(first).copied().collect();
        moments.push(now);
        let pauses = moments.windows(2).map(|pair| pair[1] - pair[0]);
        let longest = pauses.max().unwrap();
        println!(
            "{what}: {} renewals, at most {longest:?} apart",
            moments.len() - 1
        );
        assert!(longest < LONGEST_PAUSE, "{what}: no renewal for {longest:?}");
    }
}

impl Drop for Renewals {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.watch), Signal::KILL);
        let _ = self.watch.wait();
    }
}
