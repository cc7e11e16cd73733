//! The requests to the stand-in for an API server, its answers, and its watches.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::rules::matches;
use super::{Answer, Event, Fault, Shared, Stream, key, status};

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    authorization: String,
    content_type: String,
    body: Value,
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            other => other,
        };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).unwrap()
}

fn read_request(reader: &mut BufReader<Box<dyn Stream>>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    Some(Request {
        method,
        path: decode(path),
        query: pairs.map(|(name, value)| (decode(name), decode(value))).collect(),
        authorization: header("authorization"),
        content_type: header("content-type"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

pub(super) fn serve(shared: &Shared, stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let stream: Box<dyn Stream> = match &shared.tls {
        None => Box::new(stream),
        Some(config) => {
            let Ok(connection) = rustls::ServerConnection::new(config.clone()) else {
                return;
            };
            Box::new(rustls::StreamOwned::new(connection, stream))
        }
    };
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        if !shared.is_up.load(Ordering::SeqCst) || !answer(shared, &request, reader.get_mut()) {
            return;
        }
    }
}

/// Answers a request; `false` ends the connection.
fn answer(shared: &Shared, request: &Request, out: &mut Box<dyn Stream>) -> bool {
    let parts: Vec<&str> = request
        .path
        .trim_start_matches("/api/v1/namespaces/")
        .split('/')
        .collect();
    let (namespace, kind) = (parts[0], parts.get(1).copied().unwrap_or_default());
    let name = parts.get(2).copied();
    let is_watch = request.query.contains_key("watch");
    let verb = match (request.method.as_str(), name, is_watch) {
        ("GET", _, true) => "watch",
        ("GET", None, false) => "list",
        ("GET", Some(_), _) => "get",
        ("POST", ..) => "create",
        ("PATCH", ..) => "patch",
        ("DELETE", None, _) => "deletecollection",
        ("DELETE", Some(_), _) => "delete",
        _ => "unknown",
    };
    let mut world = shared.lock();
    world.requests.push(format!("{verb} {}", request.path));
    world.used.insert((verb.to_owned(), kind.to_owned()));
    let warning = world.warning.clone();
    if world
        .token
        .as_ref()
        .is_some_and(|token| request.authorization != format!("Bearer {token}"))
    {
        return reply(out, &status(401, "Unauthorized", "Unauthorized"), None, None);
    }
    if world.forbidden.contains(&(verb.to_owned(), kind.to_owned())) {
        let message = format!("{kind} is forbidden: User \"test\" cannot {verb} resource \"{kind}\"");
        return reply(out, &status(403, "Forbidden", &message), None, None);
    }
    let fault = world.fault(&request.method, &request.path);
    match &fault {
        Some(Fault::Status(code, retry_after)) => {
            return reply(out, &status(*code, "Trouble", "as planned"), *retry_after, None);
        }
        Some(Fault::Silence) => return false,
        Some(Fault::Rival(annotation, value)) => {
            let patch = json!({"metadata": {"annotations": {*annotation: value}}});
            world.patch(kind, namespace, name.unwrap_or_default(), &patch);
        }
        Some(Fault::DoneThenStatus(_) | Fault::DoneThenSilence) | None => {}
    }
    let selector: Vec<(String, String)> = request
        .query
        .get("labelSelector")
        .into_iter()
        .flat_map(|text| text.split(','))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    if is_watch {
        drop(world);
        return stream_events(shared, request, kind, &selector, out);
    }
    let answer = match (verb, name) {
        ("list", _) => {
            let names = world.select(kind, namespace, &selector);
            let items: Vec<Value> = names
                .iter()
                .filter_map(|name| world.objects.get(&key(kind, namespace, name)).cloned())
                .collect();
            (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": world.revision.to_string()}, "items": items}),
            )
        }
        ("get", Some(name)) => world.objects.get(&key(kind, namespace, name)).map_or_else(
            || status(404, "NotFound", &format!("{kind} \"{name}\" not found")),
            |object| (200, object.clone()),
        ),
        ("create", _) => world.create(kind, namespace, &request.body),
        ("patch", Some(name)) if request.content_type == "application/strategic-merge-patch+json" => {
            world.patch(kind, namespace, name, &request.body)
        }
        ("patch", _) => status(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format",
        ),
        ("deletecollection", _) => {
            for name in world.select(kind, namespace, &selector) {
                world.delete(kind, namespace, &name);
            }
            (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []}),
            )
        }
        _ => status(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
    };
    drop(world);
    shared.changed.notify_all();
    match fault {
        Some(Fault::DoneThenSilence) => false,
        Some(Fault::DoneThenStatus(code)) => reply(
            out,
            &status(code, "Timeout", "request did not complete"),
            None,
            None,
        ),
        _ => reply(out, &answer, None, warning.as_deref()),
    }
}

fn reply(
    out: &mut Box<dyn Stream>,
    (code, body): &Answer,
    retry_after: Option<u64>,
    warning: Option<&str>,
) -> bool {
    let body = body.to_string();
    let mut head = format!(
        "HTTP/1.1 {code} Status\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        body.len()
    );
    if let Some(seconds) = retry_after {
        head.push_str(&format!("Retry-After: {seconds}\r\n"));
    }
    if let Some(text) = warning {
        head.push_str(&format!("Warning: 299 - \"{text}\"\r\n"));
    }
    out.write_all(format!("{head}\r\n{body}").as_bytes()).is_ok() && out.flush().is_ok()
}

fn chunk(out: &mut Box<dyn Stream>, event: &Value) -> bool {
    let line = format!("{event}\n");
    out.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())
        .is_ok()
        && out.flush().is_ok()
}

/// What a watch with this selector sees of an event.
fn seen(event: &Event, selector: &[(String, String)]) -> Option<Value> {
    let is_in = matches(&event.object, selector);
    let was_in = event
        .before
        .as_ref()
        .is_some_and(|before| matches(before, selector));
    let verb = match (event.verb, was_in, is_in) {
        ("DELETED", _, true) | ("MODIFIED", true, false) => "DELETED",
        ("MODIFIED", false, true) | ("ADDED", _, true) => "ADDED",
        ("MODIFIED", true, true) => "MODIFIED",
        _ => return None,
    };
    let mut object = event.object.clone();
    if verb == "DELETED" && event.verb == "MODIFIED" {
        // It is shown as it was when it was last in the selection.
        object = event.before.clone()?;
        object["metadata"]["resourceVersion"] = event.object["metadata"]["resourceVersion"].clone();
    }
    Some(json!({"type": verb, "object": object}))
}

fn stream_events(
    shared: &Shared,
    request: &Request,
    kind: &str,
    selector: &[(String, String)],
    out: &mut Box<dyn Stream>,
) -> bool {
    let number = |name: &str| request.query.get(name).and_then(|text| text.parse::<u64>().ok());
    let mut at = number("resourceVersion").unwrap_or(0);
    // The newest version that this watch has heard of.
    let mut told = at;
    let until = number("timeoutSeconds").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let has_bookmarks = request.query.contains_key("allowWatchBookmarks");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    if out.write_all(head.as_bytes()).is_err() || out.flush().is_err() {
        return false;
    }
    let mut world = shared.lock();
    let cuts = world.cuts;
    loop {
        if world.cuts != cuts || shared.is_ended.load(Ordering::SeqCst) {
            return false;
        }
        if at < world.forgotten || at > world.revision {
            let (code, why) = match at < world.forgotten {
                true => (410, "too old resource version"),
                false => (504, "Too large resource version"),
            };
            let gone = json!({"type": "ERROR", "object": status(code, "Expired", why).1});
            drop(world);
            return chunk(out, &gone) && out.write_all(b"0\r\n\r\n").is_ok() && out.flush().is_ok();
        }
        let new: Vec<Event> = world
            .events
            .iter()
            .filter(|event| event.revision > at && event.kind == kind)
            .cloned()
            .collect();
        let newest = world.revision;
        drop(world);
        for event in &new {
            if let Some(line) = seen(event, selector) {
                told = event.revision;
                if !chunk(out, &line) {
                    return false;
                }
            }
        }
        let is_quiet = new.is_empty();
        at = newest;
        let is_over = until.is_some_and(|until| Instant::now() >= until);
        // The real server sends one each minute, and one before the watch ends.
        if has_bookmarks && told < at && (is_quiet || is_over) {
            told = at;
            let metadata = json!({"resourceVersion": at.to_string()});
            let object = json!({"kind": "x", "apiVersion": "v1", "metadata": metadata});
            if !chunk(out, &json!({"type": "BOOKMARK", "object": object})) {
                return false;
            }
        }
        if is_over {
            return out.write_all(b"0\r\n\r\n").is_ok() && out.flush().is_ok();
        }
        world = shared.lock();
        if world.revision == at && world.cuts == cuts {
            world = shared
                .changed
                .wait_timeout(world, Duration::from_millis(500))
                .unwrap()
                .0;
        }
    }
}
