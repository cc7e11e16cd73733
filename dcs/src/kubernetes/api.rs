//! Requests to the API server: which of its addresses is asked, for how long, and what an answer is worth.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER, WARNING};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::credentials::{Credentials, Environment};
use super::servers::Servers;
pub(super) use crate::http::{Budget, LONGEST_PAUSE};
use crate::http::{CLIENT_LIFE, FIRST_PAUSE, Tries, chain, lock, read};
use crate::{Error, Failure, Timing};
use config::KubernetesConfig;

/// One request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// What it is for, as a verb with its object.
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// Below `/api/v1/namespaces/`.
    pub(super) path: String,
    pub(super) body: Option<&'a Value>,
    /// Whether 403 may be an answer of the moment: RBAC rules are being replaced, and the lock depends on this request.
    pub(super) tries_again_when_forbidden: bool,
}

/// What the server answered.
#[derive(Debug)]
pub(super) enum Outcome {
    Done(Value),
    NotFound,
    /// The object is another than was expected, or exists.
    Conflict,
}

/// An answer, and whether an earlier attempt of the same request went unanswered and may have been carried out.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) outcome: Outcome,
    pub(super) is_repeat: bool,
}

/// Clients of the present credentials.
#[derive(Debug, Clone)]
struct Clients {
    by_name: reqwest::Client,
    by_address: reqwest::Client,
    made: Instant,
}

/// The way to the API server that all verbs and the watches share.
pub(super) struct Api {
    environment: Environment,
    pub(super) credentials: Mutex<Arc<Credentials>>,
    clients: Mutex<Clients>,
    pub(super) servers: Mutex<Servers>,
    retriable: Mutex<BTreeSet<u16>>,
    timing: Mutex<Timing>,
    has_warned: AtomicBool,
    /// The list of servers ought to be read again soon.
    pub(super) is_list_old: Notify,
}

/// What came of asking one server.
pub(super) enum Attempt {
    Answered(Outcome),
    /// Another server, or the same one later, may do it.
    Failed {
        why: String,
        is_maybe_applied: bool,
        pause: Option<Duration>,
        is_refusal: bool,
    },
    Refused(String),
}

impl Api {
    /// # Errors
    /// Credentials or certificates cannot be used.
    pub(super) fn new(
        config: &KubernetesConfig,
        environment: Environment,
        timing: Timing,
        is_member: bool,
    ) -> Result<Self, Error> {
        let credentials = Credentials::load(config, &environment).map_err(cannot_work)?;
        let clients = Clients::new(&credentials, timing).map_err(cannot_work)?;
        let servers = Servers {
            bypasses: config.bypass_api_service && is_member,
            order: vec![credentials.server.clone()],
        };
        Ok(Self {
            environment,
            credentials: Mutex::new(Arc::new(credentials)),
            clients: Mutex::new(clients),
            servers: Mutex::new(servers),
            retriable: Mutex::new(retriable(config)),
            timing: Mutex::new(timing),
            has_warned: AtomicBool::new(false),
            is_list_old: Notify::new(),
        })
    }

    /// Reads credentials and certificates again.
    pub(super) fn reconfigure(&self, config: &KubernetesConfig) -> Result<(), Error> {
        let credentials = Credentials::load(config, &self.environment).map_err(cannot_work)?;
        let clients = Clients::new(&credentials, self.timing()).map_err(cannot_work)?;
        let mut servers = lock(&self.servers);
        servers.bypasses = config.bypass_api_service;
        servers.order = vec![credentials.server.clone()];
        drop(servers);
        *lock(&self.retriable) = retriable(config);
        *lock(&self.credentials) = Arc::new(credentials);
        *lock(&self.clients) = clients;
        self.is_list_old.notify_one();
        Ok(())
    }

    pub(super) fn timing(&self) -> Timing {
        *lock(&self.timing)
    }

    pub(super) fn set_timing(&self, timing: Timing) {
        *lock(&self.timing) = timing;
    }

    /// For a verb that must come through if that is at all possible.
    pub(super) fn persistent(&self) -> Budget {
        Budget {
            deadline: Instant::now() + self.timing().retry_timeout,
            is_persistent: true,
        }
    }

