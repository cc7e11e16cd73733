//! What a table of members needs to be told beside the keys in the DCS: why a server does not start or does not follow, that a
//! leader's key says more than its server does, that the DCS refuses writes, how far a copy is. Each is asked of the member
//! itself, at most for a second; a member that does not answer is shown as its key has it.

use std::time::Duration;

use futures_util::future::join_all;
use ha::cluster::{Cluster, Member};
use ha::event::{Event, What};
use ha::pg::{MemberName, ReplicationState, Role, ServerState};
use ha::step::{Task, TaskOutcome};
use net::http::Method;
use serde_json::Value;

use super::copy::CopyProgress;
use super::event_log;
use super::session::Session;
use super::view::View;

/// How long a member may take to answer.
const LIMIT: Duration = Duration::from_secs(1);

/// How many of a member's newest events are looked through for a failed start.
const EVENTS: usize = 200;

/// What is to be said about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remark {
    /// Its Citus group; 0 without Citus.
    pub(crate) group: u32,
    pub(crate) member: MemberName,
    /// What its server is by its own word, where its key says something else.
    pub(crate) server: Option<(Role, ServerState)>,
    /// What the reason is for, where no column says so.
    pub(crate) label: &'static str,
    /// Why; empty when nothing is known.
    pub(crate) reason: String,
}

/// Asks the members for which there may be something to say.
pub(crate) async fn add(session: &Session, view: &mut View) {
    let mut remarks = Vec::new();
    for (group, cluster) in &mut view.groups {
        show_copies(session, cluster).await;
        let shown = &*cluster;
        let asked = shown.members.iter().map(|member| async move {
            if needs_events(shown, member) {
                events(session, member).await
            } else {
                None
            }
        });
        let told = join_all(asked).await;
        let asked = cluster.members.iter().zip(&told);
        let asked = asked.map(|(member, told)| remark(session, cluster, member, told.as_deref()));
        for (member, found) in cluster.members.iter().zip(join_all(asked).await) {
            remarks.extend(found.map(|found| Remark {
                group: *group,
                member: member.name.clone(),
                server: found.server,
                label: found.label,
                reason: found.reason,
            }));
        }
    }
    view.remarks = remarks;
}

/// The parts of a [`Remark`] that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    server: Option<(Role, ServerState)>,
    label: &'static str,
    reason: String,
}

impl Found {
    fn new(label: &'static str, reason: String) -> Self {
        Self {
            server: None,
            label,
            reason,
        }
    }
}

/// Whether a member's events may give a reason.
fn needs_events(cluster: &Cluster, member: &Member) -> bool {
    member.data.state == Some(ServerState::StartFailed) || is_wanting(cluster, member)
}

/// `told`: the member's newest events, if it was asked for them and has answered.
async fn remark(
    session: &Session,
    cluster: &Cluster,
    member: &Member,
    told: Option<&[Event]>,
) -> Option<Found> {
    let data = &member.data;
    if data.state == Some(ServerState::StartFailed) {
        let reason = failed_start(told?)?;
        return Some(Found::new("start failed: ", reason));
    }
    if is_wanting(cluster, member) {
        if let Some(reason) = told.and_then(failed_job) {
            return Some(Found::new("", reason));
        }
        let asked = session.request(member, (Method::GET, "patroni"), None, LIMIT);
        let document = asked.await.ok()?.json()?;
        let trouble = document.get(TROUBLE)?.as_str()?;
        return Some(Found::new("", one_line(trouble)));
    }
    let says_primary = cluster.is_leader(&member.name)
        && data.state == Some(ServerState::Running)
        && matches!(data.role, Some(Role::Primary | Role::StandbyLeader));
    if !says_primary {
        return None;
    }
    let asked = session.request(member, (Method::GET, "patroni"), None, LIMIT);
    let document = asked.await.ok()?.json()?;
    contradiction(&document).or_else(|| refused_writes(&document))
}

/// Under which key of its status document a member says why it does not stream.
pub(crate) const TROUBLE: &str = "tamada_trouble";

/// A member that should stream and does not.
fn is_wanting(cluster: &Cluster, member: &Member) -> bool {
    let data = &member.data;
    let streams = data.state == Some(ServerState::Running)
        && data.replication_state == Some(ReplicationState::Streaming);
    cluster.leader_name().is_some_and(|leader| leader != &member.name) && !streams && !data.tags.nostream()
}

/// The store takes no writes of the leader.
fn refused_writes(document: &Value) -> Option<Found> {
    let why = document.get("dcs_refuses_writes")?.as_str()?;
    let reason = format!(
        "the DCS refuses writes ({}): this member leads by its lease alone, no other member can take over, and the keys of \
         all members are out of date; see docs/failure-modes.md",
        one_line(why)
    );
    Some(Found::new("", reason))
}

/// What a server is that is no running primary, although its member holds the leader key and its key says so.
fn contradiction(document: &Value) -> Option<Found> {
    let role = Role::parse(document.get("role")?.as_str()?)?;
    let state = ServerState::parse(document.get("state")?.as_str()?)?;
    let is_running = state == ServerState::Running;
    if is_running && matches!(role, Role::Primary | Role::StandbyLeader) {
        return None;
    }
    // A server that is on its way is told of by its key in a moment.
    if !is_running
        && !matches!(
            state,
            ServerState::Stopped | ServerState::Stopping | ServerState::Crashed | ServerState::StartFailed
        )
    {
        return None;
    }
    let reason = "it holds the leader key, but its server is no running primary: the DCS has not taken its newest state";
    Some(Found {
        server: Some((role, state)),
        ..Found::new("", reason.to_owned())
    })
}

