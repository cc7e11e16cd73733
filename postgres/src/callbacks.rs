//! The user's scripts: callbacks, which never block, and `pre_promote` and `before_stop`, which do.

use crate::command::{Invocation, Output, Running};
use crate::server::locked;
use crate::{Instant, Result, Server};
use ha::pg::Role;
use ha::step::Callback;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The program that reports a normal skip by its status.
const BARMAN: &str = "patroni_barman";

/// The status of `patroni_barman config-switch` when the role is not the one of `--switch-when`.
const BARMAN_SKIPPED: i32 = 1;

/// The callbacks that run.
#[derive(Default)]
pub(crate) struct Callbacks {
    reload: Option<Started>,
    other: Option<Started>,
}

/// A callback's program, and a task that waits for its end.
struct Started {
    action: &'static str,
    /// Aborting it kills the program with its children.
    task: JoinHandle<()>,
    /// Lets the program run on by itself.
    leave: oneshot::Sender<()>,
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        for started in [&self.reload, &self.other].into_iter().flatten() {
            started.task.abort();
        }
    }
}

impl Server {
    /// Starts a callback with the arguments `<action> <role> <scope>`. One that still runs is killed with its children;
    /// `on_reload` has a place of its own. Returns at once; must be called within the runtime.
    pub fn run_callback(&self, callback: Callback, role: Role) {
        let settings = self.settings();
        let callbacks = &settings.callbacks;
        let command = match callback {
            Callback::OnReload => &callbacks.on_reload,
            Callback::OnRestart => &callbacks.on_restart,
            Callback::OnRoleChange => &callbacks.on_role_change,
            Callback::OnStart => &callbacks.on_start,
            Callback::OnStop => &callbacks.on_stop,
        };
        let Some(command) = command else { return };
        let action = callback.as_str();
        let invocation = match Invocation::of_command_line(command) {
            Ok(invocation) => invocation.arg(action).arg(role.as_str()).arg(self.scope()),
            Err(error) => {
                tracing::error!("callback {action}: {error}");
                return;
            }
        };
        let mut running = locked(&self.shared.callbacks);
        let place = if callback == Callback::OnReload {
            &mut running.reload
        } else {
            &mut running.other
        };
        if let Some(former) = place.take() {
            if !former.task.is_finished() {
                tracing::warn!(
                    "callback {} still ran and was killed with its children: callback {action} begins",
                    former.action
                );
            }
            former.task.abort();
        }
        // Here and now: the runtime may come to its end before a task is begun.
        match invocation.spawn() {
            Ok(program) => {
                let (leave, is_left) = oneshot::channel();
                let skips = command.contains(BARMAN);
                let task = tokio::spawn(report((action, skips), invocation.name(), program, is_left));
                *place = Some(Started { action, task, leave });
            }
            Err(error) => tracing::error!("callback {action}: {error}"),
        }
    }

    /// Lets the callbacks that run go on without this program: the last one of a server tells of its end.
    pub async fn leave_callbacks(&self) {
        let callbacks = std::mem::take(&mut *locked(&self.shared.callbacks));
        let Callbacks { reload, other } = &mut { callbacks };
        for started in [reload.take(), other.take()].into_iter().flatten() {
            // It may have ended meanwhile.
            let _ = started.leave.send(());
            let _ = started.task.await;
        }
    }

    /// Runs `pre_promote`; true when there is none or it succeeded.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn run_pre_promote(&self, deadline: Instant) -> Result<bool> {
        let Some(command) = self.settings().pre_promote.clone() else {
            return Ok(true);
        };
        let invocation = match Invocation::of_command_line(&command) {
            Ok(invocation) => invocation,
            Err(error) => {
                tracing::error!("pre_promote: {error}");
                return Ok(false);
            }
        };
        match invocation.run(deadline).await {
            Ok(output) if output.status.success() => Ok(true),
            Ok(output) => {
                tracing::warn!("pre_promote: {}", output.failure());
                Ok(false)
            }
            Err(error @ crate::Error::Spawn { .. }) => {
                tracing::error!("pre_promote: {error}");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// `skips`: the program may end with [`BARMAN_SKIPPED`] when there is nothing to do.
async fn report(
    (action, skips): (&'static str, bool),
    program: String,
    mut running: Running,
    is_left: oneshot::Receiver<()>,
) {
    let ended = tokio::select! {
        ended = running.wait() => ended,
        Ok(()) = is_left => {
            running.leave();
            return;
        }
    };
    match ended {
        Ok(status) if status.success() => tracing::debug!("callback {action} has ended"),
        // patroni_barman has nothing to do in this role.
        Ok(status) if skips && status.code() == Some(BARMAN_SKIPPED) => {
            tracing::debug!("callback {action} had nothing to do");
        }
        Ok(status) => {
            let output = Output {
                program,
                status,
                stdout: String::new(),
                stderr: String::new(),
            };
            tracing::warn!("callback {action}: {}", output.failure());
        }
        Err(error) => tracing::error!("callback {action}: {error}"),
    }
}