    /// For what is tried again in the next cycle anyway.
    pub(super) fn brief(&self) -> Budget {
        Budget {
            is_persistent: false,
            ..self.persistent()
        }
    }

    /// The server in use, for messages.
    pub(super) fn current(&self) -> String {
        lock(&self.servers).order.first().cloned().unwrap_or_default()
    }

    pub(super) fn unavailable(&self, operation: &'static str, why: impl Into<String>) -> Error {
        let (endpoint, source) = (self.current(), why.into().into());
        Error::Unavailable(Failure {
            operation,
            endpoint,
            source,
        })
    }

    /// Sends a request until it is answered or the time is over.
    ///
    /// # Errors
    /// Nobody answered, or the answer is a refusal.
    pub(super) async fn send(&self, request: &Request<'_>, budget: Budget) -> Result<Reply, Error> {
        let operation = request.operation;
        let (mut tries, mut is_refusal_last) = (Tries::default(), false);
        let mut pause = FIRST_PAUSE;
        loop {
            let order = lock(&self.servers).order.clone();
            let mut asked_to_wait = None;
            for (index, server) in order.iter().enumerate() {
                let left = budget.left();
                if left.is_zero() {
                    break;
                }
                // One server is asked several times, of several each is asked once at least.
                let parts = u32::try_from(order.len() - index).unwrap_or(1).max(3);
                let until = Instant::now() + (left / parts).max(Duration::from_millis(250)).min(left);
                match self.attempt(server, request, until).await {
                    Attempt::Answered(outcome) => {
                        self.select(server, tries.last());
                        return Ok(Reply {
                            outcome,
                            is_repeat: tries.is_repeat,
                        });
                    }
                    Attempt::Refused(why) => {
                        tries.failed(server, why, false);
                        return Err(tries.refused(operation));
                    }
                    Attempt::Failed {
                        why,
                        is_maybe_applied,
                        pause,
                        is_refusal,
                    } => {
                        tracing::debug!("Kubernetes API at {server}: could not {operation}: {why}");
                        asked_to_wait = asked_to_wait.max(pause);
                        is_refusal_last = is_refusal;
                        tries.failed(server, why, is_maybe_applied);
                    }
                }
            }
            self.is_list_old.notify_one();
            let jitter = Duration::from_millis(fastrand::u64(..100));
            let wait = asked_to_wait.unwrap_or(pause + jitter);
            if !budget.is_persistent || budget.left() <= wait {
                return Err(match is_refusal_last {
                    true => tries.refused(operation),
                    false => tries.give_up(operation),
                });
            }
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    pub(super) async fn attempt(&self, server: &str, request: &Request<'_>, until: Instant) -> Attempt {
        let is_change = request.method != Method::GET;
        let silent = |why: String, is_sent: bool| Attempt::Failed {
            why,
            is_maybe_applied: is_change && is_sent,
            pause: None,
            is_refusal: false,
        };
        let credentials = lock(&self.credentials).clone();
        let answered = timeout_at(until, async {
            let response = self.build(server, request, &credentials).send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, read(response).await?))
        });
        let (status, headers, body) = match answered.await {
            Err(_) => return silent("no answer in time".to_owned(), true),
            Ok(Err(error)) => {
                let is_sent = !error.is_connect() && !error.is_builder();
                if !is_sent {
                    self.renew_clients();
                }
                return silent(chain(&error.without_url()), is_sent);
            }
            Ok(Ok(answer)) => answer,
        };
        self.warn(&headers);
        match status {
            status if status.is_success() => match serde_json::from_slice(&body) {
                Ok(value) => Attempt::Answered(Outcome::Done(value)),
                Err(error) => silent(format!("its answer is no JSON: {error}"), true),
            },
            // Where nothing can be created there is no such namespace.
            StatusCode::NOT_FOUND if request.method != Method::POST => Attempt::Answered(Outcome::NotFound),
            StatusCode::CONFLICT => Attempt::Answered(Outcome::Conflict),
            _ => self.refused(&credentials, request, status, &headers, &body),
        }
    }

