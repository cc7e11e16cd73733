//! The agent was told to end: the server is stopped, and the key handed over, before it does.

use std::sync::Arc;

use super::{handover, observe, synchronous, task};
use crate::cluster::Cluster;
use crate::cycle::{Cycle, Flow};
use crate::facts::TaskStatus;
use crate::memory::Bootstrap;
use crate::pg::ServerState;
use crate::reason::{Note, Reason};
use crate::step::{Action, Exit, Expect, Key, StopMode, StopPurpose, Task, TaskOutcome};

pub(super) fn decide(c: &mut Cycle<'_>, cluster: &Arc<Cluster>, held: bool) -> Flow<Reason> {
    if c.config().pause {
        return leave_paused(c);
    }
    if let TaskStatus::Running {
        task: running @ Task::Stop { .. },
        since,
        progress,
    } = &c.given().task
    {
        return task::running(c, cluster, held, (running, *since), *progress);
    }
    let is_idle = !matches!(c.given().task, TaskStatus::Running { .. });
    if is_idle && synchronous::must_leave_first(c, cluster)? {
        return Ok(Reason::LeavingSynchronous);
    }
    if let Some(reason) = stop(c)? {
        return Ok(reason);
    }
    if c.memory.bootstrap != Bootstrap::No {
        // Nobody could go on where this ends: whoever comes next begins anew.
        c.delete(Key::Initialize, Expect::Anything)?;
        c.exit(Exit::FailedBootstrap);
        return Ok(Reason::BootstrapFailed);
    }
    if held {
        // A member that has everything has not to wait for the lease to run out.
        if let Some(reason) = handover::before_exit(c, cluster)? {
            return Ok(reason);
        }
    }
    c.exit(Exit::Graceful);
    Ok(Reason::ShutDown)
}

/// The same when the DCS does not answer: the lease ends by itself.
pub(super) fn without_dcs(c: &mut Cycle<'_>) -> Flow<Reason> {
    if c.config().pause {
        return leave_paused(c);
    }
    if let TaskStatus::Running {
        task: Task::Stop { .. },
        ..
    } = &c.given().task
    {
        return Ok(Reason::ShuttingDown);
    }
    if let Some(reason) = stop(c)? {
        return Ok(reason);
    }
    c.exit(Exit::Graceful);
    Ok(Reason::ShutDown)
}

fn leave_paused(c: &mut Cycle<'_>) -> Flow<Reason> {
    c.exit(Exit::Graceful);
    Ok(Reason::LeavingPaused)
}

/// Ends whatever runs, then stops the server. `None`: it is stopped.
fn stop(c: &mut Cycle<'_>) -> Flow<Option<Reason>> {
    match &c.given().task {
        TaskStatus::Running { .. } => {
            drop(c.perform(Action::CancelTask)?);
            return Ok(Some(Reason::ShuttingDown));
        }
        TaskStatus::Done {
            task:
                Task::Stop {
                    purpose: StopPurpose::Shutdown,
                    ..
                },
            outcome,
        } if *outcome != TaskOutcome::Success => {
            c.note(Note::error("PostgreSQL shutdown failed, leader key not removed."));
            c.exit(Exit::Failure);
            return Ok(Some(Reason::ShutDown));
        }
        TaskStatus::Done { .. } | TaskStatus::Idle => {}
    }
    let server = observe::server(c)?;
    if server.is_stopped() {
        if c.memory.state != ServerState::Crashed {
            c.memory.state = ServerState::Stopped;
        }
        return Ok(None);
    }
    let checkpoint = observe::is_primary(c)?;
    c.begin(Task::Stop {
        mode: StopMode::Fast,
        checkpoint,
        purpose: StopPurpose::Shutdown,
    })?;
    Ok(Some(Reason::ShuttingDown))
}
