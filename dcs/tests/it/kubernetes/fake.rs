//! A Kubernetes API server of our own: namespaced objects with versions, list and watch, strategic merge patches, conflicts, and
//! whatever trouble a test asks for. It behaves as the real one where the client relies on it:
//!
//! - A patch that changes nothing leaves the version as it is; one that names another version is a conflict (409).
//! - A deletion has a version of its own. Versions are the store's revisions, common to all kinds.
//! - A watch from a version that is no longer kept ends with an event ERROR with the code 410; bookmarks come when it is quiet.
//! - `subsets` is replaced as a whole, without addresses of the loopback interface; labels and annotations are merged, and null
//!   removes one.
//! - Names are DNS subdomains, label values have at most 63 characters, annotations are texts of 256 KiB (422 and 400).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Names and values of an object's annotations together.
const LONGEST_ANNOTATIONS: usize = 256 * 1024;

/// What a request meets instead of its answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status, and nothing is done; with the header `Retry-After` if seconds are given.
    Status(u16, Option<u64>),
    /// It is carried out and answered by this status.
    DoneThenStatus(u16),
    /// It is carried out and the connection breaks.
    DoneThenSilence,
    /// Nothing is done and the connection breaks.
    Silence,
    /// Somebody else changes this annotation of the object first.
    Rival(&'static str, &'static str),
}

struct Planned {
    method: &'static str,
    path: String,
    left: usize,
    fault: Fault,
}

#[derive(Clone)]
struct Event {
    revision: u64,
    kind: String,
    verb: &'static str,
    object: Value,
    /// As it was before, so that a watch sees an object leave its selection.
    before: Option<Value>,
}

#[derive(Default)]
struct World {
    revision: u64,
    /// By kind, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    events: Vec<Event>,
    /// Events up to this version are no longer kept.
    forgotten: u64,
    faults: VecDeque<Planned>,
    forbidden: BTreeSet<(String, String)>,
    /// Verb and resource of each request.
    used: BTreeSet<(String, String)>,
    requests: Vec<String>,
    token: Option<String>,
    warning: Option<String>,
    connections: Vec<TcpStream>,
    /// Goes up when all watches are to end.
    cuts: u64,
}

