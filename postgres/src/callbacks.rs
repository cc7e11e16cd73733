//! The user's scripts: callbacks, which never block, and `pre_promote` and `before_stop`, which do.

use crate::{Instant, Result, Server};
use ha::pg::Role;

/// What a callback tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackAction {
    /// The server was reloaded.
    OnReload,
    /// The server was restarted.
    OnRestart,
    /// The role changed.
    OnRoleChange,
    /// The server was started.
    OnStart,
    /// The server was stopped.
    OnStop,
}

impl Server {
    /// Starts a callback. One that still runs is killed with its children; `on_reload` has a place of its own.
    pub fn run_callback(&self, action: CallbackAction, role: Role) {
        todo!()
    }

    /// Runs `pre_promote`; true when there is none or it succeeded.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn run_pre_promote(&self, deadline: Instant) -> Result<bool> {
        todo!()
    }
}
