//! The contract on Consul, and real Consul servers on free ports for it.

mod agents;
mod secured;
mod trouble;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::{Consistency, ConsulConfig, DcsConfig, HostPort};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tamada_dcs::consul::Consul as Store;
use tamada_dcs::{Dcs, Error, Identity, Layout, Timing};
use tempfile::TempDir;

use crate::contract::{identity, play};
use crate::etcd::free_ports;
use crate::server::{Server, Traits, open};

/// The program, as `scripts/get-consul.sh` puts it there.
fn program() -> PathBuf {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/consul");
    let folder = std::env::var_os("TAMADA_TEST_CONSUL").map_or(default, PathBuf::from);
    let program = folder.join("consul");
    assert!(
        program.is_file(),
        "no Consul in {}: run scripts/get-consul.sh target/consul, or set TAMADA_TEST_CONSUL to the folder that has it",
        folder.display()
    );
    program
}

/// Servers of one Consul cluster, and client agents.
pub(crate) struct Consul {
    pub(crate) nodes: Vec<Node>,
    pub(crate) dir: TempDir,
    /// Settings of all of them.
    settings: Value,
    /// Sent by the foreign hand.
    pub(crate) token: Option<String>,
}

pub(crate) struct Node {
    pub(crate) port: u16,
    serf: u16,
    rpc: u16,
    wan: u16,
    is_server: bool,
    child: Option<Child>,
}

