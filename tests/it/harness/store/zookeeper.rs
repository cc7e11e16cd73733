//! One server of ZooKeeper, with the sessions of its default settings: 4 s at least.

use super::Store;
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
    pub port: u16,
    process: Option<Process>,
}

impl Zookeeper {
    pub fn new() -> Self {
        Self {
            port: ports::free(),
            process: None,
        }
    }

    /// What the server says of itself.
    fn status(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(seconds(2)))?;
        stream.write_all(b"srvr")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Store for Zookeeper {
    fn start(&mut self, directory: &Directory) {
        assert!(
            Path::new(JAR).exists(),
            "there is no {JAR}: install ZooKeeper with scripts/install-deps.sh, or with apt-get install \
             --no-install-recommends zookeeper"
        );
        let data = directory.make("zookeeper");
        let settings = format!(
            "tickTime=2000\nclientPortAddress=127.0.0.1\nclientPort={}\ndataDir={}\nadmin.enableServer=false\n",
            self.port,
            data.display()
        );
        let file = directory.write("zoo.cfg", &settings);
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
        self.process = Some(Process::spawn(directory, "zookeeper", java));
        eventually("ZooKeeper answers", seconds(30), || {
            let status = self.status().map_err(|error| error.to_string())?;
            holds(status.contains("Mode: "), || status)
        });
    }

    fn stop(&mut self) {
        drop(self.process.take());
    }

    fn freeze(&self) {
        self.process.as_ref().unwrap().signal(Signal::STOP);
    }

    fn thaw(&self) {
        self.process.as_ref().unwrap().signal(Signal::CONT);
    }

    /// As Debian's `/etc/patroni/dcs.yml` has it.
    fn section(&self) -> String {
        format!("zookeeper:\n  hosts: 127.0.0.1:{}\n", self.port)
    }
}
