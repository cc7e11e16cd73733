//! `events`: what has happened, of all members together.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ha::cluster::Member;
use ha::event::Event;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::console::print;
use super::error::Error;
use super::event_log::{self, Told};
use super::session::Session;
use super::table::{Cell, Column, Format, Table, python_json, separated};
use super::view::RoleFilter;

/// How many of each member are shown when nothing is said.
const LIMIT: usize = 100;

/// How long a member waits for news before it answers that there are none, in seconds.
const WAIT_SECONDS: u64 = 20;

/// After a failure a member is asked again so much later.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Members; default: all
    member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Since when: 10m, 03:12, 2026-01-31T03:12:00 or 2026-01-31T03:12:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// How many of each member at most
    #[arg(long, short = 'n', default_value_t = LIMIT)]
    limit: usize,
    /// Go on and show what happens
    #[arg(long)]
    follow: bool,
    /// Output format: pretty, tsv, json, yaml or yml
    #[arg(short, long, value_parser = Format::parse, default_value = "pretty")]
    format: Format,
}

impl Events {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let since = self.since.as_deref().map(event_log::time).transpose()?;
        let (_, store) = session
            .store_or_scope(self.cluster_name, session.group_or_own(self.group))
            .await?;
        let view = store.view().await?;
        let mut members = view.members(RoleFilter::Any);
        members.retain(|member| self.member_names.is_empty() || self.member_names.contains(&member.name.0));
        if members.is_empty() {
            return Err(Error::new("there is no such member"));
        }
        let log = event_log::read(session, &members, since, self.limit).await;
        for (name, why) in &log.silent {
            tracing::warn!("{name} has not told its events: {why}");
        }
        if !self.follow {
            return print(&table(&log.events, self.format).render(self.format));
        }
        print(&lines(&log.events, self.format))?;
        let newest = log.events.iter().map(|event| (event.member.0.clone(), event.id));
        follow(session, &members, newest.collect(), self.format).await
    }
}

/// Each member is asked for news, and answers when it has some.
async fn follow(
    session: &Session,
    members: &[&Member],
    mut newest: BTreeMap<String, u64>,
    format: Format,
) -> Result<(), Error> {
    let next = |member, since, pause| next(session, member, since, pause);
    let mut asked: FuturesUnordered<_> = members
        .iter()
        .map(|member| next(*member, newest.get(&member.name.0).copied(), Duration::ZERO))
        .collect();
    while let Some((member, since, told)) = asked.next().await {
        match told {
            Ok(mut told) => {
                // A page that is full ends before the newest.
                let last = told
                    .events
                    .iter()
                    .map(|event| event.id)
                    .max()
                    .unwrap_or(told.newest);
                event_log::sort(&mut told.events);
                print(&lines(&told.events, format))?;
                newest.insert(member.name.0.clone(), last);
                asked.push(next(member, Some(last), Duration::ZERO));
            }
            Err(why) => {
                tracing::debug!("{}: {why}", member.name);
                asked.push(next(member, since, PAUSE));
            }
        }
    }
    Ok(())
}

/// The next news of a member; the first time only what the newest is.
async fn next<'a>(
    session: &Session,
    member: &'a Member,
    since: Option<u64>,
    pause: Duration,
) -> (&'a Member, Option<u64>, Result<Told, String>) {
    tokio::time::sleep(pause).await;
    let (endpoint, patience) = match since {
        Some(id) => (
            format!("events?since={id}&wait={WAIT_SECONDS}"),
            Duration::from_secs(WAIT_SECONDS + 10),
        ),
        None => ("events?limit=0".to_owned(), Duration::from_secs(10)),
    };
    let told = event_log::ask(session, member, &endpoint, patience).await;
    (member, since, told)
}

/// A moment as it is shown to people: local time, to the millisecond.
pub(crate) fn local(at: Timestamp) -> String {
    // Expected texts of tests have one zone everywhere.
    let zone = if cfg!(test) {
        TimeZone::UTC
    } else {
        TimeZone::system()
    };
    let zoned = at.to_zoned(zone);
    zoned.strftime("%Y-%m-%d %H:%M:%S.%3f").to_string()
}

fn table(events: &[Event], format: Format) -> Table {
    let is_for_machines = matches!(format, Format::Json | Format::Yaml);
    let mut columns = vec![
        Column::left("Time"),
        Column::left("Member"),
        Column::left("Kind"),
        Column::left("Text"),
    ];
    if is_for_machines {
        columns.push(Column::left("Id"));
        columns.push(Column::left("Facts"));
    }
    let row = |event: &Event| {
        let time = if is_for_machines {
            format!("{:.3}", event.at)
        } else {
            local(event.at)
        };
        let mut row = vec![
            Cell::text(time),
            Cell::text(event.member.as_str()),
            Cell::text(event.what.kind()),
            Cell::text(event.what.to_string()),
        ];
        if is_for_machines {
            row.push(Cell::Number(event.id));
            row.push(facts(event));
        }
        row
    };
    Table {
        title: None,
        columns,
        rows: events.iter().map(row).collect(),
        omits_empty_cells: true,
        cuts_long_cells: true,
    }
}

fn facts(event: &Event) -> Cell {
    let facts = serde_json::to_value(event)
        .ok()
        .and_then(|mut value| value.get_mut("facts").map(serde_json::Value::take));
    match facts {
        Some(serde_json::Value::Object(facts)) => Cell::Mapping(facts),
        _ => Cell::empty(),
    }
}

/// One line for each event, so that a reader has it at once.
fn lines(events: &[Event], format: Format) -> String {
    let line = |event: &Event| match format {
        Format::Json | Format::Yaml => {
            // An event is always JSON; a list of one is YAML too.
            let value = serde_json::to_value(event).unwrap_or_default();
            let text = python_json(&value);
            let dash = if format == Format::Yaml { "- " } else { "" };
            format!("{dash}{text}\n")
        }
        Format::Pretty | Format::Topology | Format::Tsv => {
            let words = [
                local(event.at),
                config::escape::line(event.member.as_str()).into_owned(),
                event.what.kind().to_owned(),
                event.what.to_string(),
            ];
            let delimiter = if format == Format::Tsv { "\t" } else { "  " };
            separated(&[], &[words.into()], delimiter)
        }
    };
    events.iter().map(line).collect()
}
