//! Requests of the stores that speak HTTP: which server is asked, for how long, and what silence is worth.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use net::tls::ClientOptions;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::endpoints::Endpoints;
use crate::{Error, Failure, Timing};

pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The most that one answer may hold. An object of Kubernetes has at most 1 MiB, a list has those of one cluster.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// Certificates are read again for new connections after this time.
pub(crate) const CLIENT_LIFE: Duration = Duration::from_secs(60);

type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// How long a call may go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) deadline: Instant,
    /// Whether all servers are asked again and again until the deadline, or once.
    pub(crate) is_persistent: bool,
}

impl Budget {
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What it is for, as a verb with its object.
    pub(crate) operation: &'static str,
    pub(crate) method: Method,
    /// With the query, beginning with a slash.
    pub(crate) path: String,
    pub(crate) body: Option<Body>,
}

/// A body and its type.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) kind: &'static str,
    pub(crate) text: String,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body for a message: in one line, and not all of a long one.
    pub(crate) fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        format!("{}: {}", self.status, text.trim().escape_debug())
    }

    /// A header that holds a whole number.
    pub(crate) fn number(&self, header: &str) -> Option<i64> {
        self.headers.get(header)?.to_str().ok()?.trim().parse().ok()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("its answer is no JSON: {error}"))
    }
}

/// What an answer means for the call.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is what was asked for, be it a yes or a no.
    Answered,
    /// This server cannot do it now: another one, or the same one later.
    Later { is_maybe_applied: bool },
    /// Asking again does not help.
    Refused,
}

/// An answer, and whether an earlier attempt of the same call went unanswered and may have been carried out.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) is_repeat: bool,
}

/// How the servers are spoken to.
pub(crate) struct Link {
    pub(crate) tls: ClientOptions,
    /// What proves who we are.
    pub(crate) credentials: Option<(HeaderName, HeaderValue)>,
}

