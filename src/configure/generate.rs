//! `--generate-config`: the configuration for a server that runs already, so that it becomes a cluster's first member.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use config::{Map, Value};
use postgres::{Conninfo, Instant, Session};

use super::sample::{self, Host, UNKNOWN};

/// How long the server may take for everything that it is asked.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is set in files, on the command line and in the environment, and what members must have alike in any case.
const SETTINGS: &str = "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings \
    WHERE (context <> 'internal' AND source IN ('configuration file', 'command line', 'environment variable') \
           AND category <> 'Write-Ahead Log / Recovery Target' AND name NOT IN ('primary_conninfo', 'primary_slot_name', \
           'synchronous_standby_names', 'promote_trigger_file')) \
       OR name IN ('hot_standby', 'max_connections', 'max_locks_per_transaction', 'max_prepared_transactions', \
           'max_replication_slots', 'max_wal_senders', 'max_worker_processes', 'track_commit_timestamp', \
           'wal_keep_segments', 'wal_keep_size', 'wal_level', 'wal_log_hints', 'cluster_name', 'listen_addresses', 'port', \
           'data_directory', 'config_file', 'hba_file', 'ident_file') \
    ORDER BY name";

/// Settings that are a matter of this host.
const LOCAL: [&str; 8] = [
    "archive_cleanup_command",
    "archive_command",
    "config_file",
    "hba_file",
    "ident_file",
    "recovery_end_command",
    "restore_command",
    "ssl_passphrase_command",
];

/// The words of a connection string that are kept for the superuser.
const LOGIN: [&str; 7] = [
    "channel_binding",
    "gssencmode",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslrootcert",
];

/// The text of the configuration. `dsn`: how to connect; what it leaves open comes from libpq's variables.
///
/// # Errors
/// There is no way to the server, the role is no superuser, or a file of the server cannot be read.
pub(super) fn make(dsn: Option<&str>) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut conninfo = Conninfo::parse(dsn.unwrap_or_default()).context("--dsn cannot be read")?;
    if conninfo.get("password").is_none()
        && std::env::var_os("PGPASSWORD").is_none()
        && std::io::stdin().is_terminal()
    {
        let password = runtime.block_on(crate::ctl::hidden("Please enter the user password: "))?;
        if !password.is_empty() {
            conninfo.set("password", Some(password));
        }
    }
    let found = runtime.block_on(Found::ask(&conninfo))?;
    let tree = found.tree(&conninfo)?;
    Ok(sample::render(&tree))
}

/// What the server says about itself.
struct Found {
    role: String,
    settings: Vec<(String, String)>,
}

impl Found {
    async fn ask(conninfo: &Conninfo) -> anyhow::Result<Self> {
        let deadline = Instant::now() + TIMEOUT;
        let ask = async {
            let session = Session::open(conninfo, deadline).await?;
            let role = session
                .query(
                    "the role",
                    "SELECT current_user, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user",
                )
                .await?;
            let settings = session.query("the settings", SETTINGS).await?;
            anyhow::Ok((role, settings))
        };
        let (role, settings) = tokio::time::timeout_at(deadline, ask)
            .await
            .context("the server has not answered in time")??;
        let (role, is_superuser) = match role.rows.as_slice() {
            [row] => match row.as_slice() {
                [Some(role), Some(flag)] => (role.clone(), flag == "t"),
                _ => anyhow::bail!("the server does not say who we are"),
            },
            _ => anyhow::bail!("the server does not say who we are"),
        };
        anyhow::ensure!(
            is_superuser,
            "the role {role} is no superuser: connect as one, as only a superuser sees all settings"
        );
        let pair = |mut row: Vec<Option<String>>| Some((row.first_mut()?.take()?, row.get_mut(1)?.take()?));
        Ok(Self {
            role,
            settings: settings.rows.into_iter().filter_map(pair).collect(),
        })
    }

    fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    fn tree(&self, conninfo: &Conninfo) -> anyhow::Result<Map> {
        let host = Host::find();
        let mut tree = sample::base(&host)?;
        if !self.setting("cluster_name").is_empty() {
            tree.insert("scope", self.setting("cluster_name"));
        }
        tree.patch(&sample::environment()?);
        let mut postgresql = section(&tree, "postgresql");
        let port = self.setting("port");
        let listen = match self.setting("listen_addresses") {
            "" => "localhost",
            addresses => addresses,
        };
        let data_dir = PathBuf::from(self.setting("data_directory"));
        postgresql.insert("listen", format!("{listen}:{port}"));
        postgresql.insert("connect_address", format!("{}:{port}", host.address));
        postgresql.insert("data_dir", data_dir.display().to_string());
        postgresql.insert("bin_dir", bin_dir(&data_dir).display().to_string());
        postgresql.insert("authentication", self.authentication(conninfo));
        let (mut here, mut shared) = (Map::new(), Map::new());
        for (name, value) in &self.settings {
            match name.as_str() {
                "cluster_name" | "listen_addresses" | "port" | "data_directory" => {}
                name if LOCAL.contains(&name) => drop(here.insert(name, value.as_str())),
                name => drop(shared.insert(name, value.as_str())),
            }
        }
        postgresql.insert("parameters", here);
        for (key, setting, file) in [
            ("pg_hba", "hba_file", "pg_hba.conf"),
            ("pg_ident", "ident_file", "pg_ident.conf"),
        ] {
            let path = PathBuf::from(self.setting(setting));
            // A file of the user's choice stays the user's.
            if path == data_dir.join(file) {
                let lines = lines(&path)?;
                if !lines.is_empty() {
                    postgresql.insert(key, lines);
                }
            }
        }
        tree.insert("postgresql", postgresql);
        let mut in_store = Map::new();
        in_store.insert("parameters", shared);
        in_store.insert("use_slots", true);
        let mut dcs = Map::new();
        for (timer, seconds) in [("loop_wait", 10), ("retry_timeout", 10), ("ttl", 30)] {
            dcs.insert(timer, seconds);
        }
        dcs.insert("postgresql", in_store);
        let mut bootstrap = section(&tree, "bootstrap");
        bootstrap.insert("dcs", dcs);
        tree.insert("bootstrap", bootstrap);
        Ok(tree)
    }

    fn authentication(&self, conninfo: &Conninfo) -> Map {
        let mut superuser = Map::new();
        superuser.insert("username", self.role.as_str());
        let password = conninfo.get("password").map(str::to_owned);
        if let Some(password) = password.or_else(|| std::env::var("PGPASSWORD").ok()) {
            superuser.insert("password", password);
        }
        for keyword in LOGIN {
            if let Some(value) = conninfo.get(keyword) {
                superuser.insert(keyword, value);
            }
        }
        let mut replication = Map::new();
        replication.insert("username", UNKNOWN);
        replication.insert("password", UNKNOWN);
        let mut authentication = Map::new();
        authentication.insert("superuser", superuser);
        authentication.insert("replication", replication);
        authentication
    }
}

fn section(tree: &Map, key: &str) -> Map {
    tree.get(key).and_then(Value::as_map).cloned().unwrap_or_default()
}

/// Where the postmaster's program is; when it is not on this host, or not ours to see, what PATH says.
fn bin_dir(data_dir: &Path) -> PathBuf {
    let running = || {
        let pidfile = net::file::read_text(data_dir.join("postmaster.pid")).ok()?;
        let pid: u32 = pidfile.lines().next()?.trim().parse().ok()?;
        fs::read_link(format!("/proc/{pid}/exe")).ok()
    };
    let program = running().or_else(|| super::program(Path::new(""), "postgres"));
    program
        .and_then(|program| program.parent().map(Path::to_path_buf))
        .unwrap_or_default()
}

/// The lines that say something.
fn lines(path: &Path) -> anyhow::Result<Vec<Value>> {
    let text = net::file::read_text(path).with_context(|| format!("could not read {}", path.display()))?;
    let lines = text.lines().map(str::trim_end);
    Ok(lines
        .filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(Value::from)
        .collect())
}
