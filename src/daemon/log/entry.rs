//! A record as systemd's journal wants it (systemd, "Native Journal Protocol" and systemd.journal-fields(7)).

use config::escape;

use super::format::{self, Record};

/// Fields that are ours in every record, or that say where it comes from: nothing else may be called so.
const OWN: [&str; 8] = [
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "CODE_FILE",
    "CODE_LINE",
    "LOGGER",
    "TAMADA_SCOPE",
    "TAMADA_MEMBER",
];

/// What stands in front of a name that is one of ours, or begins with a digit.
const PREFIX: &str = "FIELD_";

/// The journal leaves a field out whose name is longer.
const NAME_LENGTH_MAX: usize = 64;

/// Fields, one behind the other.
#[derive(Clone, Default)]
pub(super) struct Entry(Vec<u8>);

impl Entry {
    /// The record behind the fields that every record has. `message` is its text as the configuration wants it.
    pub(super) fn of_record(
        always: &Self,
        record: &Record<'_>,
        message: &str,
        fields: &[(&'static str, String)],
    ) -> Self {
        let mut entry = always.clone();
        entry.add("MESSAGE", &escape::lines(message));
        entry.add("PRIORITY", priority(record.level));
        entry.add("LOGGER", &record.target.replace("::", "."));
        if !record.file.is_empty() {
            entry.add("CODE_FILE", record.file);
            entry.add("CODE_LINE", &record.line.to_string());
        }
        for (name, value) in fields {
            entry.add_foreign(name, value);
        }
        entry
    }

    /// Adds a field of ours. A value of several lines is preceded by its length.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        let Self(bytes) = self;
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }

    /// Adds a field that others have named. A name without a letter or digit names nothing: it is left out.
    pub(super) fn add_foreign(&mut self, name: &str, value: &str) {
        if let Some(name) = field_name(name) {
            self.add(&name, &escape::lines(value));
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The levels of syslog(3).
fn priority(level: u8) -> &'static str {
    match level {
        format::CRITICAL.. => "2",
        format::ERROR.. => "3",
        format::WARNING.. => "4",
        format::INFO.. => "6",
        _ => "7",
    }
}

/// Capital letters, digits and underscores, the first a letter.
fn field_name(name: &str) -> Option<String> {
    let allowed = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_uppercase(),
        false => '_',
    };
    let name: String = name.chars().map(allowed).collect();
    let name = name.trim_start_matches('_');
    let first = name.chars().next()?;
    let mut name = if first.is_ascii_digit() || OWN.contains(&name) {
        format!("{PREFIX}{name}")
    } else {
        name.to_owned()
    };
    name.truncate(NAME_LENGTH_MAX);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_such_as_the_journal_takes() {
        let (long, cut) = ("x".repeat(80), "X".repeat(NAME_LENGTH_MAX));
        for (name, expected) in [
            ("error", Some("ERROR")),
            ("stream.id", Some("STREAM_ID")),
            ("__hidden", Some("HIDDEN")),
            ("größe", Some("GR__E")),
            ("4xx", Some("FIELD_4XX")),
            ("priority", Some("FIELD_PRIORITY")),
            ("_tamada_scope", Some("FIELD_TAMADA_SCOPE")),
            (&long, Some(cut.as_str())),
            ("", None),
            ("._", None),
        ] {
            assert_eq!(field_name(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_value_cannot_become_a_field_of_its_own() {
        let mut entry = Entry::default();
        entry.add("MESSAGE", "a\nPRIORITY=0");
        entry.add("PRIORITY", "6");
        assert_eq!(
            entry.as_bytes(),
            b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=6\n"
        );
    }

    #[test]
    fn levels_are_those_of_syslog() {
        let numbers = [50, 40, 30, 20, 10, 0].map(priority);
        assert_eq!(numbers, ["2", "3", "4", "6", "7", "7"]);
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        let mut entry = Entry::default();
        entry.add_foreign("name", "a\u{1b}[2J\u{202e}");
        assert_eq!(entry.as_bytes(), b"NAME=a\\u{1b}[2J\\u{202e}\n");
    }
}
