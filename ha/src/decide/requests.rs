//! What people asked of this member through its REST API: a restart, a new copy.

use std::sync::Arc;

use super::{bootstrap, follow, observe, recover, rewind, schedule, synchronous};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{DataDirectory, Request, RestartConditions};
use crate::pg::Role;
use crate::reason::{Reason, notes};
use crate::step::{Action, CloneSource, Reply, RequestId, StartAs, Task};

fn answer(c: &mut Cycle<'_>, id: RequestId, is_success: bool, text: impl Into<String>) {
    c.reply(Reply {
        id,
        is_success,
        text: text.into(),
    });
}

fn id_of(request: &Request) -> RequestId {
    match request {
        Request::Restart { id, .. } | Request::Reinitialize { id, .. } => *id,
    }
}

/// Nobody waits for ever: a request that no cycle has come to, because the server cannot be started, the data directory
/// cannot be read, or the DCS does not answer, is answered with the reason for that.
pub(super) fn answer_overdue(c: &mut Cycle<'_>, reason: &Reason) {
    let before = std::mem::take(&mut c.memory.waiting_requests);
    let patience = c.config().loop_wait * 2 + c.config().retry_timeout;
    for request in &c.given().requests {
        let id = id_of(request);
        if c.has_answered(id) || c.memory.restart_request == Some(id) {
            continue;
        }
        let now = c.now();
        let since = before
            .iter()
            .find(|(other, _)| *other == id)
            .map_or(now, |(_, since)| *since);
        let until = since.after(patience);
        if now >= until {
            let text = format!(
                "not done within {} s: {}",
                patience.as_secs(),
                reason.status_line(c.config().pause)
            );
            answer(c, id, false, text);
        } else {
            c.memory.waiting_requests.push((id, since));
            c.again_at(until);
        }
    }
}

/// A job runs: nothing else is begun, unless a new copy was asked for with force. What will be refused then ends no job: the one that
/// runs may be that of the first member, which creates the cluster.
pub(super) fn refuse_while_busy(c: &mut Cycle<'_>, cluster: &Cluster, job: &str, held: bool) {
    let refusal = match held {
        true => Some(AS_LEADER),
        false => why_no_copy(c, cluster),
    };
    for request in &c.given().requests {
        match (request, refusal) {
            (Request::Reinitialize { id, force: true, .. }, Some(why)) => answer(c, *id, false, why),
            // Kept: the job is ended, and then it is this request's turn.
            (Request::Reinitialize { force: true, .. }, None) => {}
            (Request::Restart { id, .. } | Request::Reinitialize { id, .. }, _) => {
                answer(c, *id, false, format!("{job} already in progress"));
            }
        }
    }
}

const AS_LEADER: &str = "I am the leader, can not reinitialize";

