//! What people asked of this member through its REST API: a restart, a new copy.

use std::sync::Arc;

use super::{bootstrap, follow, observe, synchronous};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{Request, RestartConditions};
use crate::pg::Role;
use crate::reason::Reason;
use crate::step::{Action, CloneSource, Reply, RequestId, StartAs, Task};

fn answer(c: &mut Cycle<'_>, id: RequestId, is_success: bool, text: impl Into<String>) {
    c.reply(Reply {
        id,
        is_success,
        text: text.into(),
    });
}

/// A job runs: nothing else is begun, unless a new copy was asked for with force.
pub(super) fn refuse_while_busy(c: &mut Cycle<'_>, job: &str) {
    for request in &c.given().requests {
        match request {
            // Kept: the job is ended, and then it is this request's turn.
            Request::Reinitialize { force: true, .. } => {}
            Request::Restart { id, .. } | Request::Reinitialize { id, .. } => {
                answer(c, *id, false, format!("{job} already in progress"));
            }
        }
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
    let forced = c
        .given()
        .requests
        .iter()
        .any(|request| matches!(request, Request::Reinitialize { force: true, .. }));
    if forced {
        drop(c.perform(Action::CancelTask)?);
    }
    Ok(forced)
}

/// A member whose server does not run, and perhaps cannot be made to, gets its new copy all the same.
pub(super) fn reinitialize_stopped(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    for request in &c.given().requests {
        if let Request::Reinitialize { id, from_leader, .. } = request
            && !observe::server(c)?.is_running
        {
            return reinitialize(c, cluster, *id, *from_leader);
        }
    }
    Ok(None)
}

/// Begins what was asked for. Of several requests the first one counts.
pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Option<Reason>> {
    let mut begun: Option<Reason> = None;
    let is_restart = |request: &Request| matches!(request, Request::Restart { .. });
    if !c.given().requests.iter().any(is_restart) {
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
    Ok(begun)
}

fn restart(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    id: RequestId,
    conditions: &RestartConditions,
) -> Flow<Option<Reason>> {
    if !are_met(c, conditions)? {
        answer(c, id, false, "restart conditions are not satisfied");
        return Ok(None);
    }
    if synchronous::must_leave_first(c, cluster)? {
        return Ok(None);
    }
    let is_primary = observe::is_primary(c)?;
    let start_as = if is_primary {
        StartAs::Primary
    } else {
        StartAs::Standby(follow::target(c, cluster))
    };
    let timeout = conditions.timeout.unwrap_or(c.config().primary_start_timeout);
    c.memory.restart_request = Some(id);
    c.memory.start_timeout = Some(timeout);
    c.begin(Task::Restart {
        start_as,
        timeout: Some(timeout),
        is_requested: true,
    })?;
    Ok(Some(Reason::RestartInitiated))
}

fn are_met(c: &mut Cycle<'_>, conditions: &RestartConditions) -> Flow<bool> {
    let server = observe::server(c)?;
    let role = if observe::is_primary(c)? {
        Role::Primary
    } else {
        c.memory.role
    };
    let pending = server.sql.is_some_and(|sql| !sql.pending_restart.is_empty());
    Ok(conditions.role.is_none_or(|wanted| wanted == role)
        && conditions
            .version_below
            .is_none_or(|version| c.node().server_version < version)
        && (!conditions.only_pending || pending))
}

/// A new copy from a running member, or anyway from the leader.
pub(super) fn reinitialize(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    id: RequestId,
    from_leader: bool,
) -> Flow<Option<Reason>> {
    let refusal = match cluster.leader_name() {
        None => Some("Cluster has no leader, can not reinitialize"),
        Some(leader) if leader == c.me() => Some("I am the leader, can not reinitialize"),
        Some(_) => None,
    };
    if let Some(text) = refusal {
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
    answer(c, id, true, "reinitialize started");
    c.begin(Task::Clone {
        from,
        follow: follow::target(c, cluster),
        with_basebackup: from_leader,
    })?;
    Ok(Some(Reason::ReinitializeStarted))
}
