//! The HTTP client against servers of a few lines.

use std::time::{Duration, Instant};

use tamada_net::http::{Client, Method, Options, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(10);

/// Answers one request with `answer`, or never if it is empty; what was asked.
async fn serve(answer: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        while !request.ends_with(b"\r\n\r\n") && !request.ends_with(b"}") {
            let count = stream.read(&mut chunk).await.unwrap();
            assert_ne!(count, 0);
            request.extend_from_slice(&chunk[..count]);
        }
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, task)
}

fn client() -> Client {
    let auth = Some(("user".to_owned(), "s3cret".into()));
    Client::new(&Options {
        auth,
        user_agent: "tamada".to_owned(),
        ..Options::default()
    })
    .unwrap()
}

#[tokio::test]
async fn a_bad_status_is_an_answer_and_is_not_followed() {
    let (url, asked) =
        serve("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
    let response = client().get(&url, LONG).await.unwrap();
    assert_eq!(response.status, 302);
    assert_eq!(response.json(), Some(serde_json::json!({"a": 1})));
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("GET /patroni HTTP/1.1\r\n") && asked.contains("user-agent: tamada\r\n"));
    assert!(!asked.contains("authorization"));
}

#[tokio::test]
async fn credentials_go_with_requests_that_may_change_something() {
    let (url, asked) = serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let response = client()
        .request(Method::POST, &url, Some("{}"), LONG)
        .await
        .unwrap();
    assert_eq!(response.body, "ok");
    let asked = asked.await.unwrap();
    assert!(asked.contains("authorization: Basic dXNlcjpzM2NyZXQ=\r\n"));
    assert!(asked.contains("content-type: application/json\r\n") && asked.ends_with("\r\n\r\n{}"));
}

#[tokio::test]
async fn a_silent_server_costs_the_timeout_and_no_more() {
    let (url, _asked) = serve("").await;
    let start = Instant::now();
    let error = client().get(&url, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Timeout);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn an_error_names_the_address_without_the_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://user:hidden@{address}/patroni");
    let error = client().get(&url, LONG).await.unwrap_err();
    assert_eq!(error.reason, Reason::Connect);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("GET http://{address}/patroni: could not connect: ")),
        "{text}"
    );
    assert!(
        text.contains("refused") && !format!("{error:?}").contains("hidden"),
        "{text}"
    );
    assert_eq!(
        client().get("nonsense", LONG).await.unwrap_err().reason,
        Reason::Request
    );
}
