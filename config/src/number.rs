//! Booleans, numbers and units as Patroni and PostgreSQL read them. PostgreSQL manual, section "Parameter Names and
//! Values".

use crate::value::{Kind, Value};

/// `on`, `true`, `yes`, `1` and `off`, `false`, `no`, `0` in any case; anything else is neither.
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// An integer as a PostgreSQL parameter may be written: decimal, `0x` or leading-`0` octal, with a fraction or an
/// exponent (rounded half to even), and with a unit when the setting has one (`base_unit`: `B`, `kB`, `8kB`, `MB`,
/// `16MB`, `us`, `ms`, `s`, `min`, ...). Units are case sensitive. The result counts base units. `None` = not a number,
/// or a unit that does not fit.
#[must_use]
pub fn parse_int(text: &str, base_unit: Option<&str>) -> Option<i64> {
    let rounded = parse_real(text, base_unit)?.round_ties_even();
    // The largest i64 has no exact f64; whole numbers without unit are read exactly below.
    if let Some((exact, "")) = split_integer(text.trim()) {
        return Some(exact);
    }
    let in_range = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded);
    #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
    in_range.then_some(rounded as i64)
}

/// A number as a PostgreSQL parameter of type real may be written, with a unit as in [`parse_int`].
#[must_use]
pub fn parse_real(text: &str, base_unit: Option<&str>) -> Option<f64> {
    let text = text.trim();
    let (number, unit) = match split_integer(text) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "callers that need the exact integer take it themselves"
        )]
        Some((integer, rest)) if !rest.starts_with(['.', 'e', 'E']) => (integer as f64, rest),
        _ => split_real(text)?,
    };
    if unit.is_empty() {
        return Some(number);
    }
    if !unit.trim_start().starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    to_base_unit(number, unit.trim_start(), base_unit?)
}

/// Splits `text` behind a whole number in C's notation.
fn split_integer(text: &str) -> Option<(i64, &str)> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = if digits.starts_with("0x") || digits.starts_with("0X") {
        (16, &digits[2..])
    } else if digits.len() > 1 && digits.starts_with('0') && !digits[1..].starts_with(['.', 'e', 'E']) {
        (8, digits)
    } else {
        (10, digits)
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    let value = i64::from_str_radix(digits, radix).ok()?;
    Some((if negative { -value } else { value }, rest))
}

/// Splits `text` behind a number with fraction or exponent. Digits must follow the point.
fn split_real(text: &str) -> Option<(f64, &str)> {
    let bytes = text.as_bytes();
    let digits_from = |start: usize| bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let whole = digits_from(end);
    end += whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits_from(end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    } else if whole == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits_from(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, &text[end..]))
}

const MEMORY: [(&str, f64); 5] = [
    ("TB", 1_099_511_627_776.0),
    ("GB", 1_073_741_824.0),
    ("MB", 1_048_576.0),
    ("kB", 1024.0),
    ("B", 1.0),
];
const TIME: [(&str, f64); 6] = [
    ("d", 86_400_000_000.0),
    ("h", 3_600_000_000.0),
    ("min", 60_000_000.0),
    ("s", 1_000_000.0),
    ("ms", 1000.0),
    ("us", 1.0),
];

/// A value with a fraction is first rounded to the next smaller unit, as PostgreSQL's `convert_to_base_unit` does.
fn to_base_unit(number: f64, unit: &str, base_unit: &str) -> Option<f64> {
    let digits = base_unit.find(|c: char| !c.is_ascii_digit())?;
    let count: f64 = if digits == 0 {
        1.0
    } else {
        base_unit[..digits].parse().ok()?
    };
    let base_name = &base_unit[digits..];
    let units = if MEMORY.iter().any(|(name, _)| *name == base_name) {
        &MEMORY[..]
    } else {
        &TIME[..]
    };
    let size = |name: &str| units.iter().position(|(n, _)| *n == name);
    let base = units[size(base_name)?].1 * count;
    let index = size(unit)?;
    let mut smallest = number * units[index].1;
    if let Some((_, next)) = units.get(index + 1) {
        smallest = (smallest / next).round_ties_even() * next;
    }
    Some(smallest / base)
}

