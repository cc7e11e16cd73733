//! The sections `etcd3` and `etcd`, which have the same settings: etcd by the third or the second version of its API.

use std::path::PathBuf;

use super::{KeyError, url};
use crate::endpoint::HostPort;
use crate::read::{count, flag, path, secret, text, texts};
use crate::secret::Secret;
use crate::value::Map;

const PORT: u16 = 2379;

/// How the first etcd endpoints are found. When several are written, the first of proxy, srv, hosts, url, host wins.
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

/// The section `etcd3` or `etcd`.
#[derive(Clone, Debug, PartialEq)]
pub struct EtcdConfig {
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
    /// CA file; without it the system's CAs are trusted.
    pub cacert: Option<PathBuf>,
    /// The server's certificate is not verified.
    pub insecure: bool,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key; may be inside `cert`.
    pub key: Option<PathBuf>,
}

impl EtcdConfig {
    /// The configured endpoints; none where DNS names them.
    #[must_use]
    pub fn servers(&self) -> &[HostPort] {
        match &self.endpoints {
            EtcdEndpoints::Proxy(endpoint) => std::slice::from_ref(endpoint),
            EtcdEndpoints::Hosts(endpoints) => endpoints,
            EtcdEndpoints::Srv { .. } => &[],
        }
    }
}

pub(super) fn read(map: &Map) -> Result<EtcdConfig, KeyError> {
    let text = |key| text(map, key);
    let port: u16 = count(map, "port", None, PORT);
    let (mut https, mut use_proxies) = (
        text("protocol").is_some_and(|p| p.eq_ignore_ascii_case("https")),
        flag(map, "use_proxies"),
    );
    let (mut username, mut password) = (text("username"), secret(map, "password"));
    let mut from_url = |url: url::Url| {
        https = url.https;
        username = url.username.or_else(|| username.take());
        password = url.password.or_else(|| password.take());
        url.endpoint
    };
    let endpoint = |key, text: &str| HostPort::parse(text, Some(port)).map_err(|why| (key, why.to_string()));
    let srv = ["srv", "discovery_srv", "srv_domain"].into_iter().find_map(text);
    let hosts = map.get("hosts").map(texts).unwrap_or_default();
    let endpoints = if let Some(proxy) = text("proxy") {
        use_proxies = true;
        EtcdEndpoints::Proxy(from_url(url::parse("proxy", &proxy, PORT)?))
    } else if let Some(domain) = srv {
        EtcdEndpoints::Srv {
            domain,
            suffix: text("srv_suffix"),
        }
    } else if !hosts.is_empty() {
        let mut endpoints = Vec::new();
        for host in &hosts {
            match host.split_once("://") {
                Some(_) => endpoints.push(from_url(url::parse("hosts", host, PORT)?)),
                None => endpoints.push(endpoint("hosts", host)?),
            }
        }
        EtcdEndpoints::Hosts(endpoints)
    } else if let Some(address) = text("url") {
        EtcdEndpoints::Hosts(vec![from_url(url::parse("url", &address, PORT)?)])
    } else if let Some(host) = text("host") {
        EtcdEndpoints::Hosts(vec![endpoint("host", &host)?])
    } else {
        return Err(("", "one of hosts, host, url, srv and proxy is needed".to_owned()));
    };
    Ok(EtcdConfig {
        endpoints,
        use_proxies,
        https,
        username,
        password,
        cacert: path(map, "cacert"),
        insecure: flag(map, "insecure"),
        cert: path(map, "cert"),
        key: path(map, "key"),
    })
}
