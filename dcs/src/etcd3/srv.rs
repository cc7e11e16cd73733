//! The first endpoints: as configured, or found by DNS SRV records.

use std::time::Duration;

use config::{EtcdConfig, EtcdEndpoints, HostPort};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use net::http;

use super::link;

/// Why SRV records yield no endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SrvError {
    #[error("cannot set up name resolution")]
    Resolver(#[from] hickory_resolver::net::NetError),
    #[error(transparent)]
    Http(#[from] http::SetupError),
    #[error("no usable SRV record below {0}")]
    NoRecord(String),
}

/// The service names in the order in which they are tried. A peer's record leads to the members' list on that peer.
const SERVICES: [(&str, bool); 6] = [
    ("_etcd-client-ssl", false),
    ("_etcd-client", false),
    ("_etcd-ssl", false),
    ("_etcd", false),
    ("_etcd-server-ssl", true),
    ("_etcd-server", true),
];

/// The URLs of the configured endpoints. SRV records are looked up, for at most `patience`.
pub(crate) async fn configured(config: &EtcdConfig, patience: Duration) -> Result<Vec<String>, SrvError> {
    let scheme = if config.https { "https" } else { "http" };
    match &config.endpoints {
        EtcdEndpoints::Proxy(proxy) => Ok(vec![url(scheme, &proxy.host, proxy.port)]),
        EtcdEndpoints::Hosts(hosts) => Ok(hosts
            .iter()
            .map(|HostPort { host, port }| url(scheme, host, *port))
            .collect()),
        EtcdEndpoints::Srv { domain, suffix } => {
            let none = || SrvError::NoRecord(domain.clone());
            let found = tokio::time::timeout(patience, look_up(config, domain, suffix.as_deref(), patience));
            found.await.map_err(|_| none())?
        }
    }
}

async fn look_up(
    config: &EtcdConfig,
    domain: &str,
    suffix: Option<&str>,
    patience: Duration,
) -> Result<Vec<String>, SrvError> {
    let resolver = TokioResolver::builder_tokio()?.build()?;
    for (service, is_peer) in SERVICES {
        let name = service_name(service, suffix, domain);
        let scheme = if service.ends_with("-ssl") {
            "https"
        } else {
            "http"
        };
        let answer = match resolver.srv_lookup(name.as_str()).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(name, %error, "no SRV record");
                continue;
            }
        };
        let mut urls = Vec::new();
        for record in answer.answers() {
            if let RData::SRV(srv) = &record.data {
                urls.push(url(scheme, srv.target.to_utf8().trim_end_matches('.'), srv.port));
            }
        }
        let urls = if is_peer {
            ask_peers(config, &urls, patience / 4).await?
        } else {
            urls
        };
        if !urls.is_empty() {
            return Ok(urls);
        }
    }
    Err(SrvError::NoRecord(domain.to_owned()))
}

/// A peer lists the members and their client URLs over plain HTTP.
async fn ask_peers(
    config: &EtcdConfig,
    peers: &[String],
    patience: Duration,
) -> Result<Vec<String>, SrvError> {
    let options = http::Options {
        tls: link::tls(config),
        ..http::Options::default()
    };
    let client = http::Client::new(&options)?;
    for peer in peers {
        match client.get(&format!("{peer}/members"), patience).await {
            Ok(response) => {
                let urls = response
                    .json()
                    .map(|members| client_urls(&members))
                    .unwrap_or_default();
                if !urls.is_empty() {
                    return Ok(urls);
                }
            }
            Err(error) => tracing::debug!(%error, "a peer does not list its members"),
        }
    }
    Ok(Vec::new())
}

fn client_urls(members: &serde_json::Value) -> Vec<String> {
    let members = members.as_array().into_iter().flatten();
    let urls = members
        .filter_map(|member| member.get("clientURLs")?.as_array())
        .flatten();
    urls.filter_map(|url| url.as_str().map(str::to_owned)).collect()
}

fn service_name(service: &str, suffix: Option<&str>, domain: &str) -> String {
    let suffix = suffix
        .filter(|suffix| !suffix.is_empty())
        .map(|suffix| format!("-{suffix}"));
    format!("{service}{}._tcp.{domain}", suffix.unwrap_or_default())
}

fn url(scheme: &str, host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("{scheme}://[{host}]:{port}")
    } else {
        format!("{scheme}://{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls_are_written_as_etcd_documents_them() {
        assert_eq!(
            service_name("_etcd-client-ssl", None, "a.test"),
            "_etcd-client-ssl._tcp.a.test"
        );
        assert_eq!(
            service_name("_etcd", Some("dev"), "a.test"),
            "_etcd-dev._tcp.a.test"
        );
        assert_eq!(url("https", "a.test", 2379), "https://a.test:2379");
        assert_eq!(url("http", "::1", 2379), "http://[::1]:2379");
    }

    #[test]
    fn a_peers_list_yields_client_urls() {
        let members =
            serde_json::json!([{"id": "1", "clientURLs": ["http://a:2379"]}, {"clientURLs": 7}, {}]);
        assert_eq!(client_urls(&members), ["http://a:2379"]);
        assert!(client_urls(&serde_json::json!({"message": "no"})).is_empty());
    }
}
