//! Where the cluster state is kept, as the local file says it.

use crate::endpoint::HostPort;
use crate::secret::Secret;
use crate::value::Map;
use std::path::PathBuf;

/// The DCS section of the local configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum DcsConfig {
    /// etcd, spoken to by its v3 API.
    Etcd3(Etcd3Config),
    /// One of the other kinds that Patroni knows, with its section as written.
    Other {
        /// Which.
        kind: DcsKind,
        /// The section as written.
        section: Map,
    },
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
    /// `raft`
    Raft,
    /// `zookeeper`
    Zookeeper,
}

/// How the first etcd endpoints are found. When several are written, the first of proxy, srv, hosts, host wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdEndpoints {
    /// `proxy`: one endpoint; the topology is never asked for.
    Proxy(HostPort),
    /// `srv`: names found by DNS.
    Srv {
        /// The domain.
        domain: String,
        /// `srv_suffix`, appended to every service name that is looked up.
        suffix: Option<String>,
    },
    /// `hosts`, `host` or `url`.
    Hosts(Vec<HostPort>),
}

/// The `etcd3` section.
#[derive(Clone, Debug, PartialEq)]
pub struct Etcd3Config {
    /// The endpoints to begin with.
    pub endpoints: EtcdEndpoints,
    /// Never ask the cluster for its members, keep to the configured endpoints (`use_proxies`, `proxy`).
    pub use_proxies: bool,
    /// `protocol: https` (or given by `url`).
    pub https: bool,
    /// User name for authentication.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// CA file: the server's certificate is verified if given.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key; may be inside `cert`.
    pub key: Option<PathBuf>,
}
