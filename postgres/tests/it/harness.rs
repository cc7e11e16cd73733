//! Nodes for the tests: a temporary directory, a free port, settings from a configuration file.

use config::{BootstrapMethod, DynamicConfig, LocalConfig, Minimums, PostgresqlSettings};
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tamada_postgres as postgres;
use tempfile::TempDir;

use postgres::process::DetachedLauncher;
use postgres::{
    Follow, Instant, Postmaster, Recovery, Server, ServerOptions, Source, SqlStatus, StartOptions, Started,
    StatusWants, StopMode, StopOptions, Stopped,
};

/// One test.
pub(crate) type Test = fn(Installation) -> Pin<Box<dyn Future<Output = ()>>>;

/// The programs of one PostgreSQL version.
#[derive(Debug, Clone)]
pub(crate) struct Installation {
    pub(crate) bin_dir: PathBuf,
    pub(crate) major: u32,
}

/// Executes this program again as `postgres` when it runs as root.
pub(crate) fn give_up_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let user = passwd
        .lines()
        .find_map(|line| line.strip_prefix("postgres:"))
        .expect("there is a user postgres");
    let ids: Vec<u32> = user
        .split(':')
        .skip(1)
        .take(2)
        .map(|id| id.parse().unwrap())
        .collect();
    let program = std::env::current_exe().unwrap();
    let error = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .uid(ids[0])
        .gid(ids[1])
        .env("HOME", "/tmp")
        .exec();
    panic!(
        "{} cannot be executed as postgres (is its directory open to others?): {error}",
        program.display()
    );
}

/// Every PostgreSQL: `TAMADA_TEST_PG_BIN`, else Debian's and the one of the workspace's target directory.
pub(crate) fn installations() -> Vec<Installation> {
    let mut directories: Vec<PathBuf> = match std::env::var("TAMADA_TEST_PG_BIN") {
        Ok(list) => list.split(':').map(PathBuf::from).collect(),
        Err(_) => {
            let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
            let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/pg18/bin");
            debian
                .map(|entry| entry.unwrap().path().join("bin"))
                .chain([workspace, "/opt/pg18/bin".into()])
                .collect()
        }
    };
    directories.sort();
    let mut found: Vec<Installation> = Vec::new();
    for bin_dir in directories {
        let Ok(output) = Command::new(bin_dir.join("postgres")).arg("--version").output() else {
            continue;
        };
        let version = postgres::ServerVersion::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
        if !found.iter().any(|other| other.major == version.major()) {
            found.push(Installation {
                bin_dir,
                major: version.major(),
            });
        }
    }
    found
}

/// Runs a test on a runtime like the one that the server is made for.
pub(crate) fn run(installation: Installation, test: Test) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(240), test(installation)).await })?;
    Ok(())
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(90)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) const SUPERUSER_PASSWORD: &str = "super'secret\\1";

