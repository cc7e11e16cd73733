//! The server over a real socket: a view that the test publishes, a store in memory, a server that says what the test
//! lets it say.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use config::{ListenAddress, LocalConfig};
use dcs::memory::{MemoryDcs, SharedStore};
use dcs::{Dcs, Expect, Identity, Key, Layout, Timing};
use ha::event::What;
use ha::facts::RestartConditions;
use ha::pg::{Lsn, Role, ServerState};
use ha::step::{Reply, RequestId};
use net::http::{Client, Method};
use net::tls::ClientOptions;
use postgres::RestStatus;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

mod hostile;

use super::fixture::{NOW, cluster, local, primary, primary_sql, replica, standby_sql};
use crate::daemon::api::openapi::tests::has_answer;
use crate::daemon::api::{Handle, LocalServer, StartError, Surroundings, start};
use crate::daemon::clock;
use crate::daemon::disk::Disk;
use crate::daemon::events::Events;
use crate::daemon::inbox::{Inbox, Message};
use crate::daemon::store::{Reload, Store};
use crate::daemon::view::View;

const LIMIT: Duration = Duration::from_secs(20);

/// A server that counts how often it is asked, and tells the number as its position.
struct Scripted {
    asked: AtomicUsize,
    takes: Duration,
    status: Mutex<Option<RestStatus>>,
}

#[async_trait]
impl LocalServer for Scripted {
    async fn rest_status(&self, _deadline: Instant) -> Result<RestStatus, postgres::Error> {
        // Before it counts: a test that sees the count may change the status.
        let status = self.status.lock().unwrap().clone();
        let count = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(self.takes).await;
        let mut status = status.ok_or(postgres::Error::NotRunning)?;
        if !status.in_recovery {
            status.location = Some(Lsn(count as u64));
        }
        Ok(status)
    }
}

/// The store in memory has no settings.
#[async_trait]
impl Reload for Scripted {
    async fn reload(&self, _config: &config::DcsConfig) -> Result<(), dcs::Error> {
        Ok(())
    }
}

struct Harness {
    handle: Handle,
    view: watch::Sender<Arc<View>>,
    inbox: mpsc::Receiver<Message>,
    events: Events,
    server: Arc<Scripted>,
    /// The API's view of the store.
    dcs: Arc<MemoryDcs>,
    /// Other members' views.
    members: Vec<MemoryDcs>,
    runtime: Runtime,
}

/// As just published by a cycle.
fn fresh(mut view: View) -> View {
    let now = clock::now();
    view.cluster = view.cluster.map(|(cluster, _)| (cluster, now));
    view.lock_valid_until = view.lock_valid_until.map(|_| now.after(Duration::from_secs(60)));
    view.next_run = now.after(Duration::from_secs(10));
    view
}

impl Harness {
    fn new(view: View, sql: Option<RestStatus>) -> Self {
        Self::with_delay(view, sql, Duration::ZERO)
    }

    fn with_delay(view: View, sql: Option<RestStatus>, takes: Duration) -> Self {
        let server = Scripted {
            asked: AtomicUsize::new(0),
            takes,
            status: Mutex::new(sql),
        };
        Self::try_new(fresh(view), server).unwrap()
    }

    fn try_new(view: View, server: Scripted) -> Result<Self, StartError> {
        let server = Arc::new(server);
        let shared = SharedStore::with_clock(|| Duration::ZERO);
        let layout = Layout::new("service", "demo", None);
        let identity = |name: &str| Identity {
            name: name.into(),
            lease: None,
        };
        let dcs = |name| MemoryDcs::new(&shared, &layout, &identity(name), Timing::default());
        let events = Events::start(&view.local).unwrap();
        let (reader, members) = (Arc::new(dcs("api")), vec![dcs("a"), dcs("b")]);
        let (view, receiver) = watch::channel(Arc::new(view));
        let (sender, inbox) = Inbox::new();
        let surroundings = Surroundings {
            store: Store {
                dcs: Arc::clone(&reader) as _,
                reload: Arc::clone(&server) as _,
            },
            server: Arc::clone(&server) as _,
            events: events.clone(),
            citus: None,
            disk: Disk::start("/nowhere".into()).unwrap(),
            members: Arc::new(Client::new(&net::http::Options::default()).unwrap()),
        };
        let handle = start(
            receiver,
            sender,
            std::future::ready(Ok::<_, std::io::Error>(surroundings)),
        )?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Ok(Self {
            handle,
            view,
            inbox,
            events,
            server,
            dcs: reader,
            members,
            runtime,
        })
    }

