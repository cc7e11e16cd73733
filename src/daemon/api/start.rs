//! Starts the REST API on its own threads, and follows the configuration.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use config::{LocalConfig, RestApiConfig, VerifyClient};
use ha::cluster::ScheduledRestart;
use ha::facts::PlannedRestart;
use ha::step::RequestId;
use net::http::Client;
use net::tls;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::access::{Access, Network};
use super::large_answers::LargeAnswers;
use super::listen::{self, ListenError};
use super::respond::{Api, resolve};
use super::schedule::Schedule;
use super::serve::{Dress, HttpServer};
use super::server_status::{LocalServer, ServerStatus};
use crate::daemon::citus::Keeper;
use crate::daemon::disk::Disk;
use crate::daemon::events::Events;
use crate::daemon::inbox::Inbox;
use crate::daemon::view::ViewReceiver;
use crate::daemon::{http, store};

/// Health checks of many load balancers fit into one thread; a second one so that none waits for a TLS handshake.
const THREADS: usize = 2;

/// How long addresses of members are taken to be the same.
const MEMBERS_PAUSE: Duration = Duration::from_secs(10);

/// What the REST API works with; nothing of it is shared with the HA loop, so that neither waits for the other.
pub struct Surroundings {
    /// The DCS without an identity: it is read afresh each time, and `config` and `failover` are written.
    pub store: store::Store,
    /// The local server.
    pub server: Arc<dyn LocalServer>,
    /// What has happened here.
    pub events: Events,
    /// A Citus coordinator: keeps `pg_dist_node`.
    pub citus: Option<Keeper>,
    /// How much room the server has.
    pub disk: Disk,
    /// The client to ask other members with.
    pub members: Arc<Client>,
}

