//! Times as people write them for `--scheduled`: ISO 8601 and the usual other forms that can be read in one way only.

use jiff::civil::{Date, DateTime, Time};
use jiff::fmt::strtime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Date and time forms besides ISO 8601, in jiff's terms. The month is written out or stands between year and day.
const DATE_TIME_FORMATS: [&str; 9] = [
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y-%m-%d %I:%M:%S %p",
    "%Y-%m-%d %I:%M %p",
    "%d %b %Y %H:%M:%S",
    "%d %b %Y %H:%M",
    "%b %d %Y %H:%M:%S",
    "%b %d %Y %H:%M",
    "%b %d %H:%M:%S %Y",
];
const DATE_FORMATS: [&str; 3] = ["%Y/%m/%d", "%d %b %Y", "%b %d %Y"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];
const TIME_FORMATS: [&str; 5] = ["%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p", "%I %p"];

/// The time that `text` means; `None` for `now` and for nothing. A time without a zone is meant in the zone of `now`,
/// one without a date is meant today.
///
/// # Errors
/// The message for the user when the text is no time.
pub(crate) fn parse(text: &str, now: &Zoned) -> Result<Option<Zoned>, String> {
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    read(text.trim(), now).map(Some).ok_or_else(|| {
        format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        )
    })
}

/// In ISO 8601 with the offset, as Python's `isoformat` writes it.
pub(crate) fn iso_format(time: &Zoned) -> String {
    python_format(time, 'T')
}

/// The same with a blank between date and time, as Python's `str` writes it.
pub(crate) fn spaced_format(time: &Zoned) -> String {
    python_format(time, ' ')
}

/// A time with an offset in the form of [`iso_format`]; a text that is none stays as it is.
pub(crate) fn offset_time(text: &str) -> String {
    let nowhere = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    read(text, &nowhere).map_or_else(|| text.to_owned(), |time| iso_format(&time))
}

fn python_format(time: &Zoned, separator: char) -> String {
    let micros = time.subsec_nanosecond() / 1000;
    let fraction = if micros == 0 {
        String::new()
    } else {
        format!(".{micros:06}")
    };
    let seconds = time.offset().seconds();
    let sign = if seconds < 0 { '-' } else { '+' };
    let (hours, minutes) = (seconds.abs() / 3600, seconds.abs() / 60 % 60);
    format!(
        "{}{separator}{}{fraction}{sign}{hours:02}:{minutes:02}",
        time.date(),
        time.strftime("%H:%M:%S")
    )
}

fn read(text: &str, now: &Zoned) -> Option<Zoned> {
    if text.ends_with(']') {
        return text.parse().ok();
    }
    let (civil, zone) = split_zone(text);
    let zone = zone.unwrap_or_else(|| now.time_zone().clone());
    let today = now.with_time_zone(zone.clone()).date();
    read_civil(civil.trim(), today)?.to_zoned(zone).ok()
}

/// Splits off what says the zone: `Z`, an offset with or without a colon and minutes, `UTC`, or a name of the time
/// zone database.
fn split_zone(text: &str) -> (&str, Option<TimeZone>) {
    if let Some((civil, name)) = text.rsplit_once(' ')
        && let Some(zone) = named_zone(name)
    {
        return (civil, Some(zone));
    }
    if let Some(civil) = text.strip_suffix(['Z', 'z'])
        && civil.ends_with(|c: char| c.is_ascii_digit())
    {
        return (civil, Some(TimeZone::UTC));
    }
    if let Some(index) = text.rfind(['+', '-']) {
        let (civil, offset) = text.split_at(index);
        let has_time = civil.contains(':') || civil.contains('T');
        if let Some(offset) = read_offset(offset).filter(|_| has_time) {
            return (civil, Some(TimeZone::fixed(offset)));
        }
    }
    (text, None)
}

fn named_zone(name: &str) -> Option<TimeZone> {
    let starts_as_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
    match name.to_ascii_uppercase().as_str() {
        "AM" | "PM" => None,
        "UTC" | "GMT" | "Z" => Some(TimeZone::UTC),
        _ if starts_as_name => TimeZone::get(name).ok(),
        _ => None,
    }
}

/// `+2`, `+02`, `+0200`, `+02:00`.
fn read_offset(text: &str) -> Option<Offset> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = text.get(1..)?;
    let (hours, minutes) = match (digits.split_once(':'), digits.len()) {
        (Some((hours, minutes)), _) if minutes.len() == 2 => (hours, minutes),
        (None, 1 | 2) => (digits, "0"),
        (None, 4) => digits.split_at_checked(2)?,
        _ => return None,
    };
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.len() <= 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i32>().ok().filter(|_| is_number)
    };
    let (hours, minutes) = (number(hours)?, number(minutes).filter(|minutes| *minutes < 60)?);
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

