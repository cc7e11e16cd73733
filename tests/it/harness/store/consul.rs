//! One or three servers of Consul, with the settings of a package: sessions of 10 s at least.

use super::{Ensemble, Store};
use crate::harness::directory::Directory;
use crate::harness::http;
use crate::harness::ports;
use crate::harness::process::{Process, command};
use crate::harness::versions::target;
use crate::harness::wait::{eventually, holds, seconds};
use rustix::process::Signal;
use serde_json::json;
use std::path::PathBuf;

pub struct Consul {
    servers: Vec<Agent>,
    /// Client agents, as Consul has one on every host.
    clients: Vec<Agent>,
}

struct Agent {
    name: String,
    http: u16,
    serf: u16,
    rpc: u16,
    wan: u16,
    process: Option<Process>,
}

impl Consul {
    pub fn new() -> Self {
        Self::of(1)
    }

    /// So many servers.
    pub fn of(count: usize) -> Self {
        let server = |number| match number {
            1 => Agent::new("consul"),
            _ => Agent::new(&format!("consul{number}")),
        };
        Self {
            servers: (1..=count).map(server).collect(),
            clients: Vec::new(),
        }
    }

    pub fn with_clients(count: usize) -> Self {
        let client = |number| Agent::new(&format!("client{number}"));
        Self {
            clients: (1..=count).map(client).collect(),
            ..Self::new()
        }
    }

    /// `127.0.0.1:PORT` of the first server and of the clients.
    pub fn addresses(&self) -> (String, Vec<String>) {
        let clients = self.clients.iter().map(Agent::address);
        (self.servers[0].address(), clients.collect())
    }

    fn gossip(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.serf).collect()
    }

    /// A client that is stopped as by `systemctl`: it leaves its cluster, and with it go the sessions that it has asked for.
    pub fn restart_client(&mut self, number: usize, directory: &Directory) {
        let gossip = self.gossip();
        let client = &mut self.clients[number];
        let mut process = client.process.take().unwrap();
        process.signal(Signal::TERM);
        process.wait(seconds(20));
        client.spawn(directory, &gossip, false);
        client.wait();
    }
}

impl Agent {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            http: ports::free(),
            serf: ports::free(),
            rpc: ports::free(),
            wan: ports::free(),
            process: None,
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.http)
    }

    /// `servers`: the ports by which it finds them, itself included if it is one.
    fn spawn(&mut self, directory: &Directory, servers: &[u16], is_server: bool) {
        let name = &self.name;
        let mut settings = json!({
            "node_name": name, "disable_update_check": true, "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "data_dir": directory.make(name), "log_level": "warn", "performance": {"raft_multiplier": 1},
            "ports": {"http": self.http, "serf_lan": self.serf, "server": self.rpc, "serf_wan": self.wan, "dns": -1, "grpc": -1},
        });
        let others = servers.iter().filter(|serf| **serf != self.serf);
        let others: Vec<String> = others.map(|serf| format!("127.0.0.1:{serf}")).collect();
        if !others.is_empty() {
            settings["retry_join"] = json!(others);
            settings["retry_interval"] = json!("200ms");
        }
        if is_server {
            settings["server"] = json!(true);
            settings["bootstrap_expect"] = json!(servers.len());
        }
        let file = directory.write(&format!("{name}.json"), &settings.to_string());
        let mut consul = command(directory, program());
        consul.args(["agent", "-config-file"]).arg(file);
        self.process = Some(Process::spawn(directory, name, consul));
    }

    fn wait(&self) {
        eventually(
            &format!("{} answers", self.name),
            seconds(30),
            || match http::get(self.http, "/v1/kv/nothing?consistent")?.status {
                404 => Ok(()),
                status => Err(format!("status {status}")),
            },
        );
    }
}

/// The program, as `scripts/get-consul.sh` puts it there.
fn program() -> PathBuf {
    let folder =
        std::env::var_os("TAMADA_TEST_CONSUL").map_or_else(|| target().join("consul"), PathBuf::from);
    let program = folder.join("consul");
    assert!(
        program.is_file(),
        "no Consul in {}: run scripts/get-consul.sh target/consul, or set TAMADA_TEST_CONSUL to the folder that has it",
        folder.display()
    );
    program
}

impl Store for Consul {
    fn start(&mut self, directory: &Directory) {
        let gossip = self.gossip();
        for server in &mut self.servers {
            server.spawn(directory, &gossip, true);
        }
        self.servers.iter().for_each(Agent::wait);
        for client in &mut self.clients {
            client.spawn(directory, &gossip, false);
            client.wait();
        }
    }

    fn stop(&mut self) {
        for agent in self.clients.iter_mut().chain(&mut self.servers) {
            drop(agent.process.take());
        }
    }

    fn freeze(&self) {
        self.quorum().for_each(|process| process.signal(Signal::STOP));
    }

    fn thaw(&self) {
        self.quorum().for_each(|process| process.signal(Signal::CONT));
    }

    fn section(&self) -> String {
        match &self.servers[..] {
            [one] => format!("consul:\n  host: {}\n", one.address()),
            several => {
                let hosts: Vec<String> = several.iter().map(Agent::address).collect();
                format!("consul:\n  hosts: {}\n", hosts.join(","))
            }
        }
    }
}

impl Consul {
    /// Without these there is none.
    fn quorum(&self) -> impl Iterator<Item = &Process> {
        let servers = self.servers.iter().take(self.servers.len() / 2 + 1);
        servers.map(|server| server.process.as_ref().unwrap())
    }
}

impl Ensemble for Consul {
    fn leader(&self) -> usize {
        eventually("Consul has a leader", seconds(30), || {
            let alive = self
                .servers
                .iter()
                .find(|server| server.process.is_some())
                .unwrap();
            let answer = http::get(alive.http, "/v1/status/leader")?.body;
            let is_leader = |server: &Agent| {
                answer
                    .trim_matches(['"', '\n'])
                    .ends_with(&format!(":{}", server.rpc))
            };
            self.servers.iter().position(is_leader).ok_or(answer)
        })
    }

    fn kill_one(&mut self, number: usize) {
        drop(self.servers[number].process.take());
    }

    fn start_one(&mut self, number: usize, directory: &Directory) {
        let gossip = self.gossip();
        self.servers[number].spawn(directory, &gossip, true);
        self.servers[number].wait();
        // Consul has removed the lost server, and lets it vote again when it has been healthy for 10 s.
        eventually("all servers vote", seconds(60), || {
            let answer = http::get(self.servers[number].http, "/v1/operator/raft/configuration")?;
            let servers = answer.json()["Servers"].as_array().cloned().unwrap_or_default();
            let voters = servers.iter().filter(|server| server["Voter"] == true).count();
            holds(voters == self.servers.len(), || answer.body.clone())
        });
    }
}
