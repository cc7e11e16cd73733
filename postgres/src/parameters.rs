//! PostgreSQL's parameters: which of them this server takes, and what changes when others are wanted.

use crate::{Instant, Result, Server};
use ha::cluster::PendingRestartReason;
use std::collections::BTreeMap;

/// A parameter whose wanted value differs from the one in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The value in force.
    pub old: Option<String>,
    /// The wanted value; `None`: the default.
    pub new: Option<String>,
    /// It takes effect at a restart only.
    pub needs_restart: bool,
}

/// What [`Server::apply`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Parameters that differ from those in force.
    pub changes: Vec<Change>,
    /// Names of the files that were rewritten.
    pub files: Vec<String>,
    /// The server was told to reload.
    pub reloaded: bool,
}

#[derive(Default)]
pub(crate) struct ParameterMemory {}

impl Server {
    /// Brings files and running server to the settings in force: compares parameters with `pg_settings`, rewrites what
    /// differs and reloads.
    ///
    /// # Errors
    /// When a file cannot be written or the server cannot be asked.
    pub async fn apply(&self, force_reload: bool, deadline: Instant) -> Result<Applied> {
        todo!()
    }

    /// The parameters that wait for a restart, with both values in human units.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn pending_restart(&self, deadline: Instant) -> Result<BTreeMap<String, PendingRestartReason>> {
        todo!()
    }

    /// Sets `synchronous_standby_names` (`None`: the user's own value) and reloads; returns whether it was another.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub async fn set_synchronous_standby_names(
        &self,
        names: Option<String>,
        deadline: Instant,
    ) -> Result<bool> {
        todo!()
    }

    /// Forces `hot_standby_feedback = on`, or no longer; returns whether that is a change. Takes effect with the next
    /// [`Server::apply`] or [`Server::follow`].
    pub fn force_hot_standby_feedback(&self, forced: bool) -> bool {
        todo!()
    }
}
