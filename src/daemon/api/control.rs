//! What people may ask of the cluster through the REST API, checked and put into the words of those who do it. Pure:
//! the checks run in Patroni's order and the first that fails answers, in Patroni's texts, which scripts look for.

use std::time::Duration;

use config::{DynamicConfig, SynchronousMode, Value};
use ha::cluster::{Cluster, Failover, Member, ScheduledRestart};
use ha::facts::{Peer, PeerAnswer, RestartConditions};
use ha::pg::{MemberName, Role};
use jiff::Timestamp;
use serde_json::Map;

use super::answer::Answer;
use super::time::{Schedule, parse_schedule};

/// Patroni's limit for a question to another member.
pub(crate) const PEER_LIMIT: Duration = Duration::from_secs(2);

/// The body of a request.
pub(crate) type Body = Map<String, serde_json::Value>;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// From a named leader.
    Switchover,
    /// To a named candidate.
    Failover,
}

impl Action {
    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }
}

/// A switchover or failover that may be asked of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Which.
    pub(crate) action: Action,
    /// Whom to ask whether it could take over; `None` when that is not asked, because it is scheduled.
    pub(crate) candidates: Option<Vec<Peer>>,
    leader: Option<String>,
    candidate: Option<String>,
    schedule: Option<Schedule>,
    /// Who led when it was asked for.
    previous_leader: Option<MemberName>,
}

/// Checks a request for a switchover or a failover.
pub(crate) fn check_switchover(
    asked: Action,
    body: &Body,
    cluster: &Cluster,
    config: &DynamicConfig,
    now: Timestamp,
) -> Result<Plan, Answer> {
    let refuse = |text: &str| Err(Answer::text(400, text));
    let leader = text_of(body, "leader");
    let candidate = text_of(body, "candidate").or_else(|| text_of(body, "member"));
    match (asked, &leader, &candidate) {
        (Action::Failover, _, None) => {
            return refuse("Failover could be performed only to a specific candidate");
        }
        (Action::Switchover, None, _) => {
            return refuse("Switchover could be performed only from a specific leader");
        }
        (Action::Failover | Action::Switchover, _, _) => {}
    }
    let schedule = match text_of(body, "scheduled_at") {
        None => None,
        Some(_) if asked == Action::Failover => return refuse("Failover can't be scheduled"),
        Some(_) if config.pause => return refuse("Can't schedule switchover in the paused state"),
        Some(text) => Some(parse_schedule(&text, now).map_err(|why| refusal(why.answer(asked.as_str())))?),
    };
    if config.pause && candidate.is_none() {
        return refuse("Switchover is possible only to a specific candidate in a paused state");
    }
    if leader == candidate {
        return refuse("Switchover target and source are the same");
    }
    let action = if leader.is_some() {
        Action::Switchover
    } else {
        asked
    };
    let previous_leader = cluster.leader_name().cloned();
    let mut plan = Plan {
        action,
        candidates: None,
        leader,
        candidate,
        schedule,
        previous_leader,
    };
    if plan.schedule.is_none() {
        let members = members_to_ask(&plan, cluster, config).map_err(|text| Answer::text(412, text))?;
        let peer = |member: &&Member| {
            Some(Peer {
                name: member.name.clone(),
                api_url: member.data.api_url.clone()?,
                patience: PEER_LIMIT,
            })
        };
        plan.candidates = Some(members.iter().filter_map(peer).collect());
    }
    Ok(plan)
}

fn refusal((status, text): (u16, String)) -> Answer {
    Answer::text(status, text)
}

fn members_to_ask<'a>(
    plan: &Plan,
    cluster: &'a Cluster,
    config: &DynamicConfig,
) -> Result<Vec<&'a Member>, String> {
    let action = plan.action.as_str();
    let by_priority = config.synchronous_mode() == SynchronousMode::On;
    let leader = cluster.leader_name().map(MemberName::as_str);
    if plan.leader.is_some() && plan.leader.as_deref() != leader {
        return Err("leader name does not match".to_owned());
    }
    let found: Vec<&Member> = match &plan.candidate {
        Some(candidate) => {
            let name = MemberName(candidate.clone());
            if plan.action == Action::Switchover && by_priority && !cluster.sync.lists(&name, false) {
                return Err("candidate name does not match with sync_standby".to_owned());
            }
            cluster.member(&name).into_iter().collect()
        }
        None if by_priority => cluster
            .members
            .iter()
            .filter(|member| cluster.sync.lists(&member.name, false))
            .collect(),
        None => {
            let is_other = |member: &&Member| Some(member.name.as_str()) != leader;
            cluster
                .members
                .iter()
                .filter(is_other)
                .filter(|member| member.data.api_url.is_some())
                .collect()
        }
    };
    if !found.is_empty() {
        return Ok(found);
    }
    Err(match &plan.candidate {
        Some(_) => "candidate does not exists".to_owned(),
        None if by_priority => format!("{action} is not possible: can not find sync_standby"),
        None => format!("{action} is not possible: cluster does not have members except leader"),
    })
}

