//! `GET /openapi.json`: what this API answers to, for programs that make clients, and for people who look for a parameter.
//!
//! The document is written by hand in `openapi.json`. Tests hold it to the routes, to the checks that `health` knows, and
//! to every answer that the tests of the server see.

/// The document, an OpenAPI 3.1 description as text.
pub(crate) fn document() -> String {
    include_str!("openapi.json").replacen("\"VERSION\"", concat!("\"", env!("CARGO_PKG_VERSION"), "\""), 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use oas3::spec::{ObjectOrReference, Operation, PathItem};

    use crate::daemon::api::health::Check;
    use crate::daemon::api::route::{NAMED, Route};

    fn read() -> oas3::Spec {
        oas3::from_json(super::document()).unwrap()
    }

    fn operations(item: &PathItem) -> Vec<(String, &Operation)> {
        let methods = item.methods();
        methods
            .into_iter()
            .map(|(method, operation)| (method.to_string(), operation))
            .collect()
    }

    /// Whether the document says that a request may be answered so. What has no name of its own is answered as its
    /// introduction says.
    pub(crate) fn has_answer(method: &str, path: &str, status: u16) -> bool {
        let path = path.split('?').next().unwrap_or_default();
        let spec = read();
        let paths = spec.paths.unwrap_or_default();
        let operations = paths.get(path).map(operations).unwrap_or_default();
        let operation = operations.iter().find(|(of, _)| of == method);
        match (operation, Route::of(method, path)) {
            (Some((_, operation)), _) => operation
                .responses
                .as_ref()
                .is_some_and(|responses| responses.contains_key(&status.to_string())),
            (None, Route::Health | Route::HealthBare) => [200, 503].contains(&status),
            (None, Route::Unsupported) => status == 501,
            // A longer path with a name that is known.
            (None, _) => true,
        }
    }

    #[test]
    fn the_document_names_what_is_routed_and_nothing_else() {
        let spec = read();
        assert_eq!(spec.info.version, env!("CARGO_PKG_VERSION"));
        let paths = spec.paths.as_ref().unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in paths {
            for (method, operation) in operations(item) {
                let route = Route::of(&method, path);
                let what = format!("{method} {path}");
                match route {
                    Route::Unsupported => panic!("{what} is described, and nothing answers"),
                    Route::Health | Route::HealthBare => {
                        assert_ne!(Check::of(path), Check::Unknown, "{what}")
                    }
                    _ => {
                        described.insert((method.clone(), path.trim_start_matches('/').to_owned()));
                    }
                }
                assert_eq!(!operation.security.is_empty(), route.is_protected(), "{what}");
                let answers = operation.responses.as_ref().unwrap();
                for status in ["401", "403"] {
                    assert_eq!(
                        answers.contains_key(status),
                        route.is_protected(),
                        "{what}: {status}"
                    );
                }
                let body = match &operation.request_body {
                    Some(ObjectOrReference::Object(body)) => Some(body.required.unwrap_or(false)),
                    Some(ObjectOrReference::Ref { .. }) => panic!("{what}: a reference"),
                    None => None,
                };
                let wanted = match route {
                    Route::Wish(wish) => Some(!wish.body_is_optional()),
                    _ => None,
                };
                assert_eq!(body, wanted, "{what}");
                assert_eq!(answers.contains_key("411"), wanted == Some(true), "{what}");
            }
        }
        let routed: BTreeSet<(String, String)> = NAMED
            .iter()
            .map(|(method, name, _)| ((*method).to_owned(), (*name).to_owned()))
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_health_check_is_described_by_all_its_methods() {
        let spec = read();
        let mut missing: Vec<Check> = Check::ALL.to_vec();
        for (path, item) in spec.paths.as_ref().unwrap() {
            let methods: BTreeSet<String> = operations(item).into_iter().map(|(method, _)| method).collect();
            if methods.contains("GET") && Route::of("GET", path) == Route::Health {
                let all = ["GET", "HEAD", "OPTIONS"].map(str::to_owned);
                assert_eq!(methods, BTreeSet::from(all), "{path}");
                missing.retain(|check| *check != Check::of(path));
            }
        }
        assert_eq!(missing, []);
    }

    #[test]
    fn references_lead_somewhere_and_names_are_used_once() {
        let document: serde_json::Value = serde_json::from_str(&super::document()).unwrap();
        let mut references = Vec::new();
        let mut names = Vec::new();
        collect(&document, &mut references, &mut names);
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }

    fn collect(value: &serde_json::Value, references: &mut Vec<String>, names: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(object) => {
                for (key, value) in object {
                    match (key.as_str(), value) {
                        ("$ref", serde_json::Value::String(text)) => references.push(text.clone()),
                        ("operationId", serde_json::Value::String(text)) => names.push(text.clone()),
                        _ => collect(value, references, names),
                    }
                }
            }
            serde_json::Value::Array(array) => {
                array.iter().for_each(|value| collect(value, references, names));
            }
            _ => {}
        }
    }
}
