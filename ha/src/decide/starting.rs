//! The postmaster is there and lets nobody in yet.

use std::sync::Arc;

use super::{follow, observe, peers, primary, switchover};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::reason::{Reason, notes};
use crate::step::{StopMode, StopPurpose};

pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, held: bool) -> Flow<Reason> {
    super::requests::refuse_while_starting(c);
    if !held {
        if !c.config().pause && observe::is_primary(c)? {
            c.note(notes::lost_lock_while_starting());
            primary::demote(c, StopMode::Immediate, StopPurpose::LostLock)?;
            return Ok(Reason::StoppedWhileStarting);
        }
        c.note(notes::still_starting_as_standby());
        return Ok(match cluster.leader_name() {
            Some(leader) => follow::steady(c, leader.clone()),
            None => Reason::NotHealthiest,
        });
    }
    let limit = c.memory.start_timeout.unwrap_or(c.config().primary_start_timeout);
    let since = c.memory.starting_since.unwrap_or(c.now());
    let left = limit.saturating_sub(c.now().since(since));
    if left.is_zero() && !c.config().pause {
        if peers::can_take_over(c, cluster, None, None)? {
            c.note(notes::start_takes_too_long());
            primary::demote(c, StopMode::Immediate, StopPurpose::GiveUp)?;
            return Ok(Reason::StoppedAfterStartTimeout);
        }
        return Ok(Reason::StartTimedOutNoFailover);
    }
    if let Some(reason) = switchover::decide(c, cluster)? {
        return Ok(reason);
    }
    Ok(Reason::StillStarting(left.as_secs()))
}