impl Plan {
    /// Whether one of those that were asked could take over.
    pub(crate) fn check_answers(&self, answers: &[PeerAnswer]) -> Result<(), Answer> {
        // What does not stream lacks the last WAL of the leader. A failover may lose it.
        let is_without_stream = |answer: &PeerAnswer| {
            let is_told = answer.status.as_ref().is_ok_and(|peer| peer.tags.nostream());
            is_told && self.action == Action::Switchover
        };
        let is_fit = |answer: &PeerAnswer| {
            answer
                .status
                .as_ref()
                .is_ok_and(|peer| !peer.tags.nofailover() && !peer.watchdog_failed)
                && !is_without_stream(answer)
        };
        if self.candidates.is_none() || answers.iter().any(is_fit) {
            return Ok(());
        }
        let action = self.action.as_str();
        let named: Vec<&str> = answers
            .iter()
            .filter(|answer| is_without_stream(answer))
            .map(|answer| answer.name.as_str())
            .collect();
        let detail = (!named.is_empty()).then(|| {
            format!(
                "{} has the tag nostream and cannot receive the last WAL of the leader",
                named.join(", ")
            )
        });
        Err(Answer::text(
            412,
            format!("{action} is not possible: no good candidates have been found"),
        )
        .with_detail(detail))
    }

    /// The value of the key `failover`.
    pub(crate) fn key(&self) -> String {
        let schedule = self.schedule.map(Schedule::iso_format);
        Failover::to_json(
            self.leader.as_deref(),
            self.candidate.as_deref(),
            schedule.as_deref(),
        )
    }

    /// The answer to a scheduled one.
    pub(crate) fn scheduled(&self) -> Option<Answer> {
        self.schedule
            .map(|_| Answer::text(202, format!("{} scheduled", self.action.title())))
    }

    /// Whether that member led when it was asked for.
    pub(crate) fn is_asked_of(&self, member: &MemberName) -> bool {
        self.previous_leader.as_ref() == Some(member)
    }

    /// Whether somebody else leads now.
    pub(crate) fn is_done(&self, cluster: &Cluster) -> bool {
        cluster
            .leader_name()
            .is_some_and(|leader| Some(leader) != self.previous_leader.as_ref())
    }

    /// How it ended, by a reading of the DCS made after the key was written; `None` while it goes on.
    pub(crate) fn result(&self, cluster: &Cluster) -> Option<Answer> {
        if let Some(leader) = cluster.leader_name().filter(|_| self.is_done(cluster)) {
            let (verb, title) = match self.action {
                Action::Switchover => ("switched", "Switched"),
                Action::Failover => ("failed", "Failed"),
            };
            let text = match self.candidate.as_deref().filter(|name| *name != leader.as_str()) {
                None => format!("Successfully {verb} over to \"{leader}\""),
                Some(candidate) => format!("{title} over to \"{leader}\" instead of \"{candidate}\""),
            };
            return Some(Answer::text(200, text));
        }
        let is_dropped = cluster.failover.is_none();
        is_dropped.then(|| Answer::text(503, format!("{} failed", self.action.title())))
    }

    /// The answer when its end was not seen in time.
    pub(crate) fn unknown(&self, waited: Duration) -> Answer {
        let (action, seconds) = (self.action.title(), waited.as_secs());
        let text =
            format!("{action} status unknown after {seconds} seconds; operation may still be in progress");
        Answer::text(503, text)
    }
}

