//! Writing all files of the server together: before a start and when settings change.

use super::passfile;
use super::pg_hba;
use super::postgresql_conf::{self, Contents, RECOVERY_PARAMETERS, is_recovery_parameter};
use super::{ensure_directory, name_of, remove, signal, with_suffix, write_configuration, write_like};
use crate::parameters::SYNCHRONOUS_STANDBY_NAMES;
use crate::server::locked;
use crate::{Error, Follow, Instant, Recovery, RecoverySignal, Result, Server};
use config::PostgresqlSettings;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Recovery settings that would turn following into something else.
fn is_target_or_source(name: &str) -> bool {
    name.starts_with("recovery_target") || matches!(name, "primary_conninfo" | "primary_slot_name")
}

impl Server {
    /// `<base>.conf`.
    pub(crate) fn config_path(&self) -> PathBuf {
        let settings = self.settings();
        settings
            .local
            .config_dir
            .join(format!("{}.conf", settings.local.config_base_name))
    }

    fn base_config_path(&self) -> PathBuf {
        let settings = self.settings();
        settings
            .local
            .config_dir
            .join(format!("{}.base.conf", settings.local.config_base_name))
    }

    /// Writes everything that a start needs; returns the names of the files that changed.
    pub(crate) async fn write_configuration(
        &self,
        recovery: &Recovery,
        deadline: Instant,
    ) -> Result<Vec<String>> {
        let settings = self.settings();
        let mut changed = Vec::new();
        for directory in directories(&settings) {
            ensure_directory(&directory)?;
        }
        changed.extend(self.write_postgresql_conf(Some(recovery), deadline).await?);
        changed.extend(self.write_hba_and_ident()?);
        if let Recovery::Follow(Follow {
            source: Some(source), ..
        }) = recovery
        {
            self.write_passfile(&self.replication_conninfo(source))?;
        }
        let data_dir = &settings.local.data_dir;
        match recovery {
            Recovery::Primary => signal::write(data_dir, RecoverySignal::None)?,
            Recovery::Follow(_) => signal::write(data_dir, RecoverySignal::Standby)?,
            Recovery::Custom(wanted) => {
                let standby = wanted.get("standby_mode").is_some_and(|mode| is_true(mode));
                let kind = if standby {
                    RecoverySignal::Standby
                } else {
                    RecoverySignal::Recovery
                };
                signal::write(data_dir, kind)?;
            }
            Recovery::Keep => {}
        }
        Ok(changed)
    }

    /// Writes `<base>.conf`, keeping what was there before it became ours. `recovery` `None`: the recovery settings in
    /// the file stay.
    pub(crate) async fn write_postgresql_conf(
        &self,
        recovery: Option<&Recovery>,
        deadline: Instant,
    ) -> Result<Vec<String>> {
        let settings = self.settings();
        let (path, base) = (self.config_path(), self.base_config_path());
        if settings.custom_conf.is_none() && !base.exists() {
            match fs::rename(&path, &base) {
                // What is written in its place gets its mode.
                Ok(()) => {
                    write_like(&base, &path)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // With the configuration elsewhere initdb's own file is in the data directory.
                    let made = settings.local.data_dir.join("postgresql.conf");
                    let text = net::file::read(&made).unwrap_or_default();
                    write_configuration(&base, &text, &settings.local.data_dir)?;
                }
                Err(error) => return Err(Error::file("rename", path)(error)),
            }
        }
        let former = locked(&self.shared.parameters).former.clone();
        let mut parameters = match former {
            Some(former) => former.parameters,
            None => self.valid_parameters(deadline).await?,
        };
        let defaults = self.standby_defaults(recovery);
        let recovery_settings = match recovery {
            Some(Recovery::Keep) | None => {
                let present = net::file::read_text(&path).unwrap_or_default();
                let mut present = postgresql_conf::read_settings(&present);
                present.retain(|name, _| is_recovery_parameter(name));
                present
            }
            Some(recovery) => self.recovery_settings(recovery, deadline).await?,
        };
        // Several may write at a time: the last one must have the names that were set last.
        let _writing = locked(&self.shared.writing);
        if let Some(names) = self.synchronous_standby_names() {
            parameters.insert(SYNCHRONOUS_STANDBY_NAMES.to_owned(), names);
        }
        let contents = Contents {
            defaults,
            include: settings.custom_conf.clone().unwrap_or_else(|| name_of(&base)),
            hba_file: self.access_file("hba_file", "pg_hba.conf").display().to_string(),
            ident_file: self
                .access_file("ident_file", "pg_ident.conf")
                .display()
                .to_string(),
            parameters,
            recovery: recovery_settings,
        };
        let mut changed = Vec::new();
        if write_configuration(&path, contents.render(), &settings.local.data_dir)? {
            changed.push(name_of(&path));
        }
        if recovery != Some(&Recovery::Keep) {
            changed.extend(clean_auto_file(&settings.local.data_dir)?);
        }
        Ok(changed)
    }

