//! `GET /events?since=&limit=&wait=`: what has happened on this member, oldest first.

use std::time::Duration;

use jiff::Timestamp;

use super::answer::Answer;
use super::json;
use super::query::Query;
use crate::daemon::events::{Events, KEPT, Page, Since, Wanted};

/// How many are given when nothing is said.
const LIMIT: usize = 1000;

/// A client that wants to wait longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Which events are wanted. Waits for one where the query asks for that, but not longer than a client that is gone may keep
/// its connection.
pub(crate) async fn wait(events: &Events, query: &Query) -> Result<Wanted, Answer> {
    let (wanted, wait) = read(query).map_err(|text| Answer::text(400, text))?;
    if let Since::Id(id) = wanted.since
        && !wait.is_zero()
    {
        events.wait_after(id, wait).await;
    }
    Ok(wanted)
}

/// The answer.
pub(crate) async fn answer(events: &Events, wanted: Wanted) -> Result<Answer, Answer> {
    let reader = events.clone();
    let page = tokio::task::spawn_blocking(move || reader.read(wanted)).await;
    let page = page.map_err(|_| Answer::text(503, "the events could not be read"))?;
    Ok(Answer::json_text(200, document(events.member().as_str(), &page)))
}

fn read(query: &Query) -> Result<(Wanted, Duration), String> {
    let since = match query.get("since") {
        None => Since::Ever,
        Some(text) => match (text.parse(), text.parse::<Timestamp>()) {
            (Ok(id), _) => Since::Id(id),
            (_, Ok(time)) => Since::Time(time),
            _ => {
                return Err(format!(
                    "since={text:?} is neither an event's id nor a time like 2026-01-31T03:12:00Z"
                ));
            }
        },
    };
    let number = |name: &str| -> Result<Option<u32>, String> {
        let read = |text: &str| {
            text.parse()
                .map_err(|_| format!("{name}={text:?} is not a whole number"))
        };
        query.get(name).map(read).transpose()
    };
    let limit = number("limit")?.map_or(LIMIT, |limit| KEPT.min(limit as usize));
    let wait = number("wait")?.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()));
    Ok((Wanted { since, limit }, wait.min(WAIT_MAX)))
}

/// The events stand in it as they were written.
fn document(member: &str, page: &Page) -> String {
    format!(
        "{{\"member\": {}, \"newest\": {}, \"events\": [{}]}}",
        json::to_text(&member),
        page.newest,
        page.lines.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_which_are_wanted() {
        let read = |text: &str| read(&Query::parse(text));
        let all = Wanted {
            since: Since::Ever,
            limit: LIMIT,
        };
        assert_eq!(read(""), Ok((all, Duration::ZERO)));
        let after = Wanted {
            since: Since::Id(7),
            limit: KEPT,
        };
        assert_eq!(read("since=7&limit=999999&wait=99"), Ok((after, WAIT_MAX)));
        let time = "2026-01-31T03:12:00Z";
        assert_eq!(
            read(&format!("since={time}")).map(|(wanted, _)| wanted.since),
            Ok(Since::Time(time.parse().unwrap()))
        );
        for bad in ["since=yesterday", "limit=-1", "wait=x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
