//! The leader's part in a switchover or failover that somebody asked for (Patroni documentation, "REST API",
//! `POST /switchover`).

use std::sync::Arc;

use super::handover::{self, Readiness};
use super::schedule::{self, Due};
use super::{peers, primary, standby_cluster};
use crate::cluster::{Cluster, Failover, FailoverKind};
use crate::cycle::{Cycle, Flow};
use crate::reason::{Reason, notes};
use crate::step::{Expect, Key, StopMode, StopPurpose};

/// Hands over when it is time, drops what cannot be done. `None`: go on as leader.
pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Arc<Cluster>) -> Flow<Option<Reason>> {
    let Some(failover) = cluster.failover.clone().filter(|_| c.has_time()) else {
        return Ok(None);
    };
    if !is_due(c, &failover)? {
        return Ok(None);
    }
    let kind = failover.kind();
    let mut why = None;
    if c.memory.handover.undone == Some(failover.version) {
        // It failed after the stop, and the key could not be cleared then.
    } else if let Some(named) = failover.leader.as_ref().filter(|named| *named != c.me()) {
        c.note(notes::leader_name_differs(kind, named, c.me()));
    } else if failover.candidate.as_ref() == Some(c.me()) {
        c.note(notes::already_leader(kind));
    } else if failover.candidate.is_none() && c.config().pause {
        c.note(crate::reason::Note::warning(format!(
            "{} is possible only to a specific candidate in a paused state",
            capitalized(kind.as_str())
        )));
    } else {
        match may_stop(c, cluster, &failover)? {
            Readiness::Ready if standby_cluster::is_one(c) => {
                standby_cluster::give_way(c)?;
                return Ok(Some(Reason::Demoting(kind)));
            }
            Readiness::Ready => {
                c.memory.handover.waits_since = None;
                primary::demote(c, StopMode::Fast, StopPurpose::of_handover(kind))?;
                return Ok(Some(Reason::Demoting(kind)));
            }
            Readiness::NotYet => return Ok(None),
            Readiness::Impossible(reason) => {
                c.note(notes::switchover_failed(&reason));
                why = Some(reason);
            }
        }
    }
    if let Some(why) = why {
        handover::fail(c, &failover, why);
    }
    clear(c, &failover)?;
    Ok(None)
}

/// A failover may lose what the candidate does not have; a switchover may not.
fn may_stop(c: &mut Cycle<'_>, cluster: &Cluster, failover: &Failover) -> Flow<Readiness> {
    if failover.kind() == FailoverKind::Switchover {
        return handover::readiness(c, cluster, failover);
    }
    if peers::can_take_over(c, cluster, Some(failover), None)? {
        return Ok(Readiness::Ready);
    }
    c.note(notes::no_healthy_members(failover.kind()));
    Ok(Readiness::Impossible("no member can take over".to_owned()))
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Whether a scheduled request's time has come. One that is long past is dropped.
fn is_due(c: &mut Cycle<'_>, failover: &Failover) -> Flow<bool> {
    if let Some(text) = &failover.invalid_schedule {
        c.note(notes::invalid_schedule(text));
        clear(c, failover)?;
        return Ok(false);
    }
    let Some(at) = failover.scheduled_at else {
        return Ok(true);
    };
    let shown = failover.scheduled_at_text.as_deref().unwrap_or_default();
    match schedule::is_due(c, failover.kind().as_str(), at, shown) {
        Due::Now => Ok(true),
        Due::NotYet => Ok(false),
        Due::Over => {
            clear(c, failover)?;
            Ok(false)
        }
    }
}

fn clear(c: &mut Cycle<'_>, failover: &Failover) -> Flow<()> {
    c.note(notes::clearing_failover());
    drop(c.write(
        Key::Failover,
        Failover::CLEARED.to_owned(),
        Expect::Version(failover.version),
    )?);
    Ok(())
}
