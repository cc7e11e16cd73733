//! etcd's HTTP API of version 2: requests are forms, answers are events, and a condition that does not hold is an error with a number.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::EtcdConfig;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;

use crate::etcd3::link;
use crate::http::{Answer, Body, Link, Request, Verdict};

const FORM: &str = "application/x-www-form-urlencoded";

/// What of a path stands for itself.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// One key as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) index: i64,
    /// The seconds it has left; `None`: it stays.
    pub(super) ttl: Option<i64>,
    pub(super) is_folder: bool,
    pub(super) nodes: Vec<Self>,
}

/// Where the answering store stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) index: i64,
    pub(super) cluster_id: String,
}

/// What etcd answered.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Done, or found.
    Done {
        action: String,
        node: Node,
    },
    NotFound,
    /// The key is another one than was expected, or exists.
    Refused,
    /// The index from which changes are asked for is too old.
    Forgotten,
}

/// A condition on a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    Absent,
    /// The key was last written at this index.
    Index(i64),
}

impl When {
    fn parameter(self) -> Option<(&'static str, String)> {
        match self {
            Self::Always => None,
            Self::Absent => Some(("prevExist", "false".to_owned())),
            Self::Index(index) => Some(("prevIndex", index.to_string())),
        }
    }
}

/// Writes a key; `ttl` in seconds.
pub(super) fn put(operation: &'static str, key: &str, value: &str, ttl: Option<u64>, when: When) -> Request {
    let mut parameters = vec![("value", value.to_owned())];
    parameters.extend(ttl.map(|ttl| ("ttl", ttl.to_string())));
    parameters.extend(when.parameter());
    Request {
        operation,
        method: Method::PUT,
        path: path(key, &[]),
        body: Some(Body {
            kind: FORM,
            text: form(&parameters),
        }),
    }
}

pub(super) fn delete(operation: &'static str, key: &str, when: When) -> Request {
    let parameters: Vec<_> = when.parameter().into_iter().collect();
    Request {
        operation,
        method: Method::DELETE,
        path: path(key, &parameters),
        body: None,
    }
}

pub(super) fn delete_all(operation: &'static str, folder: &str) -> Request {
    Request {
        operation,
        method: Method::DELETE,
        path: path(folder, &[("recursive", "true".to_owned())]),
        body: None,
    }
}

/// Reads a key or a folder, confirmed by a quorum.
pub(super) fn get(operation: &'static str, key: &str, is_recursive: bool) -> Request {
    let mut parameters = vec![("quorum", "true".to_owned())];
    if is_recursive {
        parameters.push(("recursive", "true".to_owned()));
    }
    Request {
        operation,
        method: Method::GET,
        path: path(key, &parameters),
        body: None,
    }
}

/// Waits for the first change below a folder that has this index or a later one.
pub(super) fn wait(folder: &str, index: i64) -> Request {
    let parameters = [
        ("wait", "true".to_owned()),
        ("recursive", "true".to_owned()),
        ("waitIndex", index.to_string()),
    ];
    Request {
        operation: "watch the cluster",
        method: Method::GET,
        path: path(folder, &parameters),
        body: None,
    }
}

pub(super) fn machines() -> Request {
    Request {
        operation: "list etcd's members",
        method: Method::GET,
        path: "/v2/machines".to_owned(),
        body: None,
    }
}

fn path(key: &str, parameters: &[(&str, String)]) -> String {
    let key = utf8_percent_encode(key.trim_end_matches('/'), PATH);
    if parameters.is_empty() {
        format!("/v2/keys{key}")
    } else {
        format!("/v2/keys{key}?{}", form(parameters))
    }
}

fn form(parameters: &[(&str, String)]) -> String {
    let parts = parameters.iter();
    let parts = parts.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    parts.collect::<Vec<_>>().join("&")
}

/// How etcd is spoken to.
pub(super) fn link(config: &EtcdConfig) -> Result<Link, Box<dyn std::error::Error + Send + Sync>> {
    let credentials = match (&config.username, &config.password) {
        (Some(user), Some(password)) => {
            let both = STANDARD.encode(format!("{user}:{}", password.reveal()));
            let mut value = HeaderValue::from_str(&format!("Basic {both}"))?;
            value.set_sensitive(true);
            Some((AUTHORIZATION, value))
        }
        _ => None,
    };
    let tls = link::tls(config);
    Ok(Link { tls, credentials })
}