fn read_civil(text: &str, today: Date) -> Option<DateTime> {
    if let Ok(date_time) = text.parse::<DateTime>() {
        return Some(date_time);
    }
    let words = text.replace(',', " ");
    let words: Vec<_> = words.split_whitespace().filter_map(normal_word).collect();
    let words = words.join(" ");
    let date_time = |format: &&str| strtime::parse(format, &words).ok()?.to_datetime().ok();
    let date = |format: &&str| {
        Some(
            strtime::parse(format, &words)
                .ok()?
                .to_date()
                .ok()?
                .at(0, 0, 0, 0),
        )
    };
    let time = |format: &&str| strtime::parse(format, &words).ok()?.to_time().ok();
    DATE_TIME_FORMATS
        .iter()
        .find_map(date_time)
        .or_else(|| DATE_FORMATS.iter().find_map(date))
        .or_else(|| {
            TIME_FORMATS
                .iter()
                .find_map(time)
                .map(|time: Time| today.to_datetime(time))
        })
}

/// Names of months are cut to three letters, those of weekdays are left out.
fn normal_word(word: &str) -> Option<&str> {
    let lower = word.to_ascii_lowercase();
    let is_one_of = |names: &[&str]| {
        names
            .iter()
            .any(|name| *name == lower || name.get(..3) == Some(lower.as_str()))
    };
    if is_one_of(&WEEKDAYS) {
        return None;
    }
    if is_one_of(&MONTHS) {
        word.get(..3)
    } else {
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        "2026-11-22T19:42:05+01:00[Europe/Berlin]".parse().unwrap()
    }

    #[test]
    fn usual_forms_are_read() {
        for (text, expected) in [
            ("2030-01-01T20:42", "2030-01-01T20:42:00+01:00"),
            ("2030-07-01T20:42", "2030-07-01T20:42:00+02:00"),
            ("2030-01-01 20:42:10", "2030-01-01T20:42:10+01:00"),
            ("2030-01-01", "2030-01-01T00:00:00+01:00"),
            ("20300101T204210", "2030-01-01T20:42:10+01:00"),
            ("2030-01-01T20:42:10.5Z", "2030-01-01T20:42:10.500000+00:00"),
            ("2030-01-01T20:42:10-3", "2030-01-01T20:42:10-03:00"),
            ("2030-01-01T20:42:10+02", "2030-01-01T20:42:10+02:00"),
            ("2030-01-01T20:42+0530", "2030-01-01T20:42:00+05:30"),
            ("2030-01-01 20:42 +05:30", "2030-01-01T20:42:00+05:30"),
            ("2030-01-01 20:42 UTC", "2030-01-01T20:42:00+00:00"),
            ("2030-01-01 20:42 America/New_York", "2030-01-01T20:42:00-05:00"),
            ("2030-01-01T20:42[America/New_York]", "2030-01-01T20:42:00-05:00"),
            ("2030/01/31 20:42", "2030-01-31T20:42:00+01:00"),
            ("1 Jan 2030 20:42", "2030-01-01T20:42:00+01:00"),
            ("Jan 1, 2030 20:42", "2030-01-01T20:42:00+01:00"),
            ("1 January 2030", "2030-01-01T00:00:00+01:00"),
            ("Tue Jan  1 20:42:10 2030", "2030-01-01T20:42:10+01:00"),
            ("Tue, 01 Jan 2030 20:42:10 +0000", "2030-01-01T20:42:10+00:00"),
            ("2030-01-01 8:42 pm", "2030-01-01T20:42:00+01:00"),
            ("20:42", "2026-11-22T20:42:00+01:00"),
            ("8:42 PM", "2026-11-22T20:42:00+01:00"),
        ] {
            let read = parse(text, &now()).map(|time| time.map(|time| iso_format(&time)));
            assert_eq!(read, Ok(Some(expected.to_owned())), "{text}");
        }
    }

    #[test]
    fn now_is_no_time() {
        assert_eq!(parse("now", &now()), Ok(None));
        assert_eq!(parse("", &now()), Ok(None));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "tomorrow",
            "2030-13-01",
            "25:00",
            "01/02/2030",
            "2030-01-01T20:42+99",
            "2030-01-01 20:42 XX",
        ] {
            let expected = format!(
                "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
            );
            assert_eq!(parse(text, &now()), Err(expected));
        }
    }

    #[test]
    fn a_stored_time_keeps_its_offset() {
        assert_eq!(
            offset_time("2030-01-01T00:00:00+02:00"),
            "2030-01-01T00:00:00+02:00"
        );
        assert_eq!(offset_time("2030-01-01T00:00:00Z"), "2030-01-01T00:00:00+00:00");
        assert_eq!(offset_time("whenever"), "whenever");
    }

    #[test]
    fn the_prompt_shows_a_blank() {
        let time = parse("2030-01-01 12:00:00+00:00", &now()).unwrap().unwrap();
        assert_eq!(spaced_format(&time), "2030-01-01 12:00:00+00:00");
    }
}
