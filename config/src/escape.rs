//! Text from outside, made harmless for terminals, logs and everything else that is read line by line.
//!
//! Names, tags, values in the DCS and errors of others may hold control characters: they move the cursor, change what
//! stands on the screen, or begin a line that looks like one of ours. Characters that cannot be seen, or that turn the
//! direction of writing, make one name look like another.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text in one line: every character that a terminal would obey, or hide, as `\n`, `\t` or `\u{1b}`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control() || is_hidden(c))
}

/// The most of a text from outside that a line of the log or of an error repeats, in bytes.
const SHOWN_BYTES_MAX: usize = 1000;

/// The beginning of a text, and how much there is beside it, where it is longer than a line should be.
#[must_use]
pub fn beginning(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(SHOWN_BYTES_MAX);
    Cow::Owned(format!("{}… ({} bytes more)", &text[..end], text.len() - end))
}

/// As [`line`], for a text of several lines: line ends and tabs stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| {
        c.is_control() && !matches!(c, '\n' | '\t') || is_hidden(c)
    })
}

fn escape(text: &str, is_bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_bad(c) => escaped.push(c),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c => drop(write!(escaped, "\\u{{{:x}}}", u32::from(c))),
        }
    }
    Cow::Owned(escaped)
}

/// Whether a character is a separator of lines, turns the direction of writing, or is not to be seen (Unicode's categories
/// Zl, Zp and Cf, and what else is ignored where a font lacks it).
#[must_use]
pub fn is_hidden(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_written_out() {
        for (text, expected) in [
            ("pg1", "pg1"),
            ("größe 数据库 😀 -> \"x\\y\"", "größe 数据库 😀 -> \"x\\y\""),
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("a\nb\r\tc\0\u{7f}", "a\\nb\\r\\tc\\u{0}\\u{7f}"),
            ("\u{9b}31m\u{85}", "\\u{9b}31m\\u{85}"),
            (
                "\u{202e}1gp\u{2066}\u{200b}\u{feff}\u{e0041}",
                "\\u{202e}1gp\\u{2066}\\u{200b}\\u{feff}\\u{e0041}",
            ),
        ] {
            assert_eq!(line(text), expected);
        }
        assert_eq!(lines("a\n\tb\r\u{1b}"), "a\n\tb\\r\\u{1b}");
        assert!(matches!(lines("a\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_long_text_shows_its_beginning() {
        assert_eq!(beginning("a"), "a");
        let long = format!("{}ä{}", "a".repeat(999), "b".repeat(50));
        assert_eq!(beginning(&long), format!("{}… (52 bytes more)", "a".repeat(999)));
    }

    #[test]
    fn no_character_of_all_passes_that_is_obeyed_or_hidden() {
        for c in (0..=0x0010_ffff).filter_map(char::from_u32) {
            let text = c.to_string();
            let (one, several) = (line(&text), lines(&text));
            assert!(!one.chars().any(|c| c.is_control() || is_hidden(c)), "{c:?}");
            let is_kept = |c: char| c == '\n' || c == '\t';
            assert!(
                !several
                    .chars()
                    .any(|c| (c.is_control() && !is_kept(c)) || is_hidden(c)),
                "{c:?}"
            );
        }
    }
}
