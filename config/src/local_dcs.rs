//! Where the cluster state is kept, as the local file says it.

use crate::endpoint::HostPort;
use crate::problem::{Problem, Problems};
use crate::secret::Secret;
use crate::value::{Map, Value};
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
    /// CA file; without it the system's CAs are trusted.
    pub cacert: Option<PathBuf>,
    /// The server's certificate is not verified.
    pub insecure: bool,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key; may be inside `cert`.
    pub key: Option<PathBuf>,
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

impl DcsKind {
    /// The name of its section.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

impl DcsConfig {
    /// Which DCS it is.
    #[must_use]
    pub fn kind(&self) -> DcsKind {
        match self {
            Self::Etcd3(_) => DcsKind::Etcd3,
            Self::Other { kind, .. } => *kind,
        }
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
    if kind != DcsKind::Etcd3 {
        return Some(DcsConfig::Other { kind, section: map });
    }
    match etcd3(&map) {
        Ok(config) => Some(DcsConfig::Etcd3(config)),
        Err((key, message)) => {
            let path = if key.is_empty() {
                "etcd3".to_owned()
            } else {
                format!("etcd3.{key}")
            };
            let position = map
                .get(key)
                .map_or(value.position.as_ref(), |value| value.position.as_ref());
            problems.push(Problem::error(&path, position, message));
            None
        }
    }
}

type KeyError = (&'static str, String);

/// What a `url` or `proxy` says.
struct Url {
    https: bool,
    endpoint: HostPort,
    username: Option<String>,
    password: Option<Secret>,
}

fn etcd3(map: &Map) -> Result<Etcd3Config, KeyError> {
    let text = |key| crate::read::text(map, key);
    let port: u16 = crate::read::count(map, "port", None, 2379);
    let (mut https, mut use_proxies) = (
        text("protocol").is_some_and(|p| p.eq_ignore_ascii_case("https")),
        crate::read::flag(map, "use_proxies"),
    );
    let (mut username, mut password) = (text("username"), crate::read::secret(map, "password"));
    let mut from_url = |url: Url| {
        https = url.https;
        username = url.username.or_else(|| username.take());
        password = url.password.or_else(|| password.take());
        url.endpoint
    };
    let endpoint = |key, text: &str| HostPort::parse(text, Some(port)).map_err(|why| (key, why.to_string()));
    let srv = ["srv", "discovery_srv", "srv_domain"].into_iter().find_map(text);
    let hosts = map.get("hosts").map(crate::read::texts).unwrap_or_default();
    let endpoints = if let Some(proxy) = text("proxy") {
        use_proxies = true;
        EtcdEndpoints::Proxy(from_url(url("proxy", &proxy)?))
    } else if let Some(domain) = srv {
        EtcdEndpoints::Srv {
            domain,
            suffix: text("srv_suffix"),
        }
    } else if !hosts.is_empty() {
        let mut endpoints = Vec::new();
        for host in &hosts {
            match host.split_once("://") {
                Some(_) => endpoints.push(from_url(url("hosts", host)?)),
                None => endpoints.push(endpoint("hosts", host)?),
            }
        }
        EtcdEndpoints::Hosts(endpoints)
    } else if let Some(address) = text("url") {
        EtcdEndpoints::Hosts(vec![from_url(url("url", &address)?)])
    } else if let Some(host) = text("host") {
        EtcdEndpoints::Hosts(vec![endpoint("host", &host)?])
    } else {
        return Err(("", "one of hosts, host, url, srv and proxy is needed".to_owned()));
    };
    Ok(Etcd3Config {
        endpoints,
        use_proxies,
        https,
        username,
        password,
        cacert: crate::read::path(map, "cacert"),
        insecure: crate::read::flag(map, "insecure"),
        cert: crate::read::path(map, "cert"),
        key: crate::read::path(map, "key"),
    })
}

/// `http[s]://[user[:password]@]host[:port]`. No message shows the text, since it may hold a password.
fn url(key: &'static str, text: &str) -> Result<Url, KeyError> {
    let wrong = |what: &str| {
        (
            key,
            format!("expected http[s]://[user:password@]host[:port], {what}"),
        )
    };
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| wrong("but there is no scheme"))?;
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("but the scheme is neither http nor https")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let (login, host) = authority
        .rsplit_once('@')
        .map_or((None, authority), |(login, host)| (Some(login), host));
    let endpoint = HostPort::parse(host, Some(2379)).map_err(|why| wrong(&format!("but {why}")))?;
    let (username, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((username, password)) => (decoded(username), decoded(password)),
        None => (None, None),
    };
    Ok(Url {
        https,
        endpoint,
        username,
        password: password.map(Secret::new),
    })
}

/// Percent-decodes; the empty text counts as not written.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}
