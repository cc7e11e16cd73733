//! YAML 1.1 as PyYAML's `safe_load` reads it and its `safe_dump` writes it, with a position on every node.
//!
//! libyaml's scanner and emitter do the syntax; what a plain scalar means is decided here, by PyYAML's rules (YAML 1.1
//! type repository, <https://yaml.org/type/>): `on` and `yes` are booleans but `y` is a text, `0644` is octal, `1e3` is a
//! text, `1:30` is 90. Dates stay the text that was written.

mod dump;
mod resolve;

pub use dump::{dump, dump_flow};

use crate::bounds::{self, Weight};
use crate::problem::{Problem, Problems};
use crate::value::{Entry, Kind, Map, Position, Value};
use libyaml_safer::{Encoding, Event, EventData, Mark, Parser, ScalarStyle};
use resolve::{Resolved, resolve};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, UnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};

/// Parses the one document of `text`; an empty text is null. `source` names it in positions and errors.
///
/// # Errors
/// One error with its position when the text is not YAML, uses a tag or an alias that is not known, holds a key that is no
/// scalar, or exceeds one of the [`bounds`], aliases expanded.
pub fn parse(source: &str, text: &str) -> Result<Value, Problem> {
    parse_with_warnings(source, text).map(|(value, _)| value)
}

/// The same, and a warning for each key that is written twice in one mapping.
///
/// # Errors
/// As [`parse`].
pub fn parse_with_warnings(source: &str, text: &str) -> Result<(Value, Problems), Problem> {
    // Left to itself, the parser takes any first character that begins like a byte order mark for a broken one.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // libyaml-safer 0.3.0 panics where the text ends within a line of a block scalar.
    let trimmed = text.trim_end_matches([' ', '\t']);
    let (padded, unfinished_line) = match trimmed.is_empty() || trimmed.ends_with(['\n', '\r']) {
        true => (Cow::Borrowed(trimmed), None),
        false => (
            Cow::Owned(format!("{text}\n")),
            text.lines().count().try_into().ok(),
        ),
    };
    let mut input = padded.as_bytes();
    let mut parser = Parser::new();
    parser.set_encoding(Encoding::Utf8);
    parser.set_input_string(&mut input);
    let mut loader = Loader {
        source: Arc::from(source),
        parser,
        anchors: BTreeMap::new(),
        weight: Weight::default(),
        kept: Weight::default(),
        text,
        unfinished_line,
        warnings: Problems::default(),
    };
    bounds::check_text(text.len()).map_err(|why| Problem::error("", Some(&loader.start()), why))?;
    let value = loader.document()?;
    Ok((value, loader.warnings))
}

struct Loader<'r, 't> {
    source: Arc<str>,
    parser: Parser<&'r mut &'t [u8]>,
    anchors: BTreeMap<String, Option<(Value, Weight)>>,
    /// Of the tree, aliases expanded.
    weight: Weight,
    /// Of the copies in `anchors`: anchors in one another would fill the memory too.
    kept: Weight,
    text: &'t str,
    /// How many lines there are, if no line feed ends the last one.
    unfinished_line: Option<u64>,
    warnings: Problems,
}

impl Loader<'_, '_> {
    fn document(&mut self) -> Result<Value, Problem> {
        let mut root = Value::default();
        let mut documents = 0;
        loop {
            let event = self.next()?;
            match event.data {
                EventData::StreamEnd => return Ok(root),
                EventData::DocumentStart { .. } => {
                    documents += 1;
                    if documents > 1 {
                        let message = "expected a single document, but found another one";
                        return Err(self.error(event.start_mark, message));
                    }
                }
                EventData::StreamStart { .. } | EventData::DocumentEnd { .. } => {}
                _ => root = self.node(event, 0)?,
            }
        }
    }

    fn next(&mut self) -> Result<Event, Problem> {
        // libyaml-safer 0.3.0 panics where a comma follows a tag, as in `[!!str, a]`. Nothing of the parser is used after.
        match unwound_silently(AssertUnwindSafe(|| self.parser.parse())) {
            Ok(Ok(event)) => Ok(event),
            Ok(Err(error)) => Err(self.syntax_error(&error)),
            Err(_) => {
                let message = "it holds a tag (`!...`) that a comma follows: remove the tag";
                Err(Problem::error("", Some(&self.start()), message))
            }
        }
    }

