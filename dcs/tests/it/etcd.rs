//! Real etcd servers on free ports, and etcdctl as the foreign hand on them.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use config::{EtcdConfig, EtcdEndpoints, HostPort};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) struct Etcd {
    pub(crate) members: Vec<Member>,
    cluster: String,
    extra: Vec<String>,
    scheme: &'static str,
    dir: TempDir,
    /// What etcdctl needs besides the endpoints.
    pub(crate) ctl_args: Vec<String>,
}

pub(crate) struct Member {
    pub(crate) port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Etcd {
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with("http", count, Vec::new(), Vec::new())
    }

    pub(crate) fn start_with(
        scheme: &'static str,
        count: usize,
        extra: Vec<String>,
        ctl_args: Vec<String>,
    ) -> Self {
        let ports = free_ports(count * 2);
        let members: Vec<_> = ports
            .chunks(2)
            .map(|pair| Member {
                port: pair[0],
                peer_port: pair[1],
                child: None,
            })
            .collect();
        let peers = members.iter().enumerate();
        let peers = peers.map(|(index, member)| format!("m{index}=http://127.0.0.1:{}", member.peer_port));
        let cluster = peers.collect::<Vec<_>>().join(",");
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Self {
            members,
            cluster,
            extra,
            scheme,
            dir,
            ctl_args,
        };
        for index in 0..count {
            etcd.run(index);
        }
        etcd.wait();
        etcd
    }

    pub(crate) fn run(&mut self, index: usize) {
        let member = &self.members[index];
        let client = format!("{}://127.0.0.1:{}", self.scheme, member.port);
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let log = std::fs::File::create(self.dir.path().join(format!("m{index}.log"))).unwrap();
        let child = Command::new("etcd")
            .args(["--name", &format!("m{index}")])
            .arg("--data-dir")
            .arg(self.dir.path().join(format!("m{index}")))
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &self.cluster,
                "--initial-cluster-state",
                "new",
            ])
            .args([
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
                "--log-level",
                "error",
            ])
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd is installed");
        self.members[index].child = Some(child);
    }

    /// Waits until every running member has its place in the quorum.
    pub(crate) fn wait(&self) {
        self.wait_for(&self.urls());
    }

    fn wait_for(&self, urls: &[String]) {
        let limit = Instant::now() + Duration::from_secs(20);
        for url in urls {
            loop {
                let health = self.ctl_at(url, &["get", "x"]);
                if health.is_ok()
                    || health
                        .as_ref()
                        .is_err_and(|text| text.contains("user name is empty"))
                {
                    break;
                }
                assert!(Instant::now() < limit, "etcd does not start: {health:?}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn urls(&self) -> Vec<String> {
        let running = self.members.iter().filter(|member| member.child.is_some());
        running
            .map(|member| format!("{}://127.0.0.1:{}", self.scheme, member.port))
            .collect()
    }

    pub(crate) fn ctl(&self, args: &[&str]) -> Result<String, String> {
        self.ctl_at(&self.urls().join(","), args)
    }

    fn ctl_at(&self, urls: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args([
                "--endpoints",
                urls,
                "--command-timeout",
                "3s",
                "--dial-timeout",
                "2s",
            ])
            .args(&self.ctl_args)
            .args(args)
            .output()
            .expect("etcdctl is installed");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// The member that leads the others.
    pub(crate) fn leader(&self) -> usize {
        let status = self.ctl(&["endpoint", "status", "-w", "json"]).unwrap();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let mut members = status.as_array().unwrap().iter();
        let is_leader = |member: &serde_json::Value| {
            member["Status"]["leader"] == member["Status"]["header"]["member_id"]
        };
        let leader = members.find(|member| is_leader(member)).unwrap();
        let url = leader["Endpoint"].as_str().unwrap();
        self.members
            .iter()
            .position(|member| url.ends_with(&format!(":{}", member.port)))
            .unwrap()
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        let hosts = self.members.iter();
        let hosts = hosts
            .map(|member| HostPort {
                host: "127.0.0.1".to_owned(),
                port: member.port,
            })
            .collect();
        EtcdConfig {
            endpoints: EtcdEndpoints::Hosts(hosts),
            use_proxies: false,
            https: self.scheme == "https",
            username: None,
            password: None,
            cacert: None,
            insecure: false,
            cert: None,
            key: None,
        }
    }

    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// All members stop, lose what they had, and start again with the same flags: empty, or with what a snapshot held.
    pub(crate) fn replace(&mut self, snapshot: Option<&std::path::Path>) {
        self.replace_first(self.members.len(), snapshot);
    }

    /// As [`Etcd::replace`], the first `count` members only.
    pub(crate) fn replace_first(&mut self, count: usize, snapshot: Option<&std::path::Path>) {
        for index in 0..count {
            self.kill(index);
            let data = self.dir.path().join(format!("m{index}"));
            std::fs::remove_dir_all(&data).unwrap();
            if let Some(snapshot) = snapshot {
                let peer = format!("http://127.0.0.1:{}", self.members[index].peer_port);
                let restored = Command::new("etcdctl")
                    .env("ETCDCTL_API", "3")
                    .args(["snapshot", "restore"])
                    .arg(snapshot)
                    .args(["--name", &format!("m{index}")])
                    .args(["--initial-cluster", &self.cluster])
                    .args(["--initial-advertise-peer-urls", &peer])
                    .arg("--data-dir")
                    .arg(&data)
                    .output()
                    .unwrap();
                assert!(restored.status.success(), "{restored:?}");
            }
        }
        for index in 0..count {
            self.run(index);
        }
        self.wait_for(&self.urls()[..count]);
    }

    /// `SIGSTOP` or `SIGCONT`: the sockets stay open and nobody answers.
    pub(crate) fn freeze(&self, index: usize, is_frozen: bool) {
        let child = self.members[index].child.as_ref().unwrap();
        let pid = Pid::from_child(child);
        kill_process(pid, if is_frozen { Signal::STOP } else { Signal::CONT }).unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }
}

pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}
