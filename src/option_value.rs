//! Values of options on the command line, refused by a message that says what is expected.

use std::time::Duration;

/// A whole number from 0 up.
///
/// # Errors
/// It is another text, or does not fit.
pub(crate) fn whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text
        .parse::<u64>()
        .ok()
        .and_then(|number| T::try_from(number).ok());
    match number {
        Some(number) if is_number => Ok(number),
        None if is_number => Err("the number is too large".to_owned()),
        Some(_) | None => Err("expected a whole number from 0 up".to_owned()),
    }
}

/// A TCP port.
///
/// # Errors
/// It is none.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    whole(text)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| "expected a port from 1 to 65535".to_owned())
}

/// A number of seconds, with a fraction or without.
///
/// # Errors
/// It is no number, is negative, or is too large for a time.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("'{text}' is not a valid float."))?;
    if seconds < 0.0 {
        return Err("expected a number of seconds from 0 up".to_owned());
    }
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| "expected a number of seconds that is not too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_whole_and_fit() {
        let (no_number, too_large) = ("expected a whole number from 0 up", "the number is too large");
        for (text, expected) in [
            ("0", Ok(0)),
            ("007", Ok(7)),
            ("255", Ok(255)),
            ("256", Err(too_large)),
            ("99999999999999999999999", Err(too_large)),
            ("-1", Err(no_number)),
            ("+1", Err(no_number)),
            ("1.5", Err(no_number)),
            ("1e3", Err(no_number)),
            ("", Err(no_number)),
            ("x", Err(no_number)),
        ] {
            assert_eq!(whole::<u8>(text), expected.map_err(str::to_owned), "{text:?}");
        }
        assert_eq!(port("5432"), Ok(5432));
        for text in ["0", "-1", "65536", "x", ""] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        for text in ["-5", "-0.1", "inf", "-inf", "nan", "1e300", "x", ""] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }
}
