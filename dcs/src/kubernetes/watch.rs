//! The tasks that keep the copies: each lists one collection, then follows its changes. A watch that ends goes on where it ended; one
//! whose beginning the server has forgotten (410) begins with another list.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::api::{Api, Budget, Outcome, Request};
use super::cache::Cache;
use super::objects::{Object, Place, Revision, Which};
use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest line of a watch: an object has at most 1 MiB, with what its fields' managers are.
const LONGEST_LINE: usize = 8 * 1024 * 1024;

/// Follows one collection for ever.
pub(super) async fn keep(api: Arc<Api>, cache: Arc<Cache>, place: Place, which: Which) {
    let mut pause = Duration::ZERO;
    loop {
        let budget = api.persistent();
        let trouble = match list(&api, &cache, &place, which, budget).await {
            Ok(revision) => {
                let trouble = tokio::select! {
                    trouble = follow(&api, &cache, &place, which, revision) => trouble,
                    () = cache.list_is_wanted(which) => "the copy is older than the store".to_owned(),
                };
                tracing::info!("the watch of {} ended: {trouble}", place.collection(which));
                pause = Duration::ZERO;
                trouble
            }
            Err(error) => {
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                format!("{}", error.failure())
            }
        };
        cache.invalidate(which, trouble);
        sleep(pause).await;
    }
}

/// Lists the collection into the copy; the version from which a watch goes on.
pub(super) async fn list(
    api: &Api,
    cache: &Cache,
    place: &Place,
    which: Which,
    budget: Budget,
) -> Result<Revision, Error> {
    let asked_at = cache.newest(which);
    let request = Request {
        operation: "read the cluster",
        method: Method::GET,
        path: place.list(which),
        body: None,
        tries_again_when_forbidden: true,
    };
    let Outcome::Done(list) = api.send(&request, budget).await?.outcome else {
        return Err(api.unavailable(request.operation, "there is no such collection"));
    };
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let objects = items.filter_map(Object::parse).collect();
    let revision = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let Some(revision) = revision.map(Revision::new) else {
        return Err(api.unavailable(request.operation, "the list has no version"));
    };
    cache.replace(which, objects, &revision, asked_at);
    Ok(revision)
}

enum Ended {
    /// Go on from here.
    Here(Revision),
    /// List again.
    Lost(String),
}

/// Watches again and again until the copy has to be listed again; why.
async fn follow(api: &Api, cache: &Cache, place: &Place, which: Which, mut revision: Revision) -> String {
    loop {
        let timing = api.timing();
        // The server ends the watch by itself, so that a connection that has silently died is not waited for.
        let length = timing.ttl.as_secs().max(5);
        let path = format!(
            "{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={length}&resourceVersion={}",
            place.list(which),
            super::objects::encode(&revision.text)
        );
        let response = match api.watch(&path).await {
            Ok(Ok(response)) => response,
            Ok(Err(StatusCode::GONE)) => return "its beginning is forgotten".to_owned(),
            Ok(Err(status)) => return format!("the server answered {status}"),
            Err(trouble) => {
                api.leave_current();
                return trouble;
            }
        };
        let patience = Duration::from_secs(length) + timing.retry_timeout;
        match read(cache, which, response, revision.clone(), patience).await {
            Ended::Here(at) => revision = at,
            Ended::Lost(why) => return why,
        }
        // A server that ends every watch at once is not asked without a pause.
        sleep(FIRST_PAUSE).await;
    }
}

/// Applies the lines of one watch. `patience`: how long it may take altogether.
async fn read(
    cache: &Cache,
    which: Which,
    mut response: reqwest::Response,
    mut at: Revision,
    patience: Duration,
) -> Ended {
    let until = tokio::time::Instant::now() + patience;
    let mut buffer = Vec::new();
    loop {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        let Ok(Ok(Some(chunk))) = timeout(left, response.chunk()).await else {
            return Ended::Here(at);
        };
        buffer.extend_from_slice(&chunk);
        let mut begin = 0;
        while let Some(length) = buffer[begin..].iter().position(|byte| *byte == b'\n') {
            let line = &buffer[begin..begin + length];
            begin += length + 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match apply(cache, which, line) {
                Ok(revision) => at = revision.unwrap_or(at),
                Err(why) => return Ended::Lost(why),
            }
        }
        buffer.drain(..begin);
        if buffer.len() > LONGEST_LINE {
            return Ended::Lost(format!("a line has more than {LONGEST_LINE} bytes"));
        }
    }
}

fn apply(cache: &Cache, which: Which, line: &[u8]) -> Result<Option<Revision>, String> {
    let event: Value = serde_json::from_slice(line).map_err(|error| format!("a line is no JSON: {error}"))?;
    let value = event.get("object").unwrap_or(&Value::Null);
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "ERROR" || value.get("code").and_then(Value::as_u64) == Some(410) {
        let message = value.get("message").and_then(Value::as_str).unwrap_or_default();
        return Err(format!("the server ended it: {}", message.escape_debug()));
    }
    let revision = value
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .map(Revision::new);
    let object = Object::parse(value);
    match (kind, object) {
        ("ADDED" | "MODIFIED", Some(object)) => cache.tell(which, object, false),
        ("DELETED", Some(object)) => cache.tell_deleted(which, &object.name, Some(&object.revision), false),
        _ => {}
    }
    Ok(revision)
}