    fn start(&self) -> Position {
        Position {
            source: Arc::clone(&self.source),
            line: 1,
            column: 1,
        }
    }

    fn node(&mut self, event: Event, depth: usize) -> Result<Value, Problem> {
        let start = event.start_mark;
        if depth > bounds::DEPTH {
            return Err(self.error(start, format!("nested more than {} levels deep", bounds::DEPTH)));
        }
        let before = self.weight;
        let mut is_respelled = false;
        let (anchor, kind) = match event.data {
            EventData::Alias { anchor } => return self.alias(start, &anchor),
            EventData::Scalar {
                anchor,
                tag,
                mut value,
                style,
                ..
            } => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                if is_block && self.unfinished_line == Some(event.end_mark.line) {
                    // This line feed is not in the file.
                    value.truncate(value.strip_suffix('\n').map_or(value.len(), str::len));
                }
                self.count(start, Weight::of_text(&value))?;
                let kind = self.scalar(start, tag.as_deref(), value.clone(), style)?;
                is_respelled = match &kind {
                    Kind::Int(_) | Kind::Float(_) => Value::from(kind.clone()).python_text() != value,
                    _ => false,
                };
                (anchor, kind)
            }
            EventData::SequenceStart { anchor, tag, .. } => {
                self.expect_tag(start, tag.as_deref(), "seq")?;
                self.open(anchor.as_ref());
                (anchor, Kind::List(self.list(depth)?))
            }
            EventData::MappingStart { anchor, tag, .. } => {
                self.expect_tag(start, tag.as_deref(), "map")?;
                self.open(anchor.as_ref());
                (anchor, Kind::Map(self.map(depth)?))
            }
            // The parser gives none of these where a node has to be.
            EventData::StreamStart { .. }
            | EventData::StreamEnd
            | EventData::DocumentStart { .. }
            | EventData::DocumentEnd { .. }
            | EventData::SequenceEnd
            | EventData::MappingEnd => return Err(self.error(start, "expected a value")),
        };
        let value = Value {
            kind,
            position: Some(self.position(start)),
            is_respelled,
        };
        if let Some(anchor) = anchor {
            let weight = self.weight.since(before);
            let kept = self.kept.add(weight);
            kept.map_err(|why| self.error(start, format!("{why} under anchors")))?;
            self.anchors.insert(anchor, Some((value.clone(), weight)));
        }
        Ok(value)
    }

    /// Marks the anchor of a collection as not complete yet.
    fn open(&mut self, anchor: Option<&String>) {
        if let Some(anchor) = anchor {
            self.anchors.insert(anchor.clone(), None);
        }
    }

    fn alias(&mut self, mark: Mark, anchor: &str) -> Result<Value, Problem> {
        let weight = match self.anchors.get(anchor) {
            Some(Some((_, weight))) => *weight,
            Some(None) => return Err(self.error(mark, "the alias contains itself")),
            // What stands there may be a password that begins with an asterisk.
            None => {
                let message = "found an undefined alias: a text that begins with * needs quotes";
                return Err(self.error(mark, message));
            }
        };
        // Before it is copied: the copy of a long text, ten thousand times, is what must not happen.
        self.count(mark, weight)?;
        let anchored = self.anchors.get(anchor).and_then(Option::as_ref);
        Ok(anchored.map(|(value, _)| value.clone()).unwrap_or_default())
    }

    fn count(&mut self, mark: Mark, part: Weight) -> Result<(), Problem> {
        let counted = self.weight.add(part);
        counted.map_err(|why| self.error(mark, why))
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>, Problem> {
        let mut list = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.data, EventData::SequenceEnd) {
                return Ok(list);
            }
            self.count(event.start_mark, Weight::ENTRY)?;
            list.push(self.node(event, depth + 1)?);
        }
    }

    /// Keys of `<<` come before the mapping's own, which override them. Of a key that is written twice the last counts.
    fn map(&mut self, depth: usize) -> Result<Map, Problem> {
        let mut own = Vec::new();
        let mut merged = Vec::new();
        loop {
            let event = self.next()?;
            let mark = event.start_mark;
            let is_merge = match &event.data {
                EventData::MappingEnd => break,
                EventData::Scalar {
                    tag: None,
                    value,
                    style: ScalarStyle::Plain,
                    ..
                } => value == "<<",
                EventData::Scalar { tag: Some(tag), .. } => tag == "tag:yaml.org,2002:merge",
                _ => false,
            };
            let key = if is_merge {
                Value::default()
            } else {
                self.node(event, depth + 1)?
            };
            let event = self.next()?;
            let value_mark = event.start_mark;
            self.count(value_mark, Weight::ENTRY)?;
            let value = self.node(event, depth + 1)?;
            if is_merge {
                merged.extend(self.merged(value_mark, value)?);
            } else {
                let key = self.key(mark, &key)?;
                own.push(Entry {
                    key,
                    key_position: Some(self.position(mark)),
                    value,
                });
            }
        }
        let mut map = Map::new();
        for entry in merged {
            map.insert_entry(entry);
        }
        self.warn_of_repeated(&own);
        for entry in own {
            map.insert_entry(entry);
        }
        Ok(map)
    }

    /// One warning for each key that stands again further down.
    fn warn_of_repeated(&mut self, own: &[Entry]) {
        let mut later = BTreeMap::new();
        let mut warnings = Vec::new();
        for entry in own.iter().rev() {
            let line = entry.key_position.as_ref().map_or(0, |position| position.line);
            if let Some(line) = later.insert(entry.key.as_str(), line) {
                let message = format!("is written again in line {line}, and only what stands there counts");
                warnings.push(Problem::warning(&entry.key, entry.key_position.as_ref(), message));
            }
        }
        self.warnings.0.extend(warnings.into_iter().rev());
    }

    /// The entries that `<<: value` brings, those that win last.
    fn merged(&self, mark: Mark, value: Value) -> Result<Vec<Entry>, Problem> {
        let found = value.describe_kind();
        let refuse = || {
            self.error(
                mark,
                format!("expected a mapping or list of mappings for merging, found {found}"),
            )
        };
        match value.kind {
            Kind::Map(map) => Ok(map.entries().to_vec()),
            Kind::List(list) => {
                let mut entries = Vec::new();
                for item in list.iter().rev() {
                    entries.extend(item.as_map().ok_or_else(refuse)?.entries().iter().cloned());
                }
                Ok(entries)
            }
            Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Float(_) | Kind::String(_) => Err(refuse()),
        }
    }

    /// A key as a JSON document would have it.
    fn key(&self, mark: Mark, key: &Value) -> Result<String, Problem> {
        match &key.kind {
            Kind::String(text) => Ok(text.clone()),
            Kind::Null => Ok("null".to_owned()),
            Kind::Bool(true) => Ok("true".to_owned()),
            Kind::Bool(false) => Ok("false".to_owned()),
            Kind::Int(_) | Kind::Float(_) => Ok(key.python_text()),
            Kind::List(_) | Kind::Map(_) => Err(self.error(
                mark,
                format!("expected a text as key, found {}", key.describe_kind()),
            )),
        }
    }

    fn scalar(
        &self,
        mark: Mark,
        tag: Option<&str>,
        text: String,
        style: ScalarStyle,
    ) -> Result<Kind, Problem> {
        let wrong =
            |what: &str| self.error(mark, format!("expected {what} after the tag, found another text"));
        match tag.and_then(|tag| tag.strip_prefix("tag:yaml.org,2002:")) {
            None if tag.is_none_or(|tag| tag == "!") => {
                if style != ScalarStyle::Plain {
                    return Ok(Kind::String(text));
                }
            }
            Some("str" | "timestamp") => return Ok(Kind::String(text)),
            Some("null") => return Ok(Kind::Null),
            Some("bool") => {
                let lower = text.to_ascii_lowercase();
                return match resolve(&lower) {
                    Resolved::Bool(b) => Ok(Kind::Bool(b)),
                    _ => Err(wrong("a boolean")),
                };
            }
            Some("int") => {
                return match resolve(&text) {
                    Resolved::Int(n) => Ok(Kind::Int(n)),
                    _ => Err(wrong("a whole number")),
                };
            }
            Some("float") => {
                return match resolve(&text) {
                    Resolved::Float(x) => Ok(Kind::Float(x)),
                    #[expect(clippy::cast_precision_loss, reason = "a float was asked for")]
                    Resolved::Int(n) => Ok(Kind::Float(n as f64)),
                    _ => text.parse().map(Kind::Float).map_err(|_| wrong("a number")),
                };
            }
            _ => return Err(self.unknown_tag(mark)),
        }
        Ok(match resolve(&text) {
            Resolved::Null => Kind::Null,
            Resolved::Bool(b) => Kind::Bool(b),
            Resolved::Int(n) => Kind::Int(n),
            Resolved::Float(x) => Kind::Float(x),
            Resolved::Text | Resolved::Other => Kind::String(text),
        })
    }

    fn expect_tag(&self, mark: Mark, tag: Option<&str>, name: &str) -> Result<(), Problem> {
        match tag {
            None | Some("!") => Ok(()),
            Some(tag) if tag.strip_prefix("tag:yaml.org,2002:") == Some(name) => Ok(()),
            Some(_) => Err(self.unknown_tag(mark)),
        }
    }

    /// The tag is not shown: it may be a password that begins with an exclamation mark.
    fn unknown_tag(&self, mark: Mark) -> Problem {
        let message =
            "could not determine a constructor for a tag: remove it; a text that begins with ! needs quotes";
        self.error(mark, message)
    }

    fn position(&self, mark: Mark) -> Position {
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX - 1) + 1;
        Position {
            source: Arc::clone(&self.source),
            line: number(mark.line),
            column: number(mark.column),
        }
    }

    fn error(&self, mark: Mark, message: impl Into<String>) -> Problem {
        Problem::error("", Some(&self.position(mark)), message)
    }

    fn syntax_error(&self, error: &libyaml_safer::Error) -> Problem {
        let problem = error.problem();
        let mut message = error.context().map_or_else(String::new, |context| {
            let line = error.context_mark().map_or(0, |mark| mark.line + 1);
            if line == 0 {
                format!("{context}: ")
            } else {
                format!("{context} that begins in line {line}: ")
            }
        });
        message.push_str(problem);
        if let Some(hint) = hint(problem) {
            message.push_str(": ");
            message.push_str(hint);
        }
        match error.problem_mark() {
            Some(mark) => self.error(mark, message),
            None => Problem::error("", Some(&self.bad_character()), message),
        }
    }

    /// The reader tells no line: the first character that YAML does not allow is the one it stumbled over.
    fn bad_character(&self) -> Position {
        let is_allowed = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
        let (mut line, mut column) = (1, 1);
        for c in self.text.chars().take_while(|c| is_allowed(*c)) {
            (line, column) = if c == '\n' {
                (line + 1, 1)
            } else {
                (line, column + 1)
            };
        }
        Position {
            source: Arc::clone(&self.source),
            line,
            column,
        }
    }
}

