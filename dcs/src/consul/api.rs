//! Consul's HTTP API, as far as it is used: keys, transactions, sessions, and what its answers mean.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use config::{Consistency, ConsulConfig};
use net::tls::{ClientOptions, Verify};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::endpoints::Endpoints;
use crate::http::{Answer, Body, Budget, Http, Link, Reply, Request, Verdict, lock};
use crate::{Error, Failure, Timing};

const JSON: &str = "application/json";

/// What a refusal of a session's TTL says.
pub(super) const BOUND: &str = "Invalid Session TTL";

/// What of a path stands for itself.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// What of a part of a path stands for itself.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// One key as Consul has it; paths have no slash in front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) modify_index: i64,
    pub(super) session: Option<String>,
}

/// All keys below the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    /// `X-Consul-Index`.
    pub(super) index: i64,
    pub(super) entries: Vec<Entry>,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    CheckAbsent(String),
    /// The key was last written at this index.
    CheckIndex(String, i64),
    /// The key is locked by this session.
    CheckSession(String, String),
    Get(String),
    Set(String, String),
    /// Writes the key and locks it by a session.
    Lock(String, String, String),
    Delete(String),
    DeleteTree(String),
}

impl Op {
    /// That the key is as it was at `index`; 0: not there.
    pub(super) fn check(key: String, index: i64) -> Self {
        if index > 0 {
            Self::CheckIndex(key, index)
        } else {
            Self::CheckAbsent(key)
        }
    }

    fn json(&self) -> Value {
        let verb = |verb: &str, key: &str| json!({"Verb": verb, "Key": key.trim_start_matches('/')});
        let mut op = match self {
            Self::CheckAbsent(key) => verb("check-not-exists", key),
            Self::CheckIndex(key, _) => verb("check-index", key),
            Self::CheckSession(key, _) => verb("check-session", key),
            Self::Get(key) => verb("get", key),
            Self::Set(key, _) => verb("set", key),
            Self::Lock(key, ..) => verb("lock", key),
            Self::Delete(key) => verb("delete", key),
            Self::DeleteTree(key) => verb("delete-tree", key),
        };
        match self {
            Self::CheckIndex(_, index) => op["Index"] = json!(index),
            Self::Set(_, value) | Self::Lock(_, value, _) => op["Value"] = json!(STANDARD.encode(value)),
            _ => {}
        }
        if let Self::CheckSession(_, session) | Self::Lock(_, _, session) = self {
            op["Session"] = json!(session);
        }
        json!({"KV": op})
    }
}

/// What came of a transaction.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Carried out: the keys it wrote or read.
    Done(Vec<Entry>),
    /// A check did not hold.
    Refused,
    /// The session to lock with does not exist.
    NoSession,
}

/// How current a read has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Confirmed by a quorum.
    Confirmed,
    /// As configured.
    Usual,
}

/// The way to Consul.
pub(super) struct Api {
    pub(super) http: Http,
    config: Mutex<Arc<ConsulConfig>>,
    /// What all keys that are read begin with; no slash in front, one behind.
    prefix: String,
}

impl Api {
    /// # Errors
    /// Certificates or the token cannot be used.
    pub(super) fn new(config: &ConsulConfig, prefix: &str, timing: Timing) -> Result<Self, Error> {
        let endpoints = Endpoints::in_order(urls(config));
        let http = link(config).and_then(|link| Http::new("Consul", link, endpoints, timing));
        Ok(Self {
            http: http.map_err(|source| cannot_work(config, source))?,
            config: Mutex::new(Arc::new(config.clone())),
            prefix: prefix.trim_start_matches('/').to_owned(),
        })
    }

    /// # Errors
    /// As [`Api::new`]; the former configuration stays in use.
    pub(super) fn reconfigure(&self, config: &ConsulConfig) -> Result<(), Error> {
        let endpoints = Endpoints::in_order(urls(config));
        let done = link(config).and_then(|link| self.http.reconfigure(link, endpoints));
        done.map_err(|source| cannot_work(config, source))?;
        *lock(&self.config) = Arc::new(config.clone());
        Ok(())
    }

    pub(super) fn config(&self) -> Arc<ConsulConfig> {
        lock(&self.config).clone()
    }

    pub(super) fn timing(&self) -> Timing {
        self.http.timing()
    }

    fn query(&self, read: Option<Read>, more: &str) -> String {
        let config = self.config();
        let consistency = match (read, config.consistency) {
            (Some(Read::Confirmed), _) | (Some(Read::Usual), Consistency::Consistent) => Some("consistent"),
            (Some(Read::Usual), Consistency::Stale) => Some("stale"),
            (Some(Read::Usual), Consistency::Default) | (None, _) => None,
        };
        let datacenter = config
            .datacenter
            .as_ref()
            .map(|name| format!("dc={}", part(name)));
        let parts = [
            datacenter.as_deref(),
            consistency,
            Some(more).filter(|more| !more.is_empty()),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            String::new()
        } else {
            format!("?{}", parts.join("&"))
        }
    }

