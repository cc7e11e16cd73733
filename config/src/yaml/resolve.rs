//! What a plain scalar means, by PyYAML's implicit resolvers.

/// The meaning of a plain scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Resolved {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A text.
    Text,
    /// A type that we read as its text, but that must be quoted where a text is meant: a date, `=`, `<<`.
    Other,
}

pub(super) fn resolve(text: &str) -> Resolved {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Resolved::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Resolved::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Resolved::Bool(false),
        "=" | "<<" => Resolved::Other,
        _ if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
            Resolved::Text
        }
        _ => integer(text)
            .or_else(|| float(text))
            .unwrap_or(if is_timestamp(text) {
                Resolved::Other
            } else {
                Resolved::Text
            }),
    }
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

fn all(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(allowed)
}

/// Decimal, `0x`, `0b`, leading-`0` octal and base 60, underscores anywhere behind the first digit. A number that does
/// not fit into 64 bits becomes a float.
fn integer(text: &str) -> Option<Resolved> {
    let (negative, body) = split_sign(text);
    let without_underscores: String = body.chars().filter(|c| *c != '_').collect();
    let digits = without_underscores.as_str();
    let (radix, digits) = if let Some(rest) = body.strip_prefix("0b") {
        (all(rest, |b| matches!(b, b'0' | b'1' | b'_'))).then_some((2, &digits[2..]))?
    } else if let Some(rest) = body.strip_prefix("0x") {
        (all(rest, |b| b.is_ascii_hexdigit() || b == b'_')).then_some((16, &digits[2..]))?
    } else if body.len() > 1 && body.starts_with('0') {
        (all(body, |b| matches!(b, b'0'..=b'7' | b'_'))).then_some((8, digits))?
    } else if body.starts_with(|c: char| c.is_ascii_digit()) && all(body, |b| b.is_ascii_digit() || b == b'_')
    {
        (10, digits)
    } else {
        return base_60(body).map(|n| with_sign(negative, n));
    };
    if digits.is_empty() {
        return None;
    }
    match i128::from_str_radix(digits, radix) {
        Ok(n) => Some(with_sign(negative, n)),
        // Only the number of digits can be wrong here.
        Err(_) => digits
            .parse::<f64>()
            .ok()
            .map(|x| Resolved::Float(if negative { -x } else { x })),
    }
}

fn with_sign(negative: bool, n: i128) -> Resolved {
    let n = if negative { -n } else { n };
    #[expect(clippy::cast_precision_loss, reason = "no integer type of the tree holds it")]
    i64::try_from(n).map_or(Resolved::Float(n as f64), Resolved::Int)
}

fn base_60(body: &str) -> Option<i128> {
    let (first, rest) = body.split_once(':')?;
    let is_first = first.starts_with(|c: char| ('1'..='9').contains(&c))
        && all(first, |b| b.is_ascii_digit() || b == b'_');
    if !is_first {
        return None;
    }
    let mut total: i128 = first.replace('_', "").parse().ok()?;
    for part in rest.split(':') {
        total = total.checked_mul(60)?.checked_add(sixtieth(part)?)?;
    }
    Some(total)
}

/// One or two digits below 60.
fn sixtieth(part: &str) -> Option<i128> {
    let valid = match part.as_bytes() {
        [b] => b.is_ascii_digit(),
        [b'0'..=b'5', b] => b.is_ascii_digit(),
        _ => false,
    };
    valid.then(|| part.parse().ok())?
}

