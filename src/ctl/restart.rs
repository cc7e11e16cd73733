//! `restart`: restarts PostgreSQL on members, at once or later.

use std::cmp::Ordering;
use std::time::Duration;

use clap::Args;
use ha::cluster::Member;
use ha::pg::{Role, ServerState};
use jiff::{ToSpan, Zoned};
use net::http::{Method, StatusCode};
use serde_json::{Map, Value};
use tokio::time::sleep;

use super::awaited;
use super::console::print_line;
use super::error::Error;
use super::members::{Action, confirm, confirm_scheduled, select};
use super::progress::Progress;
use super::prompt;
use super::rest::{RESTART, SHORT, failure, is_refused};
use super::schedule;
use super::session::Session;
use super::view::RoleFilter;

#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Cluster
    cluster_name: String,
    /// Members; default: all of the role
    member_names: Vec<String>,
    /// Citus group
    #[arg(long)]
    group: Option<u32>,
    /// Restart only members with this role
    #[arg(short, long, value_parser = RoleFilter::parse, default_value = "any")]
    role: RoleFilter,
    /// Restart a single member only
    #[arg(long)]
    any: bool,
    /// Timestamp of a scheduled restart in unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TIMESTAMP")]
    scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)
    #[arg(long, value_name = "VERSION")]
    pg_version: Option<String>,
    /// Restart if pending
    #[arg(long)]
    pending: bool,
    /// Return error and fail over if necessary when restarting takes longer than this.
    #[arg(long)]
    timeout: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

impl Restart {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Error> {
        let view = session
            .store(&self.cluster_name, self.group)
            .await?
            .view()
            .await?;
        let mut members = select(
            &view,
            &self.cluster_name,
            &self.member_names,
            self.role,
            Action::Restart,
            self.force,
        )
        .await?;
        let at = self.time().await?;
        let mut body = Map::new();
        if self.pending {
            body.insert("restart_pending".to_owned(), true.into());
            // Who needs a restart may be another one at a later time.
            if at.is_none() {
                members.retain(|member| member.data.pending_restart);
            }
        }
        if self.any {
            members = one_of(members);
        }
        match &at {
            _ if self.force => {}
            Some(at) => confirm_scheduled(&members, Action::Restart, at, self.pending).await?,
            None => confirm(&members, Action::Restart).await?,
        }
        if let Some(version) = self.version().await? {
            body.insert("postgres_version".to_owned(), version.into());
        }
        if let Some(at) = &at {
            if view.dynamic_config().pause {
                return Err(Error::new("Can't schedule restart in the paused state"));
            }
            body.insert("schedule".to_owned(), schedule::iso_format(at).into());
        }
        if let Some(timeout) = &self.timeout {
            body.insert("timeout".to_owned(), timeout.as_str().into());
        }
        let body = Value::Object(body);
        in_order(&mut members);
        for (n, member) in members.iter().enumerate() {
            if at.is_some() && self.force && member.data.scheduled_restart.is_some() {
                let response = session
                    .request(member, (Method::DELETE, "restart"), None, SHORT)
                    .await?;
                if is_refused(&response) {
                    print_line(&failure(&response, member, "flush scheduled restart"))?;
                }
            }
            let outcome = restart(session, member, &body, &self.cluster_name).await;
            let left = members.get(n + 1..).unwrap_or_default();
            if matches!(outcome, Ok(true)) || left.is_empty() {
                outcome?;
                continue;
            }
            return Err(not_restarted(member, left, outcome.err()));
        }
        Ok(())
    }

    async fn time(&self) -> Result<Option<Zoned>, Error> {
        let now = Zoned::now();
        let text = match &self.scheduled {
            Some(text) => text.clone(),
            None if self.force => return Ok(None),
            None => {
                let next_hour = now
                    .saturating_add(1.hour())
                    .strftime("%Y-%m-%dT%H:%M")
                    .to_string();
                let question = format!("When should the restart take place (e.g. {next_hour}) ");
                prompt::text(&question, "now").await?
            }
        };
        schedule::parse(&text, &now).map_err(Error::new)
    }