/// The number of an error: <https://etcd.io/docs/v2.3/errorcode/>.
fn error_code(answer: &Answer) -> Option<i64> {
    answer.json().ok()?.get("errorCode")?.as_i64()
}

pub(super) fn judge(answer: &Answer) -> Verdict {
    let later = Verdict::Later {
        is_maybe_applied: true,
    };
    if answer.status.is_success() {
        return match answer.json() {
            Ok(value) if value.get("node").is_some() => Verdict::Answered,
            _ => later,
        };
    }
    match error_code(answer) {
        Some(100 | 101 | 105 | 400 | 401) => Verdict::Answered,
        // Not a file, not a directory, the root, not empty, no permission, a malformed request.
        Some(102..=110 | 200..=299) => Verdict::Refused,
        // An election, an error of Raft: it may pass.
        Some(_) => later,
        None if answer.status.is_client_error() => Verdict::Refused,
        None => later,
    }
}

pub(super) fn judge_machines(answer: &Answer) -> Verdict {
    match answer.status.as_u16() {
        200 => Verdict::Answered,
        400..=499 => Verdict::Refused,
        _ => Verdict::Later {
            is_maybe_applied: false,
        },
    }
}

/// The client URLs of etcd's members.
pub(super) fn urls(answer: &Answer) -> Vec<String> {
    let text = String::from_utf8_lossy(&answer.body);
    let urls = text.split(',').map(str::trim).filter(|url| url.contains("://"));
    urls.map(str::to_owned).collect()
}

/// Where the store stands that gave this answer; `None` for one that does not say.
pub(super) fn standing(answer: &Answer) -> Option<Standing> {
    let cluster_id = answer.headers.get("x-etcd-cluster-id")?.to_str().ok()?;
    Some(Standing {
        index: answer.number("x-etcd-index")?,
        cluster_id: cluster_id.to_owned(),
    })
}

/// Reads an answer that [`judge`] has taken for one.
pub(super) fn outcome(answer: &Answer) -> Result<Outcome, String> {
    match error_code(answer) {
        Some(100) => return Ok(Outcome::NotFound),
        Some(101 | 105) => return Ok(Outcome::Refused),
        Some(_) => return Ok(Outcome::Forgotten),
        None => {}
    }
    let value = answer.json()?;
    let node = value.get("node").and_then(node).ok_or("its answer has no node")?;
    let action = value.get("action").and_then(Value::as_str).unwrap_or_default();
    Ok(Outcome::Done {
        action: action.to_owned(),
        node,
    })
}

fn node(value: &Value) -> Option<Node> {
    let number = |key: &str| value.get(key).and_then(Value::as_i64);
    let nodes = value.get("nodes").and_then(Value::as_array).into_iter().flatten();
    Some(Node {
        // The root has no key.
        key: value
            .get("key")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        value: value
            .get("value")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        index: number("modifiedIndex").unwrap_or_default(),
        ttl: number("ttl"),
        is_folder: value.get("dir").and_then(Value::as_bool).unwrap_or_default(),
        nodes: nodes.filter_map(node).collect(),
    })
}

impl Node {
    /// All keys in and below it.
    pub(super) fn leaves(&self) -> Vec<&Self> {
        if !self.is_folder {
            return vec![self];
        }
        self.nodes.iter().flat_map(Self::leaves).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_forms_are_encoded() {
        let put = put("x", "/service/a b/config", r#"{"a":1}"#, Some(30), When::Index(7));
        assert_eq!(put.path, "/v2/keys/service/a%20b/config");
        let body = put.body.expect("a body").text;
        assert_eq!(body, "value=%7B%22a%22%3A1%7D&ttl=30&prevIndex=7");
        assert_eq!(
            wait("/service/a/", 5).path,
            "/v2/keys/service/a?wait=true&recursive=true&waitIndex=5"
        );
    }
}
