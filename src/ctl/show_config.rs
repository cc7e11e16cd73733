//! `show-config`: the dynamic configuration.

use clap::Args;
use config::{Map, Value};

use super::config_change::to_yaml;
use super::console::print;
use super::error::Error;
use super::session::Session;

#[derive(Debug, Args)]
pub(crate) struct ShowConfig {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
}

impl ShowConfig {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let store = session
            .store_or_scope(self.cluster_name, session.group_or_own(self.group))
            .await?
            .1;
        let view = store.view().await?;
        match view.cluster().and_then(|cluster| cluster.config.as_ref()) {
            Some(key) => print(&format!("{}\n", to_yaml(&tree(&key.value)))),
            None => Ok(()),
        }
    }
}

/// The key's JSON as a configuration tree.
pub(crate) fn tree(document: &serde_json::Map<String, serde_json::Value>) -> Map {
    document
        .iter()
        .map(|(key, value)| (key.as_str(), Value::from(value)))
        .collect()
}