/// A node. Its server is killed when it is dropped.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    pub(crate) installation: Installation,
    pub(crate) server: Server,
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(postmaster) = self.server.postmaster().unwrap() else {
            return;
        };
        let mut processes = postmaster.children();
        processes.insert(0, postmaster);
        for process in &processes {
            let _ = process.signal(rustix::process::Signal::KILL);
        }
        let began = std::time::Instant::now();
        while processes.iter().any(Postmaster::is_alive) && began.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Node {
    /// A node without data.
    pub(crate) fn new(installation: &Installation, name: &str) -> Self {
        Self::with(installation, name, "")
    }

    /// A node without data, with more settings.
    pub(crate) fn with(installation: &Installation, name: &str, more: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("tamada-it-")
            .tempdir_in("/tmp")
            .unwrap();
        let port = free_port();
        let settings = settings(
            &file(name, dir.path(), port, &installation.bin_dir),
            more,
            installation.major,
        );
        let server = Server::new(ServerOptions {
            scope: "demo".to_owned(),
            name: name.into(),
            settings,
            retry_timeout: Duration::from_secs(10),
            launcher: Arc::new(DetachedLauncher::own_executable(crate::LAUNCH)),
        });
        Self {
            name: name.to_owned(),
            dir,
            port,
            installation: installation.clone(),
            server,
        }
    }

    /// Replaces settings.
    pub(crate) fn configure(&self, more: &str) {
        let file = file(&self.name, self.dir.path(), self.port, &self.installation.bin_dir);
        self.server.configure(
            settings(&file, more, self.installation.major),
            Duration::from_secs(10),
        );
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A new cluster's primary, with all roles.
    pub(crate) async fn primary(installation: &Installation, name: &str) -> Self {
        let node = Self::new(installation, name);
        node.bootstrap().await;
        node
    }

    pub(crate) async fn bootstrap(&self) {
        let options = [
            ("no-sync".to_owned(), None),
            ("auth-local".to_owned(), Some("scram-sha-256".to_owned())),
        ];
        self.server.initdb(&options, &[], soon()).await.unwrap();
        self.start(Recovery::Primary).await;
        let restart = self
            .server
            .post_bootstrap(&BootstrapMethod::Initdb, None, soon())
            .await
            .unwrap();
        assert!(!restart);
        self.server.finish_new_cluster().unwrap();
    }

    pub(crate) async fn start(&self, recovery: Recovery) -> Postmaster {
        let options = StartOptions {
            recovery,
            without_hot_standby: false,
        };
        match self.server.start(&options, soon()).await.unwrap() {
            Started::Accepting(postmaster) => postmaster,
            Started::Starting(_) => panic!("{} does not accept connections", self.name),
        }
    }

    pub(crate) async fn stop(&self) -> Stopped {
        let options = StopOptions {
            mode: StopMode::Fast,
            checkpoint_first: false,
            escalate_at: None,
        };
        self.server.stop(options, None, soon()).await.unwrap()
    }

    /// This node as a source for others.
    pub(crate) fn source(&self) -> Source {
        Source::from_conn_url(&format!("postgres://127.0.0.1:{}/postgres", self.port), None).unwrap()
    }

    /// This node followed through the slot of `follower`.
    pub(crate) fn follow(&self, follower: &Self) -> Follow {
        let slot = Some(follower.server.name().slot_name());
        Follow {
            source: Some(Source {
                slot,
                ..self.source()
            }),
            ..Follow::default()
        }
    }

    /// A running copy of `self` that streams.
    pub(crate) async fn replica(&self, name: &str) -> Self {
        let replica = Self::new(&self.installation, name);
        self.server
            .create_physical_slot(&replica.server.name().slot_name(), soon())
            .await
            .unwrap();
        let from = postgres::CloneSource {
            name: Some(self.name.clone()),
            source: Some(self.source()),
        };
        let method = replica
            .server
            .create_replica(&from, &postgres::CloneMethods::Configured, soon())
            .await
            .unwrap();
        assert_eq!(method, "basebackup");
        replica.start(Recovery::Follow(self.follow(&replica))).await;
        replica.until_streaming().await;
        replica
    }

    pub(crate) async fn status(&self) -> SqlStatus {
        self.server
            .status(
                StatusWants {
                    slots: true,
                    wal_senders: true,
                },
                soon(),
            )
            .await
            .unwrap()
    }

    pub(crate) async fn until_streaming(&self) {
        until("it streams", async || {
            self.status().await.replication_state() == Some(ha::pg::ReplicationState::Streaming)
        })
        .await;
    }

    /// Waits until this replica has replayed what `primary` has written.
    pub(crate) async fn until_caught_up_with(&self, primary: &Self) {
        let target = primary.status().await.lsn;
        until("it has caught up", async || {
            self.status().await.replayed >= Some(target)
        })
        .await;
    }

    /// Executes SQL as the superuser through psql and gives its output.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = self.psql().args(["-c", sql]).output().unwrap();
        assert!(
            output.status.success(),
            "{sql}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn psql(&self) -> Command {
        let mut command = Command::new(self.installation.bin_dir.join("psql"));
        let conninfo = format!(
            "host={} port={} user=postgres dbname=postgres",
            self.dir.path().display(),
            self.port
        );
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", &conninfo])
            .env("PGPASSWORD", SUPERUSER_PASSWORD);
        command
    }
}

/// Waits for a condition, with a limit.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = soon();
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn file(name: &str, dir: &Path, port: u16, bin_dir: &Path) -> String {
    let (dir, bin_dir) = (dir.display(), bin_dir.display());
    let password = SUPERUSER_PASSWORD.replace('\'', "''");
    format!(
        "
name: {name}
scope: demo
restapi: {{listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}}
etcd3: {{host: '127.0.0.1:2379'}}
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {dir}/data
  bin_dir: {bin_dir}
  pgpass: {dir}/pgpass
  use_pg_rewind: true
  use_unix_socket: true
  authentication:
    superuser: {{username: postgres, password: '{password}'}}
    replication: {{username: replicator, password: 'rep:pass'}}
    rewind: {{username: rewinder, password: rewind-pass}}
  parameters:
    unix_socket_directories: {dir}
    fsync: false
    shared_buffers: 16MB
    wal_keep_size: 64MB
  pg_hba:
  - local all all scram-sha-256
  - host all all 127.0.0.1/32 scram-sha-256
  - host replication replicator 127.0.0.1/32 scram-sha-256
"
    )
}

fn settings(file: &str, more: &str, major: u32) -> PostgresqlSettings {
    let map = |text: &str| {
        config::yaml::parse("test.yml", text)
            .unwrap()
            .as_map()
            .cloned()
            .unwrap_or_default()
    };
    let mut tree = map(file);
    tree.patch(&map(more));
    let dynamic = tree
        .remove("dynamic")
        .map_or(serde_json::json!({}), |dynamic| serde_json::Value::from(&dynamic));
    let (local, _) = LocalConfig::read(tree).unwrap();
    let (dynamic, _) = DynamicConfig::read(&dynamic, Minimums::TAMADA);
    PostgresqlSettings::new(&local, &dynamic, Some(major * 10_000), None)
        .unwrap()
        .0
}

/// Environment for programs of the tests.
pub(crate) fn script(dir: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The mode of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

/// Whether a process is there.
pub(crate) fn is_alive(pid: i32) -> bool {
    Postmaster::open(pid, 0).is_some_and(|process| process.is_alive())
}

/// For settings in maps.
pub(crate) fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Makes a table of tests of async functions.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[(&str, crate::harness::Test)] =
            &[$((concat!(module_path!(), "::", stringify!($name)), |installation| Box::pin($name(installation)))),*];
    };
}
pub(crate) use tests;
