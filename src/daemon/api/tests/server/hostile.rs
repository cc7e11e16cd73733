//! What strangers may send: texts that a browser would run or a terminal obey, requests by pages of others, clients that
//! want more than there is.

use super::*;
use crate::daemon::api::route::{NAMED, Route};

/// Texts that mean something to a browser, a terminal, or the log.
const TEXTS: [&str; 7] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "<!DOCTYPE html><html>",
    "\u{1b}]0;title\u{7}\u{1b}[2J",
    "a\r\nX-Injected: 1\r\n\r\n<b>",
    "\u{9b}31m\u{202e}drowssap\u{2066}\u{feff}\u{e0041}",
    "line\u{2028}two\u{85}\u{0}",
];

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// An answer that neither a browser takes for a page nor a terminal for commands.
fn assert_harmless(got: &Got, what: &str) {
    assert_eq!(got.header("x-content-type-options"), Some("nosniff"), "{what}");
    let policy = got.header("content-security-policy").unwrap_or_default();
    assert!(policy.starts_with("default-src 'none'"), "{what}: {}", got.head);
    assert_eq!(got.header("x-injected"), None, "{what}");
    let kind = got.header("content-type");
    if !got.body.is_empty() {
        let kinds = ["application/json", "text/plain", "text/plain; charset=utf-8"];
        assert!(kind.is_some_and(|kind| kinds.contains(&kind)), "{what}: {kind:?}");
    }
    let is_control = |c: char| c.is_control() && c != '\n' || config::escape::is_hidden(c);
    assert!(!got.body.contains(is_control), "{what}: {:?}", got.body);
    if kind == Some("text/plain; charset=utf-8") {
        assert!(!got.body.trim_end().contains('\n'), "{what}: {:?}", got.body);
    }
}

fn bodies(text: &str) -> Vec<String> {
    let keys = [
        "role",
        "schedule",
        "timeout",
        "postgres_version",
        "leader",
        "candidate",
        "member",
        "scheduled_at",
        "force",
        "name",
        "ttl",
        "type",
        "group",
        "pause",
    ];
    let mut bodies = vec![
        text.to_owned(),
        json!(text).to_string(),
        json!([text]).to_string(),
    ];
    for key in keys {
        bodies.push(json!({key: text}).to_string());
    }
    bodies.push(json!({text: text}).to_string());
    bodies.push(json!({"leader": "a", "candidate": text}).to_string());
    bodies.push(json!({"leader": text, "candidate": text}).to_string());
    bodies.push(json!({"name": text, "conn_url": text, "api_url": text, "slots": {text: 1}}).to_string());
    bodies
}

#[test]
fn nothing_that_is_sent_comes_back_as_a_page_or_as_commands() {
    let config = json!({"failsafe_mode": true});
    let mut member = Harness::new(replica(&config), Some(standby_sql()));
    member.fill_store();
    member.inbox.close();
    let other = [
        ("GET", "replica", Route::Health),
        ("GET", "nonsense", Route::Health),
        ("HEAD", "primary", Route::HealthBare),
        ("OPTIONS", "cluster", Route::HealthBare),
        ("POST", "", Route::Unsupported),
        ("TRACE", "x", Route::Unsupported),
    ];
    for (method, name, route) in NAMED.iter().chain(&other) {
        for text in TEXTS {
            let encoded = encode(text);
            let mut paths = vec![format!("/{name}/{encoded}"), format!("/{encoded}/{name}")];
            for parameter in [
                "since",
                "limit",
                "lag",
                "mode",
                "replication_state",
                "tag_x",
                encoded.as_str(),
            ] {
                paths.push(format!("/{name}?{parameter}={encoded}"));
            }
            // `wait` waits for an event when it can be read.
            paths.push(format!("/{name}?wait={encoded}"));
            for path in &paths {
                let got = send(member.address(), method, path, "Content-Length: 2\r\n", "{}");
                assert_harmless(&got, &format!("{method} {path}"));
            }
            if matches!(route, Route::Wish(_)) {
                for body in bodies(text) {
                    let length = format!("Content-Length: {}\r\n", body.len());
                    let got = send(member.address(), method, &format!("/{name}"), &length, &body);
                    assert_harmless(&got, &format!("{method} /{name} {body}"));
                }
            }
        }
    }
}