    /// Whether a read as configured may be answered from the past.
    pub(super) fn reads_the_past(&self) -> bool {
        self.config().consistency == Consistency::Stale
    }

    /// All keys.
    pub(super) async fn tree(&self, budget: Budget, read: Read) -> Result<Tree, Error> {
        const OPERATION: &str = "read the cluster";
        let request = self.get(OPERATION, &self.prefix, read, "recurse");
        let answer = self.http.send(&request, budget, judge_read).await?.answer;
        tree(&answer).map_err(|why| self.http.unavailable(OPERATION, why))
    }

    /// All keys as soon as one of them has changed since `index`, and after `wait` in any case.
    pub(super) async fn next_tree(&self, server: &str, index: i64, wait: Duration) -> Result<Tree, String> {
        let more = format!("recurse&index={index}&wait={}ms", wait.as_millis());
        let request = self.get("watch the cluster", &self.prefix, Read::Usual, &more);
        // Consul adds up to a sixteenth, so that not all agents ask at the same time.
        let until = Instant::now() + wait + wait / 16 + self.timing().retry_timeout / 3;
        let answer = self.http.ask(server, &request, until).await;
        let answer = answer.map_err(|silence| silence.why)?;
        match judge_read(&answer) {
            Verdict::Answered => tree(&answer),
            Verdict::Later { .. } | Verdict::Refused => Err(answer.words()),
        }
    }

    /// The highest index of any write to Consul's keys, confirmed by a quorum: that of a key that does not exist.
    pub(super) async fn newest_index(&self, budget: Budget) -> Result<i64, Error> {
        const OPERATION: &str = "look whether it is the same store";
        let request = self.get(
            OPERATION,
            &format!("{}no-such-key", self.prefix),
            Read::Confirmed,
            "",
        );
        let answer = self.http.send(&request, budget, judge_read).await?.answer;
        let index = answer.number("x-consul-index");
        index.ok_or_else(|| self.http.unavailable(OPERATION, "its answer has no index"))
    }

    /// The names right below a folder.
    pub(super) async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        const OPERATION: &str = "list the clusters";
        let folder = folder.trim_start_matches('/');
        let request = self.get(OPERATION, folder, Read::Confirmed, "keys&separator=/");
        let answer = self
            .http
            .send(&request, self.http.persistent(), judge_read)
            .await?
            .answer;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let names = answer
            .json()
            .map_err(|why| self.http.unavailable(OPERATION, why))?;
        let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
        let name = |key: &str| Some(key.strip_prefix(folder)?.strip_suffix('/')?.to_owned());
        Ok(names.filter_map(name).collect())
    }

    fn get(&self, operation: &'static str, key: &str, read: Read, more: &str) -> Request {
        let key = utf8_percent_encode(key, PATH);
        Request {
            operation,
            method: Method::GET,
            path: format!("/v1/kv/{key}{}", self.query(Some(read), more)),
            body: None,
        }
    }

    /// Carries out a transaction; the second value: an earlier attempt may have been carried out.
    pub(super) async fn txn(
        &self,
        operation: &'static str,
        budget: Budget,
        ops: &[Op],
    ) -> Result<(Outcome, bool), Error> {
        let ops: Vec<Value> = ops.iter().map(Op::json).collect();
        let request = self.put(operation, "/v1/txn", Some(Value::Array(ops)));
        let Reply { answer, is_repeat } = self.http.send(&request, budget, judge_txn).await?;
        let value = answer
            .json()
            .map_err(|why| self.http.unavailable(operation, why))?;
        if answer.status == StatusCode::CONFLICT {
            let is_gone = errors(&value).any(|why| why.contains("invalid session"));
            let outcome = if is_gone {
                Outcome::NoSession
            } else {
                Outcome::Refused
            };
            return Ok((outcome, is_repeat));
        }
        let results = value
            .get("Results")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let entries = results.filter_map(|result| entry(result.get("KV")?)).collect();
        Ok((Outcome::Done(entries), is_repeat))
    }

    /// # Errors
    /// As [`Http::send`].
    pub(super) async fn change(
        &self,
        operation: &'static str,
        budget: Budget,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, Error> {
        let request = self.put(operation, path, body);
        Ok(self.http.send(&request, budget, judge_change).await?.answer)
    }

    /// Asks the local agent, which is the first of the configured ones, and no other.
    ///
    /// # Errors
    /// It did not answer, or not with success.
    pub(super) async fn local(&self, path: &str, body: Option<Value>) -> Result<(), String> {
        let request = self.put("register the service", path, body);
        let server = urls(&self.config()).into_iter().next().unwrap_or_default();
        let until = Instant::now() + self.timing().retry_timeout / 3;
        match self.http.ask(&server, &request, until).await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(format!("{server}: {}", answer.words())),
            Err(silence) => Err(format!("{server}: {}", silence.why)),
        }
    }

    fn put(&self, operation: &'static str, path: &str, body: Option<Value>) -> Request {
        Request {
            operation,
            method: Method::PUT,
            path: format!("{path}{}", self.query(None, "")),
            body: body.map(|body| Body {
                kind: JSON,
                text: body.to_string(),
            }),
        }
    }
}

