//! What people put before a cluster goes by the REST API and the keys, and follows a switchover: HAProxy, Prometheus.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::harness::cluster::Timers;
use crate::harness::process::{Process, command};
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, ports, seconds, sql};
use serde_json::json;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/haproxy/haproxy.cfg");

/// A busy machine is no reason to fail over here.
const PATIENT: Timers = Timers {
    ttl: 60,
    loop_wait: 2,
    retry_timeout: 20,
};

/// HAProxy with the packaged configuration for these members.
struct Balancer {
    writes: u16,
    reads: u16,
    _process: Process,
}

impl Balancer {
    fn start(cluster: &Cluster) -> Self {
        let (writes, reads, stats) = (ports::free(), ports::free(), ports::free());
        let text = std::fs::read_to_string(CONFIGURATION).unwrap();
        let mut lines = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_of = |number: usize| line.contains(&format!("node{number}"));
            if (cluster.members.len() + 1..=3).any(is_of) {
                continue;
            }
            let line = match words.as_slice() {
                ["server", name, ..] if name.starts_with("node") => {
                    let number: usize = name.trim_start_matches("node").parse().unwrap();
                    let member = &cluster.members[number - 1];
                    let (postgresql, rest) = (member.postgresql_port, member.rest_port);
                    format!("    server {name} 127.0.0.1:{postgresql} check port {rest}")
                }
                _ => line
                    .replace("*:5000", &format!("127.0.0.1:{writes}"))
                    .replace("*:5001", &format!("127.0.0.1:{reads}"))
                    .replace("127.0.0.1:5000", &format!("127.0.0.1:{writes}"))
                    .replace("127.0.0.1:7000", &format!("127.0.0.1:{stats}")),
            };
            lines.push(line);
        }
        let file = cluster.directory.write("haproxy.cfg", &(lines.join("\n") + "\n"));
        let mut haproxy = command(&cluster.directory, "haproxy");
        haproxy.args(["-db", "-f"]).arg(file);
        Self {
            writes,
            reads,
            _process: Process::spawn(&cluster.directory, "haproxy", haproxy),
        }
    }
}

/// The port of the server behind a port of the balancer, and whether it is a replica.
fn behind(port: u16) -> Result<(u16, bool), String> {
    let rows = sql::query(&conninfo(port), "select inet_server_port(), pg_is_in_recovery()")?;
    let row: Vec<String> = rows.concat().into_iter().flatten().collect();
    let [server, is_replica] = row.as_slice() else {
        return Err(format!("{row:?}"));
    };
    Ok((server.parse().unwrap(), is_replica == "t"))
}

fn conninfo(port: u16) -> String {
    let password = sql::SUPERUSER_PASSWORD;
    format!(
        "host=127.0.0.1 port={port} user=postgres password='{password}' dbname=postgres connect_timeout=2"
    )
}

#[track_caller]
fn wait_until_behind(what: &str, port: u16, member: u16, is_replica: bool) {
    eventually(what, seconds(15), || {
        let found = behind(port)?;
        holds(found == (member, is_replica), || format!("{found:?}"))
    });
}

#[test]
fn haproxy_and_prometheus_follow_a_switchover() {
    let mut cluster = Cluster::new(newest(), 2);
    let first = cluster.bootstrap();
    let second = cluster.others(&first).remove(0);
    let port = |cluster: &Cluster, name: &str| cluster.member(name).postgresql_port;
    let (old, new) = (port(&cluster, &first), port(&cluster, &second));
    let balancer = Balancer::start(&cluster);
    wait_until_behind("writes go to the primary", balancer.writes, old, false);
    wait_until_behind("reads go to the replica", balancer.reads, new, true);

    let body = json!({"leader": first, "candidate": second});
    assert_eq!(
        cluster
            .member(&first)
            .ask("POST", "/switchover", Some(&body))
            .status,
        200
    );
    wait_until_behind("writes go to the new primary", balancer.writes, new, false);
    wait_until_behind("reads go to the new replica", balancer.reads, old, true);
    sql::query(&conninfo(balancer.writes), "create table written ()").unwrap();
    for member in &cluster.members {
        prometheus_understands(&member.get("/metrics").unwrap().body);
    }

    // The last one is asked for everything.
    cluster.member_mut(&first).stop();
    wait_until_behind("reads go to the primary", balancer.reads, new, false);
    prometheus_understands(&cluster.member(&second).get("/metrics").unwrap().body);
}