impl Consul {
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, json!({}))
    }

    pub(crate) fn start_with(count: usize, settings: Value) -> Self {
        let mut consul = Self {
            nodes: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
            settings,
            token: None,
        };
        for _ in 0..count {
            consul.add(true);
        }
        for index in 0..count {
            consul.run(index);
        }
        consul.wait();
        consul
    }

    /// Another node, which does not run yet.
    pub(crate) fn add(&mut self, is_server: bool) -> usize {
        let ports = free_ports(4);
        self.nodes.push(Node {
            port: ports[0],
            serf: ports[1],
            rpc: ports[2],
            wan: ports[3],
            is_server,
            child: None,
        });
        self.nodes.len() - 1
    }

    fn settings(&self, index: usize) -> Value {
        let node = &self.nodes[index];
        let peers: Vec<_> = self.nodes.iter().filter(|peer| peer.is_server).collect();
        let join: Vec<_> = peers
            .iter()
            .map(|peer| format!("127.0.0.1:{}", peer.serf))
            .collect();
        let mut settings = json!({
            "node_name": format!("n{index}"), "server": node.is_server, "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "data_dir": self.dir.path().join(format!("n{index}")), "retry_join": join, "retry_interval": "200ms",
            "rejoin_after_leave": true, "disable_update_check": true, "log_level": "warn",
            "performance": {"raft_multiplier": 1},
            "ports": {"http": node.port, "serf_lan": node.serf, "server": node.rpc, "serf_wan": node.wan, "dns": -1, "grpc": -1},
        });
        if node.is_server {
            settings["bootstrap_expect"] = json!(peers.len());
            settings["session_ttl_min"] = json!("1s");
        }
        merge(&mut settings, &self.settings);
        // The foreign hand speaks to a second port without TLS.
        let ports = settings["ports"].as_object_mut().unwrap();
        if let Some(plain) = ports.remove("plain") {
            ports.insert("https".to_owned(), json!(node.port));
            ports.insert("http".to_owned(), plain);
        }
        settings
    }

    pub(crate) fn run(&mut self, index: usize) {
        let path = self.dir.path().join(format!("n{index}.json"));
        std::fs::write(&path, self.settings(index).to_string()).unwrap();
        let log = std::fs::File::create(self.dir.path().join(format!("n{index}.log"))).unwrap();
        let child = Command::new(program())
            .args(["agent", "-config-file"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.nodes[index].child = Some(child);
    }

    /// Waits until each node that runs answers reads that a quorum has confirmed, and has its place in the catalog.
    pub(crate) fn wait(&self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].child.is_some() {
                self.wait_for(index);
            }
        }
    }

    fn wait_for(&self, index: usize) {
        let limit = Instant::now() + Duration::from_secs(40);
        let port = self.nodes[index].settings_port(&self.settings);
        // A node that has registered itself can be removed once more, with its sessions, until the leader knows it by gossip: then
        // it has this check.
        let health = format!("/v1/health/node/n{index}?consistent");
        let has_joined = |body: &str| {
            let checks: Vec<Value> = serde_json::from_str(body).unwrap_or_default();
            checks
                .iter()
                .any(|check| check["CheckID"] == "serfHealth" && check["Status"] == "passing")
        };
        loop {
            let mut answer = self.ask(port, "GET", "/v1/kv/x?consistent", "");
            if matches!(answer, Ok((403, _))) {
                return;
            }
            if matches!(answer, Ok((200 | 404, _))) {
                answer = self.ask(port, "GET", &health, "");
                if matches!(&answer, Ok((200, body)) if has_joined(body)) {
                    return;
                }
            }
            if Instant::now() >= limit {
                let log = self.dir.path().join("n0.log");
                panic!(
                    "Consul does not start: {answer:?}: {}",
                    std::fs::read_to_string(log).unwrap()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A plain request by the foreign hand.
    pub(crate) fn ask(
        &self,
        port: u16,
        method: &str,
        path: &str,
        body: &str,
    ) -> std::io::Result<(u16, String)> {
        let token = self
            .token
            .as_ref()
            .map(|token| format!("X-Consul-Token: {token}\r\n"));
        crate::server::ask(port, method, path, &token.unwrap_or_default(), body)
    }

    /// The same at the first node that runs, with success.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> String {
        let node = self.nodes.iter().find(|node| node.child.is_some()).unwrap();
        let port = node.settings_port(&self.settings);
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            match self.ask(port, method, path, body) {
                Ok((200 | 404, body)) => return body,
                // Without a leader for a moment.
                answer => assert!(Instant::now() < limit, "{method} {path}: {answer:?}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn txn(&self, ops: &Value) {
        self.request("PUT", "/v1/txn", &ops.to_string());
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let body = self.request("GET", &format!("/v1/kv{key}?consistent"), "");
        let value: Value = serde_json::from_str(&body).ok()?;
        let bytes = STANDARD.decode(value[0]["Value"].as_str()?).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }

    pub(crate) fn config(&self) -> ConsulConfig {
        let hosts = self.nodes.iter().filter(|node| node.is_server);
        config_of(hosts.map(|node| node.port).collect())
    }

    pub(crate) fn stop(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As an administrator stops it: a client agent leaves its cluster.
    pub(crate) fn terminate(&mut self, index: usize) {
        if let Some(mut child) = self.nodes[index].child.take() {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn suspend(&self, index: usize, is_suspended: bool) {
        let child = self.nodes[index].child.as_ref().unwrap();
        let signal = if is_suspended { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// All nodes stop, lose what they had, and start again.
    pub(crate) fn wipe_all(&mut self) {
        for index in 0..self.nodes.len() {
            self.stop(index);
            std::fs::remove_dir_all(self.dir.path().join(format!("n{index}"))).unwrap();
        }
        for index in 0..self.nodes.len() {
            self.run(index);
        }
        self.wait();
    }

    /// The server that leads the others.
    pub(crate) fn leader(&self) -> usize {
        let leader = self.request("GET", "/v1/status/leader", "");
        let leads = |node: &Node| leader.contains(&format!(":{}\"", node.rpc));
        self.nodes.iter().position(leads).unwrap()
    }
}

impl Node {
    fn settings_port(&self, settings: &Value) -> u16 {
        let port = settings.pointer("/ports/plain").and_then(Value::as_u64);
        port.map_or(self.port, |port| u16::try_from(port).unwrap())
    }
}

impl Drop for Consul {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            self.stop(index);
        }
    }
}

fn merge(into: &mut Value, more: &Value) {
    for (key, value) in more.as_object().unwrap() {
        match into.get_mut(key) {
            Some(present @ Value::Object(_)) => merge(present, value),
            _ => into[key] = value.clone(),
        }
    }
}

pub(crate) fn config_of(ports: Vec<u16>) -> ConsulConfig {
    let host = |port| HostPort {
        host: "127.0.0.1".to_owned(),
        port,
    };
    ConsulConfig {
        hosts: ports.into_iter().map(host).collect(),
        https: false,
        token: None,
        verify: true,
        cacert: None,
        cert: None,
        key: None,
        datacenter: None,
        consistency: Consistency::Default,
        checks: Vec::new(),
        register_service: false,
        service_tags: Vec::new(),
        service_check_interval: "5s".to_owned(),
        service_check_tls_server_name: None,
    }
}

pub(crate) const SCOPE: &str = "batman";

pub(crate) async fn connect(config: &ConsulConfig, name: &str, timing: Timing) -> Result<Store, Error> {
    let layout = Layout::new("service", SCOPE, None);
    Store::connect(config, layout, Some(identity(name)), timing).await
}

pub(crate) async fn member(consul: &Consul, name: &str, timing: Timing) -> Store {
    connect(&consul.config(), name, timing).await.unwrap()
}

#[async_trait]
impl Server for Consul {
    fn traits(&self) -> Traits {
        Traits {
            has_takeover_lease: false,
            absence_is_the_end: false,
            ..Traits::default()
        }
    }

    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        open(&DcsConfig::Consul(self.config()), layout, identity, timing).await
    }

    fn put(&self, key: &str, value: &str) {
        let key = key.trim_start_matches('/');
        self.txn(&json!([
            {"KV": {"Verb": "delete", "Key": key}},
            {"KV": {"Verb": "set", "Key": key, "Value": STANDARD.encode(value)}},
        ]));
    }

    fn expire(&self, _: &Layout, _: &str, lease: Option<String>) {
        self.request("PUT", &format!("/v1/session/destroy/{}", lease.unwrap()), "");
    }

    fn wipe(&self, prefix: &str) {
        self.request("DELETE", &format!("/v1/kv{prefix}?recurse"), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consul_keeps_the_contract() {
    play(&Consul::start(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_cluster_keeps_the_contract() {
    play(&Consul::start(3)).await;
}