/// Percent-encodes a part of a path.
pub(super) fn part(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

fn urls(config: &ConsulConfig) -> Vec<String> {
    let scheme = if config.https { "https" } else { "http" };
    let hosts = config.hosts.iter();
    hosts.map(|host| format!("{scheme}://{host}")).collect()
}

fn link(config: &ConsulConfig) -> Result<Link, Box<dyn std::error::Error + Send + Sync>> {
    let credentials = match &config.token {
        None => None,
        Some(token) => {
            let mut value = HeaderValue::from_str(token.reveal().trim())
                .map_err(|_| "the token has characters that no HTTP header may have")?;
            value.set_sensitive(true);
            Some((HeaderName::from_static("x-consul-token"), value))
        }
    };
    let tls = ClientOptions {
        ca: config.cacert.clone(),
        cert: config.cert.clone(),
        key: config.key.clone(),
        key_password: None,
        verify: if config.verify {
            Verify::ChainAndHostName
        } else {
            Verify::None
        },
    };
    Ok(Link { tls, credentials })
}

fn cannot_work(config: &ConsulConfig, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Fatal(Failure {
        operation: "connect to Consul",
        endpoint: urls(config).join(", "),
        source,
    })
}

/// Whether the answering server has lost its leader, and so may tell of the past.
fn has_no_leader(answer: &Answer) -> bool {
    let known = answer.headers.get("x-consul-knownleader");
    known.is_some_and(|known| known.as_bytes() == b"false")
}

fn judge_read(answer: &Answer) -> Verdict {
    // A token that may not read sees an empty store; newer servers say so.
    let is_filtered = answer.headers.get("x-consul-results-filtered-by-acls");
    match answer.status {
        StatusCode::NOT_FOUND if is_filtered.is_some_and(|value| value == "true") => Verdict::Refused,
        StatusCode::OK | StatusCode::NOT_FOUND if !has_no_leader(answer) => Verdict::Answered,
        StatusCode::OK | StatusCode::NOT_FOUND => Verdict::Later {
            is_maybe_applied: false,
        },
        _ => judge_failure(answer),
    }
}

fn judge_change(answer: &Answer) -> Verdict {
    // An agent puts words of its own before what its server has said.
    let is_bound = String::from_utf8_lossy(&answer.body).contains(BOUND);
    match answer.status {
        StatusCode::OK | StatusCode::NOT_FOUND => Verdict::Answered,
        _ if is_bound => Verdict::Answered,
        // The agent has left its cluster, and nothing can be created on its node until it is back.
        _ if answer.words().contains("Missing node registration") => Verdict::Refused,
        _ => judge_failure(answer),
    }
}

fn judge_txn(answer: &Answer) -> Verdict {
    let is_forbidden = |value: &Value| {
        errors(value).any(|why| why.contains("Permission denied") || why.contains("ACL not found"))
    };
    match answer.status {
        StatusCode::OK => Verdict::Answered,
        StatusCode::CONFLICT => match answer.json() {
            Ok(value) if is_forbidden(&value) => Verdict::Refused,
            Ok(value) if errors(&value).next().is_some() => Verdict::Answered,
            _ => Verdict::Later {
                is_maybe_applied: true,
            },
        },
        _ => judge_failure(answer),
    }
}

fn judge_failure(answer: &Answer) -> Verdict {
    // Forwarded to Consul's leader, a request may fail with any error as 500.
    let is_forbidden = [&b"Permission denied"[..], b"ACL not found"]
        .iter()
        .any(|text| answer.body.windows(text.len()).any(|part| part == *text));
    match answer.status {
        _ if is_forbidden => Verdict::Refused,
        StatusCode::TOO_MANY_REQUESTS => Verdict::Later {
            is_maybe_applied: false,
        },
        status if status.is_client_error() => Verdict::Refused,
        _ => Verdict::Later {
            is_maybe_applied: true,
        },
    }
}

fn errors(value: &Value) -> impl Iterator<Item = &str> {
    let errors = value
        .get("Errors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    errors.filter_map(|error| error.get("What")?.as_str())
}

fn tree(answer: &Answer) -> Result<Tree, String> {
    let index = answer.number("x-consul-index").ok_or("its answer has no index")?;
    let entries = match answer.status {
        StatusCode::NOT_FOUND => Vec::new(),
        _ => {
            let value = answer.json()?;
            let entries = value.as_array().ok_or("its answer is no list")?;
            entries.iter().filter_map(entry).collect()
        }
    };
    Ok(Tree { index, entries })
}

/// What is not UTF-8 was not written by any agent; replaced, it reads as malformed, which is tolerated.
fn entry(value: &Value) -> Option<Entry> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let bytes = STANDARD.decode(text("Value").unwrap_or_default()).ok()?;
    Some(Entry {
        key: text("Key")?.to_owned(),
        value: String::from_utf8_lossy(&bytes).into_owned(),
        modify_index: value.get("ModifyIndex")?.as_i64()?,
        session: text("Session")
            .filter(|session| !session.is_empty())
            .map(str::to_owned),
    })
}