/// Whether a scheduled switchover stands in the DCS, which then is what `DELETE /switchover` takes back.
pub(crate) fn check_delete_switchover(cluster: &Cluster) -> Result<&Failover, Answer> {
    let scheduled = cluster
        .failover
        .as_ref()
        .filter(|it| it.scheduled_at.is_some() || it.invalid_schedule.is_some());
    scheduled.ok_or_else(|| Answer::text(404, "no switchover is scheduled"))
}

/// A restart that may be asked of this member.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RestartPlan {
    /// At once.
    Now(RestartConditions),
    /// Later.
    Later {
        /// When.
        at: Timestamp,
        /// Under which conditions.
        conditions: RestartConditions,
        /// As it is shown and published.
        shown: ScheduledRestart,
    },
}

/// Checks a request for a restart.
pub(crate) fn check_restart(body: &Body, is_paused: bool, now: Timestamp) -> Result<RestartPlan, Answer> {
    if is_paused && body.contains_key("schedule") {
        return Err(Answer::text(500, "Can't schedule restart in the paused state"));
    }
    let refuse = |text: String| Err(Answer::text(400, text));
    let mut conditions = RestartConditions::default();
    let mut schedule = None;
    let mut shown = Map::new();
    for (key, value) in body {
        let plain = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match key.as_str() {
            "schedule" => {
                let parsed = parse_schedule(&plain, now).map_err(|why| refusal(why.answer("restart")))?;
                schedule = Some(parsed);
                shown.insert(key.clone(), parsed.iso_format().into());
                continue;
            }
            "role" => match value.as_str() {
                Some("primary") => conditions.role = Some(Role::Primary),
                Some("standby_leader") => conditions.role = Some(Role::StandbyLeader),
                Some("replica") => conditions.role = Some(Role::Replica),
                _ => {
                    let text = "PostgreSQL role should be either primary, standby_leader, or replica";
                    return refuse(text.to_owned());
                }
            },
            "postgres_version" => match parse_version(&plain) {
                Ok(number) => conditions.version_below = Some(number),
                Err(what) => return refuse(format!("{what}: {plain}")),
            },
            "timeout" => match Value::from(value)
                .to_int(Some("s"))
                .and_then(|n| u64::try_from(n).ok())
            {
                Some(seconds) if seconds > 0 => conditions.timeout = Some(Duration::from_secs(seconds)),
                _ => return refuse("Timeout should be a positive number of seconds".to_owned()),
            },
            "restart_pending" => conditions.only_pending = true,
            other => return refuse(format!("Unknown filter for the scheduled restart: {other}")),
        }
        let is_timeout = key == "timeout";
        let seconds = conditions
            .timeout
            .filter(|_| is_timeout)
            .map(|timeout| timeout.as_secs().into());
        shown.insert(key.clone(), seconds.unwrap_or_else(|| value.clone()));
    }
    Ok(match schedule {
        None => RestartPlan::Now(conditions),
        Some(schedule) => RestartPlan::Later {
            at: schedule.timestamp,
            conditions,
            shown: ScheduledRestart(shown),
        },
    })
}

/// `server_version_num` for `X.Y`, and for `X.Y.Z` before 10.
fn parse_version(text: &str) -> Result<u32, &'static str> {
    let parts: Result<Vec<u32>, _> = text.split('.').map(|part| part.trim().parse::<u32>()).collect();
    let parts = parts.ok().filter(|parts| parts.iter().all(|part| *part < 10_000));
    match parts.as_deref() {
        None => Err("Invalid PostgreSQL version"),
        Some([major, minor]) if *major >= 10 => Ok(major * 10_000 + minor),
        Some([major, middle, minor]) => Ok(major * 10_000 + middle * 100 + minor),
        Some(_) => Err("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted"),
    }
}

/// What a request to clone this member anew says: `force` and `from_leader` (also `from-leader`, as it was documented).
pub(crate) fn read_reinitialize(body: &Body) -> (bool, bool) {
    let flag = |key: &str| {
        body.get(key)
            .and_then(|value| Value::from(value).to_bool())
            .unwrap_or(false)
    };
    (flag("force"), flag("from_leader") || flag("from-leader"))
}

/// A text that is not empty; another value as JSON writes it.
fn text_of(body: &Body, key: &str) -> Option<String> {
    match body.get(key)? {
        serde_json::Value::Null | serde_json::Value::Bool(false) => None,
        serde_json::Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    }
}
