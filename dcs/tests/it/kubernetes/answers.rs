//! What the real kube-apiserver 1.20 answers (`answers.json`), and whether the stand-in answers the same, in all that our client reads.
//! `UPDATE_EXPECT=1` with the real server writes the answers anew.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::apiserver::{ApiServer, MERGE, Settings};
use super::fake::Fake;
use super::labels;
use super::real::root;

const NAMESPACE: &str = "t";
const MEMBER: &str = "member-token";

/// A server that the requests are sent to.
trait Answering {
    fn url(&self) -> String;

    fn client(&self) -> reqwest::Client;

    /// The token of the one who asks.
    fn token(&self, who: &str) -> String;

    /// After how long a watch that waits for a bookmark ends.
    fn patience(&self) -> u32;

    /// What has happened up to now is forgotten: a watch can begin only at what there is.
    fn forget(&mut self);

    /// Whether this may be asked by one who may do nothing.
    fn deny(&self, _verb: &str, _is_denied: bool) {}
}

struct Real {
    server: ApiServer,
    tokens: BTreeMap<&'static str, String>,
}

impl Answering for Real {
    fn url(&self) -> String {
        self.server.address()
    }

    fn client(&self) -> reqwest::Client {
        let tls = (*self.server.tls()).clone();
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .unwrap()
    }

    fn token(&self, who: &str) -> String {
        self.tokens[who].clone()
    }

    /// Bookmarks come two seconds before the end, and about each minute.
    fn patience(&self) -> u32 {
        12
    }

    /// Its memory of changes ends with it.
    fn forget(&mut self) {
        self.server.stop();
        self.server.run();
    }
}

impl Answering for Fake {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn client(&self) -> reqwest::Client {
        let tls = net::tls::ClientOptions::default().client_config().unwrap();
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .unwrap()
    }

    fn token(&self, who: &str) -> String {
        if who == "nobody" { "unknown" } else { MEMBER }.to_owned()
    }

    fn patience(&self) -> u32 {
        1
    }

    fn forget(&mut self) {
        self.compact();
    }

    fn deny(&self, verb: &str, is_denied: bool) {
        if is_denied {
            self.forbid(verb, "configmaps");
        } else {
            self.permit_all();
        }
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/kubernetes/answers.json")
}

/// What our client reads of the answers.
#[derive(Default)]
struct Reader {
    /// Versions in the order in which they were seen first.
    versions: Vec<String>,
    kept: BTreeMap<String, String>,
}

impl Reader {
    fn version(&mut self, text: &str) -> usize {
        let known = self.versions.iter().position(|known| known == text);
        known.unwrap_or_else(|| {
            self.versions.push(text.to_owned());
            self.versions.len() - 1
        })
    }

    /// Puts the versions that were kept into a request.
    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("${long}", &"x".repeat(300_000));
        for (name, version) in &self.kept {
            text = text.replace(&format!("${{{name}}}"), version);
        }
        text
    }

    fn object(&mut self, value: &Value) -> Value {
        let mut read = Map::new();
        for (name, pointer) in [
            ("name", "/metadata/name"),
            ("labels", "/metadata/labels"),
            ("annotations", "/metadata/annotations"),
            ("subsets", "/subsets"),
            ("podIP", "/status/podIP"),
            ("hostname", "/spec/hostname"),
            ("nodeName", "/spec/nodeName"),
            ("clusterIP", "/spec/clusterIP"),
        ] {
            // A list or map without anything in it may be left out.
            let is_empty = |value: &Value| {
                value.is_null()
                    || value.as_array().is_some_and(Vec::is_empty)
                    || value.as_object().is_some_and(Map::is_empty)
            };
            if let Some(value) = value.pointer(pointer).filter(|value| !is_empty(value)) {
                read.insert(name.to_owned(), sorted(value));
            }
        }
        if let Some(version) = value.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            assert!(version.parse::<u64>().is_ok(), "{version}");
            read.insert("version".to_owned(), json!(self.version(version)));
        }
        let has_uid = value.pointer("/metadata/uid").is_some_and(Value::is_string);
        read.insert("has uid".to_owned(), json!(has_uid));
        Value::Object(read)
    }

    fn body(&mut self, value: &Value) -> Value {
        if value["kind"] == "Status" {
            return json!({"kind": "Status", "status": value["status"], "reason": value["reason"], "code": value["code"],
                "has message": value["message"].is_string()});
        }
        let Some(items) = value["items"].as_array() else {
            return self.object(value);
        };
        assert!(
            value
                .pointer("/metadata/resourceVersion")
                .is_some_and(Value::is_string)
        );
        let mut items = items.clone();
        items.sort_by_key(|item| item["metadata"]["name"].to_string());
        items.iter().map(|item| self.object(item)).collect()
    }

    /// The lines of a watch. When a bookmark comes is another time each run.
    fn events(&mut self, text: &str) -> Value {
        let mut read = Vec::new();
        let mut has_bookmark = false;
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let (kind, object) = (&event["type"], &event["object"]);
            if kind == "BOOKMARK" {
                has_bookmark = object
                    .pointer("/metadata/resourceVersion")
                    .is_some_and(Value::is_string);
                continue;
            }
            read.push(json!({"type": kind, "object": self.body(object)}));
        }
        json!({"events": read, "has bookmark": has_bookmark})
    }
}

