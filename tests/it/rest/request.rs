//! What both are asked.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::seconds;

/// A request; a body that is `None` comes without `Content-Length`.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Option<String>,
    /// `user:password` in Base64, or whatever else stands in its place.
    pub authorization: Option<&'static str>,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if let Some(authorization) = self.authorization {
            write!(f, " with {authorization}")?;
        }
        self.body.as_ref().map_or(Ok(()), |body| write!(f, " {body}"))
    }
}

/// An answer as it came.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

impl Request {
    pub fn new(method: &'static str, path: &str) -> Self {
        Self {
            method,
            path: path.to_owned(),
            body: None,
            authorization: None,
        }
    }

    pub fn authorized(self, authorization: &'static str) -> Self {
        Self {
            authorization: Some(authorization),
            ..self
        }
    }

    pub fn with(method: &'static str, path: &str, body: &str) -> Self {
        Self {
            body: Some(body.to_owned()),
            ..Self::new(method, path)
        }
    }

    /// Sends it and reads to the end; why not, if there is no HTTP answer.
    pub fn send(&self, port: u16) -> Result<Answer, String> {
        let fail = |error: std::io::Error| error.to_string();
        let mut stream =
            TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), seconds(3)).map_err(fail)?;
        stream.set_read_timeout(Some(seconds(60))).map_err(fail)?;
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
            self.method, self.path
        );
        if let Some(authorization) = self.authorization {
            text += &format!("Authorization: {authorization}\r\n");
        }
        if let Some(body) = &self.body {
            text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        } else {
            text += "\r\n";
        }
        stream.write_all(text.as_bytes()).map_err(fail)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(fail)?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole answer")?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(": "));
        Ok(Answer {
            status: status.ok_or("no status")?,
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: body.to_owned(),
        })
    }
}

const CHECKS: &[&str] = &[
    "/",
    "/?lag=0",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/read-only",
    "/health",
    "/sync",
    "/synchronous",
    "/quorum",
    "/async",
    "/asynchronous",
    "/read-only-sync",
    "/read-only-synchronous",
    "/read-only-quorum",
    "/liveness",
    "/readiness",
    "/nonsense",
    "/my-leader-x",
    "/replica/x",
    "/sync/x",
    "/replica?lag=16MB",
    "/replica?lag=100GB",
    "/replica?lag=nonsense",
    "/replica?lag=16mb",
    "/replica?lag=-1",
    "/replica?lag=",
    "/replica?lag=100GB&lag=-1",
    "/async?lag=16MB",
    "/read-only?lag=16MB",
    "/replica?replication_state=streaming",
    "/replica?replication_state=nonsense",
    "/read-only?replication_state=streaming",
    "/readiness?lag=16MB",
    "/readiness?lag=16MB&mode=write",
    "/readiness?mode=nonsense",
    "/readiness?lag=nonsense",
    "/replica?tag_text=one",
    "/replica?tag_text=two",
    "/replica?tag_flag=true",
    "/replica?tag_flag=True",
    "/replica?tag_off=false",
    "/replica?tag_number=1.4",
    "/replica?tag_spaced=a%20b",
    "/replica?tag_spaced=a+b",
    "/replica?tag_missing=x",
    "/replica?tag_nofailover=false",
    "/replica?tag_noloadbalance=true",
    "/primary?tag_missing=x",
    "/leader?tag_missing=x",
    "/standby-leader?tag_missing=x",
    "/read-only?tag_missing=x",
    "/read-only?tag_text=one",
    "/health?tag_missing=x",
    "/health?tag_text=one&tag_flag=true",
    "/sync?tag_text=one",
    "/async?tag_text=one&lag=16MB",
];

const DOCUMENTS: &[&str] = &[
    "/patroni",
    "/patroni/x",
    "/patroni?lag=1",
    "/cluster",
    "/history",
    "/config",
    "/config/x",
    "/metrics",
    "/failsafe",
];

/// Every health check by every method, and all documents.
pub fn all_reads() -> Vec<Request> {
    let checks = CHECKS.iter().flat_map(|path| {
        ["GET", "HEAD", "OPTIONS"]
            .into_iter()
            .map(|method| Request::new(method, path))
    });
    let documents = DOCUMENTS.iter().flat_map(|path| {
        ["GET", "HEAD", "OPTIONS"]
            .into_iter()
            .map(|method| Request::new(method, path))
    });
    checks.chain(documents).collect()
}

/// Health checks and documents, each once.
pub fn reads() -> Vec<Request> {
    all_reads()
        .into_iter()
        .filter(|request| request.method == "GET")
        .collect()
}

