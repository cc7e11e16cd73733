//! A cluster that replicates from another one (Patroni documentation, "Standby cluster"): whoever holds its leader key
//! streams from the remote cluster, or restores from its archive, and the other members from that one. Nobody is
//! promoted, so nothing has to be fenced, and what a race would otherwise ask of a timeline does not matter.

use std::sync::Arc;

use super::{follow, observe, primary, release};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::{Retry, Source};
use crate::pg::{MemberName, ReplicationState, Role, ServerState, Timeline};
use crate::reason::{Reason, notes};
use crate::step::{Callback, StartAs, StopPurpose};

/// This cluster is a standby cluster.
pub(super) fn is_one(c: &Cycle<'_>) -> bool {
    c.config().standby_cluster.is_some()
}

/// The leader key of a standby cluster is ours.
pub(super) fn leads(c: &Cycle<'_>) -> bool {
    is_one(c) && c.memory.lock.is_some()
}

/// What a standby cluster replicates from. `None` in an ordinary cluster.
pub(super) fn remote(c: &Cycle<'_>) -> Option<Source> {
    let config = c.config().standby_cluster.as_ref()?;
    let host = match (&config.host, &config.port) {
        (None, None) => None,
        (host, _) => Some(host.as_deref().unwrap_or("localhost")),
    };
    let conn_url = host.filter(|_| !c.node().tags.nostream()).map(|host| {
        let port = config.port.as_deref().unwrap_or("5432");
        format!("host={} port={}", quoted(host), quoted(port))
    });
    let slot = config.primary_slot_name.as_deref();
    Some(Source {
        member: None,
        conn_url: conn_url.unwrap_or_default(),
        slot: slot.map(|name| MemberName::from(name).slot_name()),
        retry: Retry::AtOnce,
        only_streams: false,
    })
}

/// A value of a connection string (PostgreSQL manual, "Keyword/Value Connection Strings").
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Whether this member takes its WAL from the remote cluster and not from the standby leader: it is the leader itself,
/// or there is none. A server that runs waits a cycle for the next leader before it changes its source.
pub(super) fn follows_remote(c: &Cycle<'_>, cluster: &Cluster) -> bool {
    if !is_one(c) {
        return false;
    }
    let patience = c.config().loop_wait;
    let has_waited = c.memory.state != ServerState::Running
        || c.memory
            .unlocked_since
            .is_some_and(|since| since.after(patience) <= c.now());
    leads(c) || (cluster.is_unlocked() && !c.config().pause && has_waited)
}

/// The leader key is ours: follow the remote cluster, and be known for the standby leader.
pub(super) fn lead(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, becomes_one: Reason) -> Flow<Reason> {
    let reason = if c.memory.role == Role::StandbyLeader {
        Reason::StandbyLeader(c.me().clone())
    } else {
        becomes_one
    };
    primary::write_missing_configuration(c, cluster)?;
    follow::follow(c, cluster, Reason::DemotingForStandbyCluster, reason)
}

/// A running standby has the role that the leader key gives it. In pause nobody loses one.
pub(super) fn assume_role(c: &mut Cycle<'_>) {
    let role = if leads(c) {
        Role::StandbyLeader
    } else {
        Role::Replica
    };
    if c.memory.role == role || (c.config().pause && role == Role::Replica) {
        return;
    }
    c.memory.role = role;
    // Before its start was announced there is nothing to tell of a change.
    if c.memory.start_was_announced {
        c.callback(Callback::OnRoleChange, role);
    }
}

/// The role of a server that was started: in a standby cluster its leader follows the remote one.
pub(super) fn role_of_started(c: &Cycle<'_>, start_as: &StartAs) -> Role {
    match start_as {
        StartAs::Primary => Role::Primary,
        StartAs::Standby(Some(source)) if source.is_remote() && c.memory.lock.is_some() => {
            Role::StandbyLeader
        }
        StartAs::Standby(_) => Role::Replica,
    }
}

/// The remote cluster may have gone on to a timeline that our WAL does not lead to: its history file came, and WAL does
/// not.
pub(super) fn may_have_parted(c: &mut Cycle<'_>) -> Flow<bool> {
    let can_ask = remote(c).is_some_and(|remote| remote.can_be_connected_to());
    let Some(sql) = observe::server(c)?.sql.filter(|_| can_ask) else {
        return Ok(false);
    };
    if sql.replication_state == Some(ReplicationState::Streaming) {
        return Ok(false);
    }
    let Some(Timeline(ours)) = sql.timeline.or(c.memory.last_timeline) else {
        return Ok(false);
    };
    let next = Timeline(ours.saturating_add(1));
    Ok(c.history_file(next)?.is_some())
}

/// Somebody else shall be the standby leader: the key is given up, and the server follows whoever takes it. There is
/// nothing that only this member has, so it goes on running.
pub(super) fn give_way(c: &mut Cycle<'_>) -> Flow<()> {
    c.note(notes::demoting(
        StopPurpose::Switchover.demotion().unwrap_or_default(),
    ));
    release(c, None)
}
