//! The user's scripts: callbacks, which never block, and `pre_promote` and `before_stop`, which do.

use crate::{Instant, Result, Server};
use ha::pg::Role;
use ha::step::Callback;

impl Server {
    /// Starts a callback. One that still runs is killed with its children; `on_reload` has a place of its own.
    pub fn run_callback(&self, callback: Callback, role: Role) {
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
