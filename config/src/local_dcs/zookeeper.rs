//! The sections `zookeeper` and `exhibitor`, which finds ZooKeeper's servers over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use super::KeyError;
use crate::endpoint::HostPort;
use crate::read::{count, flag, path, secret, section, texts};
use crate::secret::Secret;
use crate::value::{Map, Value};

const PORT: u16 = 2181;

/// The section `zookeeper`.
#[derive(Clone, Debug, PartialEq)]
pub struct ZookeeperConfig {
    /// The servers; none where Exhibitor names them.
    pub hosts: Vec<HostPort>,
    /// What stands behind the servers' addresses, beginning with a slash: all paths lie below it.
    pub chroot: Option<String>,
    /// `use_ssl`
    pub use_ssl: bool,
    /// CA file; the system's CAs are trusted as well.
    pub cacert: Option<PathBuf>,
    /// Client certificate; counts together with `key` only.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// The key's passphrase.
    pub key_password: Option<Secret>,
    /// Whether the servers' certificates are verified. Their host names never are.
    pub verify: bool,
    /// `set_acls` of every znode that is created; empty: all rights for everybody.
    pub set_acls: Vec<ZookeeperAcl>,
    /// `auth_data`: schemes with the credentials that are sent after every connect.
    pub auth_data: Vec<(String, Secret)>,
}

/// One entry of `set_acls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZookeeperAcl {
    /// The scheme of the principal: `x509`, or what stands before its first colon.
    pub scheme: String,
    /// The principal within the scheme.
    pub id: String,
    /// Its rights: a set of the bits of [`ZookeeperAcl::RIGHTS`].
    pub rights: i32,
}

impl ZookeeperAcl {
    /// The words of rights, with ZooKeeper's bits.
    pub const RIGHTS: [(&'static str, i32); 6] = [
        ("READ", 1),
        ("WRITE", 2),
        ("CREATE", 4),
        ("DELETE", 8),
        ("ADMIN", 16),
        ("ALL", 31),
    ];
}

/// The section `exhibitor`.
#[derive(Clone, Debug, PartialEq)]
pub struct ExhibitorConfig {
    /// The hosts on which Exhibitor runs.
    pub hosts: Vec<String>,
    /// The port of its REST API.
    pub port: u16,
    /// `poll_interval`: how often the list of ZooKeeper's servers is read; default 300 s.
    pub poll_interval: Duration,
    /// How ZooKeeper is spoken to; without servers.
    pub zookeeper: ZookeeperConfig,
}

pub(super) fn read(map: &Map) -> Result<ZookeeperConfig, KeyError> {
    let joined = map.get("hosts").map(texts).unwrap_or_default().join(",");
    let (servers, chroot) = match joined.split_once('/') {
        Some((servers, chroot)) => (servers, Some(chroot.trim_matches('/'))),
        None => (joined.as_str(), None),
    };
    let servers: Vec<&str> = servers
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .collect();
    if servers.is_empty() {
        return Err(("", "hosts is needed: the servers, each as host:port".to_owned()));
    }
    let hosts = servers
        .into_iter()
        .map(|host| HostPort::parse(host, Some(PORT)).map_err(|why| ("hosts", why.to_string())));
    Ok(ZookeeperConfig {
        hosts: hosts.collect::<Result<_, _>>()?,
        chroot: chroot
            .filter(|chroot| !chroot.is_empty())
            .map(|chroot| format!("/{chroot}")),
        ..client(map)?
    })
}

pub(super) fn read_exhibitor(map: &Map) -> Result<ExhibitorConfig, KeyError> {
    let hosts = map.get("hosts").map(texts).unwrap_or_default();
    if hosts.is_empty() {
        return Err(("", "hosts is needed: where Exhibitor runs".to_owned()));
    }
    let port = count(map, "port", None, 0);
    if port == 0 {
        return Err(("port", "port is needed: that of Exhibitor's REST API".to_owned()));
    }
    Ok(ExhibitorConfig {
        hosts,
        port,
        poll_interval: Duration::from_secs(count(map, "poll_interval", Some("s"), 300)),
        zookeeper: client(map)?,
    })
}

/// What does not depend on how the servers are found.
fn client(map: &Map) -> Result<ZookeeperConfig, KeyError> {
    let acls = section(map, "set_acls").iter().map(|(principal, rights)| {
        let (scheme, id) = principal.split_once(':').unwrap_or(("x509", principal));
        Ok(ZookeeperAcl {
            scheme: scheme.to_owned(),
            id: id.to_owned(),
            rights: rights_of(rights)?,
        })
    });
    let auth_data = section(map, "auth_data")
        .iter()
        .filter(|(_, credential)| !credential.is_null())
        .map(|(scheme, credential)| (scheme.to_owned(), Secret::new(credential.python_text())));
    Ok(ZookeeperConfig {
        hosts: Vec::new(),
        chroot: None,
        use_ssl: flag(map, "use_ssl"),
        cacert: path(map, "cacert"),
        cert: path(map, "cert"),
        key: path(map, "key"),
        key_password: secret(map, "key_password"),
        verify: on_unless_off(map, "verify"),
        set_acls: acls.collect::<Result<_, _>>()?,
        auth_data: auth_data.collect(),
    })
}

/// A flag that is on unless it says otherwise.
fn on_unless_off(map: &Map, key: &str) -> bool {
    map.get(key).is_none_or(|value| value.is_null()) || flag(map, key)
}

fn rights_of(value: &Value) -> Result<i32, KeyError> {
    let mut rights = 0;
    for word in texts(value) {
        let bit = ZookeeperAcl::RIGHTS
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&word));
        let Some((_, bit)) = bit else {
            let known = ZookeeperAcl::RIGHTS.map(|(name, _)| name).join(", ");
            return Err(("set_acls", format!("a right is one of {known}")));
        };
        rights |= bit;
    }
    Ok(rights)
}
