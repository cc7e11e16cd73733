//! Times of schedules as people write them (Patroni documentation, "Patroni REST API": "Switchover and failover
//! endpoints", `scheduled_at`; "Restart endpoint", `schedule`).
//!
//! Read leniently where only one reading is possible, and refused elsewhere: `12/05/2026` is May or December, and
//! `UTC+3` means east to some and west to others.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::Offset;

/// A time with the offset in which it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// The moment.
    pub(crate) timestamp: Timestamp,
    offset: Offset,
}

impl Schedule {
    /// ISO 8601 with a numeric offset, as Patroni writes it to the DCS: `2026-01-31T12:00:00+02:00`.
    pub(crate) fn iso_format(self) -> String {
        let local = self.offset.to_datetime(self.timestamp);
        let micros = match local.subsec_nanosecond() / 1000 {
            0 => String::new(),
            micros => format!(".{micros:06}"),
        };
        let seconds = self.offset.seconds();
        let (sign, seconds) = (if seconds < 0 { '-' } else { '+' }, seconds.unsigned_abs());
        format!(
            "{}{micros}{sign}{:02}:{:02}",
            local.strftime("%Y-%m-%dT%H:%M:%S"),
            seconds / 3600,
            seconds / 60 % 60
        )
    }
}

/// Why a time cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no time.
    Unparsable,
    /// It does not say in which zone.
    NoZone,
    /// It is over.
    Past,
}

impl Refusal {
    /// HTTP status and text for an action: `switchover` or `restart`.
    pub(crate) fn answer(self, action: &str) -> (u16, String) {
        match self {
            Self::Unparsable => (
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601"
                    .to_owned(),
            ),
            Self::NoZone => (
                400,
                format!("Timezone information is mandatory for the scheduled {action}"),
            ),
            Self::Past => (422, format!("Cannot schedule {action} in the past")),
        }
    }
}

/// Reads a time that must not be before `now`. A time without a date means today, in the zone that it names.
pub(crate) fn parse_schedule(text: &str, now: Timestamp) -> Result<Schedule, Refusal> {
    let mut parts = Parts::default();
    let mut words = split_words(text).into_iter().peekable();
    if words.peek().is_none() {
        return Err(Refusal::Unparsable);
    }
    for word in words {
        parts.take(&word).ok_or(Refusal::Unparsable)?;
    }
    let schedule = parts.finish(now)?;
    if schedule.timestamp < now {
        Err(Refusal::Past)
    } else {
        Ok(schedule)
    }
}