/// A float needs its point, and an exponent its sign.
fn float(text: &str) -> Option<Resolved> {
    let (negative, body) = split_sign(text);
    let signed = |x: f64| Some(Resolved::Float(if negative { -x } else { x }));
    match body {
        ".inf" | ".Inf" | ".INF" => return signed(f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" if body.len() == text.len() => return signed(f64::NAN),
        _ => {}
    }
    let (whole, fraction) = body.split_once('.')?;
    if let Some((_, _)) = whole.split_once(':') {
        return base_60_float(whole, fraction).and_then(signed);
    }
    let (fraction, exponent) = match fraction.find(['e', 'E']) {
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
        None => (fraction, None),
    };
    let is_digit = |b: u8| b.is_ascii_digit() || b == b'_';
    let exponent_fits = exponent.is_none_or(|exponent| {
        exponent.starts_with(['-', '+']) && exponent.len() > 1 && all(&exponent[1..], |b| b.is_ascii_digit())
    });
    let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let whole_fits = if whole.is_empty() {
        body.len() == text.len() && starts_with_digit(fraction)
    } else {
        starts_with_digit(whole) && all(whole, is_digit)
    };
    if !exponent_fits || !whole_fits || !all(fraction, is_digit) {
        return None;
    }
    body.replace('_', "").parse().ok().and_then(signed)
}

fn base_60_float(whole: &str, fraction: &str) -> Option<f64> {
    let mut parts = whole.split(':');
    let first = parts.next()?;
    if !first.starts_with(|c: char| c.is_ascii_digit()) || !all(first, |b| b.is_ascii_digit() || b == b'_') {
        return None;
    }
    let mut total: f64 = first.replace('_', "").parse().ok()?;
    for part in parts {
        #[expect(clippy::cast_precision_loss, reason = "below 60")]
        let sixtieth = sixtieth(part)? as f64;
        total = total * 60.0 + sixtieth;
    }
    if !all(fraction, |b| b.is_ascii_digit() || b == b'_') {
        return None;
    }
    let fraction: f64 = format!("0.{}0", fraction.replace('_', "")).parse().ok()?;
    Some(total + fraction)
}

/// `2001-12-14`, or a date with a time of day.
fn is_timestamp(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    if shape == "0000-00-00" {
        return true;
    }
    let Some(rest) = shape.strip_prefix("0000-") else {
        return false;
    };
    let Some(rest) = digits(rest, 2).and_then(|rest| digits(rest.strip_prefix('-')?, 2)) else {
        return false;
    };
    let time = match rest.strip_prefix(['T', 't']) {
        Some(time) => time,
        None if rest.starts_with([' ', '\t']) => rest.trim_start_matches([' ', '\t']),
        None => return false,
    };
    let Some(rest) = digits(time, 2).and_then(|rest| rest.strip_prefix(":00:00")) else {
        return false;
    };
    let rest = rest
        .strip_prefix('.')
        .map_or(rest, |rest| rest.trim_start_matches('0'));
    let zone = rest.trim_start_matches([' ', '\t']);
    if rest.is_empty() || zone == "Z" {
        return true;
    }
    let Some(hours) = zone.strip_prefix(['-', '+']).and_then(|zone| digits(zone, 2)) else {
        return false;
    };
    hours.is_empty() || hours == ":00"
}

/// What follows one to `most` digits.
fn digits(shape: &str, most: usize) -> Option<&str> {
    let count = shape.bytes().take(most).take_while(|b| *b == b'0').count();
    (count > 0).then(|| &shape[count..])
}

#[cfg(test)]
mod tests {
    use super::{Resolved, resolve};

    /// What PyYAML 6 makes of a plain scalar.
    #[test]
    fn plain_scalars_mean_what_pyyaml_says() {
        let table: &[(&str, &str)] = &[
            ("on", "bool true"),
            ("off", "bool false"),
            ("On", "bool true"),
            ("OFF", "bool false"),
            ("oN", "str"),
            ("yes", "bool true"),
            ("no", "bool false"),
            ("y", "str"),
            ("n", "str"),
            ("Y", "str"),
            ("N", "str"),
            ("true", "bool true"),
            ("True", "bool true"),
            ("TRUE", "bool true"),
            ("tRUE", "str"),
            ("false", "bool false"),
            ("null", "null"),
            ("~", "null"),
            ("Null", "null"),
            ("NULL", "null"),
            ("nULL", "str"),
            ("0644", "int 420"),
            ("0o644", "str"),
            ("00", "int 0"),
            ("0", "int 0"),
            ("08", "str"),
            ("09", "str"),
            ("1_000", "int 1000"),
            ("1:30", "int 90"),
            ("0:30", "str"),
            ("-1:30", "int -90"),
            ("190:20:30", "int 685230"),
            ("10:60", "str"),
            ("1:30.5", "float 90.5"),
            ("1e3", "str"),
            ("12e03", "str"),
            ("1.5e3", "str"),
            ("1.5e+3", "float 1500.0"),
            ("1e+3", "str"),
            ("1.", "float 1.0"),
            (".5", "float 0.5"),
            ("-.5", "str"),
            ("+.5", "str"),
            ("-1.5", "float -1.5"),
            ("1_0.5", "float 10.5"),
            (".inf", "float inf"),
            ("-.inf", "float -inf"),
            (".nan", "float nan"),
            ("0b11", "int 3"),
            ("0b102", "str"),
            ("-0b1", "int -1"),
            ("0x1f", "int 31"),
            ("0xZZ", "str"),
            ("-0x1F", "int -31"),
            ("0x", "str"),
            ("0b", "str"),
            ("-5", "int -5"),
            ("+5", "int 5"),
            ("2001-12-14", "other"),
            ("2001-12-14t21:59:43.10-05:00", "other"),
            ("2001-1-1", "str"),
            ("=", "other"),
            ("1.2.3", "str"),
            ("5432", "int 5432"),
            ("10.0.0.1:5432", "str"),
            ("0.0.0.0", "str"),
            ("a:b", "str"),
            ("9223372036854775807", "int 9223372036854775807"),
            ("9223372036854775808", "float 9.223372036854776e+18"),
            ("1__0", "int 10"),
            ("0_7", "int 7"),
            ("_1", "str"),
            ("1_", "int 1"),
            (".", "str"),
            ("..", "str"),
            ("...", "str"),
            ("+.inf", "float inf"),
            ("6.8523015e+5", "float 685230.15"),
            ("1e5", "str"),
            ("100MB", "str"),
            ("0.5", "float 0.5"),
            ("-0.0", "float -0.0"),
            ("1.0e+308", "float 1e+308"),
            ("1.0e-05", "float 1e-05"),
            ("0.0001", "float 0.0001"),
            ("0.00001", "float 1e-05"),
            ("123456789012345680.0", "float 1.2345678901234568e+17"),
            ("12345678901234567890.5", "float 1.2345678901234567e+19"),
            ("<<", "other"),
            ("2001-12-14 21:59:43", "other"),
            ("2001-1-1t1:02:03Z", "other"),
            ("-.nan", "str"),
            ("+.nan", "str"),
            ("1:2:3", "int 3723"),
            ("1_0:30", "int 630"),
            ("99999999999999999999", "float 1e+20"),
            ("-0", "int 0"),
            ("+0", "int 0"),
            ("0.", "float 0.0"),
            ("0_.5", "float 0.5"),
            ("1.e+3", "float 1000.0"),
            ("1.5e-3", "float 0.0015"),
            ("1:60.5", "str"),
            ("0:30.5", "float 30.5"),
        ];
        for (text, expected) in table {
            let found = match resolve(text) {
                Resolved::Null => "null".to_owned(),
                Resolved::Bool(b) => format!("bool {b}"),
                Resolved::Int(n) => format!("int {n}"),
                Resolved::Float(x) => format!("float {}", crate::value::python_float(x)),
                Resolved::Text => "str".to_owned(),
                Resolved::Other => "other".to_owned(),
            };
            assert_eq!(found, *expected, "{text}");
        }
    }
}
