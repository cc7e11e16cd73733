//! PostgreSQL's parameters: which of them this server takes, and what changes when others are wanted.

mod check;
mod trial;
pub(crate) mod value;
mod working;

use crate::connection::{Purpose, quote_literal};
use crate::files::postgresql_conf::{RECOVERY_PARAMETERS, is_recovery_parameter, read_settings};
use crate::server::locked;
use crate::{Instant, Recovery, Result, Server, ServerVersion};
pub use check::{Complaint, parameter_complaints, parameter_names};
use config::shown_parameter;
use ha::cluster::PendingRestartReason;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::SimpleQueryRow;
pub(crate) use trial::reason_in;
use working::FailedSettings;
pub(crate) use working::Former;

/// How long a server may take to read its files after SIGHUP before we go on without seeing it.
const RELOAD_TIME: Duration = Duration::from_secs(2);

pub(crate) const SYNCHRONOUS_STANDBY_NAMES: &str = "synchronous_standby_names";

/// Since PostgreSQL 17: logical replication waits for the standbys that use these slots.
const SYNCHRONIZED_STANDBY_SLOTS: &str = "synchronized_standby_slots";

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

/// The last parameters that were checked.
#[derive(Clone)]
struct Checked {
    by: ServerVersion,
    wanted: BTreeMap<String, String>,
    /// What the server made of them.
    accepted: BTreeMap<String, String>,
}

#[derive(Default)]
pub(crate) struct ParameterMemory {
    checked: Option<Checked>,
    /// `Some`: `synchronous_standby_names` as it was last set by [`Server::set_synchronous_standby_names`].
    synchronous_standby_names: Option<String>,
    forces_feedback: bool,
    /// Parameters that were started with a larger value than the configured one.
    pub(crate) raised: BTreeMap<String, u64>,
    /// The postmaster whose settings were written down as those that work.
    running_of: Option<i32>,
    /// The settings in force do not work.
    pub(crate) failed: Option<FailedSettings>,
    /// While the server is started with the settings with which it ran last.
    pub(crate) former: Option<Former>,
    /// While a custom bootstrap is finished: the rules of `pg_hba.conf`.
    pub(crate) bootstrap_hba: Option<Vec<String>>,
    /// What `pg_hba.conf` held before that.
    pub(crate) former_hba: Option<String>,
}