/// What a client meets that does nothing but connect for writes.
struct Connector {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Met>,
}

#[derive(Debug, Default)]
struct Met {
    primaries: usize,
    replicas: Vec<String>,
    refusals: usize,
}

impl Connector {
    fn start(port: u16) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = std::thread::spawn(move || {
            let mut met = Met::default();
            let mut last = String::new();
            while !stop.load(Ordering::Relaxed) {
                match behind(port) {
                    Ok((server, true)) => met.replicas.push(format!("{server}, before that {last}")),
                    Ok((server, false)) => {
                        met.primaries += 1;
                        last = server.to_string();
                    }
                    Err(_) => met.refusals += 1,
                }
            }
            met
        });
        Self { is_over, thread }
    }

    fn end(self) -> Met {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn no_write_meets_a_replica(switchovers: usize) {
    let mut cluster = Cluster::with(newest(), 2, 1, PATIENT);
    let first = cluster.bootstrap();
    let second = cluster.others(&first).remove(0);
    let balancer = Balancer::start(&cluster);
    let port = |name: &str| cluster.member(name).postgresql_port;
    wait_until_behind("writes go to the primary", balancer.writes, port(&first), false);
    let connector = Connector::start(balancer.writes);
    let mut names = [first, second];
    for _ in 0..switchovers {
        cluster.wait_until_healthy(seconds(60));
        let [old, new] = &names;
        let body = json!({"leader": old, "candidate": new});
        let answer = cluster.member(old).ask("POST", "/switchover", Some(&body));
        assert_eq!(answer.status, 200, "{}", answer.body);
        wait_until_behind("writes go to the new primary", balancer.writes, port(new), false);
        names.reverse();
    }
    let met = connector.end();
    println!("{switchovers} switchovers: {met:?}");
    assert!(met.primaries > switchovers, "{met:?}");
    assert!(met.replicas.is_empty(), "{met:?}");
}

#[test]
fn no_write_meets_a_replica_during_switchovers() {
    no_write_meets_a_replica(6);
}

#[test]
#[ignore = "long: make test-all"]
fn no_write_meets_a_replica_during_fifty_switchovers() {
    no_write_meets_a_replica(50);
}

#[test]
fn sessions_live_on_while_an_agent_is_replaced() {
    let mut cluster = Cluster::with(newest(), 2, 1, PATIENT);
    let leader = cluster.bootstrap();
    let balancer = Balancer::start(&cluster);
    let port = cluster.member(&leader).postgresql_port;
    wait_until_behind("writes go to the primary", balancer.writes, port, false);
    sql::block_on(async {
        let session = sql::connect(&conninfo(balancer.writes)).await.unwrap();
        cluster.member_mut(&leader).kill_agent();
        cluster.member_mut(&leader).start();
        eventually("the agent is back", seconds(15), || {
            let code = cluster.member(&leader).get("/primary")?.status;
            holds(code == 200, || code.to_string())
        });
        let rows = sql::rows(&session, "select pg_is_in_recovery()", seconds(5)).await;
        assert_eq!(rows.unwrap().concat(), [Some("f".to_owned())]);
    });
}

/// promtool reads the metrics, and complains of nothing but the names of Patroni's counters.
#[track_caller]
fn prometheus_understands(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus: scripts/install-deps.sh installs it");
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = text
        .lines()
        .filter(|line| {
            !(line.starts_with("patroni_xlog_")
                && line.ends_with(r#"counter metrics should have "_total" suffix"#))
        })
        .collect();
    assert!(complaints.is_empty(), "{text}");
    // 3: it has read everything and complains of names alone.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}");
}
