//! A Kubernetes API server of our own: namespaced objects with versions, list and watch, strategic merge patches, conflicts, and
//! whatever trouble a test asks for. It behaves as the real one where the client relies on it:
//!
//! - A patch that changes nothing leaves the version as it is; one that names another version is a conflict (409).
//! - A deletion has a version of its own. Versions are the store's revisions, common to all kinds.
//! - A watch from a version that is no longer kept ends with an event ERROR with the code 410; bookmarks come when it is quiet.
//! - `subsets` is replaced as a whole, without addresses of the loopback interface; labels and annotations are merged, and null
//!   removes one.
//! - Names are DNS subdomains, label values have at most 63 characters, annotations are texts of 256 KiB (422 and 400).

// By their paths, as the tests of the program include this file as well.
#[path = "fake_http.rs"]
mod http;
#[path = "fake_rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

use self::http::serve;
use self::rules::{complete, has_texts, invalid, matches, merge};

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
