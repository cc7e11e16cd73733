//! Chooses the store that the configuration names. Nothing else knows which one it is.

use std::sync::Arc;

use async_trait::async_trait;
use config::{DcsConfig, DcsKind, DynamicConfig, LocalConfig};
use dcs::{Dcs, Identity, Layout, Timing};

/// A store that can take over other endpoints, credentials or certificates.
#[async_trait]
pub(crate) trait Reload: Send + Sync {
    /// Takes over what the configuration says now.
    ///
    /// # Errors
    /// It cannot be used; the former one stays in use.
    async fn reload(&self, config: &DcsConfig) -> anyhow::Result<()>;
}

/// A connection to the store, as what it is used for.
#[derive(Clone)]
pub struct Store {
    pub(crate) dcs: Arc<dyn Dcs>,
    pub(crate) reload: Arc<dyn Reload>,
}

/// Connects to the store. With `identity` it can hold the leader key and watches; without, it only reads and writes.
///
/// # Errors
/// The store is not there yet ([`dcs::Error::Unavailable`]), or the configuration cannot work.
pub async fn connect(
    local: &LocalConfig,
    identity: Option<Identity>,
    timing: Timing,
) -> Result<Store, anyhow::Error> {
    let group = local.citus.as_ref().map(|citus| citus.group);
    connect_to(local, group, identity, timing).await
}

/// Connects to the store of this cluster's Citus group, or of another one.
///
/// # Errors
/// The store is not there yet ([`dcs::Error::Unavailable`]), or the configuration cannot work.
pub(crate) async fn connect_to(
    local: &LocalConfig,
    group: Option<u32>,
    identity: Option<Identity>,
    timing: Timing,
) -> Result<Store, anyhow::Error> {
    let layout = Layout::new(&local.namespace, &local.scope, group);
    match &local.dcs {
        DcsConfig::Etcd3(config) => {
            let etcd = Arc::new(dcs::etcd3::Etcd3::connect(config, layout, identity, timing).await?);
            Ok(Store {
                dcs: Arc::clone(&etcd) as _,
                reload: etcd,
            })
        }
        other @ DcsConfig::Other { .. } => anyhow::bail!(unsupported(other)),
    }
}

/// The store's name in `waiting on …`: Patroni's two clients of etcd go by one.
#[must_use]
pub(crate) fn family(config: &DcsConfig) -> &'static str {
    match config.kind() {
        DcsKind::Etcd | DcsKind::Etcd3 => "etcd",
        other => other.name(),
    }
}

/// The durations that the store works with.
#[must_use]
pub fn timing(config: &DynamicConfig) -> Timing {
    Timing {
        ttl: config.ttl,
        loop_wait: config.loop_wait,
        retry_timeout: config.retry_timeout,
    }
}

#[async_trait]
impl Reload for dcs::etcd3::Etcd3 {
    async fn reload(&self, config: &DcsConfig) -> anyhow::Result<()> {
        match config {
            DcsConfig::Etcd3(config) => Ok(Self::reload(self, config).await?),
            other @ DcsConfig::Other { .. } => {
                anyhow::bail!("{}; changing the kind of DCS needs a restart", unsupported(other))
            }
        }
    }
}

fn unsupported(config: &DcsConfig) -> String {
    format!(
        "the DCS {} is not supported yet: configure a section etcd3",
        config.kind().name()
    )
}