    /// Below which version of PostgreSQL a member is restarted.
    async fn version(&self) -> Result<Option<String>, Error> {
        let text = match &self.pg_version {
            Some(text) => text.clone(),
            None if self.force => return Ok(None),
            None => {
                let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ";
                prompt::text(question, "").await?
            }
        };
        if text.is_empty() {
            return Ok(None);
        }
        check_server_version(&text).map_err(Error::new)?;
        Ok(Some(text))
    }
}

/// A full version: two numbers from 10 on, three before.
fn check_server_version(text: &str) -> Result<(), String> {
    let parts: Vec<Option<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    match parts.as_slice() {
        [Some(10..), Some(_)] | [Some(_), Some(_), Some(_)] => Ok(()),
        parts if parts.contains(&None) => Err(format!("Invalid PostgreSQL version: {text}")),
        _ => Err(format!(
            "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}"
        )),
    }
}

/// Any one; which does not matter, but it shall not always be the same.
fn one_of(members: Vec<&Member>) -> Vec<&Member> {
    let nanoseconds = usize::try_from(Zoned::now().subsec_nanosecond()).unwrap_or(0);
    let index = nanoseconds.checked_rem(members.len()).unwrap_or(0);
    members.into_iter().skip(index).take(1).collect()
}

/// The members that are left alone after the restart of another one has failed.
fn not_restarted(failed: &Member, left: &[&Member], error: Option<Error>) -> Error {
    let names: Vec<&str> = left.iter().map(|member| member.name.as_str()).collect();
    let text = format!(
        "not restarted, because the restart of {} failed: {}; mend the cause, then restart them",
        failed.name,
        names.join(", ")
    );
    match error {
        Some(error) => Error::new(format!("{error}\n{text}")),
        None => Error::new(text),
    }
}

/// Settings of which a standby must not have less than its primary (PostgreSQL manual, "Administrator's Overview" of hot
/// standby).
const NOT_LESS_ON_STANDBYS: [&str; 5] = [
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
];

/// Replicas first when such a setting is raised, the leader first when it is only lowered; otherwise as they stand.
fn in_order(members: &mut [&Member]) {
    let changes = || {
        members.iter().flat_map(|member| {
            let reasons = &member.data.pending_restart_reason;
            NOT_LESS_ON_STANDBYS.iter().filter_map(|name| {
                let reason = reasons.get(*name)?;
                let number = |text: &str| text.parse::<i64>().ok();
                Some(number(&reason.new_value)?.cmp(&number(&reason.old_value)?))
            })
        })
    };
    let leads = |member: &&Member| matches!(member.data.role, Some(role) if role.is_primary() || role == Role::StandbyLeader);
    if changes().any(Ordering::is_gt) {
        members.sort_by_key(leads);
    } else if changes().any(Ordering::is_lt) {
        members.sort_by_key(|member| !leads(member));
    }
}

/// How often a member is looked at that restarts by itself.
const POLL: Duration = Duration::from_secs(1);

/// Whether the next member may be restarted. Conditions that are not met, and restarts at a later time, keep nobody.
async fn restart(
    session: &Session,
    member: &Member,
    body: &Value,
    cluster_name: &str,
) -> Result<bool, Error> {
    let name = &member.name;
    let goes_on = format!(
        "The restart of {name} goes on: \"list {cluster_name}\" shows it; no other member is restarted"
    );
    let progress = Progress::begin(awaited::answer("restart", name.as_str()));
    let look = async || awaited::restart(name.as_str(), &session.status(member).await?);
    let asked = session.request(member, (Method::POST, "restart"), Some(body), RESTART);
    let response = session
        .while_it_goes_on(goes_on, progress.during(look, asked))
        .await?;
    if body.get("restart_pending").is_some() && is_refused(&response) {
        let own = own_restart(session, member);
        let look = async || awaited::restart(name.as_str(), &session.status(member).await?);
        if progress.during(look, own).await {
            print_line(&format!(
                "Success: restart on member {name} is not needed any more: it has restarted meanwhile"
            ))?;
            return Ok(true);
        }
    }
    let is_unneeded = response.body.contains("restart conditions are not satisfied");
    let goes_on = is_unneeded || response.status == StatusCode::CONFLICT || !is_refused(&response);
    print_line(&match response.status {
        StatusCode::OK => format!("Success: restart on member {name}"),
        StatusCode::ACCEPTED => format!("Success: restart scheduled on member {name}"),
        StatusCode::CONFLICT => format!("Failed: another restart is already scheduled on member {name}"),
        _ => failure(&response, member, "restart"),
    })?;
    Ok(goes_on)
}

