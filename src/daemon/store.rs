//! The daemon's connection to the store that the configuration names.

use config::{DynamicConfig, LocalConfig};
pub(crate) use dcs::Reload;
use dcs::{Error, Identity, Layout, Timing};

/// A connection to the store, as what it is used for.
pub type Store = dcs::Opened;

/// Connects to the store. With `identity` it can hold the leader key and watches; without, it only reads and writes.
///
/// # Errors
/// The store is not there yet ([`Error::Unavailable`]), or the configuration cannot work.
pub async fn connect(
    local: &LocalConfig,
    identity: Option<Identity>,
    timing: Timing,
) -> Result<Store, Error> {
    let group = local.citus.as_ref().map(|citus| citus.group);
    connect_to(local, group, identity, timing).await
}

/// Connects to the store of this cluster's Citus group, or of another one.
///
/// # Errors
/// The store is not there yet ([`Error::Unavailable`]), or the configuration cannot work.
pub(crate) async fn connect_to(
    local: &LocalConfig,
    group: Option<u32>,
    identity: Option<Identity>,
    timing: Timing,
) -> Result<Store, Error> {
    let layout = Layout::new(&local.namespace, &local.scope, group);
    dcs::open(&local.dcs, layout, identity, timing).await
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
