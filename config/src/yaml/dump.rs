//! YAML as PyYAML's `safe_dump` writes it.

use super::resolve::{Resolved, resolve};
use crate::escape;
use crate::value::{Kind, Map, Value, python_float};
use libyaml_safer::{
    BOOL_TAG, Emitter, Encoding, Event, FLOAT_TAG, INT_TAG, MAP_TAG, MappingStyle, NULL_TAG, SEQ_TAG,
    STR_TAG, ScalarStyle, SequenceStyle,
};

/// `yaml.safe_dump(value, default_flow_style=False, allow_unicode=True, width=200)`: block style, keys sorted.
#[must_use]
pub fn dump(value: &Value) -> String {
    emit(value, false, 200)
}

/// `yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=200)` without the line end at its end:
/// `{clonefrom: true, nofailover: true}`.
#[must_use]
pub fn dump_flow(value: &Value) -> String {
    emit(value, true, 200).trim_end().to_owned()
}

fn emit(value: &Value, flow: bool, width: i32) -> String {
    let mut events = vec![
        Event::stream_start(Encoding::Utf8),
        Event::document_start(None, &[], true),
    ];
    push(value, flow, &mut events);
    events.extend([Event::document_end(true), Event::stream_end()]);
    let mut bytes = Vec::new();
    let mut emitter = Emitter::new();
    emitter.set_output_string(&mut bytes);
    emitter.set_unicode(true);
    emitter.set_width(width);
    // Writing into memory cannot fail, and the events are complete by construction; what was written stays usable.
    let _ = events.into_iter().try_for_each(|event| emitter.emit(event));
    drop(emitter);
    let mut text = visible(&String::from_utf8_lossy(&bytes));
    let is_scalar = value.as_map().is_none() && value.as_list().is_none();
    if is_scalar && !text.starts_with(['\'', '"', '|', '>']) {
        // PyYAML ends a document that is one plain scalar.
        text.push_str("...\n");
    }
    text
}

fn push(value: &Value, flow: bool, events: &mut Vec<Event>) {
    match &value.kind {
        Kind::Null => events.push(plain(NULL_TAG, "null")),
        Kind::Bool(b) => events.push(plain(BOOL_TAG, if *b { "true" } else { "false" })),
        Kind::Int(n) => events.push(plain(INT_TAG, &n.to_string())),
        Kind::Float(x) => events.push(plain(FLOAT_TAG, &float(*x))),
        Kind::String(text) => events.push(string(text)),
        Kind::List(list) => {
            let style = if flow {
                SequenceStyle::Flow
            } else {
                SequenceStyle::Block
            };
            events.push(Event::sequence_start(None, Some(SEQ_TAG), true, style));
            list.iter().for_each(|item| push(item, flow, events));
            events.push(Event::sequence_end());
        }
        Kind::Map(map) => push_map(map, flow, events),
    }
}

fn push_map(map: &Map, flow: bool, events: &mut Vec<Event>) {
    let style = if flow {
        MappingStyle::Flow
    } else {
        MappingStyle::Block
    };
    events.push(Event::mapping_start(None, Some(MAP_TAG), true, style));
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (key, value) in entries {
        events.push(string(key));
        push(value, flow, events);
    }
    events.push(Event::mapping_end());
}

fn plain(tag: &str, text: &str) -> Event {
    Event::scalar(None, Some(tag), text, true, false, ScalarStyle::Any)
}

/// A text may stand plain only if it would be read as a text.
fn string(text: &str) -> Event {
    let plain = resolve(text) == Resolved::Text;
    let style = if text.contains(is_escaped) {
        ScalarStyle::DoubleQuoted
    } else {
        ScalarStyle::Any
    };
    Event::scalar(None, Some(STR_TAG), text, plain, true, style)
}

/// PyYAML writes some of these as they are. A terminal obeys them, or hides them, and an editor may lose them.
fn is_escaped(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\t') || escape::is_hidden(c)
}

/// The emitted text with what it has not escaped itself. Such characters stand in double quotes only.
fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        match u32::from(c) {
            _ if !is_escaped(c) => visible.push(c),
            code @ ..=0xffff => visible.push_str(&format!("\\u{code:04X}")),
            code => visible.push_str(&format!("\\U{code:08X}")),
        }
    }
    visible
}

/// YAML 1.1 wants a point in every float.
fn float(x: f64) -> String {
    match python_float(x).as_str() {
        "nan" => ".nan".to_owned(),
        "inf" => ".inf".to_owned(),
        "-inf" => "-.inf".to_owned(),
        text if text.contains('.') => text.to_owned(),
        text => text.replacen('e', ".0e", 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_escaped_and_reads_back() {
        for text in [
            "pg1\u{202e}x",
            "\u{9b}31m\u{85}\u{1b}[2J",
            "a\u{e0041}\u{200b}\n\tb: 'c' \"d\" \\",
            "\u{feff}\u{2028}",
        ] {
            let map: Map = [
                ("k", Value::from(&serde_json::json!(text))),
                (text, Value::from(&serde_json::json!([text]))),
            ]
            .into_iter()
            .collect();
            let value = Value::from(map);
            for dumped in [dump(&value), dump_flow(&value)] {
                assert!(!dumped.contains(is_escaped), "{dumped:?}");
                let read = crate::yaml::parse("test.yml", &dumped).unwrap();
                assert!(read.same(&value), "{dumped}");
                assert_eq!(serde_json::Value::from(&read), serde_json::Value::from(&value));
            }
        }
    }
}