    fn address(&self) -> SocketAddr {
        self.handle.addresses()[0]
    }

    fn asked(&self) -> usize {
        self.server.asked.load(Ordering::SeqCst)
    }

    fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Got {
        let got = send(self.address(), method, path, headers, body);
        assert!(
            has_answer(method, path, got.status),
            "openapi.json: {method} {path} is answered with {}",
            got.status
        );
        got
    }

    fn get(&self, path: &str) -> Got {
        self.send("GET", path, "", "")
    }

    /// With a body and its length.
    fn tell(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let got = self.send(method, path, &format!("Content-Length: {}\r\n", body.len()), body);
        (got.status, got.body)
    }

    fn write(&self, key: Key, value: &str) {
        self.runtime
            .block_on(self.dcs.write(key, value, Expect::Anything))
            .unwrap();
    }

    fn read(&self) -> ha::cluster::Cluster {
        self.runtime.block_on(self.dcs.load()).unwrap()
    }

    /// `a` leads, and all members answer at this server's address.
    fn fill_store(&self) {
        let api_url = format!("http://{}/patroni", self.address());
        for member in &self.members {
            let key =
                json!({"api_url": api_url, "conn_url": "postgres://10.0.0.1:5432/postgres"}).to_string();
            assert!(self.runtime.block_on(member.touch_member(&key)).unwrap());
        }
        assert!(self.runtime.block_on(self.members[0].acquire_leader()).unwrap());
        self.write(Key::Config, r#"{"ttl":30,"loop_wait":10}"#);
    }

    fn apply(&self, local: LocalConfig) {
        self.view
            .send_modify(|view| Arc::make_mut(view).local = Arc::new(local));
    }

    /// Asks until the answer is as wanted.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = std::time::Instant::now() + LIMIT;
        while !is_so(self) {
            assert!(std::time::Instant::now() < end, "not within {LIMIT:?}: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Got {
    status: u16,
    /// Status line and headers.
    head: String,
    body: String,
}

impl Got {
    fn parse(text: &str) -> Self {
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no HTTP: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| {
            line.get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name))
                && line[name.len()..].starts_with(": ")
        })?;
        Some(&line[name.len() + 2..])
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

fn try_raw(address: SocketAddr, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn raw(address: SocketAddr, request: &str) -> String {
    try_raw(address, request).unwrap()
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}")
}

fn send(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Got {
    Got::parse(&raw(address, &request(method, path, headers, body)))
}

#[test]
fn checks_documents_and_their_dress() {
    let member = Harness::new(primary(&json!({})), Some(primary_sql()));
    let got = member.get("/primary");
    assert_eq!(got.status, 200);
    assert_eq!(got.header("content-type"), Some("application/json"));
    assert!(
        got.header("server")
            .is_some_and(|server| server.starts_with("Tamada/")),
        "{}",
        got.head
    );
    assert!(
        got.header("date").is_some_and(|date| date.ends_with(" GMT")),
        "{}",
        got.head
    );
    assert!(
        got.body
            .starts_with(r#"{"state": "running", "postmaster_start_time": "2026-01-05 10"#),
        "{}",
        got.body
    );
    let got = member.get("/replica?lag=1MB");
    assert_eq!((got.status, got.json()["role"].as_str()), (503, Some("primary")));
    assert_eq!(member.get("/nonsense").status, 503);
    let metrics = member.get("/metrics");
    assert_eq!(
        (metrics.status, metrics.header("content-type")),
        (200, Some("text/plain"))
    );
    assert!(
        metrics
            .body
            .contains("\npatroni_primary{scope=\"demo\",name=\"a\"} 1\n")
    );
    for (path, status) in [("/liveness", 200), ("/readiness", 200)] {
        let got = member.get(path);
        assert_eq!(
            (got.status, got.body.as_str(), got.header("content-type")),
            (status, "", None),
            "{path}"
        );
    }
}

#[test]
fn load_balancers_get_bare_statuses_without_a_word_to_postgresql() {
    let member = Harness::new(primary(&json!({})), Some(primary_sql()));
    for (method, path, status) in [
        ("HEAD", "/", 200),
        ("OPTIONS", "/", 200),
        ("HEAD", "/primary", 200),
        ("HEAD", "/leader", 200),
        ("HEAD", "/read-only", 200),
        ("HEAD", "/standby-leader", 503),
        ("HEAD", "/patroni", 503),
        ("HEAD", "/liveness", 503),
        ("OPTIONS", "/cluster", 503),
    ] {
        let got = member.send(method, path, "", "");
        assert_eq!((got.status, got.body.as_str()), (status, ""), "{method} {path}");
        let headers: Vec<&str> = got
            .head
            .lines()
            .skip(1)
            .filter(|line| !line.starts_with("content-length"))
            .collect();
        let meant = [
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'",
            "connection: close",
        ];
        assert_eq!(headers, meant, "{method} {path}");
    }
    assert_eq!(member.asked(), 0);
    assert_eq!(member.send("HEAD", "/health", "", "").status, 200);
    assert_eq!(member.asked(), 1);
}

#[test]
fn old_and_new_clients_see_where_an_answer_ends() {
    let member = Harness::new(primary(&json!({})), Some(primary_sql()));
    let text = raw(member.address(), "OPTIONS / HTTP/1.0\r\n\r\n");
    assert!(
        text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\n"),
        "{text:?}"
    );
    let text = raw(member.address(), "GET /primary HTTP/1.0\r\n\r\n");
    assert!(
        text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with('}'),
        "{text:?}"
    );
    // Two requests over one connection, and a client that closes its side at once.
    let mut stream = TcpStream::connect(member.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET /liveness HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text:?}");
}

#[test]
fn leadership_and_answers_follow_the_view_at_once() {
    let member = Harness::new(primary(&json!({})), Some(primary_sql()));
    assert_eq!(member.get("/").status, 200);
    member.view.send_replace(Arc::new(fresh(replica(&json!({})))));
    assert_eq!((member.get("/").status, member.get("/leader").status), (503, 503));
    member
        .view
        .send_modify(|view| Arc::make_mut(view).state = ServerState::Stopped);
    let asked = member.asked();
    let got = member.get("/patroni");
    assert_eq!((got.status, got.json()["state"].as_str()), (200, Some("stopped")));
    assert_eq!(member.asked(), asked, "a stopped server is not asked");
}

#[test]
fn positions_are_of_a_query_begun_after_the_request_and_queries_are_shared() {
    let member = Harness::with_delay(
        primary(&json!({})),
        Some(primary_sql()),
        Duration::from_millis(150),
    );
    let address = member.address();
    let location = |got: Got| got.json()["xlog"]["location"].as_u64().unwrap();
    let first = std::thread::spawn(move || send(address, "GET", "/patroni", "", ""));
    member.until("the first query runs", |member| member.asked() == 1);
    // While it runs, these must not take its answer, but one query does for all of them.
    let others: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(move || send(address, "GET", "/patroni", "", "")))
        .collect();
    assert_eq!(location(first.join().unwrap()), 1);
    for other in others {
        assert!(location(other.join().unwrap()) >= 2);
    }
    assert!(
        (2..=4).contains(&member.asked()),
        "{} queries for 21 requests",
        member.asked()
    );
}

#[test]
fn a_server_that_hangs_does_not_hold_up_what_is_known_without_it() {
    let member = Harness::with_delay(primary(&json!({})), Some(primary_sql()), Duration::from_secs(60));
    let began = std::time::Instant::now();
    let got = member.get("/primary");
    assert_eq!((got.status, got.json()["state"].as_str()), (200, Some("unknown")));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let got = member.get("/patroni");
    assert_eq!((got.status, got.json()["state"].as_str()), (200, Some("unknown")));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[test]
fn a_query_that_fails_is_tried_once_more_for_patroni() {
    let member = Harness::new(replica(&json!({})), None);
    let address = member.address();
    let asking = std::thread::spawn(move || send(address, "GET", "/patroni", "", ""));
    member.until("it was asked", |member| member.asked() == 1);
    *member.server.status.lock().unwrap() = Some(standby_sql());
    assert_eq!(asking.join().unwrap().json()["state"].as_str(), Some("running"));
    assert_eq!(member.asked(), 2);
}

#[test]
fn a_document_that_no_member_could_use_is_refused_and_not_written() {
    let member = Harness::new(replica(&json!({})), Some(standby_sql()));
    let document = r#"{"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB"}}}"#;
    assert_eq!(member.tell("PUT", "/config", document).0, 200);
    let version = member.read().config.unwrap().version;
    let entries = json!({"a": vec![0; 10_000]}).to_string();
    // Each half has its place, both together have none.
    let half = json!({"a": vec![0; 6_000]}).to_string();
    let other_half = json!({"b": vec![0; 6_000]}).to_string();
    let depth = format!("{}1{}", "{\"a\":".repeat(65), "}".repeat(65));
    for (body, why) in [
        (
            r#"{"postgresql": [1]}"#,
            "postgresql: expected a mapping, found a list",
        ),
        (
            r#"{"postgresql": {"parameters": [1]}}"#,
            "postgresql.parameters: expected a mapping, found a list",
        ),
        (
            r#"{"postgresql": {"parameters": 5}}"#,
            "postgresql.parameters: expected a mapping, found a number",
        ),
        (
            r#"{"standby_cluster": "x"}"#,
            "standby_cluster: expected a mapping, found a text",
        ),
        (&entries, "more than 10000 entries"),
        (&depth, "nested more than 64 levels deep"),
    ] {
        for method in ["PATCH", "PUT"] {
            let (status, text) = member.tell(method, "/config", body);
            assert_eq!(
                (status, text.as_str()),
                (400, &*format!("the configuration is refused: {why}")),
                "{method}"
            );
        }
    }
    assert_eq!(member.read().config.unwrap().version, version);
    assert_eq!(member.tell("PATCH", "/config", &half).0, 200);
    let (status, text) = member.tell("PATCH", "/config", &other_half);
    assert_eq!(
        (status, text.as_str()),
        (400, "the configuration is refused: more than 10000 entries")
    );
    assert_eq!(member.tell("PUT", "/config", &other_half).0, 200);
    // Deeper than JSON is read at all.
    let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    assert_eq!(member.tell("PATCH", "/config", &deep).0, 400);
    // Somebody else wrote it: it can be repaired, in one step only.
    let key = Key::Config;
    let broken = r#"{"postgresql":{"parameters":[1]},"ttl":30}"#;
    member
        .runtime
        .block_on(member.dcs.write(key, broken, Expect::Anything))
        .unwrap();
    assert_eq!(member.tell("PATCH", "/config", r#"{"ttl": 20}"#).0, 400);
    assert_eq!(
        member
            .tell("PATCH", "/config", r#"{"postgresql": {"parameters": null}}"#)
            .0,
        200
    );
}

#[test]
fn the_dynamic_configuration_is_shown_patched_and_replaced() {
    let mut member = Harness::new(
        View {
            cluster: None,
            ..replica(&json!({}))
        },
        Some(standby_sql()),
    );
    assert_eq!(member.get("/config").status, 502);
    assert_eq!(member.tell("PATCH", "/config", r#"{"ttl": 20}"#).0, 503);
    let put = r#"{"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB"}}}"#;
    assert_eq!(member.tell("PUT", "/config", put), (200, put.to_owned()));
    assert!(member.inbox.try_recv().is_err(), "PUT wakes nobody");
    assert_eq!(member.get("/config").body, put);
    let patch = r#"{"ttl": "30", "postgresql": {"parameters": {"work_mem": null}}, "pause": true}"#;
    let patched = r#"{"ttl": 30, "postgresql": {"parameters": {}}, "pause": true}"#;
    assert_eq!(member.tell("PATCH", "/config", patch), (200, patched.to_owned()));
    assert!(matches!(member.inbox.try_recv(), Ok(Message::WakeUp)));
    assert_eq!(
        Value::Object(member.read().config.unwrap().value).to_string(),
        patched.replace(": ", ":").replace(", ", ",")
    );
    let version = member.read().config.unwrap().version;
    assert_eq!(member.tell("PUT", "/config", patched).0, 200);
    assert_eq!(member.tell("PATCH", "/config", r#"{"ttl": "30"}"#).0, 200);
    assert_eq!(
        member.read().config.unwrap().version,
        version,
        "what changes nothing is not written"
    );
    member.dcs.set_reachable(false);
    assert_eq!(member.tell("PATCH", "/config", r#"{"ttl": 20}"#).0, 503);
    assert_eq!(member.get("/cluster").status, 503);
}

#[test]
fn bodies_and_methods_that_make_no_sense_are_refused() {
    let member = Harness::new(replica(&json!({})), Some(standby_sql()));
    for (method, path, headers, body, status) in [
        ("PATCH", "/config", "", "", 411),
        ("PATCH", "/config", "Content-Length: 0\r\n", "", 400),
        ("PATCH", "/config", "Content-Length: 2\r\n", "{}", 400),
        ("PUT", "/config", "Content-Length: 1\r\n", "x", 400),
        ("POST", "/switchover", "Content-Length: 2\r\n", "[]", 400),
        ("POST", "/restart", "Content-Length: 4\r\n", "null", 400),
        ("POST", "/reinitialize", "Content-Length: 1\r\n", "{", 400),
        ("PUT", "/config", "Content-Length: 99999999\r\n", "", 413),
        ("POST", "/", "", "", 501),
        ("DELETE", "/config", "", "", 501),
        ("PUT", "/primary", "", "", 501),
    ] {
        let got = member.send(method, path, headers, body);
        assert_eq!(got.status, status, "{method} {path} {body}");
        assert_eq!(
            got.header("content-type"),
            Some("text/plain; charset=utf-8"),
            "{method} {path}"
        );
        assert_eq!(got.header("connection"), Some("close"));
        assert_eq!(
            got.header("content-length")
                .and_then(|length| length.parse().ok()),
            Some(got.body.len())
        );
    }
    assert!(
        member
            .send("POST", "/", "", "")
            .body
            .contains("Unsupported method ('POST')")
    );
}

#[test]
fn a_switchover_is_checked_written_and_awaited() {
    let mut member = Harness::new(
        View {
            cluster: None,
            ..replica(&json!({}))
        },
        Some(standby_sql()),
    );
    member.fill_store();
    let refused = member.tell("POST", "/switchover", r#"{"leader": "b"}"#);
    assert_eq!(refused, (412, "leader name does not match".to_owned()));
    let address = member.address();
    let asking = std::thread::spawn(move || {
        let body = r#"{"leader": "a", "candidate": "b"}"#;
        send(
            address,
            "POST",
            "/switchover",
            &format!("Content-Length: {}\r\n", body.len()),
            body,
        )
    });
    assert!(matches!(member.inbox.blocking_recv(), Some(Message::WakeUp)));
    let asked = member.read().failover.unwrap();
    assert_eq!(
        (asked.leader, asked.candidate),
        (Some("a".into()), Some("b".into()))
    );
    // The members' part.
    member.runtime.block_on(async {
        assert!(member.members[0].release_leader(None).await.unwrap());
        assert!(member.members[1].acquire_leader().await.unwrap());
    });
    member.write(Key::Failover, "{}");
    let began = std::time::Instant::now();
    member
        .view
        .send_modify(|view| Arc::make_mut(view).cluster = Some((Arc::new(cluster("b")), clock::now())));
    let got = asking.join().unwrap();
    assert_eq!(
        (got.status, got.body.as_str()),
        (200, "Successfully switched over to \"b\"")
    );
    assert_eq!(got.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "the view told of it: {:?}",
        began.elapsed()
    );

    let failed = std::thread::spawn(move || {
        let body = r#"{"candidate": "a"}"#;
        send(
            address,
            "POST",
            "/failover",
            &format!("Content-Length: {}\r\n", body.len()),
            body,
        )
    });
    member.until("the failover is asked for", |member| {
        member.read().failover.is_some()
    });
    member.write(Key::Failover, "{}");
    let got = failed.join().unwrap();
    assert_eq!((got.status, got.body.as_str()), (503, "Failover failed"));
}

#[test]
fn a_scheduled_switchover_comes_and_goes() {
    let member = Harness::new(
        View {
            cluster: None,
            ..replica(&json!({}))
        },
        Some(standby_sql()),
    );
    member.fill_store();
    assert_eq!(
        member.send("DELETE", "/switchover", "", "").body,
        "no switchover is scheduled"
    );
    let body = r#"{"leader": "a", "scheduled_at": "2099-01-01T10:00:00+02:00"}"#;
    assert_eq!(
        member.tell("POST", "/switchover", body),
        (202, "Switchover scheduled".to_owned())
    );
    let document = member.get("/cluster").json();
    assert_eq!(
        document["scheduled_switchover"],
        json!({"at": "2099-01-01T10:00:00+02:00", "from": "a"})
    );
    assert_eq!(document["members"][0]["role"], "leader");
    let got = member.send("DELETE", "/switchover", "", "");
    assert_eq!(
        (got.status, got.body.as_str()),
        (200, "scheduled switchover deleted")
    );
    assert_eq!(member.read().failover, None);
    assert_eq!(member.send("DELETE", "/switchover", "", "").status, 404);
}

#[test]
fn unreachable_candidates_are_no_candidates() {
    let member = Harness::new(
        View {
            cluster: None,
            ..replica(&json!({}))
        },
        None,
    );
    member.fill_store();
    let got = member.tell("POST", "/switchover", r#"{"leader": "a"}"#);
    assert_eq!(
        got,
        (
            412,
            "switchover is not possible: no good candidates have been found".to_owned()
        )
    );
    assert_eq!(member.read().failover, None);
}

fn answer(message: Option<Message>, is_success: bool, text: &str) -> String {
    let told = Reply {
        id: RequestId(1),
        is_success,
        text: text.to_owned(),
    };
    match message {
        Some(Message::Restart { conditions, reply }) => {
            reply.send(told).unwrap();
            format!("restart {:?} {:?}", conditions.role, conditions.timeout)
        }
        Some(Message::Reinitialize {
            force,
            from_leader,
            reply,
        }) => {
            reply.send(told).unwrap();
            format!("reinitialize {force} {from_leader}")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn the_ha_loop_answers_restart_and_reinitialize() {
    let mut member = Harness::new(replica(&json!({})), Some(standby_sql()));
    let address = member.address();
    let mut ask = |path: &'static str, body: &'static str, is_success: bool, text: &str| {
        let headers = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let asking = std::thread::spawn(move || send(address, "POST", path, &headers, body));
        let heard = answer(member.inbox.blocking_recv(), is_success, text);
        let got = asking.join().unwrap();
        assert_eq!(got.body, text);
        (heard, got.status)
    };
    assert_eq!(
        ask("/restart", "", true, "restarted successfully"),
        ("restart None None".to_owned(), 200)
    );
    let body = r#"{"role": "replica", "timeout": "30s"}"#;
    let conditions = format!(
        "restart {:?} {:?}",
        Some(Role::Replica),
        Some(Duration::from_secs(30))
    );
    assert_eq!(
        ask("/restart", body, false, "restart conditions are not satisfied"),
        (conditions, 503)
    );
    let body = r#"{"force": true}"#;
    assert_eq!(
        ask("/reinitialize", body, true, "reinitialize started"),
        ("reinitialize true false".to_owned(), 200)
    );
    let text = "I am the leader, can not reinitialize";
    assert_eq!(
        ask("/reinitialize", "", false, text),
        ("reinitialize false false".to_owned(), 503)
    );
    let got = member.send("POST", "/reload", "", "");
    assert_eq!((got.status, got.body.as_str()), (202, "reload scheduled"));
    assert!(matches!(member.inbox.blocking_recv(), Some(Message::Reload)));
    drop(member.inbox);
    assert_eq!(send(address, "POST", "/restart", "", "").status, 503);
}

#[test]
fn a_scheduled_restart_is_shown_deleted_and_done() {
    let mut member = Harness::new(replica(&json!({})), Some(standby_sql()));
    assert_eq!(
        member.send("DELETE", "/restart", "", "").body,
        "no restarts are scheduled"
    );
    let later = r#"{"schedule": "2099-01-01T10:00:00Z", "role": "replica"}"#;
    assert_eq!(
        member.tell("POST", "/restart", later),
        (202, "Restart scheduled".to_owned())
    );
    assert!(matches!(member.inbox.blocking_recv(), Some(Message::WakeUp)));
    assert_eq!(
        member.tell("POST", "/restart", later),
        (409, "Another restart is already scheduled".to_owned())
    );
    let shown = json!({"schedule": "2099-01-01T10:00:00+00:00", "role": "replica"});
    assert_eq!(member.get("/patroni").json()["scheduled_restart"], shown);
    let published = member.handle.scheduled_restart().unwrap().0;
    assert_eq!(
        published["postmaster_start_time"],
        "2026-01-05 10:00:00.123456+00:00"
    );
    let got = member.send("DELETE", "/restart", "", "");
    assert_eq!(
        (got.status, got.body.as_str()),
        (200, "scheduled restart deleted")
    );
    assert!(matches!(member.inbox.blocking_recv(), Some(Message::WakeUp)));

    let soon = jiff::Timestamp::now() + Duration::from_secs(1);
    assert_eq!(
        member
            .tell(
                "POST",
                "/restart",
                &json!({"schedule": soon.to_string()}).to_string()
            )
            .0,
        202
    );
    assert!(matches!(member.inbox.blocking_recv(), Some(Message::WakeUp)));
    let planned = member.handle.planned_restart().unwrap();
    assert_eq!(planned.conditions, RestartConditions::default());
    assert!(planned.at <= soon);
    member.handle.restart_is_unscheduled(planned.id);
    assert_eq!(member.handle.scheduled_restart(), None);
}

#[test]
fn who_may_change_something_is_configured_and_reloaded() {
    let mut view = replica(&json!({}));
    view.local = Arc::new(local(
        "authentication: {username: u, password: p}, server_tokens: minimal",
    ));
    let member = Harness::new(view, Some(standby_sql()));
    let got = member.send("POST", "/reload", "", "");
    assert_eq!((got.status, got.body.as_str()), (401, "no auth header received"));
    assert_eq!(got.header("www-authenticate"), Some("Basic realm=\"Patroni\""));
    assert_eq!(got.header("server"), Some("Patroni/4.1.5"));
    assert_eq!(
        member
            .send("POST", "/reload", "Authorization: Basic eDp5\r\n", "")
            .body,
        "not authenticated"
    );
    let good = format!(
        "Authorization: Basic {}\r\n",
        base64::engine::general_purpose::STANDARD.encode("u:p")
    );
    assert_eq!(member.send("POST", "/reload", &good, "").status, 202);
    assert_eq!(member.get("/patroni").status, 200, "everybody may look");

    member.apply(local("allowlist: [10.0.0.0/8], http_extra_headers: {X-One: two}"));
    member.until("the new headers", |member| {
        member.get("/health").header("x-one") == Some("two")
    });
    let got = member.send("POST", "/reload", &good, "");
    assert_eq!((got.status, got.body.as_str()), (403, "Access is denied"));
    member.apply(local("allowlist: [localhost]"));
    member.until("a name in the list", |member| {
        member.send("POST", "/reload", "", "").status == 202
    });
}

#[test]
fn addresses_of_members_and_users_with_passwords_count_together() {
    let mut view = replica(&json!({}));
    let rules = "allowlist_include_members: true, authentication: {username: u, password: p}, server_tokens: productonly";
    view.local = Arc::new(local(rules));
    let mut cluster = cluster("b");
    cluster.members[1].data.api_url = Some("http://127.0.0.1:8008/patroni".to_owned());
    view.cluster = Some((Arc::new(cluster), NOW));
    let member = Harness::new(view, Some(standby_sql()));
    let got = member.send("POST", "/reload", "", "");
    assert_eq!((got.status, got.body.as_str()), (401, "no auth header received"));
    assert_eq!(got.header("server"), Some("Patroni"));
    let good = "Authorization: Basic dTpw\r\n";
    assert_eq!(member.send("POST", "/reload", good, "").status, 202);
    member.view.send_modify(|view| {
        let (cluster, at) = view.cluster.clone().unwrap();
        let mut cluster = ha::cluster::Cluster::clone(&cluster);
        cluster.members[1].data.api_url = Some("http://10.0.0.9:8008/patroni".to_owned());
        Arc::make_mut(view).cluster = Some((Arc::new(cluster), at));
    });
    let got = member.send("POST", "/reload", good, "");
    assert_eq!((got.status, got.body.as_str()), (403, "Access is denied"));
}

#[test]
fn as_many_connections_may_wait_as_is_said() {
    let mut view = replica(&json!({}));
    view.local = Arc::new(local("request_queue_size: 1500"));
    let member = Harness::new(view, Some(standby_sql()));
    let port = format!("sport = :{}", member.address().port());
    let output = std::process::Command::new("ss")
        .args(["-ltnH", &port])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.split_whitespace().nth(2), Some("1500"), "{text}");
}

fn listen_at(address: SocketAddr) -> ListenAddress {
    ListenAddress {
        hosts: vec![address.ip().to_string()],
        port: address.port(),
    }
}

#[test]
fn it_moves_to_another_address_and_stays_where_that_cannot_be() {
    let member = Harness::new(replica(&json!({})), Some(standby_sql()));
    let taken = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let mut bad = local("http_extra_headers: {X-Try: bad}");
    bad.restapi.listen = listen_at(taken.local_addr().unwrap());
    // Ports that were free just now, on an address that no other test has anything to do with.
    let free = |ip: &str| {
        std::net::TcpListener::bind((ip, 0))
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (first, second) = (free("127.0.0.3"), free("127.0.0.3"));
    let listening = |address: SocketAddr, restapi: &str| {
        let mut local = local(restapi);
        local.restapi.listen = listen_at(address);
        local
    };
    let answers = |address: SocketAddr| TcpStream::connect(address).is_ok();
    member.apply(listening(first, ""));
    member.until("the first move", |_| answers(first));
    member.apply(bad);
    member.until("the failed move", |_| {
        // Who connects in the moment in which the listener changes is sent away.
        try_raw(first, &request("GET", "/health", "", ""))
            .is_ok_and(|text| Got::parse(&text).header("x-try").is_some())
    });
    member.apply(listening(second, ""));
    member.until("the second move", |_| answers(second) && !answers(first));
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut view = replica(&json!({}));
    Arc::make_mut(&mut view.local).restapi.listen = listen_at(address);
    let server = Scripted {
        asked: AtomicUsize::new(0),
        takes: Duration::ZERO,
        status: Mutex::default(),
    };
    let error = Harness::try_new(view, server).err().unwrap().to_string();
    assert!(
        error.starts_with(&format!("the REST API cannot listen on {address}: ")),
        "{error}"
    );
    assert!(error.contains("restapi.listen"), "{error}");
}

/// A self-signed certificate with CA:TRUE, which is CA, server's and client's certificate at once.
fn certificate(dir: &Path, name: &str) -> std::path::PathBuf {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
    path
}

#[test]
fn client_certificates_and_new_server_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let path = certificate(dir.path(), "one.pem");
    let tls = |verify_client: &str| {
        let path = path.display();
        local(&format!(
            "certfile: {path}, cafile: {path}, verify_client: {verify_client}, https_extra_headers: {{X-V: {verify_client}}}"
        ))
    };
    let mut view = replica(&json!({}));
    view.local = Arc::new(tls("optional"));
    let member = Harness::new(view, Some(standby_sql()));
    let url = |path: &str| format!("https://{}{path}", member.address());
    let client = |cert: bool| {
        let tls = ClientOptions {
            ca: Some(path.clone()),
            cert: cert.then(|| path.clone()),
            ..ClientOptions::default()
        };
        Client::new(&net::http::Options {
            tls,
            ..net::http::Options::default()
        })
        .unwrap()
    };
    let ask = |cert: bool, method: Method, at: &str| {
        let client = client(cert);
        member
            .runtime
            .block_on(client.request(method, &url(at), None, LIMIT))
            .map(|got| {
                (
                    got.status.as_u16(),
                    got.body,
                    got.headers.get("x-v").map(|v| v.to_str().unwrap().to_owned()),
                )
            })
    };
    let refused = ask(false, Method::POST, "/reload").unwrap();
    assert_eq!(
        (refused.0, refused.1.as_str()),
        (403, "client certificate required")
    );
    assert_eq!(ask(true, Method::POST, "/reload").unwrap().0, 202);
    assert_eq!(ask(false, Method::GET, "/health").unwrap().0, 200);

    member.apply(tls("required"));
    member.until("required", |_| {
        // A connection of before may end while it is used.
        ask(true, Method::GET, "/health").is_ok_and(|got| got.2.as_deref() == Some("required"))
    });
    assert!(ask(false, Method::GET, "/health").is_err(), "the handshake fails");

    member.apply(tls("none"));
    member.until("none", |_| {
        ask(false, Method::GET, "/health").is_ok_and(|got| got.2.as_deref() == Some("none"))
    });
    assert_eq!(ask(false, Method::POST, "/reload").unwrap().0, 202);

    // A client that keeps its connection, and trusts no certificate but the present one.
    let old = client(false);
    let ask_old = || {
        member
            .runtime
            .block_on(old.request(Method::GET, &url("/health"), None, LIMIT))
            .map(|_| ())
    };
    ask_old().unwrap();

    // A new certificate at the same place, and before it one that cannot be used.
    std::fs::write(&path, "nonsense").unwrap();
    member.apply(tls("none"));
    certificate(dir.path(), "one.pem");
    member.apply(tls("optional"));
    member.until("the new certificate", |_| {
        ask(true, Method::GET, "/health").is_ok()
    });
    member.until("no connection outlives its certificate", |_| ask_old().is_err());
}

#[test]
fn events_are_read_and_waited_for() {
    let harness = Harness::new(replica(&json!({})), None);
    let address = harness.address();
    assert_eq!(
        harness.get("/events").json(),
        json!({"member": "a", "newest": 0, "events": []})
    );
    let fencing = || What::Fencing {
        stage: "fast-stop".to_owned(),
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(move || send(address, "GET", "/events?since=0&wait=20", "", "").json());
        harness.events.tell(fencing());
        let got = waiting.join().unwrap();
        assert_eq!((&got["newest"], &got["events"][0]["id"]), (&json!(1), &json!(1)));
        assert_eq!(got["events"][0]["kind"], "fencing");
        assert_eq!(got["events"][0]["facts"], json!({"stage": "fast-stop"}));
    });
    for _ in 0..99 {
        // No more than the queue takes at once.
        let newest = harness.get("/events?limit=1").json()["newest"].as_u64().unwrap();
        harness.events.tell(fencing());
        harness.get(&format!("/events?since={newest}&wait=20"));
    }
    // There is no disk: only the newest are left.
    let got = harness.get("/events").json();
    assert_eq!(
        (&got["newest"], &got["events"][63]["id"]),
        (&json!(100), &json!(100))
    );
    assert_eq!(
        harness.get("/events?since=98&limit=1").json()["events"][0]["id"],
        99
    );
    let bad = harness.get("/events?since=yesterday");
    assert!(
        bad.status == 400 && bad.body.starts_with("since=\"yesterday\" is neither"),
        "{bad:?}"
    );
}
