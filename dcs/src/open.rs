//! Opens the store that the configuration names: nothing else knows which stores there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use config::{DcsConfig, DcsKind};

use crate::consul::Consul;
use crate::etcd2::Etcd2;
use crate::etcd3::Etcd3;
use crate::kubernetes::Kubernetes;
use crate::zookeeper::Zookeeper;
use crate::{Dcs, Error, Failure, Identity, Layout, Timing};

/// A store that can take over another configuration of its own kind.
#[async_trait]
pub trait Reload: Send + Sync {
    /// Takes over other servers, credentials or certificates, without losing the lease.
    ///
    /// # Errors
    /// They cannot be used, or are another store's; the former ones stay in use.
    async fn reload(&self, config: &DcsConfig) -> Result<(), Error>;
}

/// A store, as what it is used for.
#[derive(Clone)]
pub struct Opened {
    /// The verbs.
    pub dcs: Arc<dyn Dcs>,
    /// The same store.
    pub reload: Arc<dyn Reload>,
}

impl Opened {
    fn new(store: impl Dcs + Reload + 'static) -> Self {
        let store = Arc::new(store);
        Self {
            dcs: store.clone(),
            reload: store,
        }
    }
}

/// Connects to the store. With an identity it can hold the leader key and watches; without, it only reads and writes,
/// and every read is confirmed by a quorum.
///
/// # Errors
/// [`Error::Unavailable`] while no server answers: try again. [`Error::Fatal`] if the configuration cannot work.
pub async fn open(
    config: &DcsConfig,
    layout: Layout,
    identity: Option<Identity>,
    timing: Timing,
) -> Result<Opened, Error> {
    match config {
        DcsConfig::Consul(config) => Ok(Opened::new(
            Consul::connect(config, layout, identity, timing).await?,
        )),
        DcsConfig::Etcd(etcd) => Ok(Opened::new(Etcd2::connect(etcd, layout, identity, timing).await?)),
        DcsConfig::Etcd3(etcd) => Ok(Opened::new(Etcd3::connect(etcd, layout, identity, timing).await?)),
        DcsConfig::Kubernetes(config) => Ok(Opened::new(
            Kubernetes::connect(config, layout, identity, timing).await?,
        )),
        DcsConfig::Zookeeper(config) => Ok(Opened::new(
            Zookeeper::connect(config, layout, identity, timing).await?,
        )),
        DcsConfig::Exhibitor(config) => Ok(Opened::new(
            Zookeeper::connect_by_exhibitor(config, layout, identity, timing).await?,
        )),
    }
}

/// The names of the clusters that have keys below `namespace`. Reads all of them: for a person who types, not for a loop.
///
/// # Errors
/// Those of [`open`].
pub async fn scopes(config: &DcsConfig, namespace: &str, timing: Timing) -> Result<BTreeSet<String>, Error> {
    match config {
        DcsConfig::Consul(config) => Consul::scopes(config, namespace, timing).await,
        DcsConfig::Etcd(etcd) => Etcd2::scopes(etcd, namespace, timing).await,
        DcsConfig::Etcd3(etcd) => Etcd3::scopes(etcd, namespace, timing).await,
        DcsConfig::Kubernetes(config) => Kubernetes::scopes(config, timing).await,
        DcsConfig::Zookeeper(config) => Zookeeper::scopes(config, namespace, timing).await,
        DcsConfig::Exhibitor(config) => Zookeeper::scopes_by_exhibitor(config, namespace, timing).await,
    }
}

#[async_trait]
impl Reload for Consul {
    async fn reload(&self, config: &DcsConfig) -> Result<(), Error> {
        match config {
            DcsConfig::Consul(config) => Self::reload(self, config),
            other => Err(another_kind(DcsKind::Consul, other)),
        }
    }
}

#[async_trait]
impl Reload for Etcd2 {
    async fn reload(&self, config: &DcsConfig) -> Result<(), Error> {
        match config {
            DcsConfig::Etcd(etcd) => Self::reload(self, etcd).await,
            other => Err(another_kind(DcsKind::Etcd, other)),
        }
    }
}

#[async_trait]
impl Reload for Etcd3 {
    async fn reload(&self, config: &DcsConfig) -> Result<(), Error> {
        match config {
            DcsConfig::Etcd3(etcd) => Self::reload(self, etcd).await,
            other => Err(another_kind(DcsKind::Etcd3, other)),
        }
    }
}

#[async_trait]
impl Reload for Kubernetes {
    async fn reload(&self, config: &DcsConfig) -> Result<(), Error> {
        match config {
            DcsConfig::Kubernetes(config) => Self::reload(self, config),
            other => Err(another_kind(DcsKind::Kubernetes, other)),
        }
    }
}

#[async_trait]
impl Reload for Zookeeper {
    async fn reload(&self, config: &DcsConfig) -> Result<(), Error> {
        match config {
            DcsConfig::Zookeeper(config) if !self.is_found_by_exhibitor() => Self::reload(self, config),
            DcsConfig::Exhibitor(config) if self.is_found_by_exhibitor() => {
                self.reload_by_exhibitor(config).await
            }
            other if self.is_found_by_exhibitor() => Err(another_kind(DcsKind::Exhibitor, other)),
            other => Err(another_kind(DcsKind::Zookeeper, other)),
        }
    }
}

fn another_kind(present: DcsKind, wanted: &DcsConfig) -> Error {
    let (present, wanted) = (present.name(), wanted.kind().name());
    Error::Fatal(Failure {
        operation: "reload the configuration of the DCS",
        endpoint: wanted.to_owned(),
        source: format!("the agent uses {present}: another kind of DCS needs a restart of the agent").into(),
    })
}
