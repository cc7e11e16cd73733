//! What people put before a cluster goes by the REST API and the keys, and follows a switchover: HAProxy, Prometheus.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::process::{Process, command};
use crate::harness::wait::holds;
use crate::harness::{Cluster, eventually, newest, ports, seconds, sql};
use serde_json::json;

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/haproxy/haproxy.cfg");

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
            let line = match words.as_slice() {
                ["server", name, ..] if name.starts_with("node") => {
                    let number: usize = name.trim_start_matches("node").parse().unwrap();
                    let Some(member) = cluster.members.get(number - 1) else {
                        continue;
                    };
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
