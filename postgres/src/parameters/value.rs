//! Values of parameters: equal or not, and written for people (PostgreSQL manual, "Parameter Names and Values").

/// How many of its smallest unit (bytes, microseconds) a unit is, and whether it is one of memory.
fn unit(text: &str) -> Option<(f64, bool)> {
    const KB: f64 = 1024.0;
    Some(match text {
        "B" => (1.0, true),
        "kB" => (KB, true),
        "MB" => (KB * KB, true),
        "GB" => (KB * KB * KB, true),
        "TB" => (KB * KB * KB * KB, true),
        "us" => (1.0, false),
        "ms" => (1e3, false),
        "s" => (1e6, false),
        "min" => (60e6, false),
        "h" => (3600e6, false),
        "d" => (86_400e6, false),
        _ => return None,
    })
}

/// The unit of `pg_settings`, such as `8kB`: a number of plain units.
fn base_unit(text: &str) -> Option<(f64, bool)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (factor, is_memory) = unit(&text[digits..])?;
    let count = if digits == 0 {
        1.0
    } else {
        text[..digits].parse().ok()?
    };
    Some((count * factor, is_memory))
}

/// A number as PostgreSQL reads it: decimal, `0x` hexadecimal, leading `0` octal, fractions and exponents.
fn number(text: &str) -> Option<f64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let radix = |digits: &str, radix: u32| i64::from_str_radix(digits, radix).ok();
    #[expect(
        clippy::cast_precision_loss,
        reason = "settings are far below 2^53, or are not given in radix 8 or 16"
    )]
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        radix(hex, 16)? as f64
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        radix(digits, 8)? as f64
    } else if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        digits.parse().ok()?
    } else {
        return None;
    };
    Some(if negative { -value } else { value })
}

/// A value with or without unit, in units of `base`; `None` when it is no number.
fn in_base_units(text: &str, base: Option<&str>) -> Option<f64> {
    let text = text.trim();
    let is_exponent = |at: usize, c: char| {
        matches!(c, 'e' | 'E')
            && text[at + 1..]
                .trim_start_matches(['+', '-'])
                .starts_with(|c: char| c.is_ascii_digit())
    };
    let is_hex = text
        .trim_start_matches(['+', '-'])
        .to_ascii_lowercase()
        .starts_with("0x");
    let end = text
        .char_indices()
        .find(|(at, c)| c.is_ascii_alphabetic() && !is_hex && !is_exponent(*at, *c))
        .map_or(text.len(), |(at, _)| at);
    let value = number(text[..end].trim())?;
    let suffix = &text[end..];
    if suffix.is_empty() {
        return Some(value);
    }
    let (factor, is_memory) = unit(suffix)?;
    let (base_factor, base_is_memory) = base_unit(base?)?;
    (is_memory == base_is_memory).then(|| value * factor / base_factor)
}

/// What `on`, `true`, `t`, `1` and so on mean.
fn boolean(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    match text.as_str() {
        "on" | "1" => Some(true),
        "off" | "of" | "0" => Some(false),
        _ if begins("true") || begins("yes") => Some(true),
        _ if begins("false") || begins("no") => Some(false),
        _ => None,
    }
}

/// Whether a wanted value means the one in force, by `vartype` and `unit` of `pg_settings`.
pub(crate) fn same(vartype: &str, unit: Option<&str>, wanted: &str, running: &str) -> bool {
    if wanted == running {
        return true;
    }
    match vartype {
        "bool" => boolean(wanted).is_some() && boolean(wanted) == boolean(running),
        "enum" => {
            wanted.eq_ignore_ascii_case(running)
                || boolean(wanted).is_some_and(|on| boolean(running) == Some(on))
        }
        "integer" => match (in_base_units(wanted, unit), in_base_units(running, unit)) {
            (Some(wanted), Some(running)) => (round_half_even(wanted) - running).abs() < 0.5,
            _ => false,
        },
        "real" => match (in_base_units(wanted, unit), in_base_units(running, unit)) {
            (Some(wanted), Some(running)) => (wanted - running).abs() <= 1e-9 * running.abs().max(1.0),
            _ => false,
        },
        _ => false,
    }
}

fn round_half_even(value: f64) -> f64 {
    value.round_ties_even()
}

/// A value of `pg_settings` as `SHOW` prints it: in the largest unit that leaves no fraction.
pub(crate) fn human(setting: &str, unit: Option<&str>) -> String {
    let (Some((factor, is_memory)), Ok(value)) = (unit.and_then(base_unit), setting.parse::<i64>()) else {
        return setting.to_owned();
    };
    if value <= 0 {
        return setting.to_owned();
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the factors are whole numbers below 2^53"
    )]
    let smallest = i128::from(value) * factor as i128;
    let units: &[(&str, i128)] = if is_memory {
        &[
            ("TB", 1 << 40),
            ("GB", 1 << 30),
            ("MB", 1 << 20),
            ("kB", 1 << 10),
            ("B", 1),
        ]
    } else {
        &[
            ("d", 86_400_000_000),
            ("h", 3_600_000_000),
            ("min", 60_000_000),
            ("s", 1_000_000),
            ("ms", 1000),
            ("us", 1),
        ]
    };
    let fitting = units.iter().find(|(_, size)| smallest % size == 0);
    fitting.map_or_else(
        || setting.to_owned(),
        |(name, size)| format!("{}{name}", smallest / size),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_by_what_they_mean() {
        for (vartype, unit, wanted, running) in [
            ("integer", Some("8kB"), "128MB", "16384"),
            ("integer", Some("kB"), "4096", "4096"),
            ("integer", Some("kB"), "1.5GB", "1572864"),
            ("integer", Some("s"), "5min", "300"),
            ("integer", Some("ms"), "1h", "3600000"),
            ("integer", Some("MB"), "1 GB", "1024"),
            ("integer", None, "0x10", "16"),
            ("integer", None, "010", "8"),
            ("real", Some("ms"), "2s", "2000"),
            ("real", None, "0.90", "0.9"),
            ("real", None, "1e-2", "0.01"),
            ("bool", None, "TRUE", "on"),
            ("bool", None, "0", "off"),
            ("enum", None, "Replica", "replica"),
            ("enum", None, "yes", "on"),
        ] {
            assert!(same(vartype, unit, wanted, running), "{wanted} = {running}");
        }
        for (vartype, unit, wanted, running) in [
            ("integer", Some("kB"), "4mb", "4096"),
            ("integer", None, "4kB", "4096"),
            ("integer", Some("s"), "4MB", "4"),
            ("bool", None, "off", "on"),
            ("string", None, "A", "a"),
            ("integer", None, "", "0"),
        ] {
            assert!(!same(vartype, unit, wanted, running), "{wanted} != {running}");
        }
    }

    #[test]
    fn values_are_shown_in_the_largest_whole_unit() {
        for (setting, unit, shown) in [
            ("16384", Some("8kB"), "128MB"),
            ("4097", Some("kB"), "4097kB"),
            ("300", Some("s"), "5min"),
            ("0", Some("s"), "0"),
            ("-1", Some("8kB"), "-1"),
            ("100", None, "100"),
            ("on", None, "on"),
            ("1048576", Some("kB"), "1GB"),
        ] {
            assert_eq!(human(setting, unit), shown);
        }
    }
}
