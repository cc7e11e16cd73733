//! Whether the member's name is free. Two agents with one name, as after a virtual machine was cloned, would overwrite each
//! other's member key and believe in each other's leader key.

use std::net::IpAddr;
use std::time::Duration;

use config::LocalConfig;
use ha::cluster::{Cluster, Member};
use ha::pg::MemberName;
use tokio::time::{Instant, timeout};

use super::first_reading;
use crate::daemon::store::Store;

/// How long a live member of our name is given to answer.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// How often the question is asked again while the answer is not known.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The name that this agent wants to have.
pub(super) struct Name<'a> {
    name: MemberName,
    /// The lease that an agent before us has left with the guard.
    lease: Option<String>,
    http: &'a net::http::Client,
}

/// What became of the agent that wrote the member key of our name.
#[derive(Debug, PartialEq, Eq)]
enum Namesake {
    /// It answers at this address.
    Alive(String),
    /// Nothing listens where it did.
    Ended,
    /// It could not be found out.
    Unknown(String),
}

impl<'a> Name<'a> {
    pub(super) fn new(local: &LocalConfig, lease: Option<String>, http: &'a net::http::Client) -> Self {
        Self {
            name: MemberName(local.name.clone()),
            lease,
            http,
        }
    }

    /// Waits until the name is free; what the DCS holds then. The key of an agent that has died expires after `ttl`.
    ///
    /// # Errors
    /// Another agent of this name runs.
    pub(super) async fn claim(&self, store: &Store, ttl: Duration) -> anyhow::Result<Cluster> {
        // A store that elects a leader gives each lease its full time again.
        let until = Instant::now() + ttl * 2 + RETRY_INTERVAL;
        let mut changes = store.dcs.changes();
        let mut is_told = false;
        loop {
            let cluster = first_reading(store).await;
            let Some(member) = cluster.member(&self.name).filter(|member| !self.is_ours(member)) else {
                return Ok(cluster);
            };
            let why = match self.ask(member).await {
                Namesake::Ended => {
                    store.dcs.adopt_lease(&member.session);
                    return Ok(cluster);
                }
                Namesake::Alive(url) => return Err(self.taken(&format!("another agent answers at {url}"))),
                Namesake::Unknown(why) => why,
            };
            if Instant::now() >= until {
                return Err(self.taken(&format!(
                    "the member key is renewed by an agent that cannot be asked ({why})"
                )));
            }
            if !is_told {
                is_told = true;
                tracing::warn!(
                    "cannot find out whether another agent runs as '{}' ({why}); waiting until its member key expires",
                    self.name
                );
            }
            let _ = timeout(RETRY_INTERVAL, changes.changed()).await;
        }
    }

    /// The key is an earlier life's, or nobody's: all agents bind it to a lease.
    fn is_ours(&self, member: &Member) -> bool {
        // ZooKeeper's lease is the session with its password behind it.
        let session = self.lease.as_deref().and_then(|lease| lease.split(':').next());
        session == Some(member.session.as_str()) || member.session == "0"
    }

    fn taken(&self, why: &str) -> anyhow::Error {
        let text = format!(
            "Can't start; there is already a node named '{}' running",
            self.name
        );
        tracing::error!(critical = true, "{text}");
        anyhow::anyhow!("{why}: give this member a name of its own, or stop the other one")
    }

    async fn ask(&self, member: &Member) -> Namesake {
        let Some((scheme, rest)) = member
            .data
            .api_url
            .as_deref()
            .and_then(|api_url| api_url.split_once("://"))
        else {
            return Namesake::Unknown("its member key has no api_url".to_owned());
        };
        let address = rest.split('/').next().unwrap_or_default();
        let url = format!("{scheme}://{address}/liveness");
        match self.http.get(&url, ANSWER_TIME).await {
            Ok(_) => Namesake::Alive(url),
            Err(error) if !error.is_refused() => Namesake::Unknown(error.to_string()),
            // A clone that resolves the name of the other host to itself, as Debian does for its own name, asks nobody else.
            Err(_) if is_resolved_to_this_host(address).await => {
                Namesake::Unknown(format!("{address} is this host itself"))
            }
            Err(_) => Namesake::Ended,
        }
    }
}

