//! etcd of one or three members.

use super::directory::Directory;
use super::ports;
use super::process::{Process, command, run};
use super::wait::{eventually, seconds};
use rustix::process::Signal;
use std::path::Path;

pub struct Etcd {
    members: Vec<EtcdMember>,
    /// More options for etcd.
    pub options: Vec<String>,
}

struct EtcdMember {
    name: String,
    client_port: u16,
    peer_port: u16,
    process: Option<Process>,
}

impl Etcd {
    /// Nothing runs yet.
    pub fn new(size: usize) -> Self {
        Self::named("etcd", size)
    }

    /// The same, where there is another one in the same directory.
    pub fn named(name: &str, size: usize) -> Self {
        let member = |i| EtcdMember {
            name: format!("{name}{i}"),
            client_port: ports::free(),
            peer_port: ports::free(),
            process: None,
        };
        Self {
            members: (1..=size).map(member).collect(),
            options: Vec::new(),
        }
    }

    /// `127.0.0.1:PORT` of each.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.client_port))
            .collect()
    }

    /// The section of a member's configuration.
    pub fn section_named(&self, name: &str) -> String {
        let endpoints = self.endpoints();
        let endpoints: String = endpoints
            .iter()
            .map(|endpoint| format!("  - {endpoint}\n"))
            .collect();
        format!("{name}:\n  hosts:\n{endpoints}")
    }

    /// Starts all that are down, and waits until they answer.
    #[track_caller]
    pub fn start(&mut self, directory: &Directory) {
        let cluster = self.initial_cluster();
        for member in self.members.iter_mut().filter(|member| member.process.is_none()) {
            let peer = format!("http://127.0.0.1:{}", member.peer_port);
            let client = format!("http://127.0.0.1:{}", member.client_port);
            let mut etcd = command(directory, "etcd");
            etcd.args([
                "--name",
                &member.name,
                "--initial-cluster-state",
                "new",
                "--logger",
                "zap",
                "--log-level",
                "warn",
            ]);
            etcd.args(["--initial-cluster-token", "test", "--initial-cluster", &cluster]);
            etcd.args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ]);
            etcd.args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ]);
            etcd.arg("--data-dir").arg(directory.path().join(&member.name));
            etcd.args(&self.options);
            member.process = Some(Process::spawn(directory, &member.name, etcd));
        }
        eventually("etcd answers", seconds(20), || {
            let output = self.etcdctl(directory, &["endpoint", "health"]);
            if output.code == Some(0) {
                Ok(())
            } else {
                Err(output.stderr)
            }
        });
    }

    /// Kills all.
    pub fn kill(&mut self) {
        self.members
            .iter_mut()
            .for_each(|member| drop(member.process.take()));
    }

    fn initial_cluster(&self) -> String {
        let peer = |member: &EtcdMember| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port);
        self.members.iter().map(peer).collect::<Vec<_>>().join(",")
    }

    /// All stop, lose what they had, and start again at their addresses: empty, or with what a snapshot holds.
    #[track_caller]
    pub fn replace(&mut self, directory: &Directory, snapshot: Option<&Path>) {
        self.kill();
        for member in &self.members {
            let data = directory.path().join(&member.name);
            std::fs::remove_dir_all(&data).unwrap();
            let Some(snapshot) = snapshot else { continue };
            let mut etcdctl = command(directory, "etcdctl");
            etcdctl
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore"])
                .arg(snapshot);
            etcdctl.args(["--name", &member.name, "--initial-cluster-token", "test"]);
            etcdctl.args(["--initial-cluster", &self.initial_cluster()]);
            etcdctl.arg("--initial-advertise-peer-urls");
            etcdctl.arg(format!("http://127.0.0.1:{}", member.peer_port));
            etcdctl.arg("--data-dir").arg(data);
            let output = run(etcdctl);
            assert_eq!(output.code, Some(0), "{}", output.stderr);
        }
        self.start(directory);
    }

    /// Saves a snapshot.
    #[track_caller]
    pub fn save(&self, directory: &Directory, path: &Path) {
        let mut etcdctl = command(directory, "etcdctl");
        etcdctl.env("ETCDCTL_API", "3");
        etcdctl.arg(format!("--endpoints={}", self.endpoints().remove(0)));
        etcdctl.args(["snapshot", "save"]).arg(path);
        let output = run(etcdctl);
        assert_eq!(output.code, Some(0), "{}", output.stderr);
    }

    /// Kills one, which a cluster of three survives.
    pub fn kill_one(&mut self) {
        drop(self.members.first_mut().unwrap().process.take());
    }

    /// Stops all in their tracks: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.members
            .iter()
            .filter_map(|member| member.process.as_ref())
            .for_each(|process| process.signal(signal));
    }

    /// The value of a key, without `/service/demo/`.
    pub fn value(&self, directory: &Directory, key: &str) -> Option<String> {
        let output = self.etcdctl(
            directory,
            &["get", "--print-value-only", &format!("/service/demo/{key}")],
        );
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        Some(output.stdout.trim_end().to_owned()).filter(|value| !value.is_empty())
    }

    /// Runs etcdctl against all endpoints.
    pub fn etcdctl(&self, directory: &Directory, arguments: &[&str]) -> super::process::Output {
        let mut etcdctl = command(directory, "etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            // A reading that an election interrupts lasts until etcd asks the new leader for its index.
            .arg("--command-timeout=10s")
            .arg("--dial-timeout=1s");
        etcdctl
            .arg(format!("--endpoints={}", self.endpoints().join(",")))
            .args(arguments);
        run(etcdctl)
    }
}
