//! What a user of the configuration sees.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    reason = "tests"
)]

mod dynamic;
mod environment;
mod keys;
mod large;
mod layers;
mod local;
mod odd;
mod postgresql;
mod precedence;
mod yaml;

use std::collections::BTreeMap;
use tamada_config::{LocalConfig, Map, Problems, Value, yaml as text};

/// A small complete file, which tests extend.
const FILE: &str = "
scope: batman
name: p0
restapi:
  listen: 0.0.0.0:8008
  connect_address: 10.0.0.1:8008
etcd3:
  hosts: 10.0.0.11:2379,10.0.0.12
postgresql:
  listen: 10.0.0.1,127.0.0.1:5433
  connect_address: 10.0.0.1:5433
  data_dir: /data
  authentication:
    superuser: {username: postgres, password: super-secret}
    replication: {username: replicator, password: rep-secret, sslmode: verify-ca}
";

fn tree(text_of_file: &str) -> Map {
    text::parse("patroni.yml", text_of_file)
        .unwrap()
        .as_map()
        .unwrap()
        .clone()
}

/// `FILE` with `more` laid over it.
fn read(more: &str) -> Result<(LocalConfig, Problems), Problems> {
    let mut map = tree(FILE);
    if !more.is_empty() {
        map.patch(&tree(more));
    }
    LocalConfig::read(map)
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn json(map: &Map) -> serde_json::Value {
    serde_json::Value::from(map)
}

fn value(json: serde_json::Value) -> Map {
    Value::from(&json).as_map().cloned().unwrap()
}
