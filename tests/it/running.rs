//! Whether PostgreSQL runs: who cannot look does nothing to it, and a process that only has its pid is not taken for it.

use crate::harness::cluster::{Program, Timers};
use crate::harness::sql::{block_on, connect, rows};
use crate::harness::wait::holds;
use crate::harness::{Cluster, Member, Writer, eventually, newest, oldest, seconds};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use std::fs::{self, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const TIMERS: Timers = Timers {
    ttl: 5,
    loop_wait: 1,
    retry_timeout: 1,
};

/// How long what would be done in error would certainly have been done.
const LEASES: Duration = seconds(3 * TIMERS.ttl);

/// Writes to `member` over one connection, again and again.
fn write_for(member: &Member, time: Duration, during: impl FnOnce() + Send) {
    let conninfo = member.conninfo();
    block_on(async {
        let client = connect(&conninfo).await.unwrap();
        let create = "create table if not exists unreadable (id int)";
        rows(&client, create, seconds(10)).await.unwrap();
        // Whoever writes WAL has opened its file by now: PostgreSQL panics when it cannot be opened.
        let first =
            "set synchronous_commit = off; insert into unreadable values (0); set synchronous_commit = on";
        rows(&client, first, seconds(10)).await.unwrap();
        let is_flushed = "select pg_current_wal_flush_lsn() >= pg_current_wal_insert_lsn()";
        let deadline = Instant::now() + seconds(10);
        while rows(&client, is_flushed, seconds(10)).await.unwrap()[0][0].as_deref() != Some("t") {
            assert!(Instant::now() < deadline, "the WAL writer does not write");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        rows(&client, "insert into unreadable values (0)", seconds(10))
            .await
            .unwrap();
        during();
        let begin = Instant::now();
        while begin.elapsed() < time {
            rows(&client, "insert into unreadable values (1)", seconds(10))
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
}

#[test]
fn a_pid_file_that_cannot_be_read_stops_nothing() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    cluster.members[0].start();
    let leader = cluster.wait_for_primary(seconds(30));
    cluster.members[1].start();
    cluster.wait_until_healthy(seconds(30));
    let (postmaster, data_dir) = (
        cluster.member(&leader).postmaster(),
        cluster.member(&leader).data_dir(),
    );
    let begin = cluster.member(&leader).log_end();
    // PostgreSQL itself ends when it cannot open its WAL: only what the agent reads is out of reach.
    let pid_file = data_dir.join("postmaster.pid");
    let mode = |mode| fs::set_permissions(&pid_file, Permissions::from_mode(mode)).unwrap();

    write_for(cluster.member(&leader), LEASES, || mode(0o000));
    assert_eq!(cluster.key("leader").as_deref(), Some(leader.as_str()));
    // An agent that comes now has never seen the process, and cannot read the file that names it.
    let member = cluster.member_mut(&leader);
    member.agent().signal(rustix::process::Signal::KILL);
    member.wait_for_exit(seconds(5));
    member.start();
    eventually("the next agent leads", seconds(10), || {
        let key = cluster.key("leader");
        holds(key.as_deref() == Some(leader.as_str()), || format!("{key:?}"))
    });
    std::thread::sleep(LEASES);
    assert_eq!(cluster.key("leader").as_deref(), Some(leader.as_str()));

    mode(0o600);
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    assert_eq!(cluster.member(&leader).postmaster(), postmaster);
    let log = cluster.member(&leader).log();
    assert!(!log[begin..].contains("released leader key"), "{log}");
}

#[test]
fn idle_connections_do_not_take_the_primary_away() {
    let mut cluster = Cluster::with(newest(), 2, 1, TIMERS);
    // No more than the usual limit is permitted, so that it cannot be raised.
    let tamada = cluster.tamada_program();
    for member in &mut cluster.members {
        let mut arguments = vec!["--nofile=1024:1024".to_owned(), tamada.path.display().to_string()];
        arguments.extend(tamada.arguments.clone());
        member.program = Program {
            path: "/usr/bin/prlimit".into(),
            arguments,
        };
    }
    let leader = cluster.bootstrap();
    let postmaster = cluster.member(&leader).postmaster();
    let writer = Writer::start(&cluster);
    writer.wait_for_write("at first", seconds(10));
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();

    let begin = Instant::now();
    let port = cluster.member(&leader).rest_port;
    let idle: Vec<TcpStream> = (0..1400)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    std::thread::sleep(LEASES);
    writer.wait_for_write("with idle connections", seconds(10));
    println!("no writes for {:?}", writer.longest_silence(begin));
    cluster.member(&leader).wait_for_log("turned away", seconds(5));
    drop(idle);
    assert_eq!(cluster.wait_until_healthy(seconds(30)), leader);
    assert_eq!(cluster.member(&leader).postmaster(), postmaster);
    writer.assert_nothing_lost();
}

/// A process of another user, where there can be one.
struct Stranger(Child);

impl Stranger {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    /// Puts its pid into the pid file of a server that has died.
    fn takes_the_pid_of(&self, member: &Member) {
        let path = member.data_dir().join("postmaster.pid");
        let text = fs::read_to_string(&path).unwrap();
        let (_, rest) = text.split_once('\n').unwrap();
        let owner = fs::metadata(&path).unwrap();
        fs::write(&path, format!("{}\n{rest}", self.0.id())).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_stale_pid_file_of_a_process_of_another_user_is_in_nobodys_way() {
    let mut cluster = Cluster::with(oldest(), 2, 1, TIMERS);
    cluster.members[0].start();
    cluster.wait_for_primary(seconds(30));
    cluster.members[1].start();
    assert_eq!(cluster.wait_until_healthy(seconds(30)), "pg1");
    let stranger = Stranger::start();

    // In pause nobody starts what has died until it is asked for.
    cluster.patch(&json!({"pause": true}));
    for request in ["restart", "reinit"] {
        cluster.member("pg2").kill_postmaster();
        stranger.takes_the_pid_of(cluster.member("pg2"));
        cluster.wait_for_member_key("pg2", "state", &json!("stopped"), seconds(15));
        let mut arguments = vec![request, "demo", "pg2", "--force"];
        if request == "reinit" {
            arguments.push("--wait");
        }
        let output = cluster.ctl(&arguments);
        assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
        cluster.member("pg2").wait_until_streaming(seconds(30));
    }
    cluster.patch(&json!({"pause": null}));
    cluster.wait_until_healthy(seconds(30));

    // A host that comes back has given the pid to another process.
    cluster.member_mut("pg2").kill_all();
    stranger.takes_the_pid_of(cluster.member("pg2"));
    cluster.member_mut("pg2").start();
    assert_eq!(cluster.wait_until_healthy(seconds(30)), "pg1");
    // And when it ends, nothing is left to be stopped.
    cluster.member_mut("pg2").stop();
}