/// Whether a member that needed a restart, and has refused it, has restarted by itself: such as after a setting that it
/// takes from the primary was changed. A restart that still runs is waited for.
async fn own_restart(session: &Session, member: &Member) -> bool {
    loop {
        match session.status(member).await.as_ref().map(after_own_restart) {
            Some(Some(is_done)) => return is_done,
            Some(None) => sleep(POLL).await,
            None => return false,
        }
    }
}

/// Whether a member's status document says that it runs and needs no restart; `None` while it restarts.
fn after_own_restart(document: &Value) -> Option<bool> {
    let state = document.get("state").and_then(Value::as_str);
    match state.and_then(ServerState::parse) {
        Some(ServerState::Restarting | ServerState::Stopping | ServerState::Starting) => None,
        Some(ServerState::Running) => Some(document.get("pending_restart") != Some(&Value::Bool(true))),
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::{after_own_restart, check_server_version, in_order};
    use ha::cluster::{Member, MemberData, Version};
    use ha::pg::MemberName;
    use serde_json::json;

    fn member(name: &str, role: &str, parameter: &str, old: &str, new: &str) -> Member {
        let text = format!(
            r#"{{"role":"{role}","pending_restart":true,
                "pending_restart_reason":{{"{parameter}":{{"old_value":"{old}","new_value":"{new}"}}}}}}"#
        );
        Member {
            version: Version(1),
            name: MemberName(name.to_owned()),
            session: String::new(),
            data: MemberData::parse(&text),
        }
    }

    #[test]
    fn a_standby_never_has_less_than_its_primary() {
        for (parameter, old, new, expected) in [
            ("max_connections", "100", "200", "bca"),
            ("max_connections", "200", "100", "abc"),
            ("max_worker_processes", "8", "10", "bca"),
            ("max_wal_senders", "9", "10", "bca"),
            ("shared_buffers", "16MB", "32MB", "bac"),
        ] {
            let all = [
                member("b", "replica", parameter, old, new),
                member("a", "primary", parameter, old, new),
                member("c", "replica", parameter, old, new),
            ];
            let mut order: Vec<&Member> = all.iter().collect();
            in_order(&mut order);
            let names: String = order.iter().map(|member| member.name.as_str()).collect();
            assert_eq!(names, expected, "{parameter} {old} {new}");
        }
    }

    #[test]
    fn a_member_that_has_restarted_by_itself_needs_none() {
        for (document, expected) in [
            (json!({"state": "running"}), Some(true)),
            (json!({"state": "running", "pending_restart": true}), Some(false)),
            (json!({"state": "restarting", "pending_restart": true}), None),
            (json!({"state": "starting"}), None),
            (json!({"state": "stopping"}), None),
            (json!({"state": "start failed"}), Some(false)),
            (json!({"state": "stopped"}), Some(false)),
            (json!({}), Some(false)),
        ] {
            assert_eq!(after_own_restart(&document), expected, "{document}");
        }
    }

    #[test]
    fn a_version_is_complete() {
        for good in ["9.5.2", "16.4", "16.0"] {
            assert_eq!(check_server_version(good), Ok(()), "{good}");
        }
        for bad in ["16", "9.6", "1.2.3.4"] {
            let expected = format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {bad}");
            assert_eq!(check_server_version(bad), Err(expected));
        }
        for bad in ["", "a.b", "16.", "16.4 beta"] {
            assert_eq!(
                check_server_version(bad),
                Err(format!("Invalid PostgreSQL version: {bad}"))
            );
        }
    }
}