/// The REST API cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Its certificates.
    #[error("the REST API's TLS cannot be set up: {}", chain(.0))]
    Tls(#[from] tls::Error),
    /// Its threads.
    #[error("the REST API's threads cannot be started: {0}")]
    Threads(#[source] io::Error),
    /// What it works with.
    #[error("the REST API's connections cannot be set up: {0}")]
    Surroundings(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The running REST API. It ends when this is dropped, without waiting for its clients.
pub struct Handle {
    runtime: Option<Runtime>,
    addresses: Vec<SocketAddr>,
    schedule: Arc<Schedule>,
}

impl Handle {
    /// Where it listened at its start.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The restart that is scheduled, as it is published in the member key. A change of it wakes the HA loop.
    #[must_use]
    pub fn scheduled_restart(&self) -> Option<ScheduledRestart> {
        self.schedule.shown()
    }

    /// The restart that is scheduled, for the decision.
    #[must_use]
    pub fn planned_restart(&self) -> Option<PlannedRestart> {
        self.schedule.planned()
    }

    /// That restart was begun, or will not be done any more.
    pub fn restart_is_unscheduled(&self, id: RequestId) {
        self.schedule.done(id);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Starts the REST API; it listens when this returns. `surroundings` is awaited on its own threads, so that what it
/// connects lives there. Whenever the view carries another `local`, that is applied and certificates are read again.
///
/// # Errors
/// It cannot listen, or its certificates cannot be used.
pub fn start<E>(
    view: ViewReceiver,
    inbox: Inbox,
    surroundings: impl Future<Output = Result<Surroundings, E>>,
) -> Result<Handle, StartError>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("rest-api")
        .enable_all()
        .build()
        .map_err(StartError::Threads)?;
    let schedule = Arc::new(Schedule::new());
    let addresses = runtime.block_on(async {
        let surroundings = surroundings
            .await
            .map_err(|error| StartError::Surroundings(error.into()))?;
        begin(view, inbox, surroundings, Arc::clone(&schedule)).await
    })?;
    Ok(Handle {
        runtime: Some(runtime),
        addresses,
        schedule,
    })
}

async fn begin(
    view: ViewReceiver,
    inbox: Inbox,
    surroundings: Surroundings,
    schedule: Arc<Schedule>,
) -> Result<Vec<SocketAddr>, StartError> {
    let (local, version) = {
        let view = view.borrow();
        (Arc::clone(&view.local), view.node.version.clone())
    };
    let restapi = local.restapi.clone();
    let tls = tls_of(&restapi)?;
    let listeners = listen::bind(&restapi).await?;
    let addresses = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    let store::Store { dcs, reload: store } = surroundings.store;
    let api = Arc::new(Api {
        access: RwLock::new(Arc::new(access_of(&restapi).await)),
        view: view.clone(),
        failsafe: inbox.promise(),
        inbox,
        dcs,
        server: ServerStatus::new(surroundings.server),
        members: surroundings.members,
        schedule,
        events: surroundings.events,
        citus: surroundings.citus,
        disk: surroundings.disk,
        readings: Arc::default(),
        large: LargeAnswers::new(),
    });
    let server = HttpServer::new(Arc::clone(&api), Dress::new(&restapi, &version), tls);
    let accepting = server.accept(listeners);
    tokio::spawn(async move {
        let follower = Follower {
            api,
            server,
            store,
            applied: local,
            listening: restapi,
            accepting,
        };
        follower.follow(view).await;
    });
    Ok(addresses)
}

/// Keeps the server as the configuration says.
struct Follower {
    api: Arc<Api>,
    server: Arc<HttpServer>,
    store: Arc<dyn store::Reload>,
    applied: Arc<LocalConfig>,
    /// What it listens by; another than the applied one when that address could not be taken.
    listening: RestApiConfig,
    accepting: JoinSet<()>,
}

impl Follower {
    async fn follow(mut self, mut view: ViewReceiver) {
        let mut resolved_at: Option<Instant> = None;
        loop {
            if resolved_at.is_none_or(|at| at.elapsed() >= MEMBERS_PAUSE) {
                let has_members = view.borrow().cluster.is_some();
                resolved_at = has_members.then(Instant::now);
                let (api, server) = (Arc::clone(&self.api), Arc::clone(&self.server));
                // Names may take their time.
                tokio::spawn(async move {
                    let addresses = api.member_addresses().await;
                    if !addresses.is_empty() {
                        server.set_members(addresses);
                    }
                });
            }
            let (newest, version) = {
                let view = view.borrow_and_update();
                (Arc::clone(&view.local), view.node.version.clone())
            };
            if !Arc::ptr_eq(&self.applied, &newest) {
                self.apply(&newest, &version).await;
                self.applied = newest;
            }
            if view.changed().await.is_err() {
                break;
            }
        }
        // Without a sender the daemon ends, and with it these threads; until then requests are answered.
        while self.accepting.join_next().await.is_some() {}
    }

    async fn apply(&mut self, local: &LocalConfig, version: &str) {
        let restapi = &local.restapi;
        let access = Arc::new(access_of(restapi).await);
        *self.api.access.write().unwrap_or_else(PoisonError::into_inner) = access;
        match tls_of(restapi) {
            Ok(tls) => self.server.set_tls(tls),
            Err(error) => tracing::error!("restapi: the former certificates stay in use: {}", chain(&error)),
        }
        self.server.set_dress(Dress::new(restapi, version));
        if let Err(error) = self.api.members.reload(&http::options(local)) {
            tracing::error!("other members are asked as before: {}", chain(&error));
        }
        if local.dcs != self.applied.dcs
            && let Err(error) = self.store.reload(&local.dcs).await
        {
            tracing::error!("the REST API keeps the former DCS settings: {error:#}");
        }
        if restapi.listen != self.listening.listen || self.accepting.is_empty() {
            self.listen(restapi).await;
        }
    }

    async fn listen(&mut self, restapi: &RestApiConfig) {
        let bound = match listen::bind(restapi).await {
            Ok(listeners) => Ok(listeners),
            // The new address may be in the way of the old one, as `*` is of `127.0.0.1`.
            Err(_) => {
                self.accepting.shutdown().await;
                listen::bind(restapi).await
            }
        };
        let listeners: Vec<TcpListener> = match bound {
            Ok(listeners) => {
                self.listening = restapi.clone();
                listeners
            }
            Err(error) => {
                tracing::error!("{error}; the REST API stays where it was");
                match listen::bind(&self.listening).await {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        tracing::error!("{error}");
                        return;
                    }
                }
            }
        };
        self.accepting.shutdown().await;
        self.accepting = self.server.accept(listeners);
    }
}

fn tls_of(restapi: &RestApiConfig) -> Result<Option<tls::Server>, tls::Error> {
    let Some(cert) = &restapi.certfile else {
        return Ok(None);
    };
    let verify_client = match restapi.verify_client {
        VerifyClient::None => tls::VerifyClient::None,
        VerifyClient::Optional => tls::VerifyClient::Optional,
        VerifyClient::Required => tls::VerifyClient::Required,
    };
    let options = tls::ServerOptions {
        cert: cert.clone(),
        key: restapi.keyfile.clone(),
        key_password: restapi.keyfile_password.clone(),
        ca: restapi.cafile.clone(),
        verify_client,
        ciphers: restapi.ciphers.clone(),
    };
    if !options.ciphers_are_known() {
        tracing::warn!(
            "restapi.ciphers names no suite of TLS 1.2 that is here, so all are offered: ECDHE with RSA or ECDSA, and \
             AES-GCM or ChaCha20-Poly1305"
        );
    }
    tls::Server::new(&options).map(Some)
}

async fn access_of(restapi: &RestApiConfig) -> Access {
    let mut networks = Vec::new();
    for entry in &restapi.allowlist {
        if entry.contains('/') {
            match Network::parse(entry) {
                Some(network) => networks.push(network),
                None => tracing::error!("restapi.allowlist: {entry:?} is not a network and is left out"),
            }
        } else {
            networks.extend(resolve(entry).await.into_iter().map(Network::host));
        }
    }
    Access::new(restapi, networks)
}