impl Value {
    /// The boolean that this is or that its text means; `None` if neither.
    #[must_use]
    pub fn to_bool(&self) -> Option<bool> {
        match &self.kind {
            Kind::Bool(b) => Some(*b),
            Kind::Int(n) => parse_bool(&n.to_string()),
            Kind::String(text) => parse_bool(text),
            Kind::Null | Kind::Float(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The integer that this is or that its text means, in base units; booleans are no integers.
    #[must_use]
    pub fn to_int(&self, base_unit: Option<&str>) -> Option<i64> {
        match &self.kind {
            Kind::Int(n) => Some(*n),
            Kind::Float(_) => parse_int(&format!("{:e}", self.to_real(None)?), None),
            Kind::String(text) => parse_int(text, base_unit),
            Kind::Null | Kind::Bool(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }

    /// The number that this is or that its text means, in base units.
    #[must_use]
    pub fn to_real(&self, base_unit: Option<&str>) -> Option<f64> {
        match &self.kind {
            #[expect(clippy::cast_precision_loss, reason = "a real has no more digits")]
            Kind::Int(n) => Some(*n as f64),
            Kind::Float(x) => Some(*x),
            Kind::String(text) => parse_real(text, base_unit),
            Kind::Null | Kind::Bool(_) | Kind::List(_) | Kind::Map(_) => None,
        }
    }
}

/// PostgreSQL's number of a major version: `9.6` is 90600, `16` and `16.4` are 160000. Text behind the digits
/// (`18beta1`, `15.14 (Debian ...)`) is allowed.
#[must_use]
pub fn parse_major_version(text: &str) -> Option<u32> {
    let number = parse_server_version(text)?;
    Some(if number >= 100_000 {
        number / 10_000 * 10_000
    } else {
        number / 100 * 100
    })
}

/// PostgreSQL's `server_version_num`: `16.4` is 160004, `9.5.3` is 90503, `16` is 160000.
#[must_use]
pub fn parse_server_version(text: &str) -> Option<u32> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let mut parts = text[..end]
        .split('.')
        .filter(|part| !part.is_empty())
        .map(str::parse::<u32>);
    let major = parts.next()?.ok().filter(|major| *major < 10_000)?;
    let mut next = || parts.next().map_or(Some(0), Result::ok).filter(|n| *n < 10_000);
    if major >= 10 {
        Some(major * 10_000 + next()?)
    } else {
        Some(major * 10_000 + next()? * 100 + next()?)
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_bool, parse_int, parse_major_version, parse_server_version};

    #[test]
    fn booleans() {
        for (text, expected) in [
            ("on", Some(true)),
            ("TRUE", Some(true)),
            ("Yes", Some(true)),
            ("1", Some(true)),
            ("off", Some(false)),
            ("False", Some(false)),
            ("no", Some(false)),
            ("0", Some(false)),
            ("", None),
            ("y", None),
            ("2", None),
        ] {
            assert_eq!(parse_bool(text), expected, "{text}");
        }
    }

    /// What Patroni 4.1.5 answers.
    #[test]
    fn integers_with_units() {
        let table: &[(&str, Option<&str>, Option<i64>)] = &[
            ("1", None, Some(1)),
            ("010", None, Some(8)),
            ("09", None, None),
            ("0x1F", None, Some(31)),
            ("1.5", None, Some(2)),
            ("2.5", None, Some(2)),
            ("1e3", None, Some(1000)),
            ("1 ", None, Some(1)),
            (" 1", None, Some(1)),
            ("", None, None),
            ("10MB", None, None),
            ("10MB", Some("kB"), Some(10240)),
            ("10mb", Some("kB"), None),
            ("10 MB", Some("kB"), Some(10240)),
            ("1.5GB", Some("MB"), Some(1536)),
            ("30.1GB", Some("kB"), Some(31_561_728)),
            ("1GB", Some("8kB"), Some(131_072)),
            ("100kB", Some("MB"), Some(0)),
            ("1min", Some("s"), Some(60)),
            ("1500ms", Some("s"), Some(2)),
            ("1d", Some("s"), Some(86400)),
            ("10s", Some("kB"), None),
            ("-1", None, Some(-1)),
            ("+5", None, Some(5)),
            ("-1MB", Some("kB"), Some(-1024)),
            ("1_000", None, None),
            ("1.", None, None),
            (".5", None, Some(0)),
            ("1h30", None, None),
            ("0.5s", Some("ms"), Some(500)),
            ("0.0015s", Some("ms"), Some(2)),
            ("1us", Some("ms"), Some(0)),
            ("500us", Some("ms"), Some(0)),
            ("501us", Some("ms"), Some(1)),
            ("1.5e", Some("kB"), None),
            ("1 e3", Some("kB"), None),
            ("0x1FMB", Some("kB"), Some(31744)),
            ("010MB", Some("kB"), Some(8192)),
            ("16MB", Some("16MB"), Some(1)),
            ("512B", Some("kB"), Some(0)),
            ("0.3MB", Some("kB"), Some(307)),
            ("12abc", None, None),
            ("1TB", Some("MB"), Some(1_048_576)),
            ("08", None, None),
            ("0", None, Some(0)),
            ("00", None, Some(0)),
            ("0x", None, None),
            ("- 1", None, None),
            ("5\t", None, Some(5)),
            ("1 \t MB", Some("kB"), Some(1024)),
            ("9223372036854775807", None, Some(i64::MAX)),
            // Patroni itself fails on this one.
            ("1e400", None, None),
        ];
        for (text, unit, expected) in table {
            assert_eq!(parse_int(text, *unit), *expected, "{text:?} {unit:?}");
        }
    }

    #[test]
    fn versions() {
        for (text, major, full) in [
            ("9.6", 90600, 90600),
            ("9.5.3", 90500, 90503),
            ("16", 160_000, 160_000),
            ("16.4", 160_000, 160_004),
            ("18beta1", 180_000, 180_000),
            ("15.14 (Debian 15.14-0+deb12u1)", 150_000, 150_014),
        ] {
            assert_eq!(parse_major_version(text), Some(major), "{text}");
            assert_eq!(parse_server_version(text), Some(full), "{text}");
        }
        assert_eq!(parse_major_version("devel"), None);
    }
}
