//! One server of Consul, with the settings of a package: sessions of 10 s at least.

use super::Store;
use crate::harness::directory::Directory;
use crate::harness::http;
use crate::harness::ports;
use crate::harness::process::{Process, command};
use crate::harness::versions::target;
use crate::harness::wait::{eventually, seconds};
use rustix::process::Signal;
use serde_json::json;
use std::path::PathBuf;

pub struct Consul {
    server: Agent,
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
        Self::with_clients(0)
    }

    pub fn with_clients(count: usize) -> Self {
        let client = |number| Agent::new(&format!("client{number}"));
        Self {
            server: Agent::new("consul"),
            clients: (1..=count).map(client).collect(),
        }
    }

    /// `127.0.0.1:PORT` of the server and of the clients.
    pub fn addresses(&self) -> (String, Vec<String>) {
        let clients = self.clients.iter().map(Agent::address);
        (self.server.address(), clients.collect())
    }

    /// A client that is stopped as by `systemctl`: it leaves its cluster, and with it go the sessions that it has asked for.
    pub fn restart_client(&mut self, number: usize, directory: &Directory) {
        let client = &mut self.clients[number];
        let mut process = client.process.take().unwrap();
        process.signal(Signal::TERM);
        process.wait(seconds(20));
        client.start(directory, Some(self.server.serf));
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

    /// A client has a server to join.
    fn start(&mut self, directory: &Directory, server: Option<u16>) {
        let name = &self.name;
        let mut settings = json!({
            "node_name": name, "disable_update_check": true, "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "data_dir": directory.make(name), "log_level": "warn", "performance": {"raft_multiplier": 1},
            "ports": {"http": self.http, "serf_lan": self.serf, "server": self.rpc, "serf_wan": self.wan, "dns": -1, "grpc": -1},
        });
        if let Some(serf) = server {
            settings["retry_join"] = json!([format!("127.0.0.1:{serf}")]);
            settings["retry_interval"] = json!("200ms");
        } else {
            settings["server"] = json!(true);
            settings["bootstrap_expect"] = json!(1);
        }
        let file = directory.write(&format!("{name}.json"), &settings.to_string());
        let mut consul = command(directory, program());
        consul.args(["agent", "-config-file"]).arg(file);
        self.process = Some(Process::spawn(directory, name, consul));
        eventually(&format!("{name} answers"), seconds(30), || {
            match http::get(self.http, "/v1/kv/nothing?consistent")?.status {
                404 => Ok(()),
                status => Err(format!("status {status}")),
            }
        });
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
        self.server.start(directory, None);
        for client in &mut self.clients {
            client.start(directory, Some(self.server.serf));
        }
    }

    fn stop(&mut self) {
        for agent in self.clients.iter_mut().chain([&mut self.server]) {
            drop(agent.process.take());
        }
    }

    fn freeze(&self) {
        self.server.process.as_ref().unwrap().signal(Signal::STOP);
    }

    fn thaw(&self) {
        self.server.process.as_ref().unwrap().signal(Signal::CONT);
    }

    fn section(&self) -> String {
        format!("consul:\n  host: {}\n", self.server.address())
    }
}