    /// What stands in `<base>.conf` for a standby where nobody has set it otherwise. `recovery` as in
    /// [`Server::write_postgresql_conf`].
    pub(crate) fn standby_defaults(&self, recovery: Option<&Recovery>) -> BTreeMap<String, String> {
        match recovery {
            Some(Recovery::Primary | Recovery::Custom(_)) => BTreeMap::new(),
            Some(Recovery::Keep) | None => {
                let present = net::file::read_text(self.config_path()).unwrap_or_default();
                postgresql_conf::read_defaults(&present)
            }
            Some(Recovery::Follow(follow)) => {
                let settings = self.settings();
                let mut defaults = settings.standby_defaults.parameters.clone();
                defaults.retain(|name, _| !settings.parameters.contains_key(name));
                if follow.source.is_none() {
                    // Nothing is streamed: the archive would be asked as often, for a file that takes its time.
                    defaults.remove("wal_retrieve_retry_interval");
                }
                let overridden = follow.overrides.get("restore_command");
                let restores = overridden.or_else(|| settings.recovery_conf.get("restore_command"));
                if let Some(interval) = defaults.get_mut("wal_retrieve_retry_interval")
                    && !follow.only_streams
                    && restores.is_some_and(|command| !command.is_empty())
                {
                    // Each time before it connects, the startup process asks the archive for two files.
                    interval.clear();
                    interval.push_str("1s");
                }
                if let (Some(interval), Some(retry)) =
                    (defaults.get_mut("wal_retrieve_retry_interval"), follow.retry)
                {
                    *interval = format!("{}s", retry.as_secs());
                }
                defaults
            }
        }
    }

    /// The recovery settings in `postgresql.conf` for what the server is to do.
    pub(crate) async fn recovery_settings(
        &self,
        recovery: &Recovery,
        deadline: Instant,
    ) -> Result<BTreeMap<String, String>> {
        let settings = self.settings();
        let version = self.version(deadline).await?;
        let mut wanted: BTreeMap<String, String> = match recovery {
            Recovery::Primary | Recovery::Keep => BTreeMap::new(),
            Recovery::Custom(wanted) => wanted.clone(),
            Recovery::Follow(follow) => {
                let mut wanted = settings.recovery_conf.clone();
                wanted.retain(|name, _| !is_target_or_source(name));
                wanted.extend(follow.overrides.clone());
                wanted.insert("recovery_target_timeline".to_owned(), "latest".to_owned());
                if let Some(command) = wanted.get_mut("restore_command")
                    && follow.only_streams
                    && version.is_at_least(14)
                {
                    command.clear();
                }
                for target in ["", "_name", "_time", "_xid", "_lsn"] {
                    wanted.insert(format!("recovery_target{target}"), String::new());
                }
                if let Some(source) = &follow.source {
                    wanted.insert(
                        "primary_conninfo".to_owned(),
                        self.written_conninfo(source, version).to_text(),
                    );
                    if let Some(slot) = source.slot.as_ref().filter(|_| settings.use_slots) {
                        wanted.insert("primary_slot_name".to_owned(), slot.0.clone());
                    }
                }
                wanted
            }
        };
        if let Some(trigger) = wanted.remove("trigger_file") {
            wanted.entry("promote_trigger_file".to_owned()).or_insert(trigger);
        }
        if version.is_at_least(16) {
            wanted.remove("promote_trigger_file");
        }
        // standby_mode is a signal file since version 12; what is no recovery parameter has no place here.
        wanted.retain(|name, _| RECOVERY_PARAMETERS.contains(&name.as_str()));
        Ok(wanted)
    }

    /// `hba_file` or `ident_file`: the user's own, or the default one in `config_dir`.
    fn access_file(&self, parameter: &str, default: &str) -> PathBuf {
        self.custom_access_file(parameter, default)
            .unwrap_or_else(|| self.settings().local.config_dir.join(default))
    }

    fn custom_access_file(&self, parameter: &str, default: &str) -> Option<PathBuf> {
        let settings = self.settings();
        if parameter == "hba_file" && locked(&self.shared.parameters).bootstrap_hba.is_some() {
            return None;
        }
        let path = settings.local.config_dir.join(
            settings
                .parameters
                .get(parameter)
                .filter(|path| !path.is_empty())?,
        );
        (path != settings.local.config_dir.join(default)).then_some(path)
    }

    /// Whether the user has an `hba_file` of their own.
    pub(crate) fn has_custom_hba_file(&self) -> bool {
        self.custom_access_file("hba_file", "pg_hba.conf").is_some()
    }

