//! `primary_race_backoff`: while WAL still comes, the primary is alive and only its agent is silent. The race for the
//! leader key waits a while for the agent's return (Patroni documentation, "Dynamic Configuration Settings").
//!
//! A primary with a guard is stopped when its lease is over, so that nothing streams from it any more; the setting is
//! for primaries without one.

use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::memory::RaceBackoff;
use crate::pg::ReplicationState;
use crate::reason::Reason;

use super::observe;

/// The reason for which this standby leaves the leader key alone for now.
pub(super) fn holds_back(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    let (patience, loop_wait) = (c.config().primary_race_backoff, c.config().loop_wait);
    let somebody_is_asked = cluster
        .failover
        .as_ref()
        .is_some_and(|failover| failover.candidate.is_some());
    let does_not_apply =
        patience.is_zero() || c.config().pause || c.config().standby_cluster.is_some() || somebody_is_asked;
    let (Some(since), false) = (c.memory.unlocked_since, does_not_apply) else {
        return Ok(None);
    };
    let Some(sql) = observe::server(c)?.sql.filter(|sql| sql.in_recovery) else {
        return Ok(None);
    };
    // A primary whose end was noticed needs no patience.
    if sql.replication_state != Some(ReplicationState::Streaming) {
        return Ok(None);
    }
    let (now, position) = (c.now(), sql.position().unwrap_or_default());
    let seen = match c.memory.race_backoff {
        Some(before) if before.unlocked_since == since && position <= before.position => before,
        // The first look counts as a movement, so that there is time for a second one.
        _ => RaceBackoff {
            unlocked_since: since,
            position,
            moved_at: now,
        },
    };
    c.memory.race_backoff = Some(seen);
    // As long as between two cycles of a primary that has nothing to do.
    let until = since.after(patience).min(seen.moved_at.after(loop_wait));
    if now >= until {
        return Ok(None);
    }
    c.again_at(until);
    Ok(Some(Reason::RaceBackoff {
        me: c.me().clone(),
        seconds: since.after(patience).since(now).as_secs(),
    }))
}