/// The newest events of a member.
async fn events(session: &Session, member: &Member) -> Option<Vec<Event>> {
    let endpoint = format!("events?limit={EVENTS}");
    let told = event_log::ask(session, member, &endpoint, LIMIT).await;
    told.ok().map(|told| told.events)
}

/// Why the last start of the server failed.
fn failed_start(events: &[Event]) -> Option<String> {
    let failure = events.iter().rev().find_map(|event| match &event.what {
        What::TaskEnded {
            task: Task::Start { .. } | Task::Restart { .. },
            outcome: TaskOutcome::Failed(why),
            ..
        } => Some(why),
        _ => None,
    })?;
    Some(one_line(failure))
}

/// Why the last job that should have brought a server to follow the leader failed: a copy, a rewind, a start.
fn failed_job(events: &[Event]) -> Option<String> {
    let last = events.iter().rev().find_map(|event| match &event.what {
        What::TaskEnded {
            task:
                Task::Start { .. }
                | Task::Restart { .. }
                | Task::Clone { .. }
                | Task::Rewind { .. }
                | Task::CrashRecovery
                | Task::CopyLogicalSlots { .. },
            outcome,
            ..
        } => Some(outcome),
        _ => None,
    });
    match last? {
        TaskOutcome::Failed(why) | TaskOutcome::SourceNotReady(Some(why)) => Some(one_line(why)),
        _ => None,
    }
}

/// A reason of several lines, such as the end of a server's log, in one.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" | ")
}

/// Members that are being copied show how far that is, as if by a tag.
async fn show_copies(session: &Session, cluster: &mut Cluster) {
    let copied = cluster
        .members
        .iter_mut()
        .filter(|member| member.data.state == Some(ServerState::CreatingReplica));
    let asked = copied.map(async |member| {
        let asked = session.request(member, (Method::GET, "patroni"), None, LIMIT);
        let document = asked.await.ok().and_then(|answer| answer.json());
        if let Some(text) = document.as_ref().and_then(copy_progress) {
            member.data.tags.0.insert("clone".to_owned(), text.into());
        }
    });
    join_all(asked).await;
}

/// How far a copy is, from a member's status document.
fn copy_progress(document: &Value) -> Option<String> {
    let progress = CopyProgress::read(document)?;
    let mebibytes = |bytes: u64| bytes >> 20;
    let mut text = format!("{} MB", mebibytes(progress.bytes));
    if let Some(total) = progress.total_bytes {
        text.push_str(&format!(" of {} MB", mebibytes(total)));
    }
    if let Some(rate) = progress.bytes_per_second {
        text.push_str(&format!(", {} MB/s", mebibytes(rate)));
    }
    if let Some(left) = progress.seconds_left {
        text.push_str(&format!(", {left} s left"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn how_far_a_copy_is_is_said_as_far_as_it_is_known() {
        let all = json!({"tamada_clone": {"bytes": 300 << 20, "total_bytes": 1_u64 << 30, "bytes_per_second": 50 << 20,
            "seconds": 6, "seconds_left": 14}});
        assert_eq!(
            copy_progress(&all).as_deref(),
            Some("300 MB of 1024 MB, 50 MB/s, 14 s left")
        );
        let some = json!({"tamada_clone": {"bytes": 1 << 20, "total_bytes": null, "bytes_per_second": 0}});
        assert_eq!(copy_progress(&some).as_deref(), Some("1 MB, 0 MB/s"));
        assert_eq!(copy_progress(&json!({"state": "running"})), None);
    }

    #[test]
    fn a_leader_whose_server_is_no_running_primary_is_found() {
        for (role, state, expected) in [
            ("primary", "running", None),
            ("standby_leader", "running", None),
            ("primary", "starting", None),
            ("primary", "restarting", None),
            ("primary", "unknown", None),
            ("replica", "running", Some((Role::Replica, ServerState::Running))),
            (
                "demoted",
                "stopping",
                Some((Role::Demoted, ServerState::Stopping)),
            ),
            ("primary", "stopped", Some((Role::Primary, ServerState::Stopped))),
            ("primary", "crashed", Some((Role::Primary, ServerState::Crashed))),
        ] {
            let found = contradiction(&json!({"role": role, "state": state}));
            assert_eq!(found.and_then(|found| found.server), expected, "{role} {state}");
        }
        assert_eq!(contradiction(&json!({})), None);
    }

    #[test]
    fn a_store_that_refuses_writes_is_a_reason() {
        let document = json!({"role": "primary", "state": "running", "dcs_refuses_writes": "no space"});
        let found = contradiction(&document)
            .or_else(|| refused_writes(&document))
            .unwrap();
        assert!(
            found.reason.starts_with("the DCS refuses writes (no space): "),
            "{found:?}"
        );
        assert_eq!(refused_writes(&json!({"role": "primary"})), None);
    }

    #[test]
    fn the_end_of_a_servers_log_is_one_line() {
        assert_eq!(
            one_line("could not start PostgreSQL:\n  FATAL: a\n\n  LOG: b\n"),
            "could not start PostgreSQL: | FATAL: a | LOG: b"
        );
    }
}
