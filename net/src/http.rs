//! The HTTP client for the members' REST API and for stores that speak HTTP: every request has a deadline, nothing is followed, no proxy is used.

use std::error::Error as StdError;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use config::Secret;
use reqwest::redirect::Policy;
pub use reqwest::{Method, StatusCode, header::HeaderMap};

use crate::tls;

/// A larger body than any that the REST API sends is refused.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// How requests are made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// For `https` addresses.
    pub tls: tls::ClientOptions,
    /// User and password that go with requests that may change something.
    pub auth: Option<(String, Secret)>,
    /// The header `User-Agent`.
    pub user_agent: String,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; what is not UTF-8 in it is replaced.
    pub body: String,
}

impl Response {
    /// The body as JSON, if it is.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.body).ok()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection: nothing was sent.
    Connect,
    /// No answer in time: the request may have been carried out.
    Timeout,
    /// The connection broke, or the answer was no HTTP: the request may have been carried out.
    Broken,
    /// The address is malformed or the options cannot be used: nothing was sent.
    Request,
}

/// A request without an answer. `{}` says it with the cause.
#[derive(Debug, thiserror::Error)]
#[error("{method} {url}: {}", describe(*reason, source.as_ref()))]
pub struct Error {
    /// The method.
    pub method: Method,
    /// The address, without user and password.
    pub url: String,
    /// Why.
    pub reason: Reason,
    /// The library's words for it. Not a `#[source]`: the text above has them already.
    source: Source,
}

impl Error {
    /// The host refused the connection: no program listens at that address.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self.source.as_ref());
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>()
                && error.kind() == std::io::ErrorKind::ConnectionRefused
            {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// The options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// TLS.
    #[error("cannot set up TLS for the REST API's client")]
    Tls(#[from] tls::Error),
    /// The rest.
    #[error("cannot set up the REST API's client")]
    Client(#[from] reqwest::Error),
}

/// An HTTP client with kept-alive connections.
#[derive(Debug)]
pub struct Client {
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    client: reqwest::Client,
    auth: Option<(String, Secret)>,
}

impl Client {
    /// A client; reads the certificates' files.
    ///
    /// # Errors
    /// The files cannot be read or used.
    pub fn new(options: &Options) -> Result<Self, SetupError> {
        Ok(Self {
            current: RwLock::new(Current::new(options)?),
        })
    }

    /// Reads the files again, possibly others. After an error the former options stay.
    ///
    /// # Errors
    /// The files cannot be read or used.
    pub fn reload(&self, options: &Options) -> Result<(), SetupError> {
        let new = Current::new(options)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// `GET` without credentials.
    ///
    /// # Errors
    /// There is no answer. An answer with a bad status is an answer.
    pub async fn get(&self, url: &str, timeout: Duration) -> Result<Response, Error> {
        self.send(Method::GET, url, None, None, timeout).await
    }

    /// A request with credentials, if there are any, and a JSON body, if there is one. All of it, connecting and
    /// reading the answer included, takes at most `timeout`.
    ///
    /// # Errors
    /// There is no answer. An answer with a bad status is an answer.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        body: Option<&str>,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let auth = self.current().auth;
        self.send(method, url, body, auth, timeout).await
    }

    /// A request with headers of the caller's, and a body with its type, if there is one. All of it takes at most `timeout`.
    ///
    /// # Errors
    /// There is no answer. An answer with a bad status is an answer.
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        headers: &[(&'static str, String)],
        body: Option<&(&'static str, String)>,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let fail = |reason, source: Source| Error {
            method: method.clone(),
            url: without_credentials(url),
            reason,
            source,
        };
        let client = self.current().client;
        let mut request = client.request(method.clone(), url).timeout(timeout);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some((kind, body)) = body {
            request = request.header("content-type", *kind).body(body.clone());
        }
        read(request, &fail).await
    }

    fn current(&self) -> Current {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<&str>,
        auth: Option<(String, Secret)>,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let fail = |reason, source: Source| Error {
            method: method.clone(),
            url: without_credentials(url),
            reason,
            source,
        };
        let mut request = self
            .current()
            .client
            .request(method.clone(), url)
            .timeout(timeout);
        if let Some((user, password)) = auth {
            request = request.basic_auth(user, Some(password.reveal()));
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body.to_owned());
        }
        read(request, &fail).await
    }

    /// A request made elsewhere, sent as it is. All of it takes at most `timeout`.
    ///
    /// # Errors
    /// There is no answer. An answer with a bad status is an answer.
    pub async fn execute(
        &self,
        request: http::Request<bytes::Bytes>,
        timeout: Duration,
    ) -> Result<Response, Error> {
        let (method, url) = (request.method().clone(), request.uri().to_string());
        let fail = |reason, source: Source| Error {
            method: method.clone(),
            url: without_credentials(&url),
            reason,
            source,
        };
        let client = self.current().client;
        let request = reqwest::Request::try_from(request)
            .map_err(|error| fail(Reason::Request, error.without_url().into()))?;
        read(
            reqwest::RequestBuilder::from_parts(client, request).timeout(timeout),
            &fail,
        )
        .await
    }
}

type Source = Box<dyn StdError + Send + Sync>;

async fn read(
    request: reqwest::RequestBuilder,
    fail: &impl Fn(Reason, Source) -> Error,
) -> Result<Response, Error> {
    let failed = |error: reqwest::Error| fail(reason(&error), error.without_url().into());
    let mut response = request.send().await.map_err(failed)?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if bytes.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(fail(
                Reason::Broken,
                format!("more than {MAX_BODY_BYTES} bytes").into(),
            ));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Response {
        status,
        headers,
        body: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

impl Current {
    fn new(options: &Options) -> Result<Self, SetupError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(options.tls.client_config()?)
            .user_agent(&options.user_agent)
            .redirect(Policy::none())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self {
            client,
            auth: options.auth.clone(),
        })
    }
}

fn reason(error: &reqwest::Error) -> Reason {
    if error.is_builder() {
        Reason::Request
    } else if error.is_connect() {
        Reason::Connect
    } else if error.is_timeout() {
        Reason::Timeout
    } else {
        Reason::Broken
    }
}

fn describe(reason: Reason, source: &(dyn StdError + Send + Sync)) -> String {
    let words = match reason {
        Reason::Connect => "could not connect",
        Reason::Timeout => "no answer in time",
        Reason::Broken => "the connection broke",
        Reason::Request => "cannot be asked",
    };
    let mut causes = vec![words.to_owned()];
    let mut cause: Option<&dyn StdError> = Some(source);
    while let Some(error) = cause {
        let text = error.to_string();
        // The library's outer layers say little but their own names.
        let is_new = !causes.iter().any(|known| known.contains(&text));
        if is_new && text != "error sending request" && text != "client error (Connect)" {
            causes.push(text);
        }
        cause = error.source();
    }
    causes.join(": ")
}

fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}
