//! Who may change something: the allowlist, client certificates, user and password (Patroni documentation, "YAML
//! Configuration Settings", `restapi`; "Security Considerations"). Pure; names are resolved by the caller.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::{RestApiConfig, VerifyClient};

use super::answer::Answer;

/// A block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// One address.
    pub(crate) fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
        }
    }

    /// `address/prefix` or `address/netmask`; bits behind the prefix do not matter.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.trim().parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match (
            prefix.trim().parse::<u32>(),
            prefix.trim().parse::<std::net::Ipv4Addr>(),
        ) {
            (Ok(prefix), _) => prefix,
            (_, Ok(mask)) if address.is_ipv4() => {
                let mask = u32::from(mask);
                (mask.leading_ones() + mask.trailing_zeros() >= 32).then(|| mask.leading_ones())?
            }
            _ => return None,
        };
        (prefix <= bits).then_some(Self { address, prefix })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let (one, other, bits) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (u32::from(one).into(), u32::from(other).into(), 32),
            (IpAddr::V6(one), IpAddr::V6(other)) => (u128::from(one), u128::from(other), 128),
            _ => return false,
        };
        (one ^ other).checked_shr(bits - self.prefix).unwrap_or(0) == 0
    }
}

/// Whom `restapi` lets change something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// `allowlist`, names resolved. `None`: not configured. A configured list of which nothing could be resolved lets
    /// nobody in.
    pub(crate) allowlist: Option<Vec<Network>>,
    /// `allowlist_include_members`
    pub(crate) includes_members: bool,
    asks_for_certificate: bool,
    /// `user:password` in Base64.
    credentials: Option<config::Secret>,
}

/// What is known of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller<'a> {
    /// Where it comes from.
    pub(crate) address: IpAddr,
    /// It has shown a certificate, and that was valid.
    pub(crate) has_certificate: bool,
    /// Its header `Authorization`.
    pub(crate) authorization: Option<&'a [u8]>,
}

impl Access {
    /// The rules of `restapi`, with its allowlist resolved.
    pub(crate) fn new(restapi: &RestApiConfig, allowlist: Vec<Network>) -> Self {
        let credentials = restapi.authentication.as_ref().map(|auth| {
            config::Secret::new(STANDARD.encode(format!("{}:{}", auth.username, auth.password.reveal())))
        });
        Self {
            allowlist: (!restapi.allowlist.is_empty()).then_some(allowlist),
            includes_members: restapi.allowlist_include_members,
            asks_for_certificate: restapi.certfile.is_some() && restapi.verify_client != VerifyClient::None,
            credentials,
        }
    }

    /// The same without what concerns members' addresses.
    pub(crate) fn by_list_alone(&self) -> Self {
        Self {
            includes_members: false,
            ..self.clone()
        }
    }

    /// Lets the caller in or says why not. `members` are the addresses of the cluster's members, looked at only with
    /// `allowlist_include_members`.
    pub(crate) fn check(&self, caller: Caller<'_>, members: &[IpAddr]) -> Result<(), Answer> {
        let listed = self
            .allowlist
            .iter()
            .flatten()
            .any(|network| network.contains(caller.address));
        let is_member = || {
            members
                .iter()
                .any(|member| Network::host(*member).contains(caller.address))
        };
        let is_limited = self.allowlist.is_some() || self.includes_members;
        if is_limited && !listed && !(self.includes_members && is_member()) {
            return Err(Answer::text(403, "Access is denied"));
        }
        if self.asks_for_certificate && !caller.has_certificate {
            return Err(Answer::text(403, "client certificate required"));
        }
        self.check_credentials(caller.authorization).map_err(|text| {
            Answer::text(401, text).with_header("WWW-Authenticate", "Basic realm=\"Patroni\"".to_owned())
        })
    }

    /// Whether who is let in has shown a password.
    pub(crate) fn asks_for_password(&self) -> bool {
        self.credentials.is_some()
    }

