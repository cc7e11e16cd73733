//! Python's record formats: `%(asctime)s %(levelname)-8s: %(message)s`, and JSON lines with chosen fields.

use std::borrow::Cow;
use std::fmt::Write as _;

use config::{Kind, LogConfig, LogType, Value, escape};
use jiff::Zoned;
use serde_json::{Map, json};
use tracing::Level;

use crate::daemon::api::json_text;

pub(super) const CRITICAL: u8 = 50;
pub(super) const ERROR: u8 = 40;
pub(super) const WARNING: u8 = 30;
pub(super) const INFO: u8 = 20;
pub(super) const DEBUG: u8 = 10;
const NOTSET: u8 = 0;

const FORMAT_DEFAULT: &str = "%(asctime)s %(levelname)s: %(message)s";

/// Python's number for a level's name.
pub(super) fn level_number(name: &str) -> Option<u8> {
    Some(match name.to_ascii_uppercase().as_str() {
        "CRITICAL" | "FATAL" => CRITICAL,
        "ERROR" => ERROR,
        "WARNING" | "WARN" => WARNING,
        "INFO" => INFO,
        "DEBUG" => DEBUG,
        "NOTSET" => NOTSET,
        _ => return None,
    })
}

pub(super) fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => ERROR,
        Level::WARN => WARNING,
        Level::INFO => INFO,
        Level::DEBUG => DEBUG,
        Level::TRACE => NOTSET,
    }
}

fn level_name(number: u8) -> &'static str {
    match number {
        CRITICAL => "CRITICAL",
        ERROR => "ERROR",
        WARNING => "WARNING",
        INFO => "INFO",
        _ => "DEBUG",
    }
}

/// One record, before it is formatted.
pub(super) struct Record<'a> {
    pub(super) level: u8,
    pub(super) target: &'a str,
    pub(super) file: &'a str,
    pub(super) line: u32,
    pub(super) message: &'a str,
    pub(super) at: Zoned,
}

/// How records become lines.
pub(super) struct Format {
    date: Option<String>,
    shape: Shape,
}

enum Shape {
    Plain(Vec<Piece>),
    /// The attribute and the key it is shown under, in order; then fixed fields.
    Json(Vec<(String, String)>, Map<String, serde_json::Value>),
}

enum Piece {
    Text(String),
    Attribute { name: String, layout: Layout },
}

#[derive(Default)]
struct Layout {
    is_left: bool,
    is_zero_padded: bool,
    width: usize,
    precision: Option<usize>,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            date: None,
            shape: Shape::Plain(pieces(FORMAT_DEFAULT)),
        }
    }
}

