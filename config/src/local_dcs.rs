//! Where the cluster state is kept, as the local file says it: one file for each kind of section.

mod consul;
mod etcd;
mod kubernetes;
mod url;
mod zookeeper;

pub use consul::{Consistency, ConsulConfig, consul_service_name};
pub use etcd::{EtcdConfig, EtcdEndpoints};
pub use kubernetes::{KubernetesConfig, KubernetesPort};
pub use zookeeper::{ExhibitorConfig, ZookeeperAcl, ZookeeperConfig};

use crate::endpoint::HostPort;
use crate::problem::{Problem, Problems};
use crate::value::{Map, Value};

/// The DCS section of the local configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum DcsConfig {
    /// `consul`
    Consul(ConsulConfig),
    /// `etcd`: by the v2 API.
    Etcd(EtcdConfig),
    /// `etcd3`: by the v3 API.
    Etcd3(EtcdConfig),
    /// `exhibitor`: ZooKeeper, found by Exhibitor.
    Exhibitor(ExhibitorConfig),
    /// `kubernetes`
    Kubernetes(KubernetesConfig),
    /// `zookeeper`
    Zookeeper(ZookeeperConfig),
}

/// The kinds of DCS that Patroni knows, in the order in which Patroni looks for their sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DcsKind {
    /// `consul`
    Consul,
    /// `etcd`: the v2 API
    Etcd,
    /// `etcd3`
    Etcd3,
    /// `exhibitor`
    Exhibitor,
    /// `kubernetes`
    Kubernetes,
    /// `raft`: refused
    Raft,
    /// `zookeeper`
    Zookeeper,
}

const KINDS: [(&str, DcsKind); 7] = [
    ("consul", DcsKind::Consul),
    ("etcd", DcsKind::Etcd),
    ("etcd3", DcsKind::Etcd3),
    ("exhibitor", DcsKind::Exhibitor),
    ("kubernetes", DcsKind::Kubernetes),
    ("raft", DcsKind::Raft),
    ("zookeeper", DcsKind::Zookeeper),
];

/// Patroni's own store keeps neither term nor vote on disk and cannot be spoken to from outside.
const RAFT: &str = "Patroni's own store is not supported: keep the cluster's state in another one. In pause \
                    (patronictl pause --wait), stop all members, replace this section by that of another store, for \
                    example etcd3, start them and resume";

/// The key within the section (empty: the section itself), and what is wrong with it.
type KeyError = (&'static str, String);

impl DcsKind {
    /// The name of its section.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }

    /// The store's name in `waiting on …`: Patroni's two clients of etcd go by one.
    #[must_use]
    pub fn family(self) -> &'static str {
        match self {
            Self::Etcd | Self::Etcd3 => "etcd",
            other => other.name(),
        }
    }
}

impl DcsConfig {
    /// Which DCS it is.
    #[must_use]
    pub fn kind(&self) -> DcsKind {
        match self {
            Self::Consul(_) => DcsKind::Consul,
            Self::Etcd(_) => DcsKind::Etcd,
            Self::Etcd3(_) => DcsKind::Etcd3,
            Self::Exhibitor(_) => DcsKind::Exhibitor,
            Self::Kubernetes(_) => DcsKind::Kubernetes,
            Self::Zookeeper(_) => DcsKind::Zookeeper,
        }
    }

    /// The servers that the section names; none where they are found in another way.
    #[must_use]
    pub fn servers(&self) -> Vec<HostPort> {
        match self {
            Self::Consul(consul) => consul.hosts.clone(),
            Self::Etcd(etcd) | Self::Etcd3(etcd) => etcd.servers().to_vec(),
            Self::Exhibitor(exhibitor) => {
                let server = |host: &String| HostPort {
                    host: host.clone(),
                    port: exhibitor.port,
                };
                exhibitor.hosts.iter().map(server).collect()
            }
            Self::Kubernetes(_) => Vec::new(),
            Self::Zookeeper(zookeeper) => zookeeper.hosts.clone(),
        }
    }

    /// The same with one of [`DcsConfig::servers`] alone.
    #[must_use]
    pub fn with_server(&self, server: &HostPort) -> Self {
        let mut alone = self.clone();
        match &mut alone {
            Self::Consul(consul) => consul.hosts = vec![server.clone()],
            Self::Etcd(etcd) | Self::Etcd3(etcd) => {
                etcd.endpoints = EtcdEndpoints::Hosts(vec![server.clone()]);
            }
            Self::Exhibitor(exhibitor) => exhibitor.hosts = vec![server.host.clone()],
            Self::Kubernetes(_) => {}
            Self::Zookeeper(zookeeper) => zookeeper.hosts = vec![server.clone()],
        }
        alone
    }
}

/// Whether this top-level key is a DCS section.
pub(crate) fn is_section(key: &str) -> bool {
    KINDS.iter().any(|(name, _)| *name == key)
}

/// The section that counts: the first in Patroni's order.
pub(crate) fn section(tree: &Map) -> Option<(DcsKind, &Value)> {
    KINDS
        .iter()
        .find_map(|(name, kind)| Some((*kind, tree.get(name)?)))
}

/// Reads the DCS section; `None` when there is none or it is not usable, which is reported then.
pub(crate) fn read(tree: &Map, problems: &mut Problems) -> Option<DcsConfig> {
    let Some((kind, value)) = section(tree) else {
        let known: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "Can not find suitable configuration of distributed configuration store. Available implementations: {}",
            known.join(", ")
        );
        problems.push(Problem::error("", None, message));
        return None;
    };
    for entry in tree
        .entries()
        .iter()
        .filter(|entry| is_section(&entry.key) && entry.key != kind.name())
    {
        let message = format!(
            "ignored: there is a section {} too, and only one can be used",
            kind.name()
        );
        problems.push(Problem::warning(&entry.key, entry.key_position.as_ref(), message));
    }
    let map = value.as_map().cloned().unwrap_or_default();
    match read_section(kind, &map) {
        Ok(DcsConfig::Kubernetes(mut kubernetes)) => {
            kubernetes.prefer_namespace(tree);
            Some(DcsConfig::Kubernetes(kubernetes))
        }
        Ok(config) => Some(config),
        Err((key, message)) => {
            let path = if key.is_empty() {
                kind.name().to_owned()
            } else {
                format!("{}.{key}", kind.name())
            };
            let position = map
                .get(key)
                .map_or(value.position.as_ref(), |value| value.position.as_ref());
            problems.push(Problem::error(&path, position, message));
            None
        }
    }
}

fn read_section(kind: DcsKind, map: &Map) -> Result<DcsConfig, KeyError> {
    match kind {
        DcsKind::Consul => consul::read(map).map(DcsConfig::Consul),
        DcsKind::Etcd => etcd::read(map).map(DcsConfig::Etcd),
        DcsKind::Etcd3 => etcd::read(map).map(DcsConfig::Etcd3),
        DcsKind::Exhibitor => zookeeper::read_exhibitor(map).map(DcsConfig::Exhibitor),
        DcsKind::Kubernetes => kubernetes::read(map).map(DcsConfig::Kubernetes),
        DcsKind::Raft => Err(("", RAFT.to_owned())),
        DcsKind::Zookeeper => zookeeper::read(map).map(DcsConfig::Zookeeper),
    }
}
