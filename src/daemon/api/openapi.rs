//! `GET /openapi.json`: the API described in the form of OpenAPI 3.1. The tests hold it against the routes.

use serde_json::{Map, Value, json};

use super::route::Route;

/// One operation: method, path, what it does, the status codes with their meaning.
type Operation = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(u16, &'static str)],
);

const CHECKED: &[(u16, &str)] = &[
    (200, "It is so; the body is the member's status"),
    (503, "It is not so; the body is the member's status"),
];
const BARE: &[(u16, &str)] = &[(200, "It is so"), (503, "It is not so")];
const SHOWN: &[(u16, &str)] = &[(200, "The document")];
const FROM_STORE: &[(u16, &str)] = &[
    (200, "The document"),
    (502, "The store does not have it"),
    (503, "The store does not answer"),
];
const ASKED: &[(u16, &str)] = &[
    (200, "Done"),
    (202, "It will be done at its time"),
    (400, "The body is not understood"),
    (401, "Wrong user name or password"),
    (403, "Not from there"),
    (409, "There is one already"),
    (412, "The cluster is not in a state for it"),
    (503, "It was tried and has failed"),
];
const CANCELLED: &[(u16, &str)] = &[
    (200, "It was scheduled, and is no more"),
    (401, "Wrong user name or password"),
    (404, "Nothing is scheduled"),
    (409, "It changed meanwhile"),
];

/// All of them, with the paths of health checks that Patroni's documentation names.
const OPERATIONS: &[Operation] = &[
    ("get", "/", "Is this the primary, with the leader key?", CHECKED),
    (
        "get",
        "/primary",
        "Is this the primary, with the leader key?",
        CHECKED,
    ),
    (
        "get",
        "/read-write",
        "Is this the primary, with the leader key?",
        CHECKED,
    ),
    (
        "get",
        "/leader",
        "Does this member hold the leader key, as primary or standby leader?",
        CHECKED,
    ),
    (
        "get",
        "/standby-leader",
        "Is this the leader of a standby cluster?",
        CHECKED,
    ),
    (
        "get",
        "/replica",
        "Is this a replica that runs, near enough, without the tag noloadbalance?",
        CHECKED,
    ),
    (
        "get",
        "/read-only",
        "Is this a replica as in /replica, or the primary?",
        CHECKED,
    ),
    ("get", "/synchronous", "Is this a synchronous standby?", CHECKED),
    ("get", "/sync", "Is this a synchronous standby?", CHECKED),
    (
        "get",
        "/read-only-sync",
        "Is this a synchronous standby, or the primary?",
        CHECKED,
    ),
    ("get", "/quorum", "Is this a standby of the quorum?", CHECKED),
    (
        "get",
        "/read-only-quorum",
        "Is this a standby of the quorum, or the primary?",
        CHECKED,
    ),
    (
        "get",
        "/asynchronous",
        "Is this a replica that nobody waits for?",
        CHECKED,
    ),
    (
        "get",
        "/async",
        "Is this a replica that nobody waits for?",
        CHECKED,
    ),
    ("get", "/health", "Does PostgreSQL run?", CHECKED),
    ("get", "/liveness", "Does the agent's loop run?", BARE),
    (
        "get",
        "/readiness",
        "Is this the leader, or a replica that streams and is near enough?",
        BARE,
    ),
    ("get", "/patroni", "The member's status", SHOWN),
    (
        "get",
        "/cluster",
        "The members of the cluster, and what is planned",
        SHOWN,
    ),
    ("get", "/history", "The timelines and what began them", SHOWN),
    ("get", "/metrics", "Metrics as Prometheus reads them", SHOWN),
    ("get", "/config", "The dynamic configuration", FROM_STORE),
    (
        "get",
        "/failsafe",
        "The members that a primary asks when the store is away",
        FROM_STORE,
    ),
    (
        "get",
        "/events",
        "What has happened on this member, with the evidence",
        SHOWN,
    ),
    ("get", "/openapi.json", "This document", SHOWN),
    (
        "patch",
        "/config",
        "Change the dynamic configuration: null removes a setting",
        ASKED,
    ),
    ("put", "/config", "Replace the dynamic configuration", ASKED),
    ("post", "/reload", "Read the member's file again", ASKED),
    (
        "post",
        "/restart",
        "Restart PostgreSQL, now or later, always or under conditions",
        ASKED,
    ),
    ("delete", "/restart", "Cancel a scheduled restart", CANCELLED),
    ("post", "/reinitialize", "Make the replica's data anew", ASKED),
    (
        "post",
        "/switchover",
        "Hand the leader's place over, now or later",
        ASKED,
    ),
    (
        "delete",
        "/switchover",
        "Cancel a scheduled switchover",
        CANCELLED,
    ),
    (
        "post",
        "/failover",
        "Fail over to a candidate, also without a leader",
        ASKED,
    ),
    (
        "post",
        "/failsafe",
        "A primary without the store asks whether it may go on",
        ASKED,
    ),
    (
        "post",
        "/citus",
        "A worker tells the coordinator what it is about to do",
        ASKED,
    ),
    ("post", "/mpp", "The same, by its general name", ASKED),
    ("post", "/sigterm", "Nothing; there for Patroni's tests", ASKED),
];

