//! `PATCH /config` and `PUT /config`: changes to the dynamic configuration (Patroni documentation, "Patroni REST API",
//! "Config endpoint"). Values are not judged: a newer member may know settings that this one does not. What no member could use at all
//! is refused.

use config::Value;
use serde_json::Map;

use super::answer::Answer;
use super::control::Body;

/// Refuses a document that members would not put into force as a whole.
pub(crate) fn check(document: &Body) -> Result<(), Answer> {
    config::layers::check_document(&serde_json::Value::Object(document.clone()))
        .map_err(|problem| Answer::text(400, format!("the configuration is refused: {problem}")))
}

/// The document with `patch` laid over it, and whether that changes anything. `null` removes a key.
pub(crate) fn patched(document: &Body, patch: &Body) -> (Body, bool) {
    let mut value = tree(document);
    let changed = value.patch(&tree(patch));
    match serde_json::Value::from(&value) {
        serde_json::Value::Object(object) => (object, changed),
        // A mapping becomes an object.
        _ => (Map::new(), changed),
    }
}

/// Whether two documents say the same. Values compare by their texts: 2 and "2" are the same.
pub(crate) fn is_same(one: &Body, other: &Body) -> bool {
    Value::from(tree(one)).same(&Value::from(tree(other)))
}

fn tree(document: &Body) -> config::Map {
    document
        .iter()
        .map(|(key, value)| (key.as_str(), Value::from(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn body(value: Value) -> Body {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn patches_merge_and_null_removes() {
        let before = json!({"ttl": 30, "postgresql": {"parameters": {"a": 1, "b": "x"}, "use_slots": true}});
        for (patch, after) in [
            (json!({"ttl": "30"}), None),
            (json!({"pause": null}), None),
            (json!({"postgresql": {"use_slots": "True"}}), None),
            (
                json!({"ttl": 20}),
                Some(r#"{"ttl":20,"postgresql":{"parameters":{"a":1,"b":"x"},"use_slots":true}}"#),
            ),
            (
                json!({"postgresql": {"parameters": {"a": null, "b": null}}, "pause": true}),
                Some(r#"{"ttl":30,"postgresql":{"parameters":{},"use_slots":true},"pause":true}"#),
            ),
            (json!({"postgresql": null}), Some(r#"{"ttl":30}"#)),
        ] {
            let (patched, changed) = patched(&body(before.clone()), &body(patch.clone()));
            let expected = after.map_or_else(|| before.to_string(), str::to_owned);
            assert_eq!(
                (Value::Object(patched).to_string(), changed),
                (expected, after.is_some()),
                "{patch}"
            );
        }
    }

    #[test]
    fn documents_compare_by_text() {
        assert!(is_same(
            &body(json!({"a": 2, "b": {"c": true}})),
            &body(json!({"b": {"c": "True"}, "a": "2"}))
        ));
        assert!(!is_same(&body(json!({"a": 2})), &body(json!({"a": 2, "b": 1}))));
        assert!(!is_same(&body(json!({"a": [1]})), &body(json!({"a": [2]}))));
    }
}