/// A client for these certificates.
///
/// # Errors
/// A certificate or key cannot be used.
pub(crate) fn client(tls: &ClientOptions, timing: Timing) -> Result<reqwest::Client, Trouble> {
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.client_config()?)
        .user_agent(concat!("Tamada/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .tcp_keepalive(timing.loop_wait + timing.retry_timeout)
        .tcp_user_timeout(timing.ttl)
        .pool_idle_timeout(Duration::from_secs(30))
        .build()?;
    Ok(client)
}

struct Client {
    link: Arc<Link>,
    client: reqwest::Client,
    made: Instant,
}

/// The way to the servers that all verbs and the watch share.
pub(crate) struct Http {
    /// What the servers are, for messages.
    kind: &'static str,
    client: Mutex<Client>,
    endpoints: Mutex<Endpoints>,
    timing: Mutex<Timing>,
    /// Goes up when another server is taken into use.
    moves: watch::Sender<u64>,
    /// The list of servers ought to be read again soon.
    pub(crate) is_list_old: Notify,
}

impl Http {
    /// # Errors
    /// A certificate or key cannot be used.
    pub(crate) fn new(
        kind: &'static str,
        link: Link,
        endpoints: Endpoints,
        timing: Timing,
    ) -> Result<Self, Trouble> {
        let client = Client {
            client: client(&link.tls, timing)?,
            link: Arc::new(link),
            made: Instant::now(),
        };
        Ok(Self {
            kind,
            client: Mutex::new(client),
            endpoints: Mutex::new(endpoints),
            timing: Mutex::new(timing),
            moves: watch::channel(0).0,
            is_list_old: Notify::new(),
        })
    }

    /// Takes over other credentials, certificates and servers.
    ///
    /// # Errors
    /// A certificate or key cannot be used: the former ones stay in use.
    pub(crate) fn reconfigure(&self, link: Link, endpoints: Endpoints) -> Result<(), Trouble> {
        let client = Client {
            client: client(&link.tls, self.timing())?,
            link: Arc::new(link),
            made: Instant::now(),
        };
        *lock(&self.client) = client;
        *lock(&self.endpoints) = endpoints;
        self.moves.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Takes over a newer list of servers.
    pub(crate) fn use_endpoints(&self, urls: Vec<String>) {
        if lock(&self.endpoints).replace(urls) {
            self.moves.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn timing(&self) -> Timing {
        *lock(&self.timing)
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        *lock(&self.timing) = timing;
    }

    pub(crate) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// The server in use, for messages.
    pub(crate) fn current(&self) -> String {
        lock(&self.endpoints).current().unwrap_or_default().to_owned()
    }

    /// All servers, the one in use first.
    pub(crate) fn order(&self) -> Vec<String> {
        lock(&self.endpoints).order()
    }

    /// For a verb that must come through if that is at all possible.
    pub(crate) fn persistent(&self) -> Budget {
        Budget {
            deadline: Instant::now() + self.timing().retry_timeout,
            is_persistent: true,
        }
    }

    /// For a verb that the next cycle repeats anyway.
    pub(crate) fn brief(&self) -> Budget {
        Budget {
            deadline: Instant::now() + slice(self.timing().retry_timeout),
            is_persistent: false,
        }
    }

    pub(crate) fn unavailable(&self, operation: &'static str, why: impl Into<Trouble>) -> Error {
        Error::Unavailable(self.failure(operation, why))
    }

    pub(crate) fn failure(&self, operation: &'static str, why: impl Into<Trouble>) -> Failure {
        Failure {
            operation,
            endpoint: self.current(),
            source: why.into(),
        }
    }

    /// Sends a request until it is answered or the time is over. `judge` says what an answer is worth.
    ///
    /// # Errors
    /// Nobody answered, or the answer is a refusal.
    pub(crate) async fn send(
        &self,
        request: &Request,
        budget: Budget,
        judge: impl Fn(&Answer) -> Verdict + Send + Sync,
    ) -> Result<Reply, Error> {
        let mut tries = Tries::default();
        let mut pause = FIRST_PAUSE;
        loop {
            let order = self.order();
            for (index, server) in order.iter().enumerate() {
                let left = budget.left();
                if left.is_zero() {
                    return Err(tries.give_up(request.operation));
                }
                // One server is asked several times, of several each is asked once at least.
                let parts = u32::try_from(order.len() - index).unwrap_or(1);
                let parts = if budget.is_persistent { parts.max(3) } else { parts };
                let until = Instant::now() + (left / parts).max(Duration::from_millis(250)).min(left);
                let (why, is_maybe_applied) = match self.ask(server, request, until).await {
                    Ok(answer) => match judge(&answer) {
                        Verdict::Answered => {
                            self.select(server, tries.last());
                            let is_repeat = tries.is_repeat;
                            return Ok(Reply { answer, is_repeat });
                        }
                        Verdict::Later { is_maybe_applied } => (answer.words(), is_maybe_applied),
                        Verdict::Refused => {
                            let mut refused = Tries {
                                is_repeat: tries.is_repeat,
                                ..Tries::default()
                            };
                            // Only this server's word counts.
                            refused.failed(server, answer.words(), false);
                            return Err(refused.refused(request.operation));
                        }
                    },
                    Err(silence) => (silence.why, silence.is_sent && request.method != Method::GET),
                };
                tracing::debug!(
                    "{} at {server}: could not {}: {why}",
                    self.kind,
                    request.operation
                );
                tries.failed(server, why, is_maybe_applied);
            }
            self.is_list_old.notify_one();
            let wait = pause + Duration::from_millis(fastrand::u64(..100));
            if !budget.is_persistent || budget.left() <= wait {
                return Err(tries.give_up(request.operation));
            }
            sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks one server once.
    ///
    /// # Errors
    /// It did not answer by `until`.
    pub(crate) async fn ask(
        &self,
        server: &str,
        request: &Request,
        until: Instant,
    ) -> Result<Answer, Silence> {
        let (client, link) = {
            let client = lock(&self.client);
            (client.client.clone(), Arc::clone(&client.link))
        };
        let mut builder = client.request(request.method.clone(), format!("{server}{}", request.path));
        if let Some((name, value)) = &link.credentials {
            builder = builder.header(name, value);
        }
        if let Some(body) = &request.body {
            builder = builder.header(CONTENT_TYPE, body.kind).body(body.text.clone());
        }
        let answered = timeout_at(until, async {
            let response = builder.send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = read(response).await?;
            Ok::<_, reqwest::Error>(Answer {
                status,
                headers,
                body,
            })
        });
        match answered.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let is_sent = !error.is_connect() && !error.is_builder();
                if !is_sent {
                    self.renew_client();
                }
                let why = chain(&error.without_url());
                Err(Silence { why, is_sent })
            }
            Err(_) => Err(Silence {
                why: "no answer in time".to_owned(),
                is_sent: true,
            }),
        }
    }

    /// The watch has found the server in use dead: the next one takes over.
    pub(crate) fn leave(&self, url: &str) {
        let mut endpoints = lock(&self.endpoints);
        let next = endpoints.order().get(1).cloned();
        if let Some(next) = next.filter(|_| endpoints.current() == Some(url)) {
            endpoints.select(&next);
            drop(endpoints);
            self.moves.send_modify(|count| *count += 1);
            self.is_list_old.notify_one();
        }
    }

    fn select(&self, server: &str, why: Option<&str>) {
        if lock(&self.endpoints).select(server) {
            tracing::warn!(
                "Selected new {} server {server}: {}",
                self.kind,
                why.unwrap_or_default()
            );
            self.moves.send_modify(|count| *count += 1);
        }
    }

    /// Certificates may have been replaced since.
    fn renew_client(&self) {
        let mut present = lock(&self.client);
        if present.made.elapsed() < CLIENT_LIFE {
            return;
        }
        match client(&present.link.tls, self.timing()) {
            Ok(client) => present.client = client,
            Err(error) => tracing::error!(
                "cannot use the certificates for {}, the former ones stay in use: {error}",
                self.kind
            ),
        }
        present.made = Instant::now();
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(crate) why: String,
    /// The request may have arrived.
    pub(crate) is_sent: bool,
}

pub(crate) async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > LARGEST_ANSWER {
            // Cut off, it is no JSON, and that is said.
            break;
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What has been tried in one call.
#[derive(Default)]
pub(crate) struct Tries {
    /// An attempt without an answer may have been carried out.
    pub(crate) is_repeat: bool,
    servers: Vec<String>,
    last: Option<(String, String)>,
}

impl Tries {
    pub(crate) fn failed(&mut self, server: &str, why: String, is_maybe_applied: bool) {
        self.is_repeat |= is_maybe_applied;
        if !self.servers.iter().any(|known| known == server) {
            self.servers.push(server.to_owned());
        }
        self.last = Some((server.to_owned(), why));
    }

    /// Why the last server did not do it.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_ref().map(|(_, why)| why.as_str())
    }

    /// The last answer says no.
    pub(crate) fn refused(self, operation: &'static str) -> Error {
        let is_repeat = self.is_repeat;
        let failure = self.failure(operation);
        // An earlier attempt without an answer may have been carried out.
        if is_repeat {
            Error::Unavailable(failure)
        } else {
            Error::Rejected(failure)
        }
    }

    pub(crate) fn give_up(self, operation: &'static str) -> Error {
        Error::Unavailable(self.failure(operation))
    }

    fn failure(self, operation: &'static str) -> Failure {
        let why = self
            .last
            .map_or_else(|| "no time left to ask".to_owned(), |(_, why)| why);
        Failure {
            operation,
            endpoint: self.servers.join(", "),
            source: why.into(),
        }
    }
}

/// The share of `total` that a call has which is not tried again.
fn slice(total: Duration) -> Duration {
    (total / 3).max(Duration::from_millis(250)).min(total)
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
