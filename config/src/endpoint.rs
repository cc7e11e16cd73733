//! `host:port` texts, as `listen` and `connect_address` hold them.

/// One host with its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where a server listens: one port on several addresses (`10.0.0.1,[::1]:5432`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Addresses without brackets; `*`, `0.0.0.0` and `::` mean all, and for the REST API the empty text too. Never empty.
    pub hosts: Vec<String>,
    /// TCP port.
    pub port: u16,
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No port, and none is implied.
    #[error("expected host:port, found {0:?} without a port")]
    NoPort(String),
    /// The port is no number from 0 to 65535.
    #[error("expected a port from 0 to 65535, found {0:?}")]
    BadPort(String),
    /// No host where one is needed.
    #[error("expected host:port, found {0:?} without a host")]
    NoHost(String),
    /// A host that is none; it is not shown, as it may be a part of a URL with a password.
    #[error("expected host:port with a name or an address as host, several separated by commas: it has {0}")]
    BadHost(&'static str),
    /// Several hosts where one is needed.
    #[error("expected one host:port, found several in {0:?}")]
    SeveralHosts(String),
}

impl HostPort {
    /// Parses `host:port`; an IPv6 address may stand in brackets.
    ///
    /// # Errors
    /// If the text has no host or several, or no port and `default_port` is `None`.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, AddressError> {
        let ListenAddress { mut hosts, port } = ListenAddress::parse(text, default_port)?;
        match (hosts.len(), hosts.pop()) {
            (1, Some(host)) if !host.is_empty() => Ok(Self { host, port }),
            (1, _) => Err(AddressError::NoHost(text.to_owned())),
            _ => Err(AddressError::SeveralHosts(text.to_owned())),
        }
    }
}

impl std::fmt::Display for HostPort {
    /// `host:port`, an IPv6 address in brackets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// What keeps the text from being hosts and a port.
fn no_host(text: &str) -> Option<&'static str> {
    let is_list = |host: &str| host.trim().contains(char::is_whitespace);
    if text.contains("://") {
        Some("a scheme such as http://")
    } else if text.contains('@') {
        Some("a user (@)")
    } else if text.contains('/') {
        Some("a slash")
    } else if text.chars().any(char::is_control) || text.split(',').any(is_list) {
        Some("a blank between hosts")
    } else if text.matches('[').count() != text.matches(']').count() {
        Some("a bracket without its counterpart")
    } else {
        None
    }
}

impl ListenAddress {
    /// Parses `host[,host...]:port`. What follows the last colon is the port, also behind an IPv6 address without
    /// brackets.
    ///
    /// # Errors
    /// If the port is no port, or is missing and `default_port` is `None`.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, AddressError> {
        let text = text.trim();
        if let Some(what) = no_host(text) {
            return Err(AddressError::BadHost(what));
        }
        let (hosts, port) = match text.rsplit_once(':') {
            Some((hosts, port)) if !port.ends_with(']') => (hosts, Some(port)),
            _ => (text, None),
        };
        let port = match (port, default_port) {
            (Some(port), _) => port
                .trim()
                .parse()
                .map_err(|_| AddressError::BadPort(port.to_owned()))?,
            (None, Some(port)) => port,
            (None, None) => return Err(AddressError::NoPort(text.to_owned())),
        };
        let without_brackets = |host: &str| {
            host.trim()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned()
        };
        let hosts: Vec<String> = hosts.split(',').map(without_brackets).collect();
        if hosts.len() > 1 && hosts.iter().any(String::is_empty) {
            return Err(AddressError::BadHost("a comma without a host"));
        }
        Ok(Self { hosts, port })
    }

    /// The host by which a server that listens there is reached from here.
    #[must_use]
    pub fn local_host(&self) -> &str {
        let everywhere = |host: &str| matches!(host, "" | "*" | "0.0.0.0" | "localhost");
        let is_all_ipv6 = |host: &str| matches!(host, "::" | "0:0:0:0:0:0:0:0");
        if self.hosts.iter().any(|host| is_all_ipv6(host)) && !self.hosts.iter().any(|host| everywhere(host))
        {
            // PostgreSQL does not listen on IPv4 then, and localhost may be IPv4 alone.
            return "::1";
        }
        let mut hosts = self.hosts.iter().map(String::as_str);
        match hosts.find(|host| everywhere(host) || matches!(*host, "127.0.0.1" | "::1")) {
            Some(host) if everywhere(host) => "localhost",
            Some(host) => host,
            None => self.hosts.first().map_or("localhost", String::as_str),
        }
    }

    /// The value of PostgreSQL's `listen_addresses`.
    #[must_use]
    pub fn listen_addresses(&self) -> String {
        self.hosts.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressError, HostPort, ListenAddress};

    #[test]
    fn listen_addresses() {
        for (text, expected, port) in [
            ("127.0.0.1", "127.0.0.1", 5432),
            ("127.0.0.1:5400", "127.0.0.1", 5400),
            ("127.0.0.1,192.168.0.101:5400", "127.0.0.1,192.168.0.101", 5400),
            (
                "127.0.0.1,www.my.net,[fe80::1], 0:0:0:0:0:0:0:0:5400",
                "127.0.0.1,www.my.net,fe80::1,0:0:0:0:0:0:0:0",
                5400,
            ),
            ("[::1]", "::1", 5432),
            ("*:5433", "*", 5433),
            (":5433", "", 5433),
        ] {
            let address = ListenAddress::parse(text, Some(5432)).unwrap();
            assert_eq!(
                (address.listen_addresses().as_str(), address.port),
                (expected, port),
                "{text}"
            );
        }
        assert_eq!(
            ListenAddress::parse("a:x", None),
            Err(AddressError::BadPort("x".to_owned()))
        );
        assert_eq!(
            ListenAddress::parse("a:70000", None),
            Err(AddressError::BadPort("70000".to_owned()))
        );
        assert_eq!(
            ListenAddress::parse("a", None),
            Err(AddressError::NoPort("a".to_owned()))
        );
    }

    #[test]
    fn one_host() {
        for text in ["db1:5432", "[fe80::1]:5432"] {
            assert_eq!(HostPort::parse(text, None).unwrap().to_string(), text);
        }
        assert_eq!(
            HostPort::parse(":1", None).unwrap_err().to_string(),
            r#"expected host:port, found ":1" without a host"#
        );
        assert!(HostPort::parse("a,b:1", None).is_err());
    }
}