/// Why this member gets no new copy, whatever state it is in.
fn why_no_copy(c: &Cycle<'_>, cluster: &Cluster) -> Option<&'static str> {
    match cluster.leader_name() {
        None => Some("Cluster has no leader, can not reinitialize"),
        Some(leader) if leader == c.me() => Some(AS_LEADER),
        Some(_) => None,
    }
}

pub(super) fn refuse_while_starting(c: &mut Cycle<'_>) {
    for request in &c.given().requests {
        if let Request::Restart { id, .. } = request {
            answer(c, *id, false, "postgres is still starting");
        }
    }
}

/// Ends the running job for a new copy that was asked for with force. `true` when it did.
pub(super) fn force_reinitialize(c: &mut Cycle<'_>) -> Flow<bool> {
    let forced = c.given().requests.iter().any(
        |request| matches!(request, Request::Reinitialize { id, force: true, .. } if !c.has_answered(*id)),
    );
    if forced {
        drop(c.perform(Action::CancelTask)?);
    }
    Ok(forced)
}

/// A member whose server does not run, and perhaps cannot be made to, gets its new copy all the same.
pub(super) fn reinitialize_stopped(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    if is_reinitialization_asked(c) && observe::server(c)?.is_stopped() {
        return reinitialize_first(c, cluster);
    }
    Ok(None)
}

/// A server that is still starting may do so for hours, or never come to its end.
pub(super) fn reinitialize_starting(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    if is_reinitialization_asked(c) {
        return reinitialize_first(c, cluster);
    }
    Ok(None)
}

fn is_reinitialization_asked(c: &Cycle<'_>) -> bool {
    let is_one = |request: &Request| matches!(request, Request::Reinitialize { .. });
    c.given()
        .requests
        .iter()
        .any(|request| is_one(request) && !c.has_answered(id_of(request)))
}

fn reinitialize_first(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    let mut begun = None;
    for request in &c.given().requests {
        match request {
            Request::Restart { .. } => {}
            Request::Reinitialize { id, .. } if c.has_answered(*id) => {}
            Request::Reinitialize { id, .. } if begun.is_some() => {
                answer(c, *id, false, "another request already in progress");
            }
            Request::Reinitialize { id, from_leader, .. } => {
                begun = reinitialize(c, cluster, *id, *from_leader)?;
            }
        }
    }
    Ok(begun)
}

/// Begins what was asked for. Of several requests the first one counts.
pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Option<Reason>> {
    let mut begun: Option<Reason> = None;
    let is_restart = |request: &Request| matches!(request, Request::Restart { .. });
    let is_asked = c.given().requests.iter().any(is_restart) || c.given().scheduled_restart.is_some();
    if !is_asked {
        c.memory.synchronous.leaving_since = None;
    }
    for request in &c.given().requests {
        let busy = begun.is_some();
        match request {
            Request::Restart { id, .. } | Request::Reinitialize { id, .. } if busy => {
                answer(c, *id, false, "another request already in progress");
            }
            Request::Restart { id, conditions } => begun = restart(c, cluster, *id, conditions)?,
            Request::Reinitialize { id, from_leader, .. } => {
                begun = reinitialize(c, cluster, *id, *from_leader)?
            }
        }
    }
    if begun.is_none() && c.given().requests.is_empty() {
        begun = schedule::restart(c, cluster)?;
    }
    Ok(begun)
}

/// A server that does not run, in pause or after somebody has stopped it, is started by a restart: as what it was,
/// unless another member leads by now.
pub(super) fn restart_stopped(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, held: bool) -> Flow<Option<Reason>> {
    let asked = c.given().requests.iter().find_map(|request| match request {
        Request::Restart { id, conditions } => Some((*id, conditions)),
        Request::Reinitialize { .. } => None,
    });
    // Without pause it is about to be started anyhow, and by the rules of recovery.
    let Some((id, conditions)) = asked.filter(|_| c.config().pause) else {
        return Ok(None);
    };
    if let Some(why) = unmet(c, conditions)? {
        c.note(notes::no_scheduled_restart(why));
        answer(c, id, false, "restart conditions are not satisfied");
        return Ok(None);
    }
    let has_recovery_signal = match c.data_directory()? {
        DataDirectory::Present {
            is_half_rewound: true,
            ..
        } => {
            answer(
                c,
                id,
                false,
                "a rewind was cut off: it is done first, the server starts after it",
            );
            return recover::finish_rewind(c, cluster, held).map(Some);
        }
        DataDirectory::Present {
            has_recovery_signal, ..
        } => has_recovery_signal,
        DataDirectory::Empty | DataDirectory::Inaccessible(_) => return Ok(None),
    };
    let was_primary = c.memory.role == Role::Primary && !has_recovery_signal;
    let start_as = if was_primary && (held || cluster.is_unlocked()) {
        StartAs::Primary
    } else {
        let target = follow::target(c, cluster);
        if was_primary {
            follow::arm_rewind_check(c);
            if let Some(reason) = rewind::decide(c, cluster, target.as_ref())? {
                return Ok(Some(reason));
            }
        }
        StartAs::Standby(target)
    };
    begin_for(c, Some(id), start_as, conditions)?;
    Ok(Some(Reason::RestartInitiated))
}

fn restart(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    id: RequestId,
    conditions: &RestartConditions,
) -> Flow<Option<Reason>> {
    if let Some(why) = unmet(c, conditions)? {
        c.note(notes::no_scheduled_restart(why));
        answer(c, id, false, "restart conditions are not satisfied");
        return Ok(None);
    }
    if synchronous::must_leave_first(c, cluster)? {
        return Ok(None);
    }
    begin_restart(c, cluster, Some(id), conditions)?;
    Ok(Some(Reason::RestartInitiated))
}

/// Restarts the running server in the role that it has. Whether that has begun.
pub(super) fn begin_restart(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    id: Option<RequestId>,
    conditions: &RestartConditions,
) -> Flow<bool> {
    let start_as = if observe::is_primary(c)? {
        StartAs::Primary
    } else {
        StartAs::Standby(follow::target(c, cluster))
    };
    begin_for(c, id, start_as, conditions)
}

fn begin_for(
    c: &mut Cycle<'_>,
    id: Option<RequestId>,
    start_as: StartAs,
    conditions: &RestartConditions,
) -> Flow<bool> {
    let timeout = conditions.timeout.unwrap_or(c.config().primary_start_timeout);
    c.memory.start_timeout = Some(timeout);
    let task = Task::Restart {
        start_as,
        timeout: Some(timeout),
        is_requested: true,
    };
    begin_asked(c, id, task)
}

/// Begins a job whose end answers a request. Whether it has begun.
fn begin_asked(c: &mut Cycle<'_>, id: Option<RequestId>, task: Task) -> Flow<bool> {
    let begun = c.try_begin(task)?;
    let is_begun = begun.is_ok();
    match (begun, id) {
        (Ok(()), Some(_)) => c.memory.restart_request = id,
        (Err(why), Some(id)) => answer(c, id, false, format!("restart failed: {why}")),
        (_, None) => {}
    }
    Ok(is_begun)
}

/// The server is about to be started in any case: that is the restart of whoever has asked for one.
pub(super) fn begin_start(c: &mut Cycle<'_>, task: Task) -> Flow<()> {
    let mut asked = None;
    for request in &c.given().requests {
        let Request::Restart { id, conditions } = request else {
            continue;
        };
        if c.has_answered(*id) {
            continue;
        }
        if let Some(why) = unmet(c, conditions)? {
            c.note(notes::no_scheduled_restart(why));
            answer(c, *id, false, "restart conditions are not satisfied");
        } else if asked.is_some() {
            answer(c, *id, false, "another request already in progress");
        } else {
            asked = Some(*id);
        }
    }
    begin_asked(c, asked, task).map(drop)
}

/// Which condition for a restart is not met.
pub(super) fn unmet(c: &mut Cycle<'_>, conditions: &RestartConditions) -> Flow<Option<&'static str>> {
    let server = observe::server(c)?;
    let role = if observe::is_primary(c)? {
        Role::Primary
    } else {
        c.memory.role
    };
    let pending = server.sql.is_some_and(|sql| !sql.pending_restart.is_empty());
    let is_old = |version| c.node().server_version < version;
    Ok(if !conditions.role.is_none_or(|wanted| wanted == role) {
        Some("host role mismatch")
    } else if !conditions.version_below.is_none_or(is_old) {
        Some("postgres version mismatch")
    } else if conditions.only_pending && !pending {
        Some("pending restart flag is not set")
    } else {
        None
    })
}

/// A new copy from a running member, or anyway from the leader.
pub(super) fn reinitialize(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    id: RequestId,
    from_leader: bool,
) -> Flow<Option<Reason>> {
    if let Some(text) = why_no_copy(c, cluster) {
        answer(c, id, false, text);
        return Ok(None);
    }
    let leader = cluster
        .leader_member()
        .and_then(|leader| follow::source(c, leader))
        .map(CloneSource::Leader);
    let from = if from_leader {
        leader
    } else {
        bootstrap::clone_source(c, cluster)
    };
    let Some(from) = from else {
        answer(
            c,
            id,
            false,
            "the leader has not published its address, can not reinitialize",
        );
        return Ok(None);
    };
    if let Some(source) = from.source()
        && let Err(why) = c.divergence(source.clone())?.remote
    {
        let text = format!("the member to copy from does not answer, nothing was removed: {why}");
        answer(c, id, false, text);
        return Ok(None);
    }
    bootstrap::forget_data(c);
    let begun = c.try_begin(Task::Clone {
        from,
        follow: follow::target(c, cluster),
        with_basebackup: from_leader,
    })?;
    match begun {
        Ok(()) => answer(c, id, true, "reinitialize started"),
        Err(why) => answer(c, id, false, format!("can not reinitialize: {why}")),
    }
    Ok(Some(Reason::ReinitializeStarted))
}
