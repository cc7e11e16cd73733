//! Reading typed values out of a tree whose types have been checked against the table of settings.

use crate::number::parse_bool;
use crate::secret::Secret;
use crate::value::{Kind, Map, Value};
use std::path::PathBuf;

/// The mapping at `key`; an absent one is empty.
pub(crate) fn section<'a>(map: &'a Map, key: &str) -> &'a Map {
    static EMPTY: Map = Map::new();
    map.get(key).and_then(Value::as_map).unwrap_or(&EMPTY)
}

/// A text; numbers count as their text, and the empty text as not written.
pub(crate) fn text(map: &Map, key: &str) -> Option<String> {
    let value = map.get(key)?;
    match value.kind {
        Kind::String(_) | Kind::Int(_) | Kind::Float(_) => {
            Some(value.python_text()).filter(|text| !text.is_empty())
        }
        Kind::Null | Kind::Bool(_) | Kind::List(_) | Kind::Map(_) => None,
    }
}

pub(crate) fn path(map: &Map, key: &str) -> Option<PathBuf> {
    text(map, key).map(PathBuf::from)
}

pub(crate) fn secret(map: &Map, key: &str) -> Option<Secret> {
    text(map, key).map(Secret::new)
}

pub(crate) fn flag(map: &Map, key: &str) -> bool {
    map.get(key)
        .is_some_and(|value| value.to_bool().unwrap_or_else(|| value.is_truthy()))
}

/// A flag that is on only where it says so.
pub(crate) fn strict_flag(map: &Map, key: &str) -> bool {
    map.get(key).and_then(Value::to_bool).unwrap_or(false)
}

/// A flag of a user's own section: anything that is not empty and does not say `off` is true.
pub(crate) fn loose_flag(map: &Map, key: &str) -> bool {
    map.get(key)
        .is_some_and(|value| match value.as_str().and_then(parse_bool) {
            Some(flag) => flag,
            None => value.is_truthy(),
        })
}

pub(crate) fn count<T: TryFrom<i64>>(map: &Map, key: &str, unit: Option<&str>, default: T) -> T {
    map.get(key)
        .and_then(|value| value.to_int(unit))
        .and_then(|n| T::try_from(n).ok())
        .unwrap_or(default)
}

/// A list of texts, or one text with commas.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    match &value.kind {
        Kind::List(list) => list
            .iter()
            .filter(|item| !item.is_null())
            .map(Value::python_text)
            .collect(),
        Kind::String(_) | Kind::Int(_) | Kind::Float(_) => {
            let text = value.python_text();
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect()
        }
        // A mapping is read as its keys, as Python iterates over it.
        Kind::Map(map) => map.iter().map(|(key, _)| key.to_owned()).collect(),
        Kind::Null | Kind::Bool(_) => Vec::new(),
    }
}

/// A list of lines, or `None` if it is not written or empty.
pub(crate) fn lines(map: &Map, key: &str) -> Option<Vec<String>> {
    let list = map.get(key)?.as_list()?;
    let lines: Vec<_> = list
        .iter()
        .filter(|line| !line.is_null())
        .map(Value::python_text)
        .collect();
    (!lines.is_empty()).then_some(lines)
}

/// Keys with their values as `--key=value` has them, in their order.
pub(crate) fn arguments(map: &Map, without: &[&str]) -> Vec<(String, String)> {
    map.iter()
        .filter(|(key, _)| !without.contains(key))
        .map(|(key, value)| (key.to_owned(), value.python_text()))
        .collect()
}

/// A mapping of parameters in GUC text form, in its order.
pub(crate) fn parameters(map: &Map) -> Vec<(String, String)> {
    map.iter()
        .filter(|(_, value)| !value.is_null())
        .filter_map(|(key, value)| Some((key.to_owned(), value.guc_text()?)))
        .collect()
}

/// Long options of a program: a list of texts and pairs, or a mapping. `true` makes an option without a value; `false`
/// and null leave it out.
pub(crate) fn options(value: Option<&Value>) -> Vec<(String, Option<String>)> {
    let pair = |(key, value): (&str, &Value)| match &value.kind {
        Kind::Null | Kind::Bool(false) => None,
        Kind::Bool(true) => Some(option(key)),
        _ => Some((option(key).0, Some(unquote(&value.python_text())))),
    };
    match value.map(|value| &value.kind) {
        Some(Kind::Map(map)) => map.iter().filter_map(pair).collect(),
        Some(Kind::List(list)) => list
            .iter()
            .filter_map(|item| match item.as_map() {
                Some(map) => map.iter().next().and_then(pair),
                None if item.is_truthy() => Some(option(&item.python_text())),
                None => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// One option as it may be spelt: `name`, `name=value`, `name value`, each with dashes in front or without.
fn option(text: &str) -> (String, Option<String>) {
    let text = text.trim().trim_start_matches('-');
    match text.split_once(['=', ' ', '\t']) {
        Some((name, value)) => (name.trim().to_owned(), Some(unquote(value.trim()))),
        None => (text.to_owned(), None),
    }
}

/// Whether a program would take this name for one of `options`: it accepts a name that is cut short.
pub(crate) fn is_one_of(name: &str, options: &[&str]) -> bool {
    options
        .iter()
        .any(|option| option.starts_with(&name.to_ascii_lowercase()))
}

/// Takes one pair of quotes around the text away.
fn unquote(text: &str) -> String {
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    inner.unwrap_or(text).to_owned()
}
