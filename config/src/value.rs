//! The configuration tree. Every node knows where it was written; positions take no part in equality.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where a value was written: a file's name (or `environment`) with line and column, both counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// File name, `PATRONI_CONFIGURATION`, or the name of an environment variable.
    pub source: Arc<str>,
    /// Line, from 1; 0 when the source has no lines (an environment variable).
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line == 0 {
            f.write_str(&self.source)
        } else {
            write!(f, "{}:{}:{}", self.source, self.line, self.column)
        }
    }
}

/// One node of the tree.
#[derive(Clone, Debug, Default)]
pub struct Value {
    /// What it is.
    pub kind: Kind,
    /// Where it was written, if it came from a text.
    pub position: Option<Position>,
    /// A plain scalar that prints differently from how it was written: `0123456` is the number 42798.
    pub is_respelled: bool,
}

/// The kinds of YAML 1.1 values that a configuration is made of. Dates are kept as the text that was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Kind {
    /// `null`, `~` or nothing.
    #[default]
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    String(String),
    /// A sequence.
    List(Vec<Value>),
    /// A mapping, in the order of the file.
    Map(Map),
}

/// A mapping that keeps the order in which its keys were written. Equality ignores the order, as in JSON. `Debug` hides
/// the values of keys that hold secrets.
#[derive(Clone, Default)]
pub struct Map {
    entries: Vec<Entry>,
    /// Where the keys are, of a large mapping: what somebody sends or writes to the DCS may have a hundred thousand of them.
    index: Option<BTreeMap<String, usize>>,
}

/// A mapping with fewer keys is searched from its beginning.
const SMALL: usize = 64;

/// One key of a [`Map`] with its value.
#[derive(Clone)]
pub struct Entry {
    /// The key; other scalars than strings are kept as JSON would write them.
    pub key: String,
    /// Where the key was written.
    pub key_position: Option<Position>,
    /// The value.
    pub value: Value,
}

impl Map {
    /// An empty mapping.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
            index: None,
        }
    }

    fn position(&self, key: &str) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.entries.iter().position(|entry| entry.key == key),
        }
    }

    fn push(&mut self, entry: Entry) {
        if let Some(index) = &mut self.index {
            index.insert(entry.key.clone(), self.entries.len());
        }
        self.entries.push(entry);
        if self.index.is_none() && self.entries.len() > SMALL {
            self.find_again();
        }
    }

    /// Keys have moved.
    fn find_again(&mut self) {
        let keys = self.entries.iter().map(|entry| entry.key.clone());
        self.index = (self.entries.len() > SMALL).then(|| keys.zip(0..).collect());
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The value of `key`, to be changed in place.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        let position = self.position(key)?;
        self.entries.get_mut(position).map(|entry| &mut entry.value)
    }

    /// The entry of `key`.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(self.position(key)?)
    }

    /// Whether there is such a key, be its value null or not.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Sets `key`; a new key goes to the end. Returns the former value.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        self.insert_entry(Entry {
            key: key.into(),
            key_position: None,
            value: value.into(),
        })
    }

    /// Sets the entry's key; a new key goes to the end. Returns the former value.
    pub fn insert_entry(&mut self, entry: Entry) -> Option<Value> {
        let position = self.position(&entry.key);
        match position.and_then(|position| self.entries.get_mut(position)) {
            Some(old) => Some(std::mem::replace(old, entry).value),
            None => {
                self.push(entry);
                None
            }
        }
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let position = self.position(key)?;
        let removed = self.entries.remove(position).value;
        if self.index.is_some() {
            self.find_again();
        }
        Some(removed)
    }

    /// Keys and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|entry| (entry.key.as_str(), &entry.value))
    }

    /// The values in their order, to be changed in place.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }

    /// The entries in their order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the entries for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.entries.retain(|entry| keep(&entry.key, &entry.value));
        self.find_again();
    }

    /// Lays `patch` over this mapping as Patroni does: mappings are merged, null removes a key (a mapping that becomes
    /// empty stays), and a leaf whose text is the same counts as no change and keeps its type. Returns whether anything
    /// changed.
    pub fn patch(&mut self, patch: &Self) -> bool {
        let nulls: BTreeSet<&str> = patch
            .entries
            .iter()
            .filter(|entry| entry.value.is_null())
            .map(|entry| entry.key.as_str())
            .collect();
        let mut changed = false;
        self.retain(|key, old| {
            let is_removed = nulls.contains(key);
            changed |= is_removed && !old.is_null();
            !is_removed
        });
        for entry in patch.entries.iter().filter(|entry| !entry.value.is_null()) {
            match self.get_mut(&entry.key) {
                None => {
                    self.push(entry.clone());
                    changed = true;
                }
                Some(old) => changed |= old.replace_by_patch(&entry.value),
            }
        }
        changed
    }
}

/// Parts of keys whose values may hold a secret: passwords, tokens, and addresses with a password in them.
const SECRET_KEYS: [&str; 7] = [
    "password",
    "token",
    "secret",
    "conninfo",
    "auth_data",
    "url",
    "proxy",
];

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key.to_ascii_lowercase();
        if SECRET_KEYS.iter().any(|secret| key.contains(secret)) {
            write!(f, "{:?}: ***", self.key)
        } else {
            write!(f, "{:?}: {:?}", self.key, self.value.kind)
        }
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        let mut map = Self::new();
        for (key, value) in iter {
            map.insert(key, value);
        }
        map
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind
    }
}

