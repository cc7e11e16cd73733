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
            && observe::server(c)?.is_stopped()
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
    c.memory.restart_request = Some(id);
    begin(c, start_as, conditions)?;
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
    c.memory.restart_request = Some(id);
    begin_restart(c, cluster, conditions)?;
    Ok(Some(Reason::RestartInitiated))
}

/// Restarts the running server in the role that it has.
pub(super) fn begin_restart(
    c: &mut Cycle<'_>,
    cluster: &Cluster,
    conditions: &RestartConditions,
) -> Flow<()> {
    let start_as = if observe::is_primary(c)? {
        StartAs::Primary
    } else {
        StartAs::Standby(follow::target(c, cluster))
    };
    begin(c, start_as, conditions)
}

fn begin(c: &mut Cycle<'_>, start_as: StartAs, conditions: &RestartConditions) -> Flow<()> {
    let timeout = conditions.timeout.unwrap_or(c.config().primary_start_timeout);
    c.memory.start_timeout = Some(timeout);
    c.begin(Task::Restart {
        start_as,
        timeout: Some(timeout),
        is_requested: true,
    })
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