/// Two servers need not have the same order of keys.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<_, _> = map
                .iter()
                .map(|(name, value)| (name.clone(), sorted(value)))
                .collect();
            map.into_iter().collect::<Map<_, _>>().into()
        }
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

/// Plays one request; its answer, in what we read of it.
async fn ask(server: &mut dyn Answering, reader: &mut Reader, step: &Value) -> Value {
    if step.get("after").is_some() {
        server.forget();
    }
    let text = |name: &str| step[name].as_str().unwrap_or_default();
    let (who, is_watch) = (
        step["as"].as_str().unwrap_or("member"),
        text("path").contains("watch=true"),
    );
    let verb = if text("method") == "PATCH" {
        "patch"
    } else {
        "list"
    };
    if who == "stranger" {
        server.deny(verb, true);
    }
    let path = reader
        .fill(text("path"))
        .replace("${patience}", &server.patience().to_string());
    let url = format!("{}{path}", server.url());
    let method = text("method").parse().unwrap();
    let mut request = server
        .client()
        .request(method, url)
        .bearer_auth(server.token(who));
    if let Some(body) = step.get("body") {
        request = request
            .header("content-type", text("type"))
            .body(reader.fill(&body.to_string()));
    }
    let response = request.send().await.unwrap();
    if let Some(other) = step.get("meanwhile") {
        let url = format!("{}{}", server.url(), other["path"].as_str().unwrap());
        let patch = server.client().patch(url).bearer_auth(server.token(who));
        let patch = patch
            .header("content-type", MERGE)
            .body(other["body"].to_string());
        assert!(patch.send().await.unwrap().status().is_success());
    }
    if who == "stranger" {
        server.deny(verb, false);
    }
    let status = response.status().as_u16();
    let body = response.text().await.unwrap();
    if step.get("without_body").is_some() {
        return json!({"status": status});
    }
    if is_watch && status == 200 {
        return json!({"status": status, "body": reader.events(&body)});
    }
    let body: Value = serde_json::from_str(&body).unwrap();
    let read = reader.body(&body);
    if let Some(name) = step["keep"].as_str() {
        let version = body.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        reader.kept.insert(name.to_owned(), version.unwrap().to_owned());
    }
    json!({"status": status, "body": read})
}

fn steps() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(file()).unwrap()).unwrap()
}

async fn compare(server: &mut dyn Answering) {
    let mut reader = Reader::default();
    for step in steps() {
        let answer = ask(server, &mut reader, &step).await;
        assert_eq!(answer, step["answer"], "{}", step["what"]);
    }
}

#[tokio::test]
async fn the_stand_in_answers_as_the_real_server_did() {
    let mut fake = Fake::start();
    fake.require_token(MEMBER);
    fake.pod(NAMESPACE, "a", "10.0.0.1", &labels("demo"));
    compare(&mut fake).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: make test-all"]
async fn the_real_server_answers_as_it_did() {
    let server = ApiServer::start_with(&root(), Settings::default());
    for namespace in [NAMESPACE, "elsewhere"] {
        server.namespace(namespace);
    }
    server.pod(NAMESPACE, "a", "10.0.0.1", &labels("demo"));
    let tokens = [
        ("member", server.token(NAMESPACE)),
        ("stranger", server.token("elsewhere")),
        ("nobody", "unknown".to_owned()),
    ];
    let mut real = Real {
        server,
        tokens: tokens.into(),
    };
    if std::env::var_os("UPDATE_EXPECT").is_none() {
        return compare(&mut real).await;
    }
    let (mut reader, mut steps) = (Reader::default(), steps());
    for step in &mut steps {
        step["answer"] = ask(&mut real, &mut reader, step).await;
    }
    let text = serde_json::to_string_pretty(&steps).unwrap();
    std::fs::write(file(), format!("{text}\n")).unwrap();
}
