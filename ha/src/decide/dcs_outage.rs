//! The DCS does not answer: whether the lock can be kept is not known (Patroni documentation, "DCS Failsafe Mode", for
//! why a primary may not simply go on).

use std::time::Duration;

use super::{failsafe, observe, primary, shutdown, task};
use crate::cycle::{Cycle, Flow};
use crate::facts::{DataDirectory, DcsFailure, TaskStatus};
use crate::memory::Bootstrap;
use crate::reason::{Reason, notes};
use crate::step::{StartAs, StartReason, StopMode, StopPurpose, Task, TaskOutcome};

pub(super) fn decide(c: &mut Cycle<'_>, failure: &DcsFailure) -> Flow<Reason> {
    c.lock_answer = None;
    if c.given().is_stopping {
        c.note(notes::dcs_error(&failure.0));
        return shutdown::without_dcs(c);
    }
    if let TaskStatus::Running { task, .. } = &c.given().task {
        return task::running_in_outage(c, task, failure);
    }
    c.note(notes::dcs_error(&failure.0));
    if c.began_task || c.memory.bootstrap != Bootstrap::No {
        return Ok(Reason::DcsNotAccessible);
    }
    let server = observe::server(c)?;
    if c.config().pause {
        return Ok(Reason::DcsNotAccessible);
    }
    if server.is_stopped() {
        return start_read_only(c);
    }
    if !observe::is_primary(c)? {
        learn_whose_data_it_is(c)?;
        failsafe::keep_slots(c)?;
        return Ok(Reason::DcsNotAccessible);
    }
    if failsafe::keep_leading(c)? {
        return Ok(Reason::FailsafeLeader);
    }
    if c.memory.lock.is_some() && c.may_look_again() && failsafe::may_ask_again(c) {
        let soon = c.now().after(Duration::from_secs(1).min(c.config().loop_wait));
        c.again_at(soon);
        return Ok(Reason::DcsNotAccessible);
    }
    let now = c.now();
    let mode = match c.memory.lock {
        Some(lock) if lock.valid_until <= now => {
            c.note(notes::lock_has_run_out(lock.valid_until, now));
            StopMode::Immediate
        }
        Some(_) | None => StopMode::Fast,
    };
    c.note(notes::no_dcs_as_leader());
    primary::demote(c, mode, StopPurpose::DcsOutage)?;
    Ok(Reason::DemotedDcsOutage)
}

/// The primary has just been stopped because the DCS does not answer. Whether it answers now is asked later: a standby
/// may run in any case, and readers need not wait for what may not come.
pub(super) fn has_stopped_for_it(c: &Cycle<'_>) -> bool {
    let given = c.given();
    let has_stopped = matches!(
        &given.task,
        TaskStatus::Done {
            task: Task::Stop {
                purpose: StopPurpose::DcsOutage,
                ..
            },
            outcome: TaskOutcome::Success,
        }
    );
    has_stopped && !given.is_stopping && !c.config().pause
}

/// For whoever asks this member for its system identifier: after a start in the outage no cycle has looked at it yet.
fn learn_whose_data_it_is(c: &mut Cycle<'_>) -> Flow<()> {
    if c.memory.system_identifier.is_none()
        && let DataDirectory::Present {
            control: Ok(control), ..
        } = c.data_directory()?
    {
        c.memory.system_identifier = control.system_identifier;
    }
    Ok(())
}

/// A primary that had to stop serves reads until the DCS is back, unless a rewind has left its data half done.
pub(super) fn start_read_only(c: &mut Cycle<'_>) -> Flow<Reason> {
    if c.memory.demoted_at.is_none() {
        return Ok(Reason::DcsNotAccessible);
    }
    let is_half_rewound = matches!(
        c.data_directory()?,
        DataDirectory::Present {
            is_half_rewound: true,
            ..
        }
    );
    if !is_half_rewound {
        c.memory.is_recovering = true;
        let start = Task::Start {
            start_as: StartAs::Standby(None),
            timeout: None,
            why: StartReason::AfterDemotion,
        };
        c.begin(start)?;
    }
    Ok(Reason::DcsNotAccessible)
}
