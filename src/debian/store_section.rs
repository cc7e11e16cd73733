//! Pure: the section of a configuration that says which DCS a cluster uses, and where it is.

use std::fmt::Write;

/// A kind of DCS, as its section is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub(super) enum Kind {
    Etcd3,
    Etcd,
    Consul,
    Zookeeper,
    Exhibitor,
    Kubernetes,
}

/// What `--store` gives: the kind, and the endpoints or the namespace if they are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Store {
    pub(super) kind: Kind,
    place: Option<String>,
    text: String,
}

impl std::fmt::Display for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// One server.
struct Endpoint<'a> {
    is_https: bool,
    host: &'a str,
    port: Option<&'a str>,
}

impl<'a> Endpoint<'a> {
    /// `HOST[:PORT]` or a URL.
    fn parse(text: &'a str) -> Self {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        Self {
            is_https: scheme == "https",
            host,
            port,
        }
    }

    fn with_port(&self, default: &str) -> String {
        quoted(&format!("{}:{}", self.host, self.port.unwrap_or(default)))
    }
}

/// YAML takes a bracket for the beginning of a list.
fn quoted(text: &str) -> String {
    if text.starts_with('[') {
        format!("\"{text}\"")
    } else {
        text.to_owned()
    }
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Etcd3 => "etcd3",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::Zookeeper => "zookeeper",
            Self::Exhibitor => "exhibitor",
            Self::Kubernetes => "kubernetes",
        }
    }

    fn port(self) -> &'static str {
        match self {
            Self::Etcd3 | Self::Etcd => "2379",
            Self::Consul => "8500",
            Self::Zookeeper => "2181",
            Self::Exhibitor => "8080",
            Self::Kubernetes => "",
        }
    }

    /// The section with these endpoints, `HOST[:PORT]` or URLs, separated by commas or blanks; `None` without any.
    pub(super) fn section(self, endpoints: &str) -> Option<String> {
        let given = endpoints.split(|c: char| c == ',' || c.is_whitespace());
        let given: Vec<Endpoint<'_>> = given
            .filter(|text| !text.is_empty())
            .map(Endpoint::parse)
            .collect();
        let first = given.first()?;
        let is_https = given.iter().any(|endpoint| endpoint.is_https);
        let mut section = format!("{}:", self.name());
        match self {
            Self::Kubernetes => {
                let _ = write!(
                    section,
                    "\n  namespace: {}\n  labels:\n    application: patroni",
                    first.host
                );
                return Some(section);
            }
            Self::Exhibitor => {
                let port = given.iter().find_map(|endpoint| endpoint.port);
                let _ = write!(section, "\n  port: {}", port.unwrap_or(self.port()));
            }
            Self::Etcd3 | Self::Etcd if is_https => section += "\n  protocol: https",
            Self::Consul if is_https => section += "\n  scheme: https",
            Self::Zookeeper if is_https => section += "\n  use_ssl: true",
            Self::Etcd3 | Self::Etcd | Self::Consul | Self::Zookeeper => {}
        }
        if self == Self::Consul && given.len() == 1 {
            // As Patroni knows it.
            let _ = write!(section, "\n  host: {}", first.with_port(self.port()));
            return Some(section);
        }
        section += "\n  hosts:";
        for endpoint in &given {
            let host = match self {
                Self::Exhibitor => quoted(endpoint.host),
                _ => endpoint.with_port(self.port()),
            };
            let _ = write!(section, "\n  - {host}");
        }
        Some(section)
    }
}

impl Store {
    /// `KIND` or `KIND=ENDPOINTS`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (name, Some(place.to_owned())),
            None => (text, None),
        };
        let kind = clap::ValueEnum::from_str(name, false).map_err(|_| {
            "expected etcd3, etcd, consul, zookeeper, exhibitor or kubernetes, as in consul=127.0.0.1:8500".to_owned()
        })?;
        if place
            .as_deref()
            .is_some_and(|place| Kind::section(kind, place).is_none())
        {
            return Err(format!("nothing stands behind {name}="));
        }
        Ok(Self {
            kind,
            place,
            text: text.to_owned(),
        })
    }

    /// Without endpoints that of a server on this host, or of the namespace `default`.
    pub(super) fn section(&self) -> Option<String> {
        let default = if self.kind == Kind::Kubernetes {
            "default"
        } else {
            "127.0.0.1"
        };
        self.kind.section(self.place.as_deref().unwrap_or(default))
    }
}