impl Format {
    /// The format that a configuration asks for, and what cannot be used in it.
    pub(super) fn from_config(config: &LogConfig) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let text = config.format.as_str();
        let shape = match config.kind {
            LogType::Plain => Shape::Plain(pieces(text.unwrap_or_else(|| {
                problems
                    .push("log.format: a list of fields is for log.type json: using the default".to_owned());
                FORMAT_DEFAULT
            }))),
            LogType::Json => {
                let fields = match text {
                    Some(text) => named(&pieces(text)),
                    None => listed(&config.format, &mut problems),
                };
                let fixed = serde_json::Value::from(&config.static_fields);
                Shape::Json(fields, fixed.as_object().cloned().unwrap_or_default())
            }
        };
        let date = config.dateformat.clone().filter(|format| {
            let is_good = jiff::fmt::strtime::format(format, &Zoned::now()).is_ok();
            if !is_good {
                problems.push(format!(
                    "log.dateformat: {format:?} is no strftime format: using the default"
                ));
            }
            is_good
        });
        (Self { date, shape }, problems)
    }

    /// Whether lines are JSON.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.shape, Shape::Json(..))
    }

    /// The fixed fields of JSON lines, as text.
    pub(super) fn fixed(&self) -> impl Iterator<Item = (&str, String)> {
        let fixed = match &self.shape {
            Shape::Plain(_) => None,
            Shape::Json(_, fixed) => Some(fixed),
        };
        fixed
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), text(value)))
    }

    pub(super) fn line(&self, record: &Record<'_>) -> String {
        match &self.shape {
            Shape::Plain(pieces) => {
                let mut line = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(text) => line.push_str(text),
                        Piece::Attribute { name, layout } => {
                            layout.write(&mut line, &one_record(&text(&self.attribute(name, record))));
                        }
                    }
                }
                line
            }
            Shape::Json(fields, fixed) => {
                let shown = fields
                    .iter()
                    .map(|(name, key)| (key.clone(), self.attribute(name, record)));
                let fixed = fixed.iter().map(|(key, value)| (key.clone(), value.clone()));
                python_json(shown.chain(fixed))
            }
        }
    }

    /// An attribute of Python's `LogRecord`; unknown ones are null.
    fn attribute(&self, name: &str, record: &Record<'_>) -> serde_json::Value {
        let milliseconds = record.at.timestamp().as_millisecond();
        let path = std::path::Path::new(record.file);
        let part = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        match name {
            "asctime" => json!(self.time(&record.at)),
            "levelname" => json!(level_name(record.level)),
            "levelno" => json!(record.level),
            "message" => json!(record.message),
            "name" => json!(record.target.replace("::", ".")),
            "module" => json!(part(path.file_stem())),
            "filename" => json!(part(path.file_name())),
            "pathname" => json!(record.file),
            "lineno" => json!(record.line),
            "funcName" => json!(""),
            #[expect(clippy::cast_precision_loss, reason = "Python's created is a float too")]
            "created" => json!(milliseconds as f64 / 1000.0),
            "msecs" => json!(milliseconds.rem_euclid(1000)),
            "process" => json!(std::process::id()),
            "processName" => json!("MainProcess"),
            "threadName" => json!(std::thread::current().name().unwrap_or_default()),
            _ => serde_json::Value::Null,
        }
    }

    fn time(&self, at: &Zoned) -> String {
        let format = self.date.as_deref().unwrap_or("%Y-%m-%d %H:%M:%S");
        let mut text = jiff::fmt::strtime::format(format, at).unwrap_or_else(|_| at.to_string());
        if self.date.is_none() {
            let milliseconds = at.timestamp().as_millisecond().rem_euclid(1000);
            let _ = write!(text, ",{milliseconds:03}");
        }
        text
    }
}

