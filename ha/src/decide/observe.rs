//! What the local server's answers mean, together with what is remembered.

use crate::cycle::{Cycle, Flow};
use crate::facts::{Accepts, Running, Server, TaskStatus};
use crate::memory::{Checkpoint, RewindState};
use crate::pg::{Role, ServerState};
use crate::reason::notes;

/// The local server; the first time in a cycle, what is remembered of its role and state is brought up to date.
pub(super) fn server(c: &mut Cycle<'_>) -> Flow<Server> {
    let server = c.server()?;
    if matches!(c.given().task, TaskStatus::Running { .. }) || c.began_task {
        return Ok(server);
    }
    if matches!(server.running, Running::Unknown(_)) {
        return Ok(server);
    }
    if server.postmaster_started != c.memory.postmaster_started {
        c.memory.postmaster_started = server.postmaster_started;
        c.memory.system_identifier = None;
    }
    if server.is_stopped() {
        if matches!(
            c.memory.state,
            ServerState::Running | ServerState::Starting | ServerState::Restarting
        ) {
            c.memory.state = ServerState::Crashed;
            c.note(notes::not_running());
        }
        c.memory.starting_since = None;
        return Ok(server);
    }
    if let Some(sql) = &server.sql {
        c.memory.state = ServerState::Running;
        c.memory.starting_since = None;
        c.memory.start_timeout = None;
        c.memory.crash_recovery_tried = false;
        c.memory.demoted_at = None;
        c.memory.handover.is_stopped = false;
        c.memory.handover.waits_since = None;
        c.memory.handover.start_fails_since = None;
        if c.memory.rewind == RewindState::Done {
            c.memory.rewind = RewindState::Unneeded;
        }
        if !sql.in_recovery && matches!(c.memory.role, Role::Replica | Role::StandbyLeader) {
            // Promoted by somebody else: whether a checkpoint has followed is to be looked at.
            c.memory.checkpoint = Checkpoint::Unknown;
        }
        c.memory.role = if sql.in_recovery {
            standby_role(c.memory.role)
        } else {
            Role::Primary
        };
        c.memory.last_position = sql.position().or(c.memory.last_position);
        if let Some(timeline) = sql.timeline {
            c.memory.see_timeline(timeline, sql.origin);
        }
    } else if is_starting(c, &server) {
        c.memory.state = ServerState::Starting;
        let now = c.now();
        c.memory.starting_since.get_or_insert(now);
    }
    Ok(server)
}

fn standby_role(remembered: Role) -> Role {
    if remembered == Role::StandbyLeader {
        Role::StandbyLeader
    } else {
        Role::Replica
    }
}

/// The postmaster is there and does not let clients in yet. One that ran and now gives no answer at all is not taken
/// for one that starts: it may only be slow.
pub(super) fn is_starting(c: &Cycle<'_>, server: &Server) -> bool {
    server.is_running()
        && server.sql.is_none()
        && match server.accepts {
            Accepts::Yes => false,
            Accepts::Rejecting => true,
            Accepts::NoResponse => c.memory.state != ServerState::Running,
        }
}

/// The server takes writes; when it could not be asked, or looked for, what is remembered counts, so that a slow query
/// demotes nobody.
pub(super) fn is_primary(c: &mut Cycle<'_>) -> Flow<bool> {
    let server = server(c)?;
    Ok(match &server.sql {
        Some(sql) => !sql.in_recovery,
        None => !server.is_stopped() && c.memory.role.is_primary(),
    })
}
