//! What somebody wants done at a certain time: a switchover, a restart of this server (Patroni documentation, "Patroni
//! REST API", `scheduled_at` and `schedule`).
//!
//! It is done at that second. What could not be done then, because nobody was there or the cluster was paused, is done
//! for a moment still, and then not any more: whoever asked for a quiet hour does not want it in a busy one.

use std::time::Duration;

use jiff::Timestamp;

use super::{observe, requests};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::PlannedRestart;
use crate::reason::{Reason, notes};

/// How it is about something scheduled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// It is time.
    Now,
    /// Not yet, or not in pause.
    NotYet,
    /// Its time is over, and it is not to be done any more.
    Over,
}

/// Whether it is time for `action`; `shown` is the time as whoever asked for it wrote it.
pub(super) fn is_due(c: &mut Cycle<'_>, action: &str, at: Timestamp, shown: &str) -> Due {
    if c.config().pause {
        return Due::NotYet;
    }
    let late_ms = c.given().wall_clock.as_millisecond() - at.as_millisecond();
    let loop_wait_ms = i64::try_from(c.config().loop_wait.as_millis()).unwrap_or(i64::MAX);
    if late_ms > loop_wait_ms.saturating_mul(3) / 2 {
        c.note(notes::stale_schedule(action, shown));
        return Due::Over;
    }
    if late_ms < 0 {
        c.note(notes::awaiting(action, shown, -late_ms / 1000));
        let then = c.now().after(Duration::from_millis(late_ms.unsigned_abs()));
        c.again_at(then);
        return Due::NotYet;
    }
    c.note(notes::manual_scheduled(action, shown));
    Due::Now
}

/// The restart of this server that is scheduled, if any. `Some`: it has begun.
pub(super) fn restart(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    let Some(planned) = &c.given().scheduled_restart else {
        c.memory.planned_restart = None;
        return Ok(None);
    };
    let running = observe::server(c)?.postmaster_started;
    let meant = match c.memory.planned_restart {
        Some((id, meant)) if id == planned.id => meant,
        Some(_) | None => running,
    };
    c.memory.planned_restart = Some((planned.id, meant));
    if meant != running {
        let started = running.and_then(|seconds| Timestamp::from_second(seconds).ok());
        c.note(notes::restart_has_happened(started));
        c.unschedule(planned.id);
        return Ok(None);
    }
    // A synchronous standby that waits to be let go has begun already.
    if c.memory.synchronous.leaving_since.is_none() {
        match is_due(c, "restart", planned.at, text(planned)) {
            Due::Now => {}
            Due::NotYet => return Ok(None),
            Due::Over => {
                c.unschedule(planned.id);
                return Ok(None);
            }
        }
    }
    if let Some(why) = requests::unmet(c, &planned.conditions)? {
        c.note(notes::no_scheduled_restart(why));
        c.unschedule(planned.id);
        return Ok(None);
    }
    if super::synchronous::must_leave_first(c, cluster)? {
        return Ok(None);
    }
    if requests::begin_restart(c, cluster, None, &planned.conditions)? {
        c.unschedule(planned.id);
        c.memory.scheduled_restart_runs = true;
    }
    Ok(Some(Reason::RestartInitiated))
}

fn text(planned: &PlannedRestart) -> &str {
    let text = planned.shown.0.get("schedule");
    text.and_then(serde_json::Value::as_str).unwrap_or_default()
}