impl Layout {
    fn write(&self, line: &mut String, text: &str) {
        let cut: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let width = self.width;
        let _ = if self.is_left {
            write!(line, "{cut:<width$}")
        } else if self.is_zero_padded {
            write!(line, "{cut:0>width$}")
        } else {
            write!(line, "{cut:>width$}")
        };
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What stands in a message comes from others, too. The lines after the first begin with a tab, as in PostgreSQL's log, so
/// that none looks like a record of its own.
fn one_record(text: &str) -> Cow<'_, str> {
    let text = escape::lines(text);
    if text.contains('\n') {
        Cow::Owned(text.replace('\n', "\n\t"))
    } else {
        text
    }
}

/// As Python's `json.dumps` writes an object: a blank after `,` and `:`, and only ASCII.
fn python_json(fields: impl Iterator<Item = (String, serde_json::Value)>) -> String {
    let fields: Vec<_> = fields
        .map(|(key, value)| format!("{}: {}", json_text(&key), json_text(&value)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

/// Splits a Python format: `%(name)`, then flags, width, precision and a conversion letter.
fn pieces(format: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
        } else if let Some((attribute, after)) = attribute(rest) {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
            pieces.push(attribute);
            rest = after;
        } else {
            text.push('%');
        }
    }
    text.push_str(rest);
    pieces.push(Piece::Text(text));
    pieces
}

fn attribute(text: &str) -> Option<(Piece, &str)> {
    let (name, rest) = text.strip_prefix('(')?.split_once(')')?;
    let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
    let (modifiers, after) = (&rest[..end], &rest[end + 1..]);
    let flags = modifiers.len() - modifiers.trim_start_matches(['-', '0', '+', ' ', '#']).len();
    let (flags, size) = modifiers.split_at(flags);
    let (width, precision) = match size.split_once('.') {
        Some((width, precision)) => (width, precision.parse().ok()),
        None => (size, None),
    };
    let layout = Layout {
        is_left: flags.contains('-'),
        is_zero_padded: flags.contains('0'),
        width: width.parse().unwrap_or(0),
        precision,
    };
    let name = name.to_owned();
    Some((Piece::Attribute { name, layout }, after))
}

/// The attributes that a format names, each under its own name.
fn named(pieces: &[Piece]) -> Vec<(String, String)> {
    let names = pieces.iter().filter_map(|piece| match piece {
        Piece::Attribute { name, .. } => Some(name.clone()),
        Piece::Text(_) => None,
    });
    names.map(|name| (name.clone(), name)).collect()
}

/// The list form: `[asctime, {levelname: severity}]`.
fn listed(format: &Value, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for item in format.as_list().unwrap_or_default() {
        match &item.kind {
            Kind::String(name) => fields.push((name.clone(), name.clone())),
            Kind::Map(renames) => {
                for (name, key) in renames.iter() {
                    let key = key.as_str().unwrap_or(name);
                    fields.push((name.to_owned(), key.to_owned()));
                }
            }
            _ => problems.push(format!(
                "log.format: expected a field's name, found {}: left out",
                item.describe()
            )),
        }
    }
    if fields.is_empty() {
        return named(&pieces(FORMAT_DEFAULT));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record<'_> {
        Record {
            level: WARNING,
            target: "tamada::daemon::cycle",
            file: "src/daemon/cycle.rs",
            line: 7,
            message,
            at: "2026-01-31T12:34:56.789+00:00[UTC]".parse().expect("a time"),
        }
    }

    #[test]
    fn the_default_is_patronis() {
        assert_eq!(
            Format::default().line(&record("text")),
            "2026-01-31 12:34:56,789 WARNING: text"
        );
    }

    #[test]
    fn flags_width_and_precision_are_pythons() {
        for (format, line) in [
            ("%(levelname)-9s|%(lineno)04d|%(message).2s", "WARNING  |0007|te"),
            ("%(name)s %(levelno)d 100%%", "tamada.daemon.cycle 30 100%"),
            (
                "[%(filename)s:%(module)s] %(nonsense",
                "[cycle.rs:cycle] %(nonsense",
            ),
        ] {
            let format = Format {
                date: None,
                shape: Shape::Plain(pieces(format)),
            };
            assert_eq!(format.line(&record("text")), line);
        }
    }

    #[test]
    fn json_lines_rename_fields_and_add_fixed_ones() {
        let format = Format {
            date: Some("%H:%M".to_owned()),
            shape: Shape::Json(
                vec![
                    ("asctime".into(), "@timestamp".into()),
                    ("levelname".into(), "level".into()),
                    ("message".into(), "message".into()),
                ],
                json!({"app": "db"}).as_object().cloned().unwrap_or_default(),
            ),
        };
        assert_eq!(
            format.line(&record("say \"x\"")),
            r#"{"@timestamp": "12:34", "level": "WARNING", "message": "say \"x\"", "app": "db"}"#
        );
    }

    #[test]
    fn a_message_of_others_is_one_record_that_no_terminal_obeys() {
        let message = "a\n2026-01-31 12:34:56,789 CRITICAL: b\u{1b}[2J\r\u{9b}31m\u{202e}x\u{7f}";
        assert_eq!(
            Format::default().line(&record(message)),
            "2026-01-31 12:34:56,789 WARNING: a\n\t2026-01-31 12:34:56,789 CRITICAL: b\\u{1b}[2J\\r\\u{9b}31m\\u{202e}x\\u{7f}"
        );
        let json = Format {
            date: None,
            shape: Shape::Json(vec![("message".into(), "message".into())], Map::new()),
        };
        let line = json.line(&record(message));
        assert!(line.chars().all(|c| matches!(c, ' '..='~')), "{line:?}");
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(read["message"], message);
    }
}
