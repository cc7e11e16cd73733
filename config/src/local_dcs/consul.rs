//! The section `consul`.

use std::path::PathBuf;

use super::{KeyError, url};
use crate::endpoint::HostPort;
use crate::read::{count, flag, path, secret, text, texts};
use crate::secret::Secret;
use crate::value::Map;

const PORT: u16 = 8500;

/// The section `consul`.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsulConfig {
    /// The agents or servers: the next one is asked when one does not answer. Patroni has one address only.
    pub hosts: Vec<HostPort>,
    /// `scheme: https`, or given by `url`.
    pub https: bool,
    /// The ACL token.
    pub token: Option<Secret>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
    /// CA file; without it the system's CAs are trusted.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Its key; may be inside `cert`.
    pub key: Option<PathBuf>,
    /// `dc`; `None`: the agent's own.
    pub datacenter: Option<String>,
    /// `consistency` of the daemon's reads.
    pub consistency: Consistency,
    /// `checks` that end the session when one of them fails; without any only its ttl counts.
    pub checks: Vec<String>,
    /// `register_service`: this member is a service in Consul's catalog.
    pub register_service: bool,
    /// `service_tags`, sorted.
    pub service_tags: Vec<String>,
    /// `service_check_interval`, a duration as Go writes it; default `5s`.
    pub service_check_interval: String,
    /// `service_check_tls_server_name`
    pub service_check_tls_server_name: Option<String>,
}

/// How current a read of Consul has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Answered by Consul's leader, which may be deposed for a moment.
    Default,
    /// Confirmed by a quorum.
    Consistent,
    /// Answered by any server.
    Stale,
}

impl Consistency {
    /// The words of the setting.
    pub const WORDS: &'static [&'static str] = &["default", "consistent", "stale"];
}

pub(super) fn read(map: &Map) -> Result<ConsulConfig, KeyError> {
    let mut https = text(map, "scheme").is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let port = map
        .get("port")
        .and_then(|value| value.to_int(None))
        .and_then(|port| u16::try_from(port).ok());
    let endpoint = |key, text: &str| {
        HostPort::parse(text, Some(port.unwrap_or(PORT))).map_err(|why| (key, why.to_string()))
    };
    let several = map.get("hosts").map(texts).unwrap_or_default();
    let hosts = if let Some(address) = text(map, "url") {
        let url = url::parse("url", &address, PORT)?;
        https = url.https;
        vec![url.endpoint]
    } else if let Some(host) = text(map, "host") {
        let HostPort { host, port: own } = endpoint("host", &host)?;
        // As in Patroni, `port` goes before what `host` says.
        let port = count(map, "port", None, own);
        vec![HostPort { host, port }]
    } else if !several.is_empty() {
        several
            .iter()
            .map(|host| endpoint("hosts", host))
            .collect::<Result<_, _>>()?
    } else {
        vec![endpoint("host", "127.0.0.1")?]
    };
    let cacert = path(map, "cacert");
    let verify = match map.get("verify").filter(|value| !value.is_null()) {
        Some(_) => flag(map, "verify") || cacert.is_some(),
        None => true,
    };
    let mut service_tags = map.get("service_tags").map(texts).unwrap_or_default();
    service_tags.sort();
    let consistency = match text(map, "consistency")
        .unwrap_or_default()
        .to_lowercase()
        .as_str()
    {
        "consistent" => Consistency::Consistent,
        "stale" => Consistency::Stale,
        _ => Consistency::Default,
    };
    Ok(ConsulConfig {
        hosts,
        https,
        token: secret(map, "token"),
        verify,
        cacert,
        cert: path(map, "cert"),
        key: path(map, "key"),
        datacenter: text(map, "dc"),
        consistency,
        checks: map.get("checks").map(texts).unwrap_or_default(),
        register_service: flag(map, "register_service"),
        service_tags,
        service_check_interval: text(map, "service_check_interval").unwrap_or_else(|| "5s".to_owned()),
        service_check_tls_server_name: text(map, "service_check_tls_server_name"),
    })
}

/// The longest name of a service.
const SERVICE_NAME_MAX: usize = 230;

/// A scope as the name of the service that `register_service` registers, which has to be a name of DNS.
#[must_use]
pub fn consul_service_name(scope: &str) -> String {
    let mut name = String::new();
    for character in scope.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' | '-' => name.push(character),
            '.' | '_' | ' ' => name.push('-'),
            other => name.push_str(&format!("u{:04}", u32::from(other))),
        }
    }
    name.chars().take(SERVICE_NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_becomes_a_name_of_dns() {
        assert_eq!(consul_service_name("Batman.x_y z"), "batman-x-y-z");
        assert_eq!(consul_service_name("a/bü"), "au0047bu0252");
        assert_eq!(consul_service_name(&"x".repeat(500)).len(), SERVICE_NAME_MAX);
    }
}