/// The fields of bodies: name, type, meaning.
fn body(method: &str, path: &str) -> Option<Value> {
    let fields: &[(&str, &str, &str)] = match (method, path) {
        ("post", "/restart") => &[
            (
                "schedule",
                "string",
                "When, with a time zone, as in 2030-01-01T12:00:00+00:00",
            ),
            (
                "role",
                "string",
                "Only if it is primary, standby_leader or replica",
            ),
            (
                "postgres_version",
                "string",
                "Only if PostgreSQL is older than this version",
            ),
            (
                "timeout",
                "string",
                "How long the start may take before another member takes over",
            ),
            ("restart_pending", "boolean", "Only if a restart is pending"),
        ],
        ("post", "/reinitialize") => &[
            ("force", "boolean", "End what the member does at present"),
            ("from_leader", "boolean", "Copy from the leader, by pg_basebackup"),
        ],
        ("post", "/switchover") => &[
            ("leader", "string", "Who leads now"),
            ("candidate", "string", "Who is to lead"),
            ("scheduled_at", "string", "When, with a time zone"),
        ],
        ("post", "/failover") => &[
            ("leader", "string", "Who leads now"),
            ("candidate", "string", "Who is to lead"),
        ],
        ("patch" | "put", "/config") | ("post", "/failsafe" | "/citus" | "/mpp") => &[],
        _ => return None,
    };
    let property = |(name, kind, text): &(&str, &str, &str)| {
        ((*name).to_owned(), json!({ "type": kind, "description": text }))
    };
    let properties: Map<String, Value> = fields.iter().map(property).collect();
    let schema = json!({ "type": "object", "properties": properties });
    Some(json!({ "content": { "application/json": { "schema": schema } } }))
}

fn parameters(path: &str) -> Vec<Value> {
    let query = |name: &str, text: &str| json!({ "name": name, "in": "query", "description": text, "schema": { "type": "string" } });
    let lag = query(
        "lag",
        "A replica that lacks more than this does not count: bytes, or with kB, MB, GB, TB",
    );
    match path {
        "/replica" | "/read-only" | "/sync" | "/synchronous" | "/quorum" | "/async" | "/asynchronous"
        | "/read-only-sync" | "/read-only-quorum" => vec![
            lag,
            query(
                "replication_state",
                "A replica in another state does not count, as in streaming",
            ),
            query(
                "tag_NAME",
                "A member whose tag NAME has another value does not count",
            ),
        ],
        "/readiness" => vec![lag, query("mode", "apply or write: which position counts")],
        "/events" => vec![
            query("since", "Those after the event of this id, or after this time"),
            query("limit", "At most so many"),
            query("wait", "Seconds to wait for one if there is none"),
        ],
        _ => Vec::new(),
    }
}

/// The document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for (method, path, summary, answers) in OPERATIONS {
        let responses: Map<String, Value> = answers
            .iter()
            .map(|(status, text)| (status.to_string(), json!({ "description": text })))
            .collect();
        let mut operation = json!({ "summary": summary, "responses": responses });
        let parameters = parameters(path);
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = body(method, path) {
            operation["requestBody"] = body;
        }
        if Route::of(&method.to_ascii_uppercase(), path).is_protected() {
            operation["security"] = json!([{}, { "basic": [] }]);
        }
        if let Value::Object(item) = paths.entry(*path).or_insert_with(|| json!({})) {
            item.insert((*method).to_owned(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Tamada", "version": env!("CARGO_PKG_VERSION"), "description": "Patroni's REST API" },
        "paths": paths,
        "components": { "securitySchemes": { "basic": { "type": "http", "scheme": "basic" } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_all_routes_and_no_other() {
        for (method, path, ..) in OPERATIONS {
            let route = Route::of(&method.to_ascii_uppercase(), path);
            assert_ne!(route, Route::Unsupported, "{method} {path}");
        }
        // A handler of its own for each segment that has one.
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            for segment in super::super::route::SEGMENTS {
                let route = Route::of(method, segment);
                let is_known = !matches!(route, Route::Unsupported | Route::Health);
                let path = format!("/{segment}");
                let is_told = OPERATIONS
                    .iter()
                    .any(|(m, p, ..)| m.eq_ignore_ascii_case(method) && *p == path);
                assert_eq!(is_told, is_known, "{method} {path}");
            }
        }
    }

    #[test]
    fn protected_operations_say_so() {
        let document = document();
        let secured = |method: &str, path: &str| !document["paths"][path][method]["security"].is_null();
        assert!(secured("patch", "/config") && secured("delete", "/switchover"));
        assert!(!secured("get", "/config") && !secured("get", "/primary"));
    }
}
