//! One or three servers of ZooKeeper, with the sessions of its default settings: 4 s at least.

use super::{Ensemble, Store};
use crate::harness::directory::Directory;
use crate::harness::ports;
use crate::harness::process::{Process, command};
use crate::harness::wait::{eventually, holds, seconds};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

const JAR: &str = "/usr/share/java/zookeeper.jar";

pub struct Zookeeper {
    servers: Vec<Server>,
}

struct Server {
    name: String,
    port: u16,
    /// For the others, and for elections.
    peers: [u16; 2],
    process: Option<Process>,
}

impl Zookeeper {
    pub fn new() -> Self {
        Self::of(1)
    }

    /// So many servers.
    pub fn of(count: usize) -> Self {
        let server = |number| Server {
            name: format!("zookeeper{number}"),
            port: ports::free(),
            peers: [ports::free(), ports::free()],
            process: None,
        };
        Self {
            servers: (1..=count).map(server).collect(),
        }
    }

    /// Of the first server.
    pub fn port(&self) -> u16 {
        self.servers[0].port
    }

    fn spawn(&mut self, number: usize, directory: &Directory) {
        assert!(
            Path::new(JAR).exists(),
            "there is no {JAR}: install ZooKeeper with scripts/install-deps.sh, or with apt-get install \
             --no-install-recommends zookeeper"
        );
        let others: String = match self.servers.len() {
            1 => String::new(),
            _ => {
                let line = |(number, server): (usize, &Server)| {
                    let [peer, election] = server.peers;
                    format!("server.{}=127.0.0.1:{peer}:{election}\n", number + 1)
                };
                self.servers.iter().enumerate().map(line).collect()
            }
        };
        let server = &mut self.servers[number];
        let data = directory.make(&server.name);
        directory.write(&format!("{}/myid", server.name), &(number + 1).to_string());
        let settings = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\nclientPortAddress=127.0.0.1\nclientPort={}\ndataDir={}\n\
             admin.enableServer=false\n{others}",
            server.port,
            data.display()
        );
        let file = directory.write(&format!("{}.cfg", server.name), &settings);
        let mut java = command(directory, "java");
        java.args([
            "-Xmx128m",
            "-Xshare:auto",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
        ]);
        java.args([
            "-Dzookeeper.forceSync=no",
            "-Dzookeeper.preAllocSize=1024",
            "-cp",
            JAR,
        ]);
        java.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(file);
        server.process = Some(Process::spawn(directory, &server.name, java));
    }

    /// Without these there is no quorum.
    fn quorum(&self) -> impl Iterator<Item = &Process> {
        let servers = self.servers.iter().take(self.servers.len() / 2 + 1);
        servers.map(|server| server.process.as_ref().unwrap())
    }
}

impl Server {
    /// What the server says of itself.
    fn status(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(seconds(2)))?;
        stream.write_all(b"srvr")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn wait(&self) {
        eventually("ZooKeeper answers", seconds(30), || {
            let status = self.status().map_err(|error| error.to_string())?;
            holds(status.contains("Mode: "), || status)
        });
    }
}

impl Store for Zookeeper {
    fn start(&mut self, directory: &Directory) {
        for number in 0..self.servers.len() {
            self.spawn(number, directory);
        }
        self.servers.iter().for_each(Server::wait);
    }

    fn stop(&mut self) {
        for server in &mut self.servers {
            drop(server.process.take());
        }
    }

    fn freeze(&self) {
        self.quorum().for_each(|process| process.signal(Signal::STOP));
    }

    fn thaw(&self) {
        self.quorum().for_each(|process| process.signal(Signal::CONT));
    }

    /// As Debian's `/etc/patroni/dcs.yml` has it.
    fn section(&self) -> String {
        let hosts: Vec<String> = self
            .servers
            .iter()
            .map(|server| format!("127.0.0.1:{}", server.port))
            .collect();
        format!("zookeeper:\n  hosts: {}\n", hosts.join(","))
    }
}

impl Ensemble for Zookeeper {
    fn leader(&self) -> usize {
        eventually("ZooKeeper has a leader", seconds(30), || {
            let is_leader = |server: &Server| {
                server
                    .status()
                    .is_ok_and(|status| status.contains("Mode: leader"))
            };
            let alive = self.servers.iter();
            let leader = alive
                .enumerate()
                .find(|(_, server)| server.process.is_some() && is_leader(server));
            leader.map(|(number, _)| number).ok_or("no server leads")
        })
    }

    fn kill_one(&mut self, number: usize) {
        drop(self.servers[number].process.take());
    }

    fn start_one(&mut self, number: usize, directory: &Directory) {
        self.spawn(number, directory);
        self.servers[number].wait();
    }
}