struct Shared {
    world: Mutex<World>,
    changed: Condvar,
    is_up: AtomicBool,
    is_ended: AtomicBool,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// The server.
pub(crate) struct Fake {
    pub(crate) port: u16,
    /// Of its kubeconfig.
    user: String,
    shared: Arc<Shared>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shared.is_ended.store(true, Ordering::SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Speaks TLS.
    pub(crate) fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            world: Mutex::default(),
            changed: Condvar::new(),
            is_up: AtomicBool::new(true),
            is_ended: AtomicBool::new(false),
            tls,
        });
        shared.lock().revision = 100;
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.is_ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if !serving.is_up.load(Ordering::SeqCst) {
                    continue;
                }
                let shared = Arc::clone(&serving);
                shared.lock().connections.push(stream.try_clone().unwrap());
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self {
            port,
            user: "token: s3cret".to_owned(),
            shared,
        }
    }

    /// Whom its kubeconfig names.
    pub(crate) fn with_user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self) -> String {
        let user = &self.user;
        format!(
            "current-context: test\ncontexts:\n- {{name: test, context: {{cluster: c, user: u}}}}\n\
             - {{name: kind-kind, context: {{cluster: c, user: u}}}}\n\
             clusters:\n- {{name: c, cluster: {{server: \"http://127.0.0.1:{}\"}}}}\nusers:\n- {{name: u, user: {{{user}}}}}\n",
            self.port
        )
    }

    /// No answer any more, and no connection; or again.
    pub(crate) fn set_up(&self, is_up: bool) {
        self.shared.is_up.store(is_up, Ordering::SeqCst);
        if !is_up {
            self.cut();
        }
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        let mut world = self.shared.lock();
        world.cuts += 1;
        for stream in world.connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// The next `count` requests of this method whose path contains `path` meet this.
    pub(crate) fn plan(&self, method: &'static str, path: &str, count: usize, fault: Fault) {
        self.shared.lock().faults.push_back(Planned {
            method,
            path: path.to_owned(),
            left: count,
            fault,
        });
    }

    pub(crate) fn no_faults(&self) {
        self.shared.lock().faults.clear();
    }

    pub(crate) fn forbid(&self, verb: &str, resource: &str) {
        self.shared
            .lock()
            .forbidden
            .insert((verb.to_owned(), resource.to_owned()));
    }

    pub(crate) fn permit_all(&self) {
        self.shared.lock().forbidden.clear();
    }

    pub(crate) fn require_token(&self, token: &str) {
        self.shared.lock().token = Some(token.to_owned());
    }

    pub(crate) fn warn(&self, text: &str) {
        self.shared.lock().warning = Some(text.to_owned());
    }

    /// Forgets all events, and ends the watches: they have to list again.
    pub(crate) fn compact(&self) {
        let mut world = self.shared.lock();
        world.revision += 1;
        world.forgotten = world.revision;
        world.events.clear();
        drop(world);
        self.cut();
    }

    /// All objects, and the version, to be put back by [`Fake::restore`].
    pub(crate) fn backup(&self) -> (u64, BTreeMap<(String, String, String), Value>) {
        let world = self.shared.lock();
        (world.revision, world.objects.clone())
    }

    pub(crate) fn restore(&self, backup: (u64, BTreeMap<(String, String, String), Value>)) {
        let mut world = self.shared.lock();
        (world.revision, world.objects) = backup;
        world.events.clear();
        world.forgotten = world.revision;
        drop(world);
        self.cut();
    }

    /// Verbs and resources that were used so far.
    pub(crate) fn used(&self) -> BTreeSet<(String, String)> {
        self.shared.lock().used.clone()
    }

    /// How many requests with this text in method and path have come.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.shared
            .lock()
            .requests
            .iter()
            .filter(|request| request.contains(text))
            .count()
    }

    pub(crate) fn get(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        self.shared
            .lock()
            .objects
            .get(&key(kind, namespace, name))
            .cloned()
    }

    pub(crate) fn annotation(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        annotation: &str,
    ) -> Option<String> {
        self.get(namespace, kind, name)?
            .pointer(&format!("/metadata/annotations/{annotation}"))?
            .as_str()
            .map(str::to_owned)
    }

    pub(crate) fn label(&self, namespace: &str, pod: &str, label: &str) -> Option<String> {
        self.get(namespace, "pods", pod)?
            .pointer(&format!("/metadata/labels/{label}"))?
            .as_str()
            .map(str::to_owned)
    }

    /// A foreign hand: creates or merges.
    pub(crate) fn apply(&self, namespace: &str, kind: &str, name: &str, patch: &Value) {
        let mut world = self.shared.lock();
        let exists = world.objects.contains_key(&key(kind, namespace, name));
        // What is null in a new object is not there.
        let mut patch = patch.clone();
        if !exists {
            let given = std::mem::replace(&mut patch, json!({}));
            merge(&mut patch, &given);
        }
        patch["metadata"]["name"] = json!(name);
        let _ = if exists {
            world.patch(kind, namespace, name, &patch)
        } else {
            world.create(kind, namespace, &patch)
        };
        drop(world);
        self.shared.changed.notify_all();
    }

    /// As an object of this machine's tests may be, and no object of a real server.
    pub(crate) fn put_unchecked(&self, namespace: &str, kind: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = json!(name);
        self.shared.lock().store(kind, namespace, name, object, "ADDED");
        self.shared.changed.notify_all();
    }

    /// A pod as the kubelet runs it.
    pub(crate) fn pod(&self, namespace: &str, name: &str, ip: &str, labels: &Value) {
        self.apply(namespace, "pods", name, &json!({"metadata": {"labels": labels},
            "spec": {"nodeName": format!("node-of-{name}"), "hostname": name}, "status": {"podIP": ip, "phase": "Running"}}));
    }

    pub(crate) fn delete(&self, namespace: &str, kind: &str, name: &str) {
        self.shared.lock().delete(kind, namespace, name);
        self.shared.changed.notify_all();
    }

    /// Deletes all objects of a kind.
    pub(crate) fn delete_all(&self, namespace: &str, kind: &str) {
        let mut world = self.shared.lock();
        for name in world.select(kind, namespace, &[]) {
            world.delete(kind, namespace, &name);
        }
        drop(world);
        self.shared.changed.notify_all();
    }
}

fn key(kind: &str, namespace: &str, name: &str) -> (String, String, String) {
    (kind.to_owned(), namespace.to_owned(), name.to_owned())
}

type Answer = (u16, Value);

fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code});
    (code, body)
}

impl World {
    fn store(
        &mut self,
        kind: &str,
        namespace: &str,
        name: &str,
        mut object: Value,
        verb: &'static str,
    ) -> Value {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let place = key(kind, namespace, name);
        let before = self.objects.get(&place).cloned();
        if verb == "DELETED" {
            self.objects.remove(&place);
        } else {
            self.objects.insert(place, object.clone());
        }
        let event = Event {
            revision: self.revision,
            kind: kind.to_owned(),
            verb,
            object: object.clone(),
            before,
        };
        self.events.push(event);
        object
    }

