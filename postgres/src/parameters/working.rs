//! The settings that the server was last seen to run with. When it does not start with new ones, it is started with these:
//! what needs a restart stands on its command line then, and `postgresql.conf` and `pg_hba.conf` are put back until it
//! accepts connections.

use super::text;
use super::trial::Trial;
use crate::connection::Purpose;
use crate::files::postgresql_conf::{is_recovery_parameter, line, read_settings};
use crate::files::{mode_for, write_if_changed};
use crate::server::locked;
use crate::{Instant, Result, Server};
use config::shown_parameter;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// In the data directory: the parameters that need a restart, with the values in force, one a line.
const FILE: &str = "tamada.running.conf";

/// Where files are is not a matter of this.
const SKIPPED: [&str; 5] = [
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
];

/// Why the server does not run with the settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedSettings {
    why: String,
    /// The values that were tried, by parameter; known when the server has been asked what waits for a restart.
    tried: Option<BTreeMap<String, String>>,
}

impl FailedSettings {
    /// The reason, if it is this value of the parameter that has failed.
    pub(super) fn of(&self, name: &str, new_value: &str) -> Option<String> {
        let is_same = self
            .tried
            .as_ref()
            .is_none_or(|tried| tried.get(name).is_some_and(|value| value == new_value));
        is_same.then(|| self.why.clone())
    }

    pub(super) fn remember_tried(&mut self, values: impl FnOnce() -> BTreeMap<String, String>) {
        self.tried.get_or_insert_with(values);
    }
}

/// What a start uses in place of the settings in force.
#[derive(Debug, Clone)]
pub(crate) struct Former {
    /// For the command line.
    pub(crate) restart_only: BTreeMap<String, String>,
    /// For `postgresql.conf`.
    pub(crate) parameters: BTreeMap<String, String>,
    /// The text of `pg_hba.conf`.
    pub(crate) hba: Option<Vec<u8>>,
}

impl Server {
    fn running_file(&self) -> PathBuf {
        self.data_dir().join(FILE)
    }

    pub(crate) fn note_failed_settings(&self, why: &str) {
        locked(&self.shared.parameters).failed = Some(FailedSettings {
            why: why.to_owned(),
            tried: None,
        });
    }

    /// Why the last start could not use the settings in force and used the former ones. `None` when it used them.
    #[must_use]
    pub fn failed_settings(&self) -> Option<String> {
        let memory = locked(&self.shared.parameters);
        memory.failed.as_ref().map(|failed| failed.why.clone())
    }

    /// Writes down what the running server has of the parameters that need a restart.
    pub(super) async fn remember_running(&self, deadline: Instant) -> Result<()> {
        let Some(postmaster) = self.postmaster()? else {
            return Ok(());
        };
        if locked(&self.shared.parameters).running_of == Some(postmaster.pid()) {
            return Ok(());
        }
        let sql = "SELECT name, setting FROM pg_settings WHERE context = 'postmaster' ORDER BY name";
        let rows = self
            .query_kept(Purpose::Heartbeat, "reading pg_settings", sql, deadline)
            .await?;
        let lines: String = rows
            .iter()
            .map(|row| (text(row, "name"), text(row, "setting")))
            .filter(|(name, _)| !SKIPPED.contains(&name.as_str()) && !is_recovery_parameter(name))
            // It would stand in the list of processes.
            .filter(|(name, setting)| shown_parameter(name, setting) == setting)
            .map(|(name, setting)| line(&name, &setting))
            .collect();
        let file = self.running_file();
        write_if_changed(&file, lines, mode_for(&file, &self.data_dir()))?;
        locked(&self.shared.parameters).running_of = Some(postmaster.pid());
        Ok(())
    }

    /// The settings with which the server has run last, if they are known.
    fn last_working(&self) -> Option<Former> {
        let restart_only = read_settings(&net::file::read_text(self.running_file()).ok()?);
        let text = net::file::read_text(self.backup_of(&self.config_path())).ok()?;
        let mut parameters = read_settings(&text);
        parameters
            .retain(|name, _| !is_recovery_parameter(name) && name != "hba_file" && name != "ident_file");
        let hba = self.settings().local.config_dir.join("pg_hba.conf");
        Some(Former {
            restart_only,
            parameters,
            hba: net::file::read(self.backup_of(&hba)).ok(),
        })
        .filter(|former| !former.restart_only.is_empty())
    }

    /// What to start with after a start with the settings in force has failed; `None` when those are no others than the
    /// last working ones, so that something else must be wrong.
    pub(crate) async fn former_settings(&self, deadline: Instant) -> Option<Former> {
        let former = self.last_working()?;
        let controlled = &self.settings().controlled;
        let is_same_command_line = controlled
            .iter()
            .all(|(name, value)| former.restart_only.get(name) == Some(value));
        let is_same_file = net::file::read_text(self.config_path()).is_ok_and(|text| {
            let mut present = read_settings(&text);
            present
                .retain(|name, _| !is_recovery_parameter(name) && name != "hba_file" && name != "ident_file");
            let is_ours_to_set =
                |name: &str| name == super::SYNCHRONOUS_STANDBY_NAMES || name == "hot_standby_feedback";
            let mut before = former.parameters.clone();
            before.retain(|name, _| !is_ours_to_set(name));
            present.retain(|name, _| !is_ours_to_set(name));
            before == present
        });
        let is_same =
            |file: &PathBuf| net::file::read(file).ok() == net::file::read(self.backup_of(file)).ok();
        let is_same_beside = self.backed_up_files().iter().skip(1).all(is_same);
        if is_same_command_line && is_same_file && is_same_beside {
            // `ALTER SYSTEM`, and files that are included, are left: the program itself judges them.
            let replaced = BTreeMap::new();
            let trial = self.try_program(&self.config_path(), &replaced, deadline).await;
            if !matches!(trial, Trial::Failed(_)) {
                return None;
            }
        }
        Some(former)
    }

    /// A trial of the settings with which the server runs; `None` when they are not known.
    pub(super) async fn try_last_working(&self, deadline: Instant) -> Option<Trial> {
        let former = self.last_working()?;
        let file = self.backup_of(&self.config_path());
        Some(self.try_program(&file, &former.restart_only, deadline).await)
    }
}