    fn refused(
        &self,
        credentials: &Credentials,
        request: &Request<'_>,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Attempt {
        let message = serde_json::from_slice::<Value>(body).ok();
        let message = message
            .as_ref()
            .and_then(|status| status.get("message")?.as_str());
        let message = message.unwrap_or_default().escape_debug().to_string();
        let why = format!("{status}: {message}");
        let wait = headers.get(RETRY_AFTER).map(|value| {
            let seconds = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            Duration::from_secs(seconds.unwrap_or(1))
        });
        let is_failing =
            matches!(status.as_u16(), 500 | 503 | 504) || lock(&self.retriable).contains(&status.as_u16());
        if is_failing || wait.is_some() {
            let is_maybe_applied = request.method != Method::GET && status.is_server_error();
            return Attempt::Failed {
                why,
                is_maybe_applied,
                pause: wait,
                is_refusal: false,
            };
        }
        let later = Attempt::Failed {
            why: why.clone(),
            is_maybe_applied: false,
            pause: None,
            is_refusal: true,
        };
        match status {
            StatusCode::UNAUTHORIZED => {
                credentials.distrust_token();
                later
            }
            StatusCode::FORBIDDEN if request.tries_again_when_forbidden => later,
            _ => Attempt::Refused(why),
        }
    }

    /// Opens a watch: an answer without an end.
    ///
    /// # Errors
    /// It was not opened. `Ok(Err(status))`: the server answered with another status than 200.
    pub(super) async fn watch(&self, path: &str) -> Result<Result<reqwest::Response, StatusCode>, String> {
        let request = Request {
            operation: "watch the cluster",
            method: Method::GET,
            path: path.to_owned(),
            body: None,
            tries_again_when_forbidden: false,
        };
        let (server, credentials) = (self.current(), lock(&self.credentials).clone());
        let until = Instant::now() + self.timing().retry_timeout;
        let opened = timeout_at(until, async {
            self.build(&server, &request, &credentials).send().await
        });
        match opened.await {
            Err(_) => Err(format!("{server}: no answer in time")),
            Ok(Err(error)) => Err(format!("{server}: {}", chain(&error.without_url()))),
            Ok(Ok(response)) if response.status() == StatusCode::OK => {
                self.warn(response.headers());
                Ok(Ok(response))
            }
            Ok(Ok(response)) => Ok(Err(response.status())),
        }
    }

    fn build(
        &self,
        server: &str,
        request: &Request<'_>,
        credentials: &Credentials,
    ) -> reqwest::RequestBuilder {
        let clients = lock(&self.clients).clone();
        let client = if server == credentials.server {
            clients.by_name
        } else {
            clients.by_address
        };
        let url = format!("{server}/api/v1/namespaces/{}", request.path);
        let mut builder = client.request(request.method.clone(), url);
        if let Some(authorization) = credentials.authorization() {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        if let Some(body) = request.body {
            let kind = if request.method == Method::PATCH {
                "application/strategic-merge-patch+json"
            } else {
                "application/json"
            };
            builder = builder.header(CONTENT_TYPE, kind).body(body.to_string());
        }
        builder
    }

    /// Certificates may have been replaced since.
    fn renew_clients(&self) {
        if lock(&self.clients).made.elapsed() < CLIENT_LIFE {
            return;
        }
        let credentials = lock(&self.credentials).clone();
        match Clients::new(&credentials, self.timing()) {
            Ok(clients) => *lock(&self.clients) = clients,
            Err(error) => {
                tracing::error!(
                    "cannot use the certificates for the API server, the former ones stay in use: {error}"
                );
                lock(&self.clients).made = Instant::now();
            }
        }
    }

    /// The API server's word on the kind of object that is used; said once.
    fn warn(&self, headers: &HeaderMap) {
        if let Some(text) = headers.get(WARNING).and_then(|value| value.to_str().ok())
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("the API server warns: {}", text.escape_debug());
        }
    }
}

impl Clients {
    fn new(
        credentials: &Credentials,
        timing: Timing,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self {
            by_name: credentials.client(false, timing)?,
            by_address: credentials.client(true, timing)?,
            made: Instant::now(),
        })
    }
}

fn retriable(config: &KubernetesConfig) -> BTreeSet<u16> {
    config.retriable_http_codes.iter().copied().collect()
}

fn cannot_work(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let (operation, endpoint) = ("connect to Kubernetes", "the Kubernetes API".to_owned());
    Error::Fatal(Failure {
        operation,
        endpoint,
        source,
    })
}