/// Splits at blanks and commas, but not at the comma of `10:00:00,5`.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let is_fraction = c == ',' && word.contains(':') && chars.peek().is_some_and(char::is_ascii_digit);
        if is_fraction {
            word.push('.');
        } else if c.is_whitespace() || c == ',' {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        } else {
            word.push(c);
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// What the words have said so far.
#[derive(Default)]
struct Parts {
    date: Option<Date>,
    year: Option<i16>,
    month: Option<i8>,
    day: Option<i8>,
    time: Option<Time>,
    offset: Option<Offset>,
    names_unknown_zone: bool,
}

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

/// The index of the name that `word` is, in full or by its first three letters.
fn index_of(names: &[&str], word: &str) -> Option<usize> {
    let word = word.trim_end_matches('.').to_ascii_lowercase();
    names
        .iter()
        .position(|name| *name == word || (word.len() == 3 && name.starts_with(&word)))
}

impl Parts {
    /// `None`: the word makes no sense here.
    fn take(&mut self, word: &str) -> Option<()> {
        let first = word.chars().next()?;
        if first.is_ascii_digit() {
            return self.take_number(word);
        }
        if self.time.is_some() && (first == '+' || first == '-') {
            return set(&mut self.offset, parse_offset(word)?);
        }
        if let Some(month) = index_of(&MONTHS, word) {
            return set(&mut self.month, i8::try_from(month + 1).ok()?);
        }
        if index_of(&WEEKDAYS, word).is_some() && self.time.is_none() {
            return Some(());
        }
        if let Some(is_afternoon) = half_of_day(word) {
            self.time = Some(in_half(self.time?, is_afternoon)?);
            return Some(());
        }
        self.take_zone(word)
    }

    fn take_zone(&mut self, word: &str) -> Option<()> {
        self.time?;
        if let Some(offset) = parse_offset(word) {
            return set(&mut self.offset, offset);
        }
        // An abbreviation: CET is one zone to people, and none to a computer.
        let looks_like_zone = (3..=5).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_uppercase());
        self.names_unknown_zone |= looks_like_zone;
        looks_like_zone.then_some(())
    }

    fn take_number(&mut self, word: &str) -> Option<()> {
        if let Some((date, rest)) = split_date(word) {
            set(&mut self.date, date)?;
            return match rest.strip_prefix(['T', 't']) {
                Some(time) => self.take_time(time, true),
                None => rest.is_empty().then_some(()),
            };
        }
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = word.split_at(digits);
        if !rest.is_empty() && !is_ordinal(rest) {
            return self.take_time(word, false);
        }
        match (digits, self.date) {
            (1 | 2, Some(_)) if rest.is_empty() => self.take_time(word, true),
            (1 | 2, None) => set(&mut self.day, number.parse().ok()?),
            (4, None) if rest.is_empty() => set(&mut self.year, number.parse().ok()?),
            _ => None,
        }
    }

    /// `HH:MM[:SS[.f]]`, then am or pm, then an offset; when a time must stand here also `HH`, `HHMM` and `HHMMSS`.
    fn take_time(&mut self, word: &str, must_be_time: bool) -> Option<()> {
        let end = word
            .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
            .unwrap_or(word.len());
        let (clock, rest) = word.split_at(end);
        let (half, zone) = match rest.get(..2).and_then(half_of_day) {
            Some(is_afternoon) => (Some(is_afternoon), &rest[2..]),
            None => (None, rest),
        };
        if !must_be_time && half.is_none() && !clock.contains(':') {
            return None;
        }
        let mut time = parse_clock(clock)?;
        if let Some(is_afternoon) = half {
            time = in_half(time, is_afternoon)?;
        }
        set(&mut self.time, time)?;
        if zone.is_empty() {
            Some(())
        } else {
            set(&mut self.offset, parse_offset(zone)?)
        }
    }

    fn finish(self, now: Timestamp) -> Result<Schedule, Refusal> {
        let named = [self.year.is_some(), self.month.is_some(), self.day.is_some()];
        let date = match (self.date, self.year, self.month, self.day) {
            (Some(date), None, None, None) => Some(date),
            (None, Some(year), Some(month), Some(day)) => {
                Some(Date::new(year, month, day).map_err(|_| Refusal::Unparsable)?)
            }
            (None, None, None, None) if self.time.is_some() => None,
            _ => return Err(Refusal::Unparsable),
        };
        debug_assert!(date.is_some() || named == [false; 3], "a date is whole or absent");
        let Some(offset) = self.offset.filter(|_| !self.names_unknown_zone) else {
            return Err(Refusal::NoZone);
        };
        let date = date.unwrap_or_else(|| offset.to_datetime(now).date());
        let local = date.to_datetime(self.time.unwrap_or(Time::midnight()));
        let timestamp = offset.to_timestamp(local).map_err(|_| Refusal::Unparsable)?;
        Ok(Schedule { timestamp, offset })
    }
}

/// Takes the value unless there is one: what is said twice has two readings.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.is_none().then(|| *place = Some(value))
}

fn is_ordinal(suffix: &str) -> bool {
    matches!(suffix.to_ascii_lowercase().as_str(), "st" | "nd" | "rd" | "th")
}

fn half_of_day(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "am" => Some(false),
        "pm" => Some(true),
        _ => None,
    }
}

fn in_half(time: Time, is_afternoon: bool) -> Option<Time> {
    if !(1..=12).contains(&time.hour()) {
        return None;
    }
    let hour = time.hour() % 12 + if is_afternoon { 12 } else { 0 };
    time.with().hour(hour).build().ok()
}

/// `YYYY-MM-DD`, with `-`, `/` or `.` twice, or `YYYYMMDD`; and what stands behind it.
fn split_date(word: &str) -> Option<(Date, &str)> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (year, month, day, rest) = match digits {
        8 => (&word[..4], &word[4..6], &word[6..8], &word[8..]),
        4 => {
            let separator = word[4..]
                .chars()
                .next()
                .filter(|c| matches!(c, '-' | '/' | '.'))?;
            let (month, rest) = word[5..].split_once(separator)?;
            let end = rest.bytes().take_while(u8::is_ascii_digit).count();
            (&word[..4], month, &rest[..end], &rest[end..])
        }
        _ => return None,
    };
    Some((Date::new(number(year)?, number(month)?, number(day)?).ok()?, rest))
}

