//! Two answers to the same request, compared field by field.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::request::Answer;

/// Where two answers differ.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The state that both clusters are in.
    pub state: String,
    pub member: String,
    pub request: String,
    /// `status`, `header NAME`, `order`, `field PATH`, `metric NAME`, `text`.
    pub what: String,
    pub ours: String,
    pub theirs: String,
}

impl Difference {
    /// Patroni gave no answer, so that nothing of ours can be compared.
    pub fn member_says_nothing(&self) -> bool {
        self.theirs == "no answer" || self.theirs == "absent"
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            state,
            member,
            request,
            what,
            ours,
            theirs,
        } = self;
        write!(
            f,
            "[{state}] {member} {request}: {what}: ours {ours}, Patroni's {theirs}"
        )
    }
}

/// A difference that is meant.
pub struct Reason {
    pub fits: fn(&Difference) -> bool,
    pub why: &'static str,
}

/// The type of our texts.
const PLAIN: &str = "text/plain; charset=utf-8";

const HEADERS: &[&str] = &["content-type", "www-authenticate", "lsn", "x-extra"];

/// The parts of an answer that are compared, by name.
pub fn parts(answer: &Result<Answer, String>) -> BTreeMap<String, String> {
    let mut parts = BTreeMap::new();
    let Ok(answer) = answer else {
        parts.insert("status".to_owned(), "no answer".to_owned());
        return parts;
    };
    parts.insert("status".to_owned(), answer.status.to_string());
    for name in HEADERS {
        if let Some(value) = answer.header(name) {
            let value = match (*name, value) {
                ("lsn", _) => "a position",
                // Patroni's texts and pages are HTML; ours never are.
                ("content-type", "text/html" | "text/html;charset=utf-8" | PLAIN) => "a text",
                _ => value,
            };
            parts.insert(format!("header {name}"), value.to_owned());
        }
    }
    for name in ["server", "date"] {
        if answer.header(name).is_some() {
            parts.insert(format!("header {name}"), "there".to_owned());
        }
    }
    match answer.header("content-type") {
        Some("application/json") => put_json(&answer.body, &mut parts),
        Some("text/plain") => put_metrics(&answer.body, &mut parts),
        // A page for people: its words are each program's own.
        Some("text/html;charset=utf-8") => {}
        Some(PLAIN) if answer.body.starts_with(&format!("{} ", answer.status)) => {}
        Some(_) | None => drop(parts.insert("text".to_owned(), answer.body.clone())),
    }
    parts
}

fn put_json(body: &str, parts: &mut BTreeMap<String, String>) {
    let Ok(document) = serde_json::from_str::<Value>(body) else {
        parts.insert("text".to_owned(), body.to_owned());
        return;
    };
    let mut leaves = Vec::new();
    flatten("", &document, &mut leaves);
    let order: Vec<&str> = leaves.iter().map(|(path, _)| path.as_str()).collect();
    parts.insert("order".to_owned(), order.join(" "));
    let has_blanks = body.contains("\": ") && !body.contains("\":\"");
    if body.len() > 4 {
        parts.insert("blanks".to_owned(), has_blanks.to_string());
    }
    parts.extend(
        leaves
            .into_iter()
            .map(|(path, value)| (format!("field {path}"), value)),
    );
}

fn flatten(path: &str, value: &Value, leaves: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (key, value) in object {
                flatten(&format!("{path}.{key}"), value, leaves);
            }
        }
        Value::Array(array) if !array.is_empty() => {
            for (index, value) in array.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, leaves);
            }
        }
        leaf => leaves.push((path.to_owned(), shape(path, leaf))),
    }
}

/// What differs from cluster to cluster and from moment to moment is compared by its form.
const MOVING: &[&str] = &[
    "location",
    "received_location",
    "replayed_location",
    "dcs_last_seen",
    "lag",
    "replay_lag",
    "receive_lag",
    "port",
    "database_system_identifier",
    "postmaster_start_time",
    "replayed_timestamp",
    "schedule",
    "lsn",
    "replay_lsn",
    "receive_lsn",
];

fn shape(path: &str, value: &Value) -> String {
    let key = path.rsplit('.').next().unwrap_or_default();
    let is_history = path.starts_with('[');
    if let Value::String(text) = value
        && text.starts_with("http://127.0.0.1:")
    {
        return "\"an address\"".to_owned();
    }
    if !MOVING.contains(&key) && !is_history {
        return value.to_string();
    }
    match value {
        Value::Number(_) => "a number".to_owned(),
        Value::String(text) if key.ends_with("lsn") && text.contains('/') => "\"an LSN\"".to_owned(),
        Value::String(text) if is_history => {
            let digits = |it: &str| it.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
            digits(text)
        }
        Value::String(text) => text
            .chars()
            .map(|c| if c.is_ascii_digit() { '9' } else { c })
            .collect(),
        other => other.to_string(),
    }
}

/// Metrics that move; of these it only counts whether they are 0.
const MOVING_METRICS: &[&str] = &[
    "patroni_postmaster_start_time",
    "patroni_xlog_location",
    "patroni_xlog_received_location",
    "patroni_xlog_replayed_location",
    "patroni_xlog_replayed_timestamp",
    "patroni_dcs_last_seen",
];

fn put_metrics(body: &str, parts: &mut BTreeMap<String, String>) {
    let mut order = Vec::new();
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, _] => drop(parts.insert(format!("metric {name} help"), "there".to_owned())),
            ["#", "TYPE", name, kind] => {
                order.push((*name).to_owned());
                parts.insert(format!("metric {name} type"), (*kind).to_owned());
            }
            ["#", ..] => drop(parts.insert(format!("metric comment {line}"), "there".to_owned())),
            _ => {
                let (sample, value) = line.rsplit_once(' ').unwrap_or((line, ""));
                let name = sample.split('{').next().unwrap_or_default();
                let value = if MOVING_METRICS.contains(&name) && value != "0" {
                    let point = if value.contains('.') { "." } else { "" };
                    format!("more than 0 {point}")
                } else {
                    value.to_owned()
                };
                parts.insert(format!("metric {sample}"), value);
            }
        }
    }
    // Ours may stand between; that changes nothing for who reads them by name.
    order.retain(|name| !name.starts_with("tamada_"));
    parts.insert("order".to_owned(), order.join(" "));
}

/// Where the two differ: what, ours, theirs.
pub fn compare(
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
) -> Vec<(String, String, String)> {
    let names: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let absent = "absent".to_owned();
    names
        .into_iter()
        .filter_map(|name| {
            let (a, b) = (
                ours.get(name).unwrap_or(&absent),
                theirs.get(name).unwrap_or(&absent),
            );
            (a != b).then(|| (name.clone(), a.clone(), b.clone()))
        })
        .collect()
}
