//! HTTP as a load balancer speaks it: one request, one answer, the end of the connection.

use super::wait::SECOND;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// `Content-Type`, empty without one.
    pub content_type: String,
    pub body: String,
}

impl Response {
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in the answer {self:?}"))
    }
}

pub fn get(port: u16, path: &str) -> Result<Response, String> {
    request(port, "GET", path, None, 5 * SECOND)
}

/// Sends one request to this machine and reads all of the answer.
pub fn request(
    port: u16,
    method: &str,
    path: &str,
    body: Option<&serde_json::Value>,
    limit: Duration,
) -> Result<Response, String> {
    let body = body.map(ToString::to_string);
    send(port, method, path, body.as_deref(), limit)
}

/// The same with any text as the body.
pub fn send(
    port: u16,
    method: &str,
    path: &str,
    body: Option<&str>,
    limit: Duration,
) -> Result<Response, String> {
    exchange(port, method, path, body, limit)
        .map_err(|error| format!("{method} {path} on port {port}: {error}"))
}

fn exchange(
    port: u16,
    method: &str,
    path: &str,
    body: Option<&str>,
    limit: Duration,
) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), 2 * SECOND)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n");
    if let Some(body) = &body {
        head += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
    }
    stream.write_all(format!("{head}\r\n{}", body.unwrap_or_default()).as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("not an HTTP answer: {answer:?}")))?;
    let content_type = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type")
            .then(|| value.trim().to_owned())
    });
    Ok(Response {
        status,
        content_type: content_type.unwrap_or_default(),
        body: unchunked(head, body),
    })
}

/// The body without the lengths of its chunks, if it came in chunks.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let mut whole = String::new();
    let mut rest = body;
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        whole += after.get(..length).unwrap();
        rest = after.get(length..).unwrap().trim_start_matches("\r\n");
    }
    whole
}
