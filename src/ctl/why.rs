//! `why`: tells the last failover, switchover or demotion as a short story, and why a member does not lead.

mod story;
#[cfg(test)]
mod tests;
mod transition;
#[cfg(test)]
mod transition_tests;

use clap::Args;
use ha::event::{Event, Verdict, What};
use serde_json::{Value, json};

use super::console::print;
use super::error::Error;
use super::event_log::{self, EventLog};
use super::events::local;
use super::remarks;
use super::session::Session;
use super::table::{Format, separated};
use super::view::{RoleFilter, View};
use story::Story;

/// How many events of each member are looked at.
const LIMIT: usize = 2000;

/// How far around a given moment.
const AROUND: std::time::Duration = std::time::Duration::from_secs(3600);

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Cluster; default: the scope of the configuration
    cluster_name: Option<String>,
    /// Member that the question is about: why it does not lead
    member_name: Option<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// What happened then, instead of last: 10m (ago), 03:12, 2026-01-31T03:12:00 or 2026-01-31T03:12:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Output format: pretty, tsv, json, yaml or yml
    #[arg(short, long, value_parser = Format::parse, default_value = "pretty")]
    format: Format,
}

impl Why {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let at = self.at.as_deref().map(event_log::time).transpose()?;
        let (_, store) = session
            .store_or_scope(self.cluster_name, session.group_or_own(self.group))
            .await?;
        let mut view = store.view().await?;
        remarks::add(session, &mut view).await;
        let members = view.members(RoleFilter::Any);
        if let Some(name) = &self.member_name
            && !members.iter().any(|member| &member.name.0 == name)
        {
            return Err(Error::new(format!("{name} is not a member of cluster")));
        }
        let since = at.and_then(|at| at.checked_sub(AROUND).ok());
        let log = event_log::read(session, &members, since, LIMIT).await;
        let story = story::tell(&log.events, at, &log.silent);
        let mut silent = log.silent.clone();
        for name in story.iter().flat_map(story::mentioned) {
            if !members.iter().any(|member| member.name.0 == name) {
                silent.push((name, "it has no key in the DCS".to_owned()));
            }
        }
        let answer = Answer {
            story,
            now: now(&view, &log, self.member_name.as_deref()),
            silent: &silent,
        };
        print(&answer.render(self.format))
    }
}

/// What is told.
struct Answer<'a> {
    story: Option<Story<'a>>,
    /// How it is now.
    now: Vec<String>,
    silent: &'a [(String, String)],
}

/// Who leads, and why others do not: all of them while nobody leads, else the one that was asked about.
fn now(view: &View, log: &EventLog, about: Option<&str>) -> Vec<String> {
    let leader = view.cluster().and_then(|cluster| cluster.leader_name());
    let mut lines = vec![match leader {
        Some(leader) => format!("now {leader} leads"),
        None => "now nobody leads".to_owned(),
    }];
    for member in view.members(RoleFilter::Any) {
        let is_leader = leader == Some(&member.name);
        let is_meant = about.map_or(leader.is_none(), |about| about == member.name.as_str());
        if is_meant && !is_leader {
            lines.push(why_not(log, member.name.as_str()));
        }
    }
    for remark in &view.remarks {
        lines.push(format!("{}: {}{}", remark.member, remark.label, remark.reason));
    }
    lines
}

/// The newest that a member has said of itself as a candidate.
fn why_not(log: &EventLog, name: &str) -> String {
    if let Some((_, why)) = log.silent.iter().find(|(silent, _)| silent == name) {
        return format!("{name} cannot be asked: {why}");
    }
    let mut own = log
        .events
        .iter()
        .rev()
        .filter(|event| event.member.as_str() == name);
    let race = own.clone().find(|event| matches!(event.what, What::Race(_)));
    let status = own.find(|event| matches!(event.what, What::Status { .. }));
    let mut line = match race {
        Some(event) => format!(
            "{name}, when it last could, at {}: {}",
            local(event.at),
            race_text(event)
        ),
        None => format!("{name} has not run for the leader key, as far as its events go back"),
    };
    if let Some(event) = status {
        line.push_str(&format!("; its status since {}: {}", local(event.at), event.what));
    }
    line
}

fn race_text(event: &Event) -> String {
    match &event.what {
        What::Race(race) if race.verdict == Verdict::Waived => race.why.join("; "),
        what => what.to_string(),
    }
}

impl Answer<'_> {
    fn headline(&self) -> &str {
        self.story.as_ref().map_or(
            "no failover, switchover or demotion is known, as far as the members' events go back",
            |story| &story.headline,
        )
    }

    fn lines(&self) -> Vec<String> {
        let conclusions = self
            .story
            .iter()
            .flat_map(|story| story.conclusions.iter().cloned());
        let silent = self
            .silent
            .iter()
            .map(|(name, why)| format!("{name} has not told its part: {why}"));
        conclusions
            .chain(self.now.iter().cloned())
            .chain(silent)
            .collect()
    }

    fn steps(&self) -> &[&Event] {
        self.story.as_ref().map_or(&[], |story| &story.steps)
    }

    fn render(&self, format: Format) -> String {
        match format {
            Format::Pretty | Format::Topology => self.pretty(),
            Format::Tsv => {
                let header = ["Time", "Member", "Text"].map(str::to_owned);
                let row = |event: &&Event| {
                    vec![
                        format!("{:.3}", event.at),
                        event.member.0.clone(),
                        event.what.to_string(),
                    ]
                };
                let mut rows: Vec<Vec<String>> = self.steps().iter().map(row).collect();
                rows.extend(
                    self.lines()
                        .into_iter()
                        .map(|line| vec![String::new(), String::new(), line]),
                );
                separated(&header, &rows, "\t")
            }
            Format::Json => format!("{}\n", self.document()),
            Format::Yaml => config::yaml::dump(&config::Value::from(&self.document())),
        }
    }

    fn document(&self) -> Value {
        let silent: serde_json::Map<String, Value> = self
            .silent
            .iter()
            .map(|(name, why)| (name.clone(), why.as_str().into()))
            .collect();
        json!({
            "headline": self.headline(),
            "steps": self.steps(),
            "conclusions": self.story.as_ref().map_or(&[] as &[String], |story| &story.conclusions),
            "now": self.now,
            "silent": silent,
        })
    }

    fn pretty(&self) -> String {
        let width = self
            .steps()
            .iter()
            .map(|event| event.member.as_str().len())
            .max()
            .unwrap_or(0);
        let mut text = format!("{}\n", self.headline());
        if !self.steps().is_empty() {
            text.push('\n');
        }
        for event in self.steps() {
            let time = local(event.at);
            let time = time.split_once(' ').map_or(&*time, |(_, time)| time);
            text.push_str(&format!(
                "  {time}  {:width$}  {}\n",
                event.member.as_str(),
                event.what
            ));
        }
        text.push('\n');
        for line in self.lines() {
            text.push_str(&format!("{line}\n"));
        }
        text
    }
}