    /// Writes `pg_hba.conf` and `pg_ident.conf` where they are ours; returns the names of those that changed.
    pub(crate) fn write_hba_and_ident(&self) -> Result<Vec<String>> {
        let settings = self.settings();
        let bootstrap = locked(&self.shared.parameters).bootstrap_hba.clone();
        let files = [
            (
                "hba_file",
                "pg_hba.conf",
                bootstrap.or_else(|| settings.pg_hba.clone()),
            ),
            ("ident_file", "pg_ident.conf", settings.pg_ident.clone()),
        ];
        let mut changed = Vec::new();
        for (parameter, name, lines) in files {
            if self.custom_access_file(parameter, name).is_some() {
                continue;
            }
            let path = settings.local.config_dir.join(name);
            let former = locked(&self.shared.parameters).former.clone();
            let former = former
                .and_then(|former| former.hba)
                .filter(|_| parameter == "hba_file");
            let text = match lines {
                _ if former.is_some() => former.unwrap_or_default(),
                Some(lines) => pg_hba::render(&lines).into_bytes(),
                None if path.exists() => continue,
                // With the configuration elsewhere initdb's own file is in the data directory.
                None => match net::file::read(settings.local.data_dir.join(name)) {
                    Ok(text) => text,
                    Err(_) => continue,
                },
            };
            if write_configuration(&path, &text, &settings.local.data_dir)? {
                changed.push(name.to_owned());
            }
        }
        Ok(changed)
    }

    /// Writes the password of the replication role for a connection; without a password there is no file to write.
    pub(crate) fn write_passfile(&self, conninfo: &crate::Conninfo) -> Result<bool> {
        match &self.settings().local.authentication.replication.password {
            Some(password) => {
                passfile::write(&self.passfile(), &passfile::lines(conninfo, password.reveal()))
            }
            None => Ok(false),
        }
    }

    pub(crate) fn backed_up_files(&self) -> Vec<PathBuf> {
        let settings = self.settings();
        let directory = &settings.local.config_dir;
        let mut files = vec![
            self.config_path(),
            directory.join("pg_hba.conf"),
            directory.join("pg_ident.conf"),
        ];
        if settings.custom_conf.is_none() {
            files.push(self.base_config_path());
        }
        files
    }

    pub(crate) fn backup_of(&self, file: &Path) -> PathBuf {
        self.data_dir().join(name_of(&with_suffix(file, "backup")))
    }

    /// Copies the configuration files into the data directory, so that copies of it carry them along.
    pub(crate) fn back_up_configuration(&self) {
        let data_dir = self.data_dir();
        for file in self.backed_up_files() {
            let backup = self.backup_of(&file);
            if let Ok(text) = net::file::read(&file)
                && let Err(error) = write_configuration(&backup, &text, &data_dir)
            {
                tracing::warn!("no backup of {} was made: {error}", file.display());
            }
        }
    }

    /// Brings configuration files that are missing in `config_dir` back from the data directory.
    pub(crate) fn restore_configuration(&self) -> Result<()> {
        let settings = self.settings();
        ensure_directory(&settings.local.config_dir)?;
        for file in self.backed_up_files() {
            if file.exists() {
                continue;
            }
            let data_dir = &settings.local.data_dir;
            match net::file::read(self.backup_of(&file)) {
                Ok(text) => {
                    write_configuration(&file, &text, data_dir)?;
                }
                Err(_) if name_of(&file) == "pg_ident.conf" => {
                    write_configuration(&file, "", data_dir)?;
                }
                Err(_) => {}
            }
        }
        remove(&settings.local.data_dir.join(signal::PROMOTE))?;
        if let Some(trigger) = settings
            .recovery_conf
            .get("promote_trigger_file")
            .filter(|path| !path.is_empty())
        {
            remove(&settings.local.data_dir.join(trigger))?;
        }
        Ok(())
    }
}

pub(crate) fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

pub(crate) fn directories(settings: &PostgresqlSettings) -> Vec<PathBuf> {
    let mut directories = vec![settings.local.config_dir.clone()];
    for name in ["unix_socket_directories", "stats_temp_directory"] {
        let list = settings
            .parameters
            .get(name)
            .map(String::as_str)
            .unwrap_or_default();
        let paths = list.split(',').map(|path| path.trim().trim_matches('"'));
        // Names that begin with @ are abstract sockets.
        directories.extend(
            paths
                .filter(|path| !path.is_empty() && !path.starts_with('@'))
                .map(|path| settings.local.data_dir.join(path)),
        );
    }
    directories
}

/// Takes recovery settings out of `postgresql.auto.conf`; its name if that has changed it.
fn clean_auto_file(data_dir: &Path) -> Result<Option<String>> {
    let path = data_dir.join("postgresql.auto.conf");
    let Ok(text) = net::file::read_text(&path) else {
        return Ok(None);
    };
    let (cleaned, removed) = postgresql_conf::without_recovery_settings(&text);
    if !write_configuration(&path, &cleaned, data_dir)? {
        return Ok(None);
    }
    if !removed.is_empty() {
        tracing::info!(
            "removed {} from {}: the agent sets it; set it in the section postgresql of the configuration (recovery_conf), \
             not with ALTER SYSTEM",
            removed.join(", "),
            path.display()
        );
    }
    Ok(Some(name_of(&path)))
}