    fn check_credentials(&self, header: Option<&[u8]>) -> Result<(), &'static str> {
        let Some(expected) = &self.credentials else {
            return Ok(());
        };
        let header = header.ok_or("no auth header received")?;
        match header.strip_prefix(b"Basic ") {
            Some(given) if is_equal(given, expected.reveal().as_bytes()) => Ok(()),
            _ => Err("not authenticated"),
        }
    }
}

/// Compares in a time that tells nothing about where two texts differ.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

/// The host of an address like `https://10.0.0.1:8008/patroni`.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        access: &Access,
        address: &str,
        certificate: bool,
        authorization: Option<&str>,
    ) -> (u16, String) {
        let members = ["10.0.0.3".parse().unwrap()];
        let caller = Caller {
            address: address.parse().unwrap(),
            has_certificate: certificate,
            authorization: authorization.map(str::as_bytes),
        };
        access
            .check(caller, &members)
            .map_or_else(|no| (no.status, no.body), |()| (200, String::new()))
    }

    #[test]
    fn addresses_come_first_then_certificates_then_credentials() {
        let access = Access {
            allowlist: Some(vec![
                Network::parse("192.168.1.77/24").unwrap(),
                Network::host("::1".parse().unwrap()),
            ]),
            includes_members: false,
            asks_for_certificate: true,
            credentials: Some(config::Secret::new(STANDARD.encode("admin:secret"))),
        };
        let good = Some("Basic YWRtaW46c2VjcmV0");
        for (address, certificate, authorization, status, text) in [
            ("192.168.2.1", true, good, 403, "Access is denied"),
            ("10.0.0.3", true, good, 403, "Access is denied"),
            ("192.168.1.1", false, good, 403, "client certificate required"),
            ("::1", true, None, 401, "no auth header received"),
            ("::1", true, Some("Basic eDp5"), 401, "not authenticated"),
            (
                "::1",
                true,
                Some("Bearer YWRtaW46c2VjcmV0"),
                401,
                "not authenticated",
            ),
            ("::1", true, good, 200, ""),
            ("::ffff:192.168.1.9", true, good, 200, ""),
        ] {
            let got = check(&access, address, certificate, authorization);
            assert_eq!(
                got,
                (status, text.to_owned()),
                "{address} {certificate} {authorization:?}"
            );
        }
    }

    #[test]
    fn members_count_when_they_are_included() {
        let access = Access {
            includes_members: true,
            ..Access::default()
        };
        assert_eq!(check(&access, "10.0.0.3", false, None).0, 200);
        assert_eq!(check(&access, "10.0.0.4", false, None).0, 403);
        assert_eq!(check(&Access::default(), "10.0.0.4", false, None).0, 200);
    }

    #[test]
    fn a_list_of_which_nothing_is_known_lets_nobody_in() {
        let access = Access {
            allowlist: Some(Vec::new()),
            ..Access::default()
        };
        assert_eq!(
            check(&access, "127.0.0.1", false, None),
            (403, "Access is denied".to_owned())
        );
    }

    #[test]
    fn networks_are_read_with_prefix_or_mask() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).is_some_and(|network| network.contains(address.parse().unwrap()))
        };
        assert!(
            contains("0.0.0.0/0", "1.2.3.4") && contains("::/0", "fe80::1") && !contains("::/0", "1.2.3.4")
        );
        assert!(
            contains("10.1.2.3/255.255.0.0", "10.1.9.9") && !contains("10.1.2.3/255.255.0.0", "10.2.9.9")
        );
        for bad in [
            "10.0.0.0/33",
            "10.0.0.0/255.0.255.0",
            "host/8",
            "10.0.0.1",
            "::/129",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn hosts_of_members() {
        for (url, host) in [
            ("http://10.0.0.1:8008/patroni", Some("10.0.0.1")),
            ("https://[fe80::1]:8008/patroni", Some("fe80::1")),
            ("http://db1/patroni", Some("db1")),
            ("nonsense", None),
            ("http:///x", None),
        ] {
            assert_eq!(host_of(url), host, "{url}");
        }
    }
}
