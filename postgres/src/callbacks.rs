//! The user's scripts: callbacks, which never block, and `pre_promote` and `before_stop`, which do.

use crate::command::{Invocation, Output};
use crate::server::locked;
use crate::{Instant, Result, Server};
use ha::pg::Role;
use ha::step::Callback;
use tokio::task::AbortHandle;

/// The callbacks that run: aborting a task kills its program with its children.
#[derive(Default)]
pub(crate) struct Callbacks {
    reload: Option<AbortHandle>,
    other: Option<AbortHandle>,
}

impl Drop for Callbacks {
    fn drop(&mut self) {
        for running in [&self.reload, &self.other].into_iter().flatten() {
            running.abort();
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
            former.abort();
        }
        *place = Some(tokio::spawn(report(action, invocation)).abort_handle());
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

async fn report(action: &'static str, invocation: Invocation) {
    let ended = async { Ok::<_, crate::Error>(invocation.spawn()?.wait().await) }.await;
    match ended {
        Ok(Ok(status)) if status.success() => tracing::debug!("callback {action} has ended"),
        Ok(Ok(status)) => {
            let output = Output {
                program: invocation.name(),
                status,
                stdout: String::new(),
                stderr: String::new(),
            };
            tracing::warn!("callback {action}: {}", output.failure());
        }
        Ok(Err(error)) => tracing::error!("callback {action}: {error}"),
        Err(error) => tracing::error!("callback {action}: {error}"),
    }
}
