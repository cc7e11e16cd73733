//! What this member says of itself in the DCS: its member key, and as the leader the status.

use std::time::Duration;

use crate::cluster::{MemberData, Status};
use crate::cycle::{Cycle, Flow};
use crate::facts::TaskStatus;
use crate::memory::Checkpoint;
use crate::pg::{ReplicationState, Role, ServerState};
use crate::step::{Expect, Key, Task};

/// Publishes the member key. Not in the way of anything: a failure is made good by the next cycle.
pub(super) fn member(c: &mut Cycle<'_>) -> Flow<()> {
    let data = member_data(c)?;
    await_stream(c, &data);
    c.touch_member(data)
}

/// How soon a standby that does not stream yet looks again whether it does.
const STREAM_SOON: Duration = Duration::from_millis(500);

/// A standby that has just begun to follow streams within moments, and whoever looks at the cluster wants to see that, not
/// what was so before it. One that still does not after `loop_wait` is looked at as often as any other.
fn await_stream(c: &mut Cycle<'_>, data: &MemberData) {
    let follows = data.role == Some(Role::Replica)
        && data.state == Some(ServerState::Running)
        && data.replay_lsn.is_some()
        && !c.node().tags.nostream()
        && !c.config().pause;
    if !follows || data.replication_state == Some(ReplicationState::Streaming) {
        c.memory.awaits_stream_since = None;
        return;
    }
    let now = c.now();
    let since = *c.memory.awaits_stream_since.get_or_insert(now);
    if now < since.after(c.config().loop_wait) {
        c.again_at(now.after(STREAM_SOON));
    }
}

fn member_data(c: &mut Cycle<'_>) -> Flow<MemberData> {
    let node = c.node();
    let mut data = MemberData {
        conn_url: Some(node.conn_url.clone()),
        api_url: Some(node.api_url.clone()),
        proxy_url: node.proxy_url.clone(),
        tags: node.tags.clone(),
        version: Some(node.version.clone()),
        pause: c.config().pause,
        scheduled_restart: c.scheduled_restart().map(|planned| planned.shown.clone()),
        agent: Some(MemberData::AGENT.to_owned()),
        ..MemberData::default()
    };
    let busy =
        matches!(&c.given().task, TaskStatus::Running { task, .. } if !matches!(task, Task::Promote { .. }));
    let server = if busy || c.began_task || !is_up(c.memory.state) {
        None
    } else {
        Some(super::observe::server(c)?)
    };
    if c.memory.synchronous.leaving_since.is_some() {
        data.tags = data.tags.without_sync();
    }
    data.state = Some(published_state(c));
    data.role = Some(c.memory.role);
    if c.memory.role == Role::Primary && c.memory.checkpoint != Checkpoint::None {
        data.checkpoint_after_promote = Some(false);
    }
    if let Some(sql) = server.and_then(|server| server.sql) {
        data.xlog_location = sql.position();
        data.timeline = sql.timeline;
        let is_primary = !sql.in_recovery;
        let timeline = sql.timeline.filter(|_| is_primary);
        data.origin = timeline.and_then(|timeline| c.memory.origin_of(timeline));
        data.pending_restart = !sql.pending_restart.is_empty();
        data.pending_restart_reason = sql.pending_restart;
        if sql.in_recovery {
            data.replay_lsn = sql.replayed;
            data.receive_lsn = sql.received;
            data.replication_state = sql.replication_state;
        }
    }
    Ok(data)
}

fn is_up(state: ServerState) -> bool {
    matches!(
        state,
        ServerState::Running | ServerState::Restarting | ServerState::Starting
    )
}

/// While a job runs its name tells more than the server does.
fn published_state(c: &Cycle<'_>) -> ServerState {
    let (task, progress) = match (&c.begun, &c.given().task) {
        (Some(task), _) => (task, None),
        (None, TaskStatus::Running { task, progress, .. }) => (task, Some(progress)),
        (None, _) => return c.memory.state,
    };
    let is_custom = c.node().has_custom_bootstrap;
    task.server_state(progress.copied(), is_custom)
        .unwrap_or(c.memory.state)
}

/// As the leader: publishes our position and slots, if they changed.
pub(super) fn status(c: &mut Cycle<'_>, status: &Status) -> Flow<()> {
    let json = status.to_json();
    if c.memory.published_status.as_ref() != Some(&json) {
        let written = c.write(Key::Status, json.clone(), Expect::Anything)?;
        c.memory.published_status = written.is_ok().then_some(json);
    }
    Ok(())
}