#[test]
fn what_the_store_holds_comes_back_harmless() {
    let member = Harness::new(replica(&json!({})), Some(standby_sql()));
    member.fill_store();
    for text in TEXTS {
        member.write(Key::Config, &json!({"ttl": 30, text: {text: text}}).to_string());
        member.write(Key::History, &json!([[1, 2, text, text, text]]).to_string());
        member.write(
            Key::Failover,
            &json!({"leader": text, "member": text, "scheduled_at": text}).to_string(),
        );
        let key = json!({"api_url": text, "conn_url": text, "state": text, "role": text, "tags": {text: text}, "version": text});
        assert!(
            member
                .runtime
                .block_on(member.members[1].touch_member(&key.to_string()))
                .unwrap()
        );
        for path in ["/cluster", "/history", "/config", "/patroni", "/metrics", "/"] {
            let got = send(member.address(), "GET", path, "", "");
            assert_harmless(&got, path);
        }
    }
}

#[test]
fn a_page_of_another_site_changes_nothing() {
    let mut member = Harness::new(replica(&json!({"failsafe_mode": true})), Some(standby_sql()));
    member.fill_store();
    let own = format!("Origin: http://{}", member.address());
    let pages = [
        ("Origin: http://evil.example", "x"),
        ("Origin: null", "10.0.0.11:8008"),
        ("Referer: http://evil.example/", "10.0.0.11:8008"),
        ("Sec-Fetch-Site: cross-site", "10.0.0.11:8008"),
        // A name that was bound to this address a moment ago.
        (
            "Origin: http://evil.example:8008\r\nContent-Type: application/json",
            "evil.example:8008",
        ),
    ];
    for (method, name, _) in NAMED.iter().filter(|(_, _, route)| route.is_protected()) {
        let body =
            r#"{"ttl": 77, "leader": "a", "candidate": "b", "name": "b", "conn_url": "x", "api_url": "x"}"#;
        for (page, host) in pages {
            let request = format!(
                "{method} /{name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{page}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let got = Got::parse(&raw(member.address(), &request));
            assert_eq!(got.status, 403, "{method} /{name} {page}: {}", got.body);
            assert!(got.body.starts_with("refused: "), "{}", got.body);
            assert_harmless(&got, name);
        }
        // No browser asks a page's questions twice: this API never permits what OPTIONS asks for.
        let asked = "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
        let got = send(member.address(), "OPTIONS", &format!("/{name}"), asked, "");
        assert_eq!(got.header("access-control-allow-origin"), None);
    }
    assert!(
        member.inbox.try_recv().is_err(),
        "nothing was asked of the HA loop"
    );
    assert_eq!(member.read().failover, None);
    assert_eq!(member.read().config.unwrap().value["ttl"], 30);
    // curl's and patronictl's ways, and a page of the member's own.
    let patch = r#"{"ttl": 20}"#;
    for headers in [
        "",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json\r\nHost: load.balancer.example\r\n",
        &format!("{own}\r\nSec-Fetch-Site: same-origin\r\n"),
    ] {
        let host = if headers.contains("Host") {
            String::new()
        } else {
            format!("Host: {}\r\n", member.address())
        };
        let request = format!(
            "PATCH /config HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{patch}",
            patch.len()
        );
        let got = Got::parse(&raw(member.address(), &request));
        assert_eq!(got.status, 200, "{headers}: {}", got.body);
    }
}

#[test]
fn a_password_lets_a_page_behind_a_proxy_through_and_not_a_strangers() {
    let mut view = replica(&json!({}));
    view.local = Arc::new(local("authentication: {username: u, password: p}"));
    let member = Harness::new(view, Some(standby_sql()));
    member.fill_store();
    let login = base64::engine::general_purpose::STANDARD.encode("u:p");
    for (origin, kind, status) in [
        ("http://ui.example", "application/json", 200),
        ("http://ui.example", "text/plain", 200),
        ("http://evil.example", "text/plain", 403),
    ] {
        let body = r#"{"ttl": 20}"#;
        let request = format!(
            "PATCH /config HTTP/1.1\r\nHost: ui.example\r\nConnection: close\r\nOrigin: {origin}\r\nContent-Type: {kind}\r\n\
             Authorization: Basic {login}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let got = Got::parse(&raw(member.address(), &request));
        assert_eq!(got.status, status, "{origin} {kind}: {}", got.body);
    }
}

#[test]
fn clients_that_do_not_read_leave_large_answers_to_others() {
    let member = Harness::new(replica(&json!({})), Some(standby_sql()));
    member.fill_store();
    // Large enough not to fit into the buffers of both sockets.
    let value = "x".repeat(6 * 1024 * 1024);
    member.write(Key::Config, &json!({"ttl": 30, "note": value}).to_string());
    let mut view = View::clone(&member.view.borrow());
    view.cluster = Some((Arc::new(member.read()), clock::now()));
    member.view.send_replace(Arc::new(view));
    let stuck: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(member.address()).unwrap();
            stream
                .write_all(request("GET", "/config", "", "").as_bytes())
                .unwrap();
            stream
        })
        .collect();
    member.until("one client has all the turns that it may have", |member| {
        send(member.address(), "GET", "/config", "", "").status == 503
    });
    assert_eq!(send(member.address(), "GET", "/primary", "", "").status, 503);
    assert_eq!(send(member.address(), "GET", "/patroni", "", "").status, 200);
    drop(stuck);
    member.until("their turns are over", |member| {
        send(member.address(), "GET", "/config", "", "").status == 200
    });
}

