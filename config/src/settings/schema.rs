//! The settings as JSON Schema (draft 2020-12), so that an editor completes and checks a configuration. It is a little wider
//! than what is accepted: units and names are checked when a configuration is read.

use serde_json::{Map, Value, json};

use super::table::{DYNAMIC, LOCAL, LOCAL_ONLY};
use super::{Expected, Setting};

/// Of a member's file.
#[must_use]
pub fn local() -> Value {
    let mut root = Node::default();
    LOCAL.iter().for_each(|row| root.add(row.path, row));
    for row in dynamic_rows() {
        root.add(&format!("bootstrap.dcs.{}", row.path), row);
    }
    document("Configuration of a member", &root)
}

/// Of what all members share, as `edit-config` shows it.
#[must_use]
pub fn dynamic() -> Value {
    let mut root = Node::default();
    dynamic_rows().for_each(|row| root.add(row.path, row));
    document("Dynamic configuration of a cluster", &root)
}

/// Settings of PostgreSQL may stand on both sides, but for those that are a member's own.
fn dynamic_rows() -> impl Iterator<Item = &'static Setting> {
    let is_shared = |row: &&Setting| {
        row.path.starts_with("postgresql.")
            && !LOCAL_ONLY.iter().any(|own| {
                row.path
                    .strip_prefix(own)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
    };
    DYNAMIC.iter().chain(LOCAL.iter().filter(is_shared))
}

fn document(title: &str, root: &Node) -> Value {
    let mut schema = root.schema();
    schema.insert(
        "$schema".to_owned(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    schema.insert("title".to_owned(), title.into());
    Value::Object(schema)
}

/// One level of the tree that dotted paths make.
#[derive(Default)]
struct Node {
    /// In the order of the table.
    children: Vec<(String, Self)>,
    own: Option<&'static Setting>,
    has_methods: bool,
}

impl Node {
    fn add(&mut self, path: &str, row: &'static Setting) {
        let (key, rest) = path
            .split_once('.')
            .map_or((path, None), |(key, rest)| (key, Some(rest)));
        let place = match self.children.iter().position(|(known, _)| known == key) {
            Some(place) => place,
            None => {
                self.children.push((key.to_owned(), Self::default()));
                self.children.len() - 1
            }
        };
        let child = &mut self.children[place].1;
        child.has_methods = matches!(key, "postgresql" | "bootstrap");
        match rest {
            Some(rest) => child.add(rest, row),
            None => child.own = Some(row),
        }
    }

    fn schema(&self) -> Map<String, Value> {
        let mut schema = match self.own {
            Some(row) => of(row.expected),
            None => Map::new(),
        };
        if let Some(row) = self.own.filter(|row| !row.default.is_empty()) {
            schema.insert("default".to_owned(), row.default.into());
        }
        if let Some(effect) = self.own.and_then(|row| effect(row.path)) {
            schema.insert("description".to_owned(), effect.into());
        }
        if self.children.is_empty() {
            return schema;
        }
        // Methods of creating a cluster or a replica are sections with names of the user's choice.
        let others = if self.has_methods {
            json!({ "type": "object" })
        } else {
            json!(false)
        };
        schema.insert("additionalProperties".to_owned(), others);
        let mut properties = Map::new();
        for (key, child) in &self.children {
            if key == "*" {
                schema.insert("additionalProperties".to_owned(), Value::Object(child.schema()));
            } else {
                properties.insert(key.clone(), Value::Object(child.schema()));
            }
        }
        schema.insert("type".to_owned(), json!(["object", "null"]));
        schema.insert("properties".to_owned(), Value::Object(properties));
        schema
    }
}

/// What a setting does, in the words of `docs/settings.md`.
fn effect(path: &str) -> Option<String> {
    let begin = format!("| `{path}` |");
    let row = include_str!("../../../docs/settings.md")
        .lines()
        .find(|line| line.starts_with(&begin))?;
    let text = row.trim_end_matches('|').rsplit(" | ").next()?.trim();
    // Of a link its text stays.
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let (name, after) = link.split_once("](").unwrap_or((link, ""));
        plain.push_str(before);
        plain.push_str(name);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    Some(plain.replace('`', ""))
}

/// What may be written. Null is "not written" everywhere.
fn of(expected: Expected) -> Map<String, Value> {
    let scalars = json!({ "type": ["string", "number", "boolean", "null"] });
    let schema = match expected {
        Expected::Anything => json!({}),
        Expected::Bool => json!({ "anyOf": [
            { "type": ["boolean", "null"] },
            { "enum": ["on", "off", "yes", "no", "true", "false", 0, 1, "0", "1"] },
        ] }),
        Expected::Int(min, max) => json!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": "^-?[0-9]+$" },
            { "type": "null" },
        ] }),
        Expected::Quantity(min, _, unit) => json!({
            "anyOf": [{ "type": "number", "minimum": min }, { "type": ["string", "null"] }],
            "description": format!("In {unit}, or with a unit"),
        }),
        Expected::Text | Expected::Address => json!({ "type": ["string", "number", "null"] }),
        Expected::Secret => json!({ "type": ["string", "number", "null"], "writeOnly": true }),
        Expected::Word(words) => json!({ "anyOf": [
            { "enum": words },
            { "type": "string", "pattern": any_case(words) },
            { "type": if words.contains(&"on") { json!(["boolean", "null"]) } else { json!("null") } },
        ] }),
        Expected::Texts => json!({ "type": ["array", "string", "null"], "items": scalars }),
        Expected::Lines => json!({ "type": ["array", "null"], "items": { "type": "string" } }),
        Expected::Options => json!({
            "type": ["array", "object", "null"],
            "items": { "type": ["string", "number", "object"] },
        }),
        Expected::Scalars => json!({ "type": ["object", "null"], "additionalProperties": scalars }),
        Expected::Mapping => json!({ "type": ["object", "null"] }),
        Expected::Section(rows) => {
            let mut node = Node::default();
            rows.iter().for_each(|row| node.add(row.path, row));
            return node.schema();
        }
        Expected::Named(rows) => json!({
            "type": ["object", "null"],
            "additionalProperties": { "anyOf": [of(Expected::Section(rows)), { "not": { "type": "object" } }] },
        }),
        Expected::Sections(rows) => {
            json!({ "type": ["array", "null"], "items": of(Expected::Section(rows)) })
        }
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// The words in any case, as an expression of ECMA 262, which has no other way to say it.
fn any_case(words: &[&str]) -> String {
    let letter = |letter: char| match letter.is_ascii_alphabetic() {
        true => format!("[{}{}]", letter.to_ascii_lowercase(), letter.to_ascii_uppercase()),
        false => format!("[{letter}]"),
    };
    let word = |word: &&str| word.chars().map(letter).collect::<String>();
    format!("^({})$", words.iter().map(word).collect::<Vec<_>>().join("|"))
}
