//! Requests to the members' REST API.

use std::cell::OnceCell;
use std::time::Duration;

use ha::cluster::Member;
use net::http::{Client, Method, Options, Response};
use serde_json::Value;

use super::console::print_line;
use super::error::Error;
use super::settings::Settings;

/// How long a request may take that a member answers at once. It includes a name's resolution and connecting.
pub(crate) const SHORT: Duration = Duration::from_secs(60);
/// How long a member may take to say what it is doing, to a person who only watches.
pub(crate) const STATUS: Duration = Duration::from_secs(2);
/// How long a member may take to answer for a switchover or failover: it waits itself until the new leader is there.
pub(crate) const SWITCHOVER: Duration = Duration::from_secs(600);
/// How long a restart may take; PostgreSQL may have a large checkpoint to write.
pub(crate) const RESTART: Duration = Duration::from_secs(24 * 60 * 60);

/// A client that is set up when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    client: OnceCell<Client>,
}

/// No answer: why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The member has no REST address in the DCS.
    #[error("member {0} has no REST API address")]
    NoAddress(String),
    /// The client could not be set up.
    #[error("{0}")]
    Setup(String),
    /// The request failed.
    #[error(transparent)]
    Failed(#[from] net::http::Error),
}

impl From<NoAnswer> for Error {
    fn from(error: NoAnswer) -> Self {
        Self::new(error.to_string())
    }
}

impl Rest {
    /// Sends a request to `endpoint` of `member`; all of it takes at most `timeout`.
    ///
    /// # Errors
    /// There is no answer. A bad status is an answer.
    pub(crate) async fn request(
        &self,
        settings: &Settings,
        member: &Member,
        (method, endpoint): (Method, &str),
        body: Option<&Value>,
        timeout: Duration,
    ) -> Result<Response, NoAnswer> {
        let url = member
            .data
            .api_url
            .as_deref()
            .and_then(|url| url_of(url, endpoint))
            .ok_or_else(|| NoAnswer::NoAddress(member.name.to_string()))?;
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let client =
                    Client::new(&options(settings)).map_err(|error| NoAnswer::Setup(chain(&error)))?;
                self.client.get_or_init(|| client)
            }
        };
        let body = body.map(Value::to_string);
        tracing::debug!("{method} {url}");
        Ok(client.request(method, &url, body.as_deref(), timeout).await?)
    }
}

fn options(settings: &Settings) -> Options {
    Options {
        tls: settings.rest_tls.clone(),
        auth: settings
            .rest_auth
            .clone()
            .map(|auth| (auth.username, auth.password)),
        user_agent: concat!("tamada/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// The address of another endpoint of the same REST API.
fn url_of(api_url: &str, endpoint: &str) -> Option<String> {
    let (scheme, rest) = api_url.split_once("://")?;
    let authority = rest
        .split(['/', '?', '#'])
        .next()
        .filter(|authority| !authority.is_empty())?;
    Some(format!("{scheme}://{authority}/{endpoint}"))
}

/// What a member answered to `action`, in one line: `Success: …` or `Failed: …`.
pub(crate) fn verdict(response: &Response, member: &Member, action: &str) -> String {
    if is_refused(response) {
        failure(response, member, action)
    } else {
        format!("Success: {action} for member {}", member.name)
    }
}

/// The line for a member that refused `action`.
pub(crate) fn failure(response: &Response, member: &Member, action: &str) -> String {
    let status = response.status.as_u16();
    format!(
        "Failed: {action} for member {}, status code={status}, ({})",
        member.name, response.body
    )
}

/// Whether the member did not do what it was asked.
pub(crate) fn is_refused(response: &Response) -> bool {
    response.status.as_u16() >= 400
}

/// Prints the verdict; whether the member did what it was asked.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print_verdict(response: &Response, member: &Member, action: &str) -> Result<bool, Error> {
    print_line(&verdict(response, member, action))?;
    Ok(!is_refused(response))
}

#[cfg(test)]
mod tests {
    use super::url_of;

    #[test]
    fn the_path_is_replaced() {
        for (api_url, expected) in [
            (
                "http://10.0.0.1:8008/patroni",
                Some("http://10.0.0.1:8008/restart"),
            ),
            ("https://[::1]:8008", Some("https://[::1]:8008/restart")),
            ("https://h/a/b?c=d", Some("https://h/restart")),
            ("nonsense", None),
            ("http:///patroni", None),
        ] {
            assert_eq!(url_of(api_url, "restart").as_deref(), expected, "{api_url}");
        }
    }
}