/// Requests that are refused whatever the state, and change nothing.
pub fn nonsense() -> Vec<Request> {
    let mut requests: Vec<Request> = [
        ("POST", "/"),
        ("POST", "/primary"),
        ("POST", "/patroni"),
        ("POST", "/config"),
        ("PUT", "/restart"),
        ("PUT", "/"),
        ("PATCH", "/failover"),
        ("DELETE", "/config"),
        ("DELETE", "/failover"),
        ("DELETE", "/reinitialize"),
        ("TRACE", "/"),
        ("NONSENSE", "/primary"),
        ("DELETE", "/restart"),
        ("DELETE", "/switchover"),
        ("DELETE", "/switchover/x"),
    ]
    .map(|(method, path)| Request::new(method, path))
    .to_vec();
    let bodies = [
        None,
        Some(""),
        Some("nonsense"),
        Some("[]"),
        Some("{}"),
        Some("1"),
        Some("null"),
    ];
    for (method, path) in [
        ("PATCH", "/config"),
        ("PUT", "/config"),
        ("POST", "/switchover"),
        ("POST", "/failover"),
        ("POST", "/failsafe"),
        ("POST", "/citus"),
        ("POST", "/mpp"),
    ] {
        requests.extend(bodies.map(|body| Request {
            body: body.map(str::to_owned),
            ..Request::new(method, path)
        }));
    }
    let refused = REFUSED_SWITCHOVERS
        .iter()
        .map(|body| Request::with("POST", "/switchover", body));
    let failovers = REFUSED_FAILOVERS
        .iter()
        .map(|body| Request::with("POST", "/failover", body));
    let restarts = REFUSED_RESTARTS
        .iter()
        .map(|body| Request::with("POST", "/restart", body));
    requests.extend(refused.chain(failovers).chain(restarts));
    requests.push(Request::with(
        "POST",
        "/failsafe",
        r#"{"name": "x", "conn_url": "y", "api_url": "z"}"#,
    ));
    requests
}

const REFUSED_SWITCHOVERS: &[&str] = &[
    r#"{"candidate": "pg2"}"#,
    r#"{"leader": "nobody"}"#,
    r#"{"leader": "nobody", "candidate": "pg2"}"#,
    r#"{"leader": "pg1", "candidate": "nobody"}"#,
    r#"{"leader": "pg1", "member": "nobody"}"#,
    r#"{"leader": "pg1", "candidate": "pg1"}"#,
    r#"{"leader": "", "candidate": "pg2"}"#,
    r#"{"leader": null, "candidate": "pg2"}"#,
    r#"{"leader": "pg1", "candidate": "pg2", "scheduled_at": "2099-01-01T00:00"}"#,
    r#"{"leader": "pg1", "candidate": "pg2", "scheduled_at": "2009-01-01T00:00+02:00"}"#,
    r#"{"leader": "pg1", "candidate": "pg2", "scheduled_at": "nonsense"}"#,
    r#"{"leader": "pg1", "candidate": "pg2", "scheduled_at": "12"}"#,
    r#"{"leader": "pg1", "candidate": "pg2", "scheduled_at": "2099-13-01T00:00Z"}"#,
];

const REFUSED_FAILOVERS: &[&str] = &[
    r#"{"leader": "pg1"}"#,
    r#"{"candidate": "nobody"}"#,
    r#"{"member": "nobody"}"#,
    r#"{"candidate": "pg2", "scheduled_at": "2099-01-01T00:00Z"}"#,
    r#"{"candidate": ""}"#,
    r#"{"leader": "pg1", "candidate": "pg1"}"#,
    r#"{"leader": "nobody", "candidate": "pg2"}"#,
];

const REFUSED_RESTARTS: &[&str] = &[
    "nonsense",
    "[]",
    "1",
    r#"{"role": "nonsense"}"#,
    r#"{"role": "master"}"#,
    r#"{"role": 1}"#,
    r#"{"postgres_version": "nonsense"}"#,
    r#"{"postgres_version": "9.5.0.1"}"#,
    r#"{"postgres_version": 10}"#,
    r#"{"timeout": "nonsense"}"#,
    r#"{"timeout": 0}"#,
    r#"{"timeout": -1}"#,
    r#"{"nonsense": 1}"#,
    r#"{"schedule": "nonsense"}"#,
    r#"{"schedule": "2099-01-01T00:00"}"#,
    r#"{"schedule": "2009-01-01T00:00Z"}"#,
    r#"{"postgres_version": "9.5.0"}"#,
    r#"{"restart_pending": true, "postgres_version": "9.5.0"}"#,
];