thread_local! {
    /// A panic of this thread is one that is caught, and told as an error.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// [`catch_unwind`] without a word about the panic on standard error; those of other threads are told as ever.
fn unwound_silently<T>(work: impl FnOnce() -> T + UnwindSafe) -> std::thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let tell = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_CAUGHT.get() {
                tell(panic);
            }
        }));
    });
    IS_CAUGHT.set(true);
    let result = catch_unwind(work);
    IS_CAUGHT.set(false);
    result
}

/// What a person can do about libyaml's terse findings.
fn hint(problem: &str) -> Option<&'static str> {
    Some(match problem {
        "mapping values are not allowed in this context" => {
            "expected one `key: value` per line; a text that contains `: ` needs quotes, and keys of one mapping start in \
             the same column"
        }
        "did not find expected key" | "could not find expected ':'" => {
            "expected `key: value` in the same column as the keys before it"
        }
        "did not find expected '-' indicator" => "expected `- ` in the same column as the items before it",
        "did not find expected ',' or ']'" => "expected `,` or the `]` that closes the list",
        "did not find expected ',' or '}'" => "expected `,` or the `}` that closes the mapping",
        "found character that cannot start any token" => {
            "expected a value; a text that begins with a tab, `@`, `` ` `` or `%` needs quotes"
        }
        "did not find expected alphabetic or numeric character" => {
            "a text that begins with `*` or `&` needs quotes, as in `listen: \"*:5432\"`"
        }
        "found unexpected end of stream" => "expected the quote that closes the text",
        _ => return None,
    })
}
