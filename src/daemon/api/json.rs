//! JSON text as Patroni's clients see it: a blank behind `:` and `,`, and only ASCII.
//!
//! Scripts compare these texts with `grep`, so the blanks matter.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The value as one line of JSON.
pub(crate) fn to_text<T: Serialize>(value: &T) -> String {
    let mut bytes = Vec::with_capacity(512);
    let mut serializer = Serializer::with_formatter(&mut bytes, Spaced);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_default(),
        // Only a map with keys that are no strings could fail, and a vector takes everything that is written to it.
        Err(_) => String::new(),
    }
}

struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let is_plain = |c: char| matches!(c, ' '..='~');
        let mut rest = fragment;
        while let Some(at) = rest.find(|c| !is_plain(c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            let mut chars = rest[at..].chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::to_text;

    #[test]
    fn blanks_and_escapes_are_those_of_patroni() {
        let value = json!({"a": [1, "x\"y\n", null], "b": {}, "ü€😀\u{7f}": {"c": 1.4, "d": []}});
        assert_eq!(
            to_text(&value),
            r#"{"a": [1, "x\"y\n", null], "b": {}, "\u00fc\u20ac\ud83d\ude00\u007f": {"c": 1.4, "d": []}}"#
        );
    }
}
