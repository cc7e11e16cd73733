//! The events of all members together: asked of each through its REST API, in the order in which they have happened.

use std::time::Duration;

use futures_util::future::join_all;
use ha::cluster::Member;
use ha::event::Event;
use jiff::Timestamp;
use net::http::Method;
use serde::Deserialize;

use super::error::Error;
use super::session::Session;

/// A member that is away must not keep the others' story waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a member has told nothing that can be reached and runs.
pub(crate) const NO_EVENTS: &str = "it keeps no events, as Patroni and older versions do not";

/// What members have told.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventLog {
    /// Oldest first.
    pub(crate) events: Vec<Event>,
    /// Who has not, and why.
    pub(crate) silent: Vec<(String, String)>,
}

/// What one member answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    /// The id of its newest event.
    pub(crate) newest: u64,
    #[serde(default)]
    pub(crate) events: Vec<Event>,
}

/// Asks all `members` at once for their events since then, at most `limit` of each.
pub(crate) async fn read(
    session: &Session,
    members: &[&Member],
    since: Option<Timestamp>,
    limit: usize,
) -> EventLog {
    let since = since.map_or(String::new(), |since| format!("&since={since}"));
    let endpoint = format!("events?limit={limit}{since}");
    let asked = members.iter().map(|member| async {
        let told = ask(session, member, &endpoint, PATIENCE).await;
        (member.name.to_string(), told)
    });
    let mut log = EventLog::default();
    for (name, told) in join_all(asked).await {
        match told {
            Ok(told) => log.events.extend(told.events),
            Err(why) => log.silent.push((name, why)),
        }
    }
    sort(&mut log.events);
    log
}

/// Clocks of two machines differ a little; the events of one member stay in their order.
pub(crate) fn sort(events: &mut [Event]) {
    events.sort_by(|a, b| (a.at, &a.member, a.id).cmp(&(b.at, &b.member, b.id)));
}

/// Asks one member.
pub(crate) async fn ask(
    session: &Session,
    member: &Member,
    endpoint: &str,
    patience: Duration,
) -> Result<Told, String> {
    let answer = session
        .request(member, (Method::GET, endpoint), None, patience)
        .await
        .map_err(|error| error.to_string())?;
    let told = answer.json().and_then(|body| serde_json::from_value(body).ok());
    told.ok_or_else(|| NO_EVENTS.to_owned())
}

/// Reads a moment: `10m` ago, or a time with or without a zone.
///
/// # Errors
/// It is neither.
pub(crate) fn time(text: &str) -> Result<Timestamp, Error> {
    let now = jiff::Zoned::now();
    if let Some((number, unit)) = text.char_indices().next_back().map(|(at, _)| text.split_at(at))
        && let Ok(number) = number.parse::<u32>()
        && let Some(seconds) = match unit {
            "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            "d" => Some(86400),
            _ => None,
        }
    {
        let ago = Duration::from_secs(u64::from(number) * seconds);
        return now
            .timestamp()
            .checked_sub(ago)
            .map_err(|error| Error::new(error.to_string()));
    }
    let text = text.replacen(' ', "T", 1);
    let with_zone = text.parse::<Timestamp>().ok();
    let local = || {
        let time = text.parse::<jiff::civil::DateTime>().ok().or_else(|| {
            let time = text.parse::<jiff::civil::Time>().ok()?;
            Some(now.date().to_datetime(time))
        })?;
        Some(time.to_zoned(now.time_zone().clone()).ok()?.timestamp())
    };
    with_zone.or_else(local).ok_or_else(|| {
        Error::new(format!(
            "'{text}' is no time: give 10m, 03:12, 2026-01-31T03:12:00 or 2026-01-31T03:12:00Z"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now = Timestamp::now();
        let ago = now.duration_since(time("10m").unwrap()).as_secs();
        assert!((598..=605).contains(&ago), "{ago}");
        let expected: Timestamp = "2026-01-31T03:12:00Z".parse().unwrap();
        assert_eq!(time("2026-01-31T03:12:00Z").unwrap(), expected);
        assert_eq!(time("2026-01-31 03:12:00+00:00").unwrap(), expected);
        assert!(time("2026-01-31T03:12").is_ok() && time("03:12").is_ok() && time("03:12:09").is_ok());
        for bad in ["", "m", "yesterday", "10y", "ä"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
