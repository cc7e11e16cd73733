//! `--generate-sample-config`: a configuration to begin with, and the form in which configurations are written.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use anyhow::Context;
use config::{Map, Value};

use super::{major_version, program};

/// What only the operator knows.
pub(super) const UNKNOWN: &str = "#FIXME";

/// The sections in the order in which a person reads them; stores stand where `etcd3` does.
const ORDER: [&str; 18] = [
    "scope",
    "namespace",
    "name",
    "log",
    "restapi",
    "ctl",
    "citus",
    "consul",
    "etcd",
    "etcd3",
    "exhibitor",
    "kubernetes",
    "raft",
    "zookeeper",
    "bootstrap",
    "postgresql",
    "watchdog",
    "tags",
];

/// What a reader has to know before the section.
const BEFORE_BOOTSTRAP: &str = "\
# Read once, when the cluster is created. After that the settings below `dcs` are in the store, for all members:
# change them by `patronictl edit-config`.
";

/// The text of the sample, with what PATRONI_* variables say.
///
/// # Errors
/// A variable cannot be used.
pub(super) fn make() -> anyhow::Result<String> {
    let host = Host::find();
    let mut tree = base(&host)?;
    tree.patch(&environment()?);
    let bin_dir = tree
        .get("postgresql")
        .and_then(|section| section.get("bin_dir"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    // Without a server here it is written for a current one.
    let major = program(Path::new(bin_dir), "postgres")
        .and_then(|postgres| major_version(&postgres).ok())
        .map_or(u32::MAX, |version| version.major());
    let mut sample = parse(&for_version(major, &host))?;
    sample.patch(&tree);
    Ok(render(&sample))
}

/// What PATRONI_* variables say.
///
/// # Errors
/// One of them cannot be read.
pub(super) fn environment() -> anyhow::Result<Map> {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (tree, problems) = config::env::read(&variables);
    if problems.has_errors() {
        return Err(problems.into());
    }
    Ok(tree)
}

/// The name of this host, and an address by which others may reach it.
pub(super) struct Host {
    pub(super) name: String,
    pub(super) address: String,
}

impl Host {
    pub(super) fn find() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = name.trim().to_owned();
        let found: Vec<IpAddr> = (name.as_str(), 0)
            .to_socket_addrs()
            .map(|all| all.map(|address| address.ip()).collect())
            .unwrap_or_default();
        let best = found
            .iter()
            .find(|address| !address.is_loopback())
            .or(found.first());
        let address = match best {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            Some(IpAddr::V4(address)) => address.to_string(),
            None => "127.0.0.1".to_owned(),
        };
        Self { name, address }
    }
}

/// What does not depend on PostgreSQL's version.
pub(super) fn base(host: &Host) -> anyhow::Result<Map> {
    let Host { name, address } = host;
    parse(&format!(
        "scope: '{UNKNOWN}'
name: {name}
log: {{type: plain, level: INFO, traceback_level: ERROR, format: '%(asctime)s %(levelname)s: %(message)s', max_queue_size: 1000}}
restapi: {{listen: '{address}:8008', connect_address: '{address}:8008'}}
etcd3: {{hosts: '{UNKNOWN}'}}
postgresql:
  listen: '{address}:5432'
  connect_address: '{address}:5432'
  data_dir: '{UNKNOWN}'
  bin_dir: ''
  authentication:
    superuser: {{username: postgres, password: '{UNKNOWN}'}}
    replication: {{username: replicator, password: '{UNKNOWN}'}}
tags: {{failover_priority: 1, sync_priority: 1, noloadbalance: false, clonefrom: true, nostream: false}}
"
    ))
}

fn for_version(major: u32, host: &Host) -> String {
    let method = if major >= 10 { "scram-sha-256" } else { "md5" };
    let keep = if major >= 13 {
        "wal_keep_size: 128MB"
    } else {
        "wal_keep_segments: 8"
    };
    let rewind = match major >= 11 {
        true => format!("\n    rewind: {{username: rewind_user, password: '{UNKNOWN}'}}"),
        false => String::new(),
    };
    let address = &host.address;
    format!(
        "bootstrap:
  dcs:
    loop_wait: 10
    retry_timeout: 10
    ttl: 30
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {{hot_standby: 'on', max_connections: 100, max_locks_per_transaction: 64, max_prepared_transactions: 0, max_replication_slots: 10, max_wal_senders: 10, max_worker_processes: 8, track_commit_timestamp: 'off', wal_level: replica, wal_log_hints: 'on', {keep}}}
postgresql:
  listen: '{address}:5432'
  connect_address: '{address}:5432'
  authentication:
    superuser: {{}}{rewind}
  parameters: {{password_encryption: {method}}}
  pg_hba: [host all all all {method}, host replication replicator all {method}]
"
    )
}

pub(super) fn parse(text: &str) -> anyhow::Result<Map> {
    let value = config::yaml::parse("sample", text).map_err(config::Problems::from)?;
    value.as_map().cloned().context("a sample is a mapping")
}

/// The tree as a file: section by section, with a word before those that need one.
pub(super) fn render(tree: &Map) -> String {
    let mut keys: Vec<&str> = ORDER.into_iter().filter(|key| tree.contains_key(key)).collect();
    keys.extend(tree.iter().map(|(key, _)| key).filter(|key| !ORDER.contains(key)));
    let mut text = String::new();
    for key in keys {
        let Some(entry) = tree.entry(key) else {
            continue;
        };
        if entry.value.as_map().is_some() {
            text.push('\n');
        }
        if key == "bootstrap" {
            text.push_str(BEFORE_BOOTSTRAP);
        }
        let mut section = Map::new();
        section.insert_entry(entry.clone());
        text.push_str(&config::yaml::dump(&Value::from(section)));
    }
    text
}