#[test]
fn a_leader_without_the_store_is_believed_only_with_what_is_known_of_it() {
    let member = Harness::new(replica(&json!({"failsafe_mode": true})), Some(standby_sql()));
    let mut view = View::clone(&member.view.borrow());
    let mut known = cluster("b");
    known.leader = None;
    known.members[1].data = ha::cluster::MemberData::parse(
        r#"{"conn_url": "postgres://10.0.0.2:5432/postgres", "api_url": "http://10.0.0.2:8008/patroni"}"#,
    );
    view.cluster = Some((Arc::new(known), clock::now()));
    member.view.send_replace(Arc::new(view));
    let ping = |change: Value| {
        let mut ping = json!({"name": "b", "conn_url": "postgres://10.0.0.2:5432/postgres", "api_url": "http://10.0.0.2:8008/patroni", "ttl_ms": 30000});
        for (key, value) in change.as_object().unwrap() {
            ping[key] = value.clone();
        }
        let (status, _) = member.tell("POST", "/failsafe", &ping.to_string());
        status
    };
    let is_promised = || member.get("/patroni").json()["failsafe_mode_is_active"] == true;
    for (change, status) in [
        (json!({"ttl_ms": u64::MAX}), 400),
        (json!({"ttl_ms": 60_001}), 400),
        (json!({"name": "c"}), 403),
        (json!({"name": "a"}), 403),
        (json!({"conn_url": "postgres://203.0.113.1:5432/postgres"}), 403),
        (json!({"api_url": "http://203.0.113.1:8008/patroni"}), 403),
        (json!({"conn_url": ""}), 403),
    ] {
        assert_eq!(ping(change.clone()), status, "{change}");
        assert!(!is_promised(), "{change}");
    }
    for change in [
        json!({}),
        json!({"ttl_ms": 60_000}),
        json!({"ttl_ms": null}),
        json!({"ttl_ms": -1.5e300}),
    ] {
        assert_eq!(ping(change.clone()), 200, "{change}");
    }
    assert!(is_promised());
}

#[test]
fn members_are_let_in_without_the_store_by_the_addresses_known_last() {
    let mut view = replica(&json!({"failsafe_mode": true}));
    view.local = Arc::new(local(
        "allowlist: [203.0.113.0/24], allowlist_include_members: true",
    ));
    let member = Harness::new(view, Some(standby_sql()));
    let body = r#"{"name": "b", "conn_url": "postgres://127.0.0.1:5432/postgres", "api_url": "http://127.0.0.1:8008/patroni"}"#;
    assert_eq!(
        member.tell("POST", "/failsafe", body).0,
        403,
        "nobody is known at this address"
    );
    let mut view = View::clone(&member.view.borrow());
    view.failsafe_members = Some([("b".into(), "http://127.0.0.1:8008/patroni".to_owned())].into());
    // The last reading of the DCS is long ago.
    view.cluster = view
        .cluster
        .map(|(cluster, _)| (cluster, ha::facts::Moment(Duration::ZERO)));
    member.view.send_replace(Arc::new(view));
    assert_eq!(
        member.tell("POST", "/failsafe", body),
        (200, "Accepted".to_owned())
    );
}
