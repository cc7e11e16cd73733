//! pg-backup-api: HTTP and JSON.

use std::time::Duration;

use net::http::{Client, Method, Options, Reason};
use net::tls::ClientOptions;
use reqwest::Url;
use serde_json::Value;

use super::{Barman, Journal};

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OperationStatus {
    Done,
    Failed,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the address of pg-backup-api is none: {0}")]
    Url(UrlError),
    #[error(transparent)]
    Setup(#[from] net::http::SetupError),
    #[error(transparent)]
    Http(#[from] net::http::Error),
    #[error("{url} does not say OK but {answer}")]
    NotOk { url: String, answer: String },
    #[error("{url} sent no {field} in {attempts} answers; the last one, with status {status}: {answer}")]
    Malformed {
        url: String,
        field: &'static str,
        attempts: u32,
        status: u16,
        answer: String,
    },
}

/// What [`Url`] fails with.
type UrlError = <Url as std::str::FromStr>::Err;

pub(super) struct Api<'a> {
    client: Client,
    base: Url,
    attempts: u32,
    wait: Duration,
    journal: &'a Journal,
}

impl<'a> Api<'a> {
    /// The API, if it says that it is well.
    pub(super) async fn open(options: &Barman, journal: &'a Journal) -> Result<Self, Error> {
        let client = Client::new(&Options {
            tls: ClientOptions {
                cert: options.cert_file.clone(),
                key: options.key_file.clone(),
                ..ClientOptions::default()
            },
            auth: None,
            user_agent: format!("patroni_barman/{}", crate::PATRONI_VERSION),
        })?;
        let base = Url::parse(&options.api_url).map_err(Error::Url)?;
        let api = Self {
            client,
            base,
            attempts: options.max_retries.max(1),
            wait: Duration::from_secs(options.retry_wait),
            journal,
        };
        let url = api.url("status")?;
        let response = api.send(&Method::GET, &url, None).await?;
        if response.json() != Some(Value::from("OK")) {
            let answer = response.body;
            let url = without_credentials(&url);
            return Err(Error::NotOk { url, answer });
        }
        Ok(api)
    }

    /// Begins an operation; its ID.
    pub(super) async fn create(&self, server: &str, body: &Value) -> Result<String, Error> {
        let url = self.url(&format!("servers/{server}/operations"))?;
        let text = body.to_string();
        self.field(&Method::POST, &url, Some(&text), "operation_id", |value| {
            value.as_str().map(str::to_owned)
        })
        .await
    }

    /// How an operation ended; `None` while it goes on.
    pub(super) async fn status(&self, server: &str, id: &str) -> Result<Option<OperationStatus>, Error> {
        let url = self.url(&format!("servers/{server}/operations/{id}"))?;
        self.field(&Method::GET, &url, None, "status", |value| {
            match value.as_str()? {
                "IN_PROGRESS" => Some(None),
                "DONE" => Some(Some(OperationStatus::Done)),
                "FAILED" => Some(Some(OperationStatus::Failed)),
                _ => None,
            }
        })
        .await
    }

    fn url(&self, path: &str) -> Result<String, Error> {
        let joined = self.base.join(path).map_err(Error::Url)?;
        Ok(joined.into())
    }

    /// A field of the answer. An answer without it is asked for again, as often as is allowed.
    async fn field<T>(
        &self,
        method: &Method,
        url: &str,
        body: Option<&str>,
        field: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, Error> {
        let mut attempt = 1;
        loop {
            let response = self.send(method, url, body).await?;
            let found = response.json().and_then(|json| read(json.get(field)?));
            if let Some(found) = found {
                return Ok(found);
            }
            let error = Error::Malformed {
                url: without_credentials(url),
                field,
                attempts: attempt,
                status: response.status.as_u16(),
                answer: response.body.chars().take(300).collect(),
            };
            if !self.again(&mut attempt, &error).await {
                return Err(error);
            }
        }
    }

    /// A request. It is made again when nothing can have come of it.
    async fn send(
        &self,
        method: &Method,
        url: &str,
        body: Option<&str>,
    ) -> Result<net::http::Response, Error> {
        let mut attempt = 1;
        loop {
            let error = match self.client.request(method.clone(), url, body, TIMEOUT).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let is_harmless = *method == Method::GET || error.reason == Reason::Connect;
            let error = Error::from(error);
            if !is_harmless || !self.again(&mut attempt, &error).await {
                return Err(error);
            }
        }
    }

    /// Waits before another attempt; `false` when there is none.
    async fn again(&self, attempt: &mut u32, error: &Error) -> bool {
        if *attempt >= self.attempts {
            return false;
        }
        let attempts = self.attempts;
        self.journal
            .warning(&format!("attempt {attempt} of {attempts} failed: {error}"));
        *attempt += 1;
        tokio::time::sleep(self.wait).await;
        true
    }
}

/// The address as an error may show it.
fn without_credentials(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else {
        return "the API".to_owned();
    };
    // They fail for addresses that can hold neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}