#[cfg(test)]
mod tests {
    use config::{LocalConfig, Map, Value};

    use super::super::template;
    use super::{Kind, Store};

    /// A whole configuration with this section, as the program reads it.
    fn configuration(section: &str) -> Map {
        let values = [
            ("VERSION", "18"),
            ("CLUSTER", "demo"),
            ("HOSTNAME", "node1"),
            ("HOSTIP", "10.0.0.1"),
            ("LISTEN_VIP", ""),
            ("DATADIR_BASE", "/var/lib/postgresql"),
            ("NETWORK", "10.0.0.0/24"),
            ("API_PORT", "8008"),
            ("PORT", "5432"),
            ("SCRIPTS", "/usr/bin/tamada "),
            ("DCS_CONFIG", section),
        ];
        let text = template::fill(template::BUILT_IN, &values);
        let parsed = config::yaml::parse("18-demo.yml", &text).unwrap();
        parsed.as_map().unwrap().clone()
    }

    #[test]
    fn each_kind_gives_a_configuration_that_is_right() {
        for (given, expected) in [
            ("etcd3", "etcd3:\n  hosts:\n  - 127.0.0.1:2379"),
            (
                "etcd3=10.0.0.1, 10.0.0.2:2381 [fd00::1]",
                "etcd3:\n  hosts:\n  - 10.0.0.1:2379\n  - 10.0.0.2:2381\n  - \"[fd00::1]:2379\"",
            ),
            (
                "etcd3=https://etcd.internal:2379/",
                "etcd3:\n  protocol: https\n  hosts:\n  - etcd.internal:2379",
            ),
            ("etcd=10.0.0.1", "etcd:\n  hosts:\n  - 10.0.0.1:2379"),
            ("consul", "consul:\n  host: 127.0.0.1:8500"),
            (
                "consul=https://consul.internal:8501",
                "consul:\n  scheme: https\n  host: consul.internal:8501",
            ),
            (
                "consul=10.0.0.1,10.0.0.2",
                "consul:\n  hosts:\n  - 10.0.0.1:8500\n  - 10.0.0.2:8500",
            ),
            (
                "zookeeper=10.0.0.1,10.0.0.2:2182",
                "zookeeper:\n  hosts:\n  - 10.0.0.1:2181\n  - 10.0.0.2:2182",
            ),
            ("zookeeper", "zookeeper:\n  hosts:\n  - 127.0.0.1:2181"),
            (
                "exhibitor=10.0.0.1,10.0.0.2:8181",
                "exhibitor:\n  port: 8181\n  hosts:\n  - 10.0.0.1\n  - 10.0.0.2",
            ),
            (
                "kubernetes",
                "kubernetes:\n  namespace: default\n  labels:\n    application: patroni",
            ),
            (
                "kubernetes=databases",
                "kubernetes:\n  namespace: databases\n  labels:\n    application: patroni",
            ),
        ] {
            let store = Store::parse(given).unwrap();
            let section = store.section().unwrap();
            assert_eq!(section, expected, "{given}");
            let tree = configuration(&section);
            let problems = config::validate_strictly(&tree);
            assert!(!problems.has_errors(), "{given}: {:?}", problems.lines());
            let (local, _) = LocalConfig::read(tree.clone()).unwrap();
            assert_eq!(local.dcs.kind().name(), store.kind.name(), "{given}");
            assert!(
                tree.get(store.kind.name())
                    .is_some_and(|value| matches!(value, Value { .. }))
            );
        }
    }

    #[test]
    fn what_is_no_kind_is_told() {
        assert!(Store::parse("raft=10.0.0.1").unwrap_err().contains("zookeeper"));
        assert_eq!(
            Store::parse("consul= ,").unwrap_err(),
            "nothing stands behind consul="
        );
        assert_eq!(Kind::Etcd3.section(" , "), None);
    }
}
