//! The job that copies logical slots from the leader.

use ha::facts::{Progress, Source};
use ha::pg::SlotName;
use ha::step::{StartAs, TaskOutcome};
use postgres::{Instant, StopMode};

use super::{Context, Result, failed, lifecycle};
use crate::daemon::questions::source_of;

/// Reads what the slots are on the leader, and writes it here while the server is stopped. Without any it is not stopped.
pub(super) async fn copy(
    context: &Context,
    leader: &Source,
    slots: &[SlotName],
    follow: Option<Source>,
) -> Result<TaskOutcome> {
    let settings = context.server.settings();
    // A server that may not decode does not even start with such a slot.
    if settings.parameters.get("wal_level").map(String::as_str) != Some("logical") {
        return Err("wal_level is not logical here".to_owned());
    }
    let deadline = Instant::now() + context.config.retry_timeout;
    let states = context
        .server
        .slot_states_of(&source_of(leader)?, slots, deadline)
        .await
        .map_err(failed)?;
    if states.is_empty() {
        return Err("the leader has none of them".to_owned());
    }
    lifecycle::end(context, StopMode::Fast, false).await?;
    let mut failure = None;
    for state in &states {
        match context.server.write_slot_state(state) {
            Ok(()) => tracing::info!("Copied logical replication slot '{}' from the leader", state.name),
            Err(error) => {
                tracing::error!(
                    "could not copy logical replication slot '{}': {error}",
                    state.name
                );
                failure.get_or_insert(error.to_string());
            }
        }
    }
    context.report(Progress::Restarting);
    let started = lifecycle::start(context, &StartAs::Standby(follow), None).await?;
    failure.map_or(Ok(started), Err)
}