    fn create(&mut self, kind: &str, namespace: &str, body: &Value) -> Answer {
        let name = body
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if !has_texts(body) {
            return status(400, "BadRequest", "cannot unmarshal a value that is no string");
        }
        if let Some(invalid) = invalid(&name, body) {
            return invalid;
        }
        if self.objects.contains_key(&key(kind, namespace, &name)) {
            return status(409, "AlreadyExists", &format!("{kind} \"{name}\" already exists"));
        }
        let mut object = body.clone();
        object["metadata"]["uid"] = json!(format!("uid-{}", self.revision + 1));
        object["metadata"]["namespace"] = json!(namespace);
        object["metadata"]["creationTimestamp"] = json!("2026-12-01T00:00:00Z");
        complete(&mut object);
        (201, self.store(kind, namespace, &name, object, "ADDED"))
    }

    fn patch(&mut self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Answer {
        let Some(present) = self.objects.get(&key(kind, namespace, name)).cloned() else {
            return status(404, "NotFound", &format!("{kind} \"{name}\" not found"));
        };
        let wanted = patch
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty());
        if wanted.is_some_and(|wanted| present["metadata"]["resourceVersion"] != wanted) {
            return status(
                409,
                "Conflict",
                &format!(
                    "Operation cannot be fulfilled on {kind} \"{name}\": the object has been modified; please apply your changes to the \
                 latest version and try again"
                ),
            );
        }
        let mut object = present.clone();
        merge(&mut object, patch);
        object["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
        if !has_texts(&object) {
            return status(422, "Invalid", "cannot convert a value that is no string");
        }
        if let Some(invalid) = invalid(name, &object) {
            return invalid;
        }
        complete(&mut object);
        if object == present {
            return (200, present);
        }
        (200, self.store(kind, namespace, name, object, "MODIFIED"))
    }

    fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> bool {
        let present = self.objects.get(&key(kind, namespace, name)).cloned();
        present
            .map(|object| self.store(kind, namespace, name, object, "DELETED"))
            .is_some()
    }

    fn select(&self, kind: &str, namespace: &str, selector: &[(String, String)]) -> Vec<String> {
        let here = self
            .objects
            .iter()
            .filter(|((k, ns, _), _)| k == kind && ns == namespace);
        here.filter(|(_, object)| matches(object, selector))
            .map(|((_, _, name), _)| name.clone())
            .collect()
    }

    /// Takes one planned fault that the request meets.
    fn fault(&mut self, method: &str, path: &str) -> Option<Fault> {
        let index = self
            .faults
            .iter()
            .position(|planned| planned.method == method && path.contains(&planned.path))?;
        let planned = &mut self.faults[index];
        let fault = planned.fault.clone();
        planned.left -= 1;
        if planned.left == 0 {
            self.faults.remove(index);
        }
        Some(fault)
    }
}

/// JSON merge, which strategic merging is for all that is patched here: no list has a merge key.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

fn invalid(name: &str, body: &Value) -> Option<Answer> {
    let is_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(is_name) {
        return Some(status(
            422,
            "Invalid",
            &format!("metadata.name: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain"),
        ));
    }
    let lengths = texts(body, "annotations").map(|(name, value)| name.len() + value.as_str().unwrap().len());
    if lengths.sum::<usize>() > LONGEST_ANNOTATIONS {
        return Some(status(422, "Invalid", "metadata.annotations: Too long"));
    }
    let is_label = |value: &str| {
        value.len() <= 63
            && value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if texts(body, "labels").any(|(_, value)| !is_label(value.as_str().unwrap())) {
        return Some(status(422, "Invalid", "metadata.labels: a valid label must be"));
    }
    let ips = body["subsets"].as_array().into_iter().flatten();
    let mut ips = ips.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten());
    let is_usable = |ip: &str| {
        ip.parse::<IpAddr>()
            .is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
    };
    let is_refused = ips.any(|address| !address["ip"].as_str().is_some_and(is_usable));
    is_refused.then(|| {
        status(
            422,
            "Invalid",
            "subsets.addresses.ip: must be a valid IP address, and not in the loopback range",
        )
    })
}

fn texts<'a>(object: &'a Value, map: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object["metadata"][map].as_object().into_iter().flatten()
}

fn has_texts(object: &Value) -> bool {
    ["annotations", "labels"]
        .iter()
        .all(|map| texts(object, map).all(|(_, value)| value.is_string()))
}

/// What the server adds: ports have a protocol.
fn complete(object: &mut Value) {
    let subsets = object.get_mut("subsets").and_then(Value::as_array_mut);
    for subset in subsets.into_iter().flatten() {
        let ports = subset.get_mut("ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            if port["protocol"].is_null() {
                port["protocol"] = json!("TCP");
            }
        }
    }
}

fn matches(object: &Value, selector: &[(String, String)]) -> bool {
    selector
        .iter()
        .all(|(name, value)| object["metadata"]["labels"][name] == *value)
}

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

fn serve(shared: &Shared, stream: TcpStream) {
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