impl Server {
    /// The ordinary parameters for `postgresql.conf`, without what this server does not take.
    pub(crate) async fn valid_parameters(&self, deadline: Instant) -> Result<BTreeMap<String, String>> {
        let mut wanted = self.settings().parameters.clone();
        wanted.retain(|name, _| !is_recovery_parameter(name) && name != "hba_file" && name != "ident_file");
        if let Some(slots) = wanted.get_mut(SYNCHRONIZED_STANDBY_SLOTS) {
            *slots = without_slot(slots, &self.shared.name.slot_name().0);
        }
        let version = self.version(deadline).await?;
        let known = locked(&self.shared.parameters).checked.clone();
        let mut accepted = match known {
            Some(known) if known.by == version && known.wanted == wanted => known.accepted,
            _ => {
                let accepted = check::accepted(&self.program("postgres"), &wanted, deadline).await?;
                locked(&self.shared.parameters).checked = Some(Checked {
                    by: version,
                    wanted,
                    accepted: accepted.clone(),
                });
                accepted
            }
        };
        let names = self.synchronous_standby_names();
        if let Some(names) = names {
            accepted.insert(SYNCHRONOUS_STANDBY_NAMES.to_owned(), names);
        }
        let memory = locked(&self.shared.parameters);
        if memory.forces_feedback {
            accepted.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        Ok(accepted)
    }

    /// Brings files and running server to the settings in force: compares parameters with `pg_settings`, rewrites what
    /// differs and reloads.
    ///
    /// # Errors
    /// When a file cannot be written or the server cannot be asked.
    pub async fn apply(&self, force_reload: bool, deadline: Instant) -> Result<Applied> {
        let wanted = self.valid_parameters(deadline).await?;
        let recovery = locked(&self.shared.follow).current.clone();
        let recovery = recovery.filter(|recovery| !matches!(recovery, Recovery::Custom(_)));
        let defaults = self.standby_defaults(recovery.as_ref());
        let changes = self.changes(&wanted, &defaults, deadline).await?;
        for change in &changes {
            let text = |value: &Option<String>| match value {
                Some(value) => shown_parameter(&change.name, value).to_owned(),
                None => "default".to_owned(),
            };
            let restart = if change.needs_restart {
                " (restart might be required)"
            } else {
                ""
            };
            tracing::info!(
                "Changed {} from '{}' to '{}'{restart}",
                change.name,
                text(&change.old),
                text(&change.new)
            );
        }
        let mut files = self.write_postgresql_conf(recovery.as_ref(), deadline).await?;
        files.extend(self.write_hba_and_ident()?);
        let reloads = force_reload || !files.is_empty() || !changes.is_empty();
        if reloads {
            tracing::info!("Reloading PostgreSQL configuration.");
            self.reload_and_wait(deadline).await?;
        } else {
            tracing::info!("No PostgreSQL configuration items changed, nothing to reload.");
        }
        Ok(Applied {
            changes,
            files,
            reloaded: reloads,
        })
    }

    /// `synchronous_standby_names`, where it is not the user's. What was set stays until it is set anew, even while
    /// settings change around it; an agent that has just begun finds it in the file.
    pub(crate) fn synchronous_standby_names(&self) -> Option<String> {
        let is_managed = self.settings().manages_synchronous_standby_names;
        let set = locked(&self.shared.parameters).synchronous_standby_names.clone();
        match set {
            Some(names) => Some(names).filter(|names| is_managed || !names.is_empty()),
            None if is_managed => {
                let text = net::file::read_text(self.config_path()).unwrap_or_default();
                read_settings(&text).remove(SYNCHRONOUS_STANDBY_NAMES)
            }
            None => None,
        }
    }

    /// `defaults`: what our file gives to a standby where nobody has set it otherwise.
    async fn changes(
        &self,
        wanted: &BTreeMap<String, String>,
        defaults: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<Vec<Change>> {
        let sql = "SELECT name, setting, unit, vartype, context, source, sourcefile FROM pg_settings";
        let rows = self
            .query_kept(Purpose::Heartbeat, "reading pg_settings", sql, deadline)
            .await?;
        let our_file = self.config_path();
        let mut changes = Vec::new();
        for row in &rows {
            let (name, setting) = (text(row, "name"), text(row, "setting"));
            let needs_restart = row.get("context") == Some("postmaster");
            let is_from_elsewhere = row.get("source") != Some("default")
                && row
                    .get("sourcefile")
                    .is_none_or(|file| our_file.as_os_str() != file);
            let default = defaults.get(&name).filter(|_| !is_from_elsewhere);
            let new = match wanted.get(&name.to_ascii_lowercase()).or(default) {
                Some(value) => {
                    let is_auto_tuned = name == "wal_buffers" && value == "-1";
                    let vartype = row.get("vartype").unwrap_or_default();
                    if is_auto_tuned || value::same(vartype, row.get("unit"), value, &setting) {
                        continue;
                    }
                    Some(value.clone())
                }
                None => {
                    let was_ours = row.get("source") == Some("configuration file")
                        && row
                            .get("sourcefile")
                            .is_some_and(|file| our_file.as_os_str() == file);
                    let is_separate =
                        matches!(name.as_str(), "hba_file" | "ident_file") || is_recovery_parameter(&name);
                    if !was_ours || is_separate {
                        continue;
                    }
                    None
                }
            };
            changes.push(Change {
                old: Some(value::human(&setting, row.get("unit"))),
                name,
                new,
                needs_restart,
            });
        }
        Ok(changes)
    }

    /// Reloads, and waits until the server has read its files (or [`RELOAD_TIME`] has passed).
    pub(crate) async fn reload_and_wait(&self, deadline: Instant) -> Result<()> {
        let loaded_at = async || {
            let rows = self
                .query_kept(
                    Purpose::Heartbeat,
                    "reading the time of the last reload",
                    "SELECT pg_conf_load_time()",
                    deadline,
                )
                .await?;
            Ok::<_, crate::Error>(rows.first().and_then(|row| row.get(0).map(str::to_owned)))
        };
        let before = loaded_at().await;
        self.reload()?;
        let until = deadline.min(Instant::now() + RELOAD_TIME);
        // No event tells when a backend has read the files: it is asked, at growing intervals.
        let mut pause = Duration::from_millis(2);
        while before.is_ok() && Instant::now() < until {
            tokio::time::sleep(pause).await;
            if loaded_at()
                .await
                .is_ok_and(|now| before.as_ref().is_ok_and(|before| now != *before))
            {
                break;
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The parameters that wait for a restart, with both values in human units.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn pending_restart(&self, deadline: Instant) -> Result<BTreeMap<String, PendingRestartReason>> {
        let hidden: Vec<String> = RECOVERY_PARAMETERS
            .iter()
            .map(|name| quote_literal(name))
            .collect();
        if let Err(error) = self.remember_running(deadline).await {
            tracing::warn!("the settings that work could not be written down: {error}");
        }
        let sql = format!(
            "SELECT name, setting, unit FROM pg_settings WHERE pending_restart AND name <> 'hot_standby' \
             AND name NOT IN ({})",
            hidden.join(", ")
        );
        let rows = self
            .query_kept(Purpose::Heartbeat, "reading pg_settings", &sql, deadline)
            .await?;
        let mut reasons = BTreeMap::new();
        for row in &rows {
            let (name, unit) = (text(row, "name"), row.get("unit"));
            let new_value = match self.value_after_restart(&name, deadline).await {
                Some(setting) => value::human(&setting, unit),
                None => "?".to_owned(),
            };
            let old_value = value::human(&text(row, "setting"), unit);
            // The file was just put back: the server drops its flag when it has read it.
            if new_value == old_value {
                continue;
            }
            reasons.insert(
                name,
                PendingRestartReason {
                    old_value,
                    new_value,
                    error: None,
                },
            );
        }
        let raised = locked(&self.shared.parameters).raised.clone();
        let settings = self.settings();
        for (name, running) in raised {
            let wanted = settings
                .controlled
                .iter()
                .find(|(controlled, _)| *controlled == name);
            if let Some((_, wanted)) = wanted.filter(|(_, wanted)| *wanted != running.to_string()) {
                let reason = PendingRestartReason {
                    old_value: running.to_string(),
                    new_value: wanted.clone(),
                    error: None,
                };
                reasons.entry(name).or_insert(reason);
            }
        }
        self.explain_failure(&mut reasons);
        for (name, reason) in &mut reasons {
            for value in [&mut reason.old_value, &mut reason.new_value] {
                *value = shown_parameter(name, value).to_owned();
            }
        }
        Ok(reasons)
    }

    /// Says of each value that was tried why the server does not run with it.
    fn explain_failure(&self, reasons: &mut BTreeMap<String, PendingRestartReason>) {
        let mut memory = locked(&self.shared.parameters);
        // Right after a start with the former settings nothing waits yet: what was tried is written again after it.
        let Some(failed) = memory.failed.as_mut().filter(|_| !reasons.is_empty()) else {
            return;
        };
        failed.remember_tried(|| {
            reasons
                .iter()
                .map(|(name, reason)| (name.clone(), reason.new_value.clone()))
                .collect()
        });
        for (name, reason) in reasons {
            reason.error = failed.of(name, &reason.new_value);
        }
    }

    /// What a parameter will be after a restart, in its own unit: `postgres -C` with the command line of a start.
    async fn value_after_restart(&self, name: &str, deadline: Instant) -> Option<String> {
        let mut args: Vec<OsString> = vec!["-C".into(), name.into()];
        args.extend(self.postmaster_arguments(&BTreeMap::new()));
        let output = self
            .run("postgres", args, &BTreeMap::new(), deadline)
            .await
            .ok()?;
        output.into_success().ok().map(|text| text.trim_end().to_owned())
    }

    /// The command line of a postmaster: where its files are, then the controlled parameters in their order.
    pub(crate) fn postmaster_arguments(&self, replaced: &BTreeMap<String, String>) -> Vec<OsString> {
        self.postmaster_arguments_for(&self.data_dir(), &self.config_path(), replaced)
    }

    /// The same for another directory and file. What `replaced` has besides the controlled parameters comes after them.
    fn postmaster_arguments_for(
        &self,
        data_dir: &Path,
        config_path: &Path,
        replaced: &BTreeMap<String, String>,
    ) -> Vec<OsString> {
        let controlled = &self.settings().controlled;
        let mut args: Vec<OsString> = vec!["-D".into(), data_dir.into()];
        let mut config_file = OsString::from("--config-file=");
        config_file.push(config_path);
        args.push(config_file);
        for (name, value) in controlled {
            args.push(format!("--{name}={}", replaced.get(name).unwrap_or(value)).into());
        }
        let is_controlled = |name: &String| controlled.iter().any(|(known, _)| known == name);
        for (name, value) in replaced.iter().filter(|(name, _)| !is_controlled(name)) {
            args.push(format!("--{name}={value}").into());
        }
        args
    }

    /// Sets `synchronous_standby_names` (`None`: the user's own value), reloads, and waits until it is read.
    ///
    /// # Errors
    /// When the file cannot be written or the server cannot be told.
    pub async fn set_synchronous_standby_names(
        &self,
        names: Option<String>,
        deadline: Instant,
    ) -> Result<()> {
        locked(&self.shared.parameters).synchronous_standby_names = names;
        let recovery = locked(&self.shared.follow).current.clone();
        let recovery = recovery.filter(|recovery| !matches!(recovery, Recovery::Custom(_)));
        self.write_postgresql_conf(recovery.as_ref(), deadline).await?;
        if self.postmaster()?.is_some() {
            // The file may be as it should be and the server not have read it.
            self.reload_and_wait(deadline).await?;
            self.have_standbys_answer(deadline).await;
        }
        Ok(())
    }

    /// A WAL sender releases commits when its standby answers. One that has everything already answers when something
    /// new comes: a transaction of ours, which waits for nobody, makes it.
    async fn have_standbys_answer(&self, deadline: Instant) {
        let sql = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN txid_current() END";
        let asked = self
            .query_kept(Purpose::Heartbeat, "having standbys answer", sql, deadline)
            .await;
        if let Err(error) = asked {
            tracing::debug!("commits that wait may do so until their standby answers by itself: {error}");
        }
    }

    /// A standby waits for nobody; what it has to wait for as a primary is set before it becomes one.
    pub(crate) fn forget_synchronous_standby_names(&self) {
        locked(&self.shared.parameters).synchronous_standby_names = Some(String::new());
    }

    /// Forces `hot_standby_feedback = on`, or no longer; returns whether that is a change. Takes effect with the next
    /// [`Server::apply`] or [`Server::follow`].
    pub fn force_hot_standby_feedback(&self, forced: bool) -> bool {
        std::mem::replace(&mut locked(&self.shared.parameters).forces_feedback, forced) != forced
    }

    /// On a standby the larger of configured value and control file, for the parameters that must not be smaller than on
    /// the primary (PostgreSQL manual, "Administrator's Overview" of hot standby).
    pub(crate) async fn raised_for_standby(&self, deadline: Instant) -> Result<BTreeMap<String, String>> {
        let raised = self.needed_on_standby(deadline).await?;
        for (name, needed) in &raised {
            tracing::warn!(
                "{name} is set to {needed}, the primary's value, instead of the configured one: a standby may not have less"
            );
        }
        let replaced = raised
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect();
        locked(&self.shared.parameters).raised = raised;
        Ok(replaced)
    }

    /// The parameters of which the control file asks for more than is configured.
    async fn needed_on_standby(&self, deadline: Instant) -> Result<BTreeMap<String, u64>> {
        let control = self.control_file(deadline).await?;
        let mut needed = BTreeMap::new();
        for (name, value) in &self.settings().controlled {
            if let (Some(least), Ok(wanted)) = (control.parameter(name), value.parse::<u64>())
                && least > wanted
            {
                needed.insert(name.clone(), least);
            }
        }
        Ok(needed)
    }
}

/// A list of slots without the one of this member, which a primary does not have: logical replication would wait for it
/// for ever. So one list of the slots of all members does for whoever leads.
fn without_slot(list: &str, own: &str) -> String {
    let others = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty() && name.trim_matches('"') != own);
    others.collect::<Vec<_>>().join(", ")
}

pub(crate) fn text(row: &SimpleQueryRow, column: &str) -> String {
    row.get(column).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::without_slot;

    #[test]
    fn a_member_does_not_wait_for_itself() {
        for (list, expected) in [
            ("a", ""),
            ("a,b", "b"),
            ("b, \"a\" ,c", "b, c"),
            ("ab, b", "ab, b"),
            ("", ""),
        ] {
            assert_eq!(without_slot(list, "a"), expected, "{list}");
        }
    }
}