fn parse_clock(text: &str) -> Option<Time> {
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, None), |(whole, rest)| (whole, Some(rest)));
    let (hour, minute, second) = if whole.contains(':') {
        let mut fields = whole.split(':');
        let found = (fields.next()?, fields.next()?, fields.next());
        if fields.next().is_some() {
            return None;
        }
        found
    } else {
        match whole.len() {
            1 | 2 => (whole, "0", None),
            4 => (&whole[..2], &whole[2..], None),
            6 => (&whole[..2], &whole[2..4], Some(&whole[4..])),
            _ => return None,
        }
    };
    let nanoseconds = match (fraction, second) {
        (None, _) => 0,
        (Some(digits), Some(_)) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let micros = format!("{digits:0<6}");
            number::<i32>(&micros[..6])?.checked_mul(1000)?
        }
        (Some(_), _) => return None,
    };
    Time::new(
        number(hour)?,
        number(minute)?,
        second.map_or(Some(0), number)?,
        nanoseconds,
    )
    .ok()
}

/// `Z`, `UTC`, `GMT`, `+HH`, `+HHMM`, `+HH:MM`.
fn parse_offset(text: &str) -> Option<Offset> {
    if ["z", "utc", "gmt", "ut"]
        .iter()
        .any(|name| text.eq_ignore_ascii_case(name))
    {
        return Some(Offset::UTC);
    }
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, minutes) = match (digits.split_once(':'), digits.len()) {
        (Some((hours, minutes)), _) if minutes.len() == 2 => (hours, minutes),
        (None, 1 | 2) => (digits, "0"),
        (None, 4) if digits.is_ascii() => digits.split_at(2),
        _ => return None,
    };
    let (hours, minutes): (i32, i32) = (number(hours)?, number(minutes)?);
    if hours > 24 || minutes > 59 {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()
}

/// One or more digits, no sign.
fn number<T: FromStr>(digits: &str) -> Option<T> {
    let is_plain = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit());
    if is_plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn times_are_read_in_the_forms_that_people_use() {
        for (text, iso) in [
            ("2026-12-05T10:00+02:00", "2026-12-05T10:00:00+02:00"),
            (
                "2026-12-05T10:00:00.000001+00:00",
                "2026-12-05T10:00:00.000001+00:00",
            ),
            ("2026-12-05 10:00 UTC", "2026-12-05T10:00:00+00:00"),
            ("2026-12-05 10:00:00.5 -0330", "2026-12-05T10:00:00.500000-03:30"),
            ("2026-12-05 10:00:00,25Z", "2026-12-05T10:00:00.250000+00:00"),
            ("13:00Z", "2026-11-22T13:00:00+00:00"),
            ("01:30+13", "2026-11-23T01:30:00+13:00"),
            ("5 Dec 2026 3pm UTC", "2026-12-05T15:00:00+00:00"),
            ("December 5th, 2026 12:30 am gmt", "2026-12-05T00:30:00+00:00"),
            ("Sat, 05 Dec 2026 10:00:00 GMT", "2026-12-05T10:00:00+00:00"),
            ("20261205T100000Z", "2026-12-05T10:00:00+00:00"),
            ("2026-12-05T1000+02", "2026-12-05T10:00:00+02:00"),
            ("2026-12-05 10 UTC", "2026-12-05T10:00:00+00:00"),
            ("2026/12/05 10:00z", "2026-12-05T10:00:00+00:00"),
            ("2026.12.5 10:00 +5", "2026-12-05T10:00:00+05:00"),
        ] {
            assert_eq!(
                parse_schedule(text, now()).map(Schedule::iso_format),
                Ok(iso.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_two_readings_or_none_is_refused() {
        for text in [
            "",
            "tomorrow",
            "now",
            "1767607200",
            "12/05/2026 10:00Z",
            "2026-12-05T24:00Z",
            "2026-13-05T10:00Z",
            "2026-02-30 10:00Z",
            "2026-12-05 10:00 UTC+3",
            "2026-12-05T10:00Z 11:00",
            "2026-12-05 10:61Z",
            "😀",
            "2026-12-05T10:00:00+02:00:30",
            "2026-12-05 13pm UTC",
            "Dec 2026 10:00Z",
            "2026-12-05T",
            "+02:00",
            "2é",
            "2026-12-05 é:00",
            "10:00:00.Z",
            "2026-12-05 10:00 +é9",
        ] {
            assert_eq!(parse_schedule(text, now()), Err(Refusal::Unparsable), "{text}");
        }
        for text in [
            "2026-12-05T10:00",
            "2026-12-05",
            "13:00",
            "2026-12-05 10:00 CET",
            "2026-12-05 10:00 CET +01:00",
        ] {
            assert_eq!(parse_schedule(text, now()), Err(Refusal::NoZone), "{text}");
        }
        for text in ["2026-11-22T11:59:59Z", "11:00Z", "2026-11-22T13:00:00+02:00"] {
            assert_eq!(parse_schedule(text, now()), Err(Refusal::Past), "{text}");
        }
    }
}