/// Whether a host's name, not an address, leads to a loopback address.
async fn is_resolved_to_this_host(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    if is_address || host.eq_ignore_ascii_case("localhost") {
        return false;
    }
    match timeout(ANSWER_TIME, tokio::net::lookup_host(address)).await {
        Ok(Ok(mut addresses)) => addresses.any(|address| address.ip().is_loopback()),
        Ok(Err(_)) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use config::DcsConfig;
    use dcs::memory::{MemoryDcs, SharedStore};
    use dcs::{Dcs, Identity, Layout, Timing};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::daemon::store::Reload;

    const TTL: Duration = Duration::from_secs(1);

    struct NoReload;

    #[async_trait]
    impl Reload for NoReload {
        async fn reload(&self, _: &DcsConfig) -> Result<(), dcs::Error> {
            Ok(())
        }
    }

    fn agent(shared: &SharedStore) -> MemoryDcs {
        let identity = Identity {
            name: "a".into(),
            lease: None,
        };
        let timing = Timing {
            ttl: TTL,
            ..Timing::default()
        };
        MemoryDcs::new(shared, &Layout::new("service", "c", None), &identity, timing)
    }

    /// A member `a` whose REST API is said to be at `address`, and the store as the next agent of the name sees it.
    async fn stage(address: &str) -> (SharedStore, Store) {
        let shared = SharedStore::new();
        let data = format!(r#"{{"api_url":"http://{address}/patroni"}}"#);
        assert!(agent(&shared).touch_member(&data).await.unwrap());
        let dcs = Arc::new(agent(&shared));
        let store = Store {
            dcs,
            reload: Arc::new(NoReload),
        };
        (shared, store)
    }

    async fn claim(store: &Store, lease: Option<String>) -> anyhow::Result<Cluster> {
        let http = net::http::Client::new(&net::http::Options::default()).unwrap();
        let name = Name {
            name: "a".into(),
            lease,
            http: &http,
        };
        name.claim(store, TTL).await
    }

    async fn closed_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_name_is_free_where_nothing_listens() {
        let (_shared, store) = stage(&format!("127.0.0.1:{}", closed_port().await)).await;
        assert!(claim(&store, None).await.is_ok());
        assert!(
            store.dcs.touch_member("{}").await.unwrap(),
            "the key is taken over at once"
        );
    }

    #[tokio::test]
    async fn whatever_answers_has_the_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        let (_shared, store) = stage(&address.to_string()).await;
        let error = claim(&store, None).await.unwrap_err().to_string();
        assert!(error.contains("another agent answers"), "{error}");
        // The guard has kept the lease: that was this very agent, behind whatever answers there.
        let session = store.dcs.load().await.unwrap().members[0].session.clone();
        assert!(claim(&store, Some(session)).await.is_ok());
    }

    #[tokio::test]
    async fn an_agent_that_cannot_be_asked_has_the_name_until_its_key_expires() {
        let hangs_up = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hangs_up.local_addr().unwrap();
        tokio::spawn(async move { while hangs_up.accept().await.is_ok() {} });
        let (_shared, store) = stage(&address.to_string()).await;
        let begun = Instant::now();
        let cluster = claim(&store, None).await.unwrap();
        assert!(cluster.members.is_empty() && begun.elapsed() >= TTL - Duration::from_millis(200));
    }

    #[tokio::test]
    async fn an_agent_that_renews_its_key_and_cannot_be_asked_is_alive() {
        let hangs_up = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hangs_up.local_addr().unwrap();
        tokio::spawn(async move { while hangs_up.accept().await.is_ok() {} });
        let (shared, store) = stage(&address.to_string()).await;
        let lease = store.dcs.load().await.unwrap().members[0]
            .session
            .parse()
            .unwrap();
        tokio::spawn(async move {
            while shared.with(|store| store.keep_alive(lease)) {
                tokio::time::sleep(TTL / 4).await;
            }
        });
        let error = claim(&store, None).await.unwrap_err().to_string();
        assert!(error.contains("cannot be asked"), "{error}");
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_host_proves_nothing() {
        for (address, expected) in [
            ("127.0.0.1:8008", false),
            ("[::1]:8008", false),
            ("localhost:8008", false),
            ("no-such-host.invalid:8008", true),
        ] {
            assert_eq!(is_resolved_to_this_host(address).await, expected, "{address}");
        }
    }
}