impl Value {
    fn replace_by_patch(&mut self, patch: &Self) -> bool {
        if let (Kind::Map(old), Kind::Map(new)) = (&mut self.kind, &patch.kind) {
            return old.patch(new);
        }
        let changed = !self.same(patch);
        if changed {
            *self = patch.clone();
        }
        changed
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// The mapping, if it is one.
    #[must_use]
    pub fn as_map(&self) -> Option<&Map> {
        match &self.kind {
            Kind::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The list, if it is one.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(list) => Some(list),
            _ => None,
        }
    }

    /// The text, if it is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value under `key`, if this is a mapping that has it and it is not null.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.as_map()?.get(key).filter(|value| !value.is_null())
    }

    /// The value at a dotted path, if it is there and not null.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, key| value.get(key))
    }

    /// Python's idea of truth: null, false, 0, and everything empty are false.
    #[must_use]
    pub fn is_truthy(&self) -> bool {
        match &self.kind {
            Kind::Null => false,
            Kind::Bool(b) => *b,
            Kind::Int(n) => *n != 0,
            Kind::Float(x) => *x != 0.0,
            Kind::String(s) => !s.is_empty(),
            Kind::List(list) => !list.is_empty(),
            Kind::Map(map) => !map.is_empty(),
        }
    }

    /// A scalar as Python's `str()` prints it (`True`, `None`, `0.5`); lists and mappings as JSON.
    #[must_use]
    pub fn python_text(&self) -> String {
        match &self.kind {
            Kind::Null => "None".to_owned(),
            Kind::Bool(true) => "True".to_owned(),
            Kind::Bool(false) => "False".to_owned(),
            Kind::Int(n) => n.to_string(),
            Kind::Float(x) => python_float(*x),
            Kind::String(s) => s.clone(),
            Kind::List(_) | Kind::Map(_) => serde_json::Value::from(self).to_string(),
        }
    }

    /// A scalar as PostgreSQL's configuration files have it: booleans as `on` and `off`, null as the empty text.
    /// `None` for lists and mappings.
    #[must_use]
    pub fn guc_text(&self) -> Option<String> {
        match &self.kind {
            Kind::Null => Some(String::new()),
            Kind::Bool(true) => Some("on".to_owned()),
            Kind::Bool(false) => Some("off".to_owned()),
            Kind::Int(_) | Kind::Float(_) | Kind::String(_) => Some(self.python_text()),
            Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// What it is, in words for a message.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(b) => format!("the boolean {b}"),
            Kind::Int(n) => format!("the number {n}"),
            Kind::Float(x) => format!("the number {}", python_float(*x)),
            Kind::String(s) => format!("the text {s:?}"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The same without a text or a number, which may be a secret or a part of one.
    #[must_use]
    pub fn describe_kind(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Int(_) | Kind::Float(_) => "a number",
            Kind::String(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// Whether two configurations mean the same: leaves are compared by their text (`1` equals `"1"`, `True` equals
    /// `"True"`), so that a change of type alone is no change.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Map(a), Kind::Map(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .all(|(key, value)| b.get(key).is_some_and(|v| value.same(v)))
            }
            (Kind::List(a), Kind::List(b)) => a == b,
            (Kind::Map(_) | Kind::List(_), _) | (_, Kind::Map(_) | Kind::List(_)) => false,
            _ => self.python_text() == other.python_text(),
        }
    }
}

/// A float as Python's `repr` prints it: the shortest digits that read back, `1e+16`, `1e-05`, always with a point or
/// an exponent.
pub(crate) fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.unsigned_abs());
    }
    let fixed = x.to_string();
    if fixed.contains('.') { fixed } else { fixed + ".0" }
}

impl From<Kind> for Value {
    fn from(kind: Kind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Kind::Bool(value).into()
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Kind::Int(value).into()
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Kind::String(value.to_owned()).into()
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Kind::String(value).into()
    }
}

impl From<Map> for Value {
    fn from(value: Map) -> Self {
        Kind::Map(value).into()
    }
}

impl From<Vec<Self>> for Value {
    fn from(value: Vec<Self>) -> Self {
        Kind::List(value).into()
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Kind::Null,
            Json::Bool(b) => Kind::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(n) => Kind::Int(n),
                None => Kind::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Kind::String(s.clone()),
            Json::Array(list) => Kind::List(list.iter().map(Self::from).collect()),
            Json::Object(map) => Kind::Map(
                map.iter()
                    .map(|(key, value)| (key.as_str(), Self::from(value)))
                    .collect(),
            ),
        }
        .into()
    }
}

impl From<&Value> for serde_json::Value {
    fn from(value: &Value) -> Self {
        match &value.kind {
            Kind::Null => Self::Null,
            Kind::Bool(b) => Self::Bool(*b),
            Kind::Int(n) => Self::from(*n),
            // JSON has no infinities: they are written as their text.
            Kind::Float(x) => {
                serde_json::Number::from_f64(*x).map_or_else(|| Self::String(python_float(*x)), Self::Number)
            }
            Kind::String(s) => Self::String(s.clone()),
            Kind::List(list) => Self::Array(list.iter().map(Self::from).collect()),
            Kind::Map(map) => Self::from(map),
        }
    }
}

impl From<&Map> for serde_json::Value {
    fn from(map: &Map) -> Self {
        Self::Object(
            map.iter()
                .map(|(key, value)| (key.to_owned(), Self::from(value)))
                .collect(),
        )
    }
}
