//! Exhibitor: which servers ZooKeeper runs on, asked over HTTP now and then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::{ExhibitorConfig, HostPort};
use net::http::{Client, Options};

use super::calls::Calls;
use super::connection::lock;
use crate::endpoints::chance;
use crate::{Error, Failure};

const OPERATION: &str = "ask Exhibitor for ZooKeeper's servers";
/// How long one Exhibitor may take.
const TIMEOUT: Duration = Duration::from_millis(3100);
/// An answer names no more servers.
const MOST_SERVERS: usize = 256;

/// Asks Exhibitor.
#[derive(Clone)]
pub(super) struct Finder {
    client: Arc<Client>,
    state: Arc<Mutex<State>>,
}

struct State {
    config: ExhibitorConfig,
    /// The servers of the last answer: Exhibitor runs beside each.
    last: Vec<String>,
}

impl Finder {
    pub(super) fn new(config: &ExhibitorConfig) -> Result<Self, Error> {
        let client = Client::new(&Options {
            user_agent: "Tamada".to_owned(),
            ..Options::default()
        });
        let client = client.map_err(|error| Error::Fatal(failure(config, error.to_string())))?;
        Ok(Self {
            client: Arc::new(client),
            state: Arc::new(Mutex::new(State {
                config: config.clone(),
                last: Vec::new(),
            })),
        })
    }

    pub(super) fn reconfigure(&self, config: &ExhibitorConfig) {
        lock(&self.state).config = config.clone();
    }

    /// ZooKeeper's servers, each as `host:port`; asks the hosts of the last answer first, and then the configured ones.
    pub(super) async fn servers(&self) -> Result<Vec<String>, Error> {
        let (config, mut hosts) = {
            let state = lock(&self.state);
            (state.config.clone(), state.last.clone())
        };
        let mut configured = config.hosts.clone();
        let first = usize::try_from(chance()).unwrap_or_default() % configured.len().max(1);
        configured.rotate_left(first);
        hosts.extend(configured);
        let mut last = "no host is configured".to_owned();
        for host in hosts {
            let host = HostPort {
                host,
                port: config.port,
            };
            let url = format!("http://{host}/exhibitor/v1/cluster/list");
            match self.client.get(&url, TIMEOUT).await {
                Ok(answer) if answer.status.is_success() => match parse(&answer.body) {
                    Some((names, port)) => {
                        lock(&self.state).last.clone_from(&names);
                        let servers = names.into_iter().map(|host| HostPort { host, port }.to_string());
                        return Ok(servers.collect());
                    }
                    None => last = format!("{url}: the answer names no servers"),
                },
                Ok(answer) => last = format!("{url}: status {}", answer.status.as_u16()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(Error::Unavailable(failure(&config, last)))
    }

    /// Asks for ever, as often as the configuration says.
    pub(super) async fn keep(self, calls: Arc<Calls>) {
        loop {
            let period = lock(&self.state).config.poll_interval;
            tokio::time::sleep(period.max(Duration::from_millis(100))).await;
            match self.servers().await {
                Ok(servers) => calls.set_servers(servers),
                Err(error) => tracing::warn!("{error:#}; the known servers stay in use"),
            }
        }
    }
}

fn failure(config: &ExhibitorConfig, why: String) -> Failure {
    Failure {
        operation: OPERATION,
        endpoint: format!("{}, port {}", config.hosts.join(", "), config.port),
        source: why.into(),
    }
}

/// The servers, sorted, and ZooKeeper's port.
fn parse(body: &str) -> Option<(Vec<String>, u16)> {
    let answer: serde_json::Value = serde_json::from_str(body).ok()?;
    let port = u16::try_from(answer.get("port")?.as_u64()?)
        .ok()
        .filter(|port| *port != 0)?;
    let names = answer.get("servers")?.as_array()?.iter();
    let names: Option<Vec<String>> = names.map(|name| name.as_str().map(str::to_owned)).collect();
    let mut names = names?;
    names.sort();
    let is_usable =
        !names.is_empty() && names.len() <= MOST_SERVERS && names.iter().all(|name| !name.is_empty());
    is_usable.then_some((names, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_sorted_servers() {
        let parsed = parse(r#"{"servers":["b","a"],"port":2181}"#);
        assert_eq!(parsed, Some((vec!["a".to_owned(), "b".to_owned()], 2181)));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"servers":[],"port":2181}"#,
            r#"{"servers":["a"],"port":0}"#,
            r#"{"servers":["a"],"port":70000}"#,
            r#"{"servers":[1],"port":2181}"#,
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
