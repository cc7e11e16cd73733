//! The primary runs and does not work: its postmaster hangs, or its disk does.
//!
//! Only where `primary_probe_timeout` permits it is it failed over for that. It may be that it cannot be stopped: a process
//! that waits for a disk dies when the disk answers, and not before. So the key is not given up but left to run out, at
//! the end of which the guard sends SIGKILL to whatever is left. Who waits for the disk then does not come back to
//! acknowledge anything. When the server is seen to have ended before that, the key is released at once.

use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::TaskStatus;
use crate::reason::{Reason, notes};
use crate::step::{StopMode, StopPurpose, Task, TaskOutcome};

use super::{observe, peers, primary, release};

/// The primary has not answered for too long. `Some`: it is being stopped, and the lease not prolonged any more.
pub(super) fn gives_up(c: &mut Cycle<'_>, cluster: &Cluster) -> Flow<Option<Reason>> {
    let (Some(limit), Some(trouble)) = (c.config().primary_probe_timeout, c.given().unresponsive.clone())
    else {
        return Ok(None);
    };
    if c.config().pause || !observe::is_primary(c)? {
        return Ok(None);
    }
    let lasted = c.now().since(trouble.since);
    if lasted < limit {
        return Ok(None);
    }
    if !peers::can_take_over(c, cluster, None, None)? {
        c.note(notes::unresponsive_without_successor(lasted, &trouble.why));
        return Ok(None);
    }
    c.note(notes::unresponsive(lasted, &trouble.why));
    primary::demote(c, StopMode::Immediate, StopPurpose::Unresponsive)?;
    Ok(Some(Reason::DemotingUnresponsive))
}

/// Whether the lease is not to be prolonged, because a primary that does not work is being stopped. As soon as it has
/// been, the key is released.
pub(super) fn lets_the_lease_run_out(c: &mut Cycle<'_>) -> Flow<bool> {
    if is_stopping(&c.given().task) {
        return Ok(true);
    }
    let has_stopped = matches!(
        &c.given().task,
        TaskStatus::Done {
            task: Task::Stop {
                purpose: StopPurpose::Unresponsive,
                ..
            },
            outcome: TaskOutcome::Success,
        }
    );
    if has_stopped {
        release(c, None)?;
    }
    Ok(has_stopped)
}

/// A primary that does not work is being stopped.
pub(crate) fn is_stopping(task: &TaskStatus) -> bool {
    matches!(
        task,
        TaskStatus::Running {
            task: Task::Stop {
                purpose: StopPurpose::Unresponsive,
                ..
            },
            ..
        }
    )
}
