//! Real ZooKeeper servers on free ports.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use config::{HostPort, ZookeeperConfig};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Debian's jar does not name all that TLS needs.
const CLASSES: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar";

pub(crate) struct Ensemble {
    pub(crate) members: Vec<Member>,
    /// Lines of `zoo.cfg`.
    settings: Vec<String>,
    /// Of the Java machine.
    options: Vec<String>,
    pub(crate) dir: TempDir,
}

pub(crate) struct Member {
    pub(crate) port: u16,
    peers: [u16; 2],
    child: Option<Child>,
}

impl Ensemble {
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, &[], &[])
    }

    pub(crate) fn start_with(count: usize, settings: &[&str], options: &[&str]) -> Self {
        let mut ensemble = Self::prepare(count, settings, options);
        ensemble.run_all();
        ensemble
    }

    /// Not started yet.
    pub(crate) fn prepare(count: usize, settings: &[&str], options: &[&str]) -> Self {
        assert!(
            Path::new(JAR).exists(),
            "there is no {JAR}: install ZooKeeper with scripts/install-deps.sh, or with apt-get install \
             --no-install-recommends zookeeper"
        );
        let members = free_ports(count * 3);
        let members = members.chunks(3).map(|ports| Member {
            port: ports[0],
            peers: [ports[1], ports[2]],
            child: None,
        });
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self {
            members: members.collect(),
            settings: owned(settings),
            options: owned(options),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn run_all(&mut self) {
        for index in 0..self.members.len() {
            self.run(index);
        }
        self.wait();
    }

    fn folder(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("m{index}"))
    }

    pub(crate) fn run(&mut self, index: usize) {
        let folder = self.folder(index);
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::write(folder.join("data/myid"), (index + 1).to_string()).unwrap();
        let mut settings = vec![
            "tickTime=200".to_owned(),
            "initLimit=50".to_owned(),
            "syncLimit=10".to_owned(),
            "minSessionTimeout=400".to_owned(),
            "maxSessionTimeout=120000".to_owned(),
            "maxClientCnxns=0".to_owned(),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
            format!("dataDir={}", folder.join("data").display()),
        ];
        if !self
            .settings
            .iter()
            .any(|line| line.starts_with("secureClientPort"))
        {
            settings.push("clientPortAddress=127.0.0.1".to_owned());
            settings.push(format!("clientPort={}", self.members[index].port));
        }
        let port = self.members[index].port.to_string();
        settings.extend(self.settings.iter().map(|line| line.replace("PORT", &port)));
        if self.members.len() > 1 {
            let peers = self.members.iter().enumerate();
            let peers = peers.map(|(index, Member { peers: [a, b], .. })| {
                format!("server.{}=127.0.0.1:{a}:{b}", index + 1)
            });
            settings.extend(peers);
        }
        let file = folder.join("zoo.cfg");
        std::fs::write(&file, settings.join("\n")).unwrap();
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let child = Command::new("java")
            .args([
                "-Xmx128m",
                "-Xshare:auto",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
            ])
            .args(["-Dzookeeper.forceSync=no", "-Dzookeeper.preAllocSize=1024"])
            .args(&self.options)
            .args([
                "-cp",
                CLASSES,
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            ])
            .arg(&file)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("java is installed with ZooKeeper");
        self.members[index].child = Some(child);
    }

    /// Waits until every running member has its place in the quorum.
    pub(crate) fn wait(&self) {
        let limit = Instant::now() + Duration::from_secs(60);
        for (index, member) in self.members.iter().enumerate() {
            if member.child.is_none() {
                continue;
            }
            while !self.is_serving(index) {
                assert!(
                    Instant::now() < limit,
                    "ZooKeeper does not start: {}",
                    std::fs::read_to_string(self.folder(index).join("log")).unwrap_or_default()
                );
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn is_serving(&self, index: usize) -> bool {
        if self
            .settings
            .iter()
            .any(|line| line.starts_with("secureClientPort"))
        {
            return TcpStream::connect(("127.0.0.1", self.members[index].port)).is_ok();
        }
        self.status(index).contains("Mode: ")
    }

    /// What the member says of itself; empty without an answer.
    pub(crate) fn status(&self, index: usize) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.members[index].port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = stream
                .write_all(b"srvr")
                .and_then(|()| stream.read_to_string(&mut text));
        }
        text
    }

    /// The member that leads the others.
    pub(crate) fn leader(&self) -> usize {
        let is_leader = |index: &usize| self.status(*index).contains("Mode: leader");
        (0..self.members.len()).find(is_leader).unwrap()
    }

    pub(crate) fn config(&self) -> ZookeeperConfig {
        config_for(self.members.iter().map(|member| member.port))
    }

    pub(crate) fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn kill_all(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }

    /// `SIGSTOP` or `SIGCONT`: the sockets stay open and nobody answers.
    pub(crate) fn freeze(&self, index: usize, is_frozen: bool) {
        let child = self.members[index].child.as_ref().unwrap();
        let signal = if is_frozen { Signal::STOP } else { Signal::CONT };
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// All members stop, lose what they had, and start again.
    pub(crate) fn wipe_all(&mut self) {
        self.kill_all();
        for index in 0..self.members.len() {
            std::fs::remove_dir_all(self.folder(index).join("data")).unwrap();
        }
        self.run_all();
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            for index in 0..self.members.len() {
                let log = std::fs::read_to_string(self.folder(index).join("log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(40)..].join("\n");
                let _ = writeln!(std::io::stderr(), "{last}");
            }
        }
    }
}

pub(crate) fn config_for(ports: impl IntoIterator<Item = u16>) -> ZookeeperConfig {
    let hosts = ports.into_iter().map(|port| HostPort {
        host: "127.0.0.1".to_owned(),
        port,
    });
    ZookeeperConfig {
        hosts: hosts.collect(),
        chroot: None,
        use_ssl: false,
        cacert: None,
        cert: None,
        key: None,
        key_password: None,
        verify: true,
        set_acls: Vec::new(),
        auth_data: Vec::new(),
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
