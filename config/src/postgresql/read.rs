//! Local and dynamic side together into [`PostgresqlSettings`].

use super::{Callbacks, ParameterRole, PostgresqlSettings, ReplicaMethod, StandbyDefaults};
use crate::dynamic::{DynamicConfig, SynchronousMode};
use crate::layers;
use crate::local::LocalConfig;
use crate::number::parse_int;
use crate::problem::{Problem, Problems};
use crate::read::{
    arguments, count, flag, is_one_of, lines, loose_flag, options, section, strict_flag, text, texts,
};
use crate::settings::check_dynamic;
use crate::value::{Map, Value};
use crate::{commands, controlled};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Parameters of recovery, which have a section of their own. PostgreSQL manual, sections "Archive Recovery",
/// "Recovery Target" and "Standby Servers", and those of older versions.
const RECOVERY_PARAMETERS: [&str; 18] = [
    "archive_cleanup_command",
    "pause_at_recovery_target",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restore_command",
    "standby_mode",
    "trigger_file",
];

/// Options of pg_basebackup that the program gives itself.
const FORBIDDEN_BASEBACKUP_OPTIONS: [&str; 11] = [
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];

/// Options of pg_rewind that the program gives itself.
const FORBIDDEN_REWIND_OPTIONS: [&str; 10] = [
    "target-pgdata",
    "source-pgdata",
    "source-server",
    "write-recovery-conf",
    "dry-run",
    "restore-target-wal",
    "config-file",
    "no-ensure-shutdown",
    "version",
    "help",
];

impl ParameterRole {
    fn suffix(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::StandbyLeader => "standby_leader",
        }
    }
}

impl PostgresqlSettings {
    /// The settings for a server of `major_version` (as PostgreSQL's version number: 150000; `None` = not known yet) in
    /// `role` (`None` = not initialised yet: no overlay).
    ///
    /// # Errors
    /// If `postgresql.parameters` is no mapping on one side: the former settings stay in force then. On success the
    /// warnings come with the settings.
    pub fn new(
        local: &LocalConfig,
        dynamic: &DynamicConfig,
        major_version: Option<u32>,
        role: Option<ParameterRole>,
    ) -> Result<(Self, Problems), Problems> {
        let mut document = Value::from(&dynamic.document)
            .as_map()
            .cloned()
            .unwrap_or_default();
        let removed = commands::remove(local, &mut document);
        let (effective, mut problems) = layers::effective(&local.tree, &document)?;
        problems.0.extend(removed.0);
        problems.0.extend(
            check_dynamic(&document, "")
                .0
                .into_iter()
                .filter(|p| p.path.starts_with("postgresql.")),
        );
        let map = section(&effective, "postgresql");
        let role = role.map(ParameterRole::suffix);
        let mut builder = Builder {
            local,
            dynamic,
            major_version,
            map,
            problems,
        };
        let parameters = builder.parameters(role);
        let settings = Self {
            controlled: builder.command_line(&parameters),
            recovery_conf: builder.recovery_conf(&parameters),
            parameters: parameters
                .into_iter()
                .filter(|(name, _)| !RECOVERY_PARAMETERS.contains(&name.as_str()))
                .collect(),
            local: local.postgresql.clone(),
            major_version,
            standby_defaults: StandbyDefaults::new(dynamic.ttl),
            manages_synchronous_standby_names: dynamic.synchronous_mode() != SynchronousMode::Off,
            pg_hba: builder.lines_of("pg_hba", role),
            pg_ident: builder.lines_of("pg_ident", role),
            custom_conf: text(map, "custom_conf"),
            krbsrvname: text(map, "krbsrvname"),
            use_unix_socket: flag(map, "use_unix_socket"),
            use_unix_socket_repl: flag(map, "use_unix_socket_repl"),
            use_slots: dynamic.use_slots(),
            use_pg_rewind: flag(map, "use_pg_rewind"),
            remove_data_directory_on_rewind_failure: strict_flag(
                map,
                "remove_data_directory_on_rewind_failure",
            ),
            remove_data_directory_on_diverged_timelines: strict_flag(
                map,
                "remove_data_directory_on_diverged_timelines",
            ),
            rewind: builder.options("rewind", &FORBIDDEN_REWIND_OPTIONS),
            pg_ctl_timeout: Duration::from_secs(
                count::<u64>(map, "pg_ctl_timeout", Some("s"), 60).min(i32::MAX as u64),
            ),
            callbacks: callbacks(section(map, "callbacks")),
            create_replica_methods: builder.create_replica_methods(),
            method_sections: method_sections(map),
            pre_promote: text(map, "pre_promote"),
            before_stop: text(map, "before_stop"),
        };
        Ok((settings, builder.problems))
    }

    /// The methods of these names, for `standby_cluster.create_replica_methods`.
    #[must_use]
    pub fn methods(&self, names: &[String]) -> Vec<ReplicaMethod> {
        let basebackup = self
            .create_replica_methods
            .iter()
            .find(|m| matches!(m, ReplicaMethod::Basebackup { .. }));
        names
            .iter()
            .map(|name| match basebackup {
                Some(basebackup) if name == "basebackup" => basebackup.clone(),
                _ => method(
                    name,
                    &self.method_sections,
                    self.major_version,
                    &mut Problems::default(),
                ),
            })
            .collect()
    }

    /// A method by pg_basebackup with the configured options, whatever the list of methods says.
    #[must_use]
    pub fn basebackup(&self) -> ReplicaMethod {
        method(
            "basebackup",
            &self.method_sections,
            self.major_version,
            &mut Problems::default(),
        )
    }
}

struct Builder<'a> {
    local: &'a LocalConfig,
    dynamic: &'a DynamicConfig,
    major_version: Option<u32>,
    map: &'a Map,
    problems: Problems,
}

impl Builder<'_> {
    fn is_at_least(&self, version: u32) -> bool {
        self.major_version.is_some_and(|major| major >= version)
    }

    /// All parameters, recovery's included, by lower-case name.
    fn parameters(&mut self, role: Option<&str>) -> BTreeMap<String, String> {
        let mut all = self.texts_of(section(self.map, "parameters"), "postgresql.parameters");
        if let Some(role) = role {
            let key = format!("parameters_{role}");
            let path = format!("postgresql.{key}");
            for (name, value) in self.texts_of(section(self.map, &key), &path) {
                if controlled::is_controlled(&name) {
                    let message =
                        "ignored: it must be the same on all members and belongs to postgresql.parameters";
                    self.problems
                        .push(Problem::warning(&format!("{path}.{name}"), None, message));
                } else {
                    all.insert(name, value);
                }
            }
        }
        let listen = &self.local.postgresql.listen;
        all.insert("listen_addresses".to_owned(), listen.listen_addresses());
        all.insert("port".to_owned(), listen.port.to_string());
        all.insert("cluster_name".to_owned(), self.local.scope.clone());
        if self.dynamic.synchronous_mode() != SynchronousMode::Off {
            // The HA cycle says who is synchronous.
            all.remove("synchronous_standby_names");
        }
        self.citus(&mut all);
        self.fit_to_version(&mut all);
        for file in ["hba_file", "ident_file"] {
            if let Some(name) = all.get_mut(file) {
                *name = self
                    .local
                    .postgresql
                    .config_dir
                    .join(Path::new(name))
                    .to_string_lossy()
                    .into_owned();
            }
        }
        all
    }

    fn texts_of(&mut self, map: &Map, path: &str) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for (name, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            match value.guc_text() {
                Some(_) if !commands::is_parameter_name(name) => {
                    let message = "ignored: this is no name of a parameter";
                    let path = format!("{path}.{name}");
                    self.problems
                        .push(Problem::warning(&path, value.position.as_ref(), message));
                }
                Some(text) => {
                    texts.insert(name.to_ascii_lowercase(), text);
                }
                None => self.problems.push(Problem::warning(
                    &format!("{path}.{name}"),
                    value.position.as_ref(),
                    format!(
                        "expected a text, a number or a boolean, found {}: ignored",
                        value.describe()
                    ),
                )),
            }
        }
        texts
    }

    /// Citus documentation: its library comes first, and it needs logical decoding and prepared transactions.
    fn citus(&self, all: &mut BTreeMap<String, String>) {
        if self.local.citus.is_none() {
            return;
        }
        let libraries = all.get("shared_preload_libraries").map_or("", String::as_str);
        let others = libraries
            .split(',')
            .map(str::trim)
            .filter(|library| !library.is_empty() && *library != "citus");
        let libraries = ["citus"].into_iter().chain(others).collect::<Vec<_>>().join(",");
        all.insert("shared_preload_libraries".to_owned(), libraries);
        if all
            .get("max_prepared_transactions")
            .is_some_and(|value| value == "0")
        {
            let connections = all
                .get("max_connections")
                .and_then(|value| parse_int(value, None))
                .unwrap_or(100);
            all.insert(
                "max_prepared_transactions".to_owned(),
                (2 * connections).to_string(),
            );
        }
        all.insert("wal_level".to_owned(), "logical".to_owned());
        // Citus connects to its own server by this name.
        let host = self.local.postgresql.listen.local_host();
        all.insert("citus.local_hostname".to_owned(), host.to_owned());
    }

    /// Names and values that differ between major versions, so that one dynamic configuration fits all.
    fn fit_to_version(&self, all: &mut BTreeMap<String, String>) {
        let Some(major) = self.major_version else { return };
        if let Some(level) = all.get_mut("wal_level") {
            match level.as_str() {
                "hot_standby" if major >= 90600 => "replica".clone_into(level),
                "replica" if major < 90600 => "hot_standby".clone_into(level),
                _ => {}
            }
        }
        if self.is_at_least(130_000) {
            let segments = all
                .remove("wal_keep_segments")
                .and_then(|value| parse_int(&value, None))
                .unwrap_or(8);
            all.entry("wal_keep_size".to_owned())
                .or_insert_with(|| format!("{}MB", segments.saturating_mul(16)));
        } else {
            let megabytes = all
                .remove("wal_keep_size")
                .map_or(Some(128), |value| parse_int(&value, Some("MB")));
            let segments = (megabytes.unwrap_or(0) + 8) / 16;
            all.entry("wal_keep_segments".to_owned())
                .or_insert_with(|| segments.to_string());
        }
        all.retain(|name, _| controlled::is_known_to(name, major));
    }

    fn command_line(&self, parameters: &BTreeMap<String, String>) -> Vec<(String, String)> {
        controlled::on_command_line()
            .filter_map(|name| Some((name.to_owned(), parameters.get(name)?.clone())))
            .collect()
    }

    /// The section, and what stands among the ordinary parameters; the section wins. The name of the trigger file's
    /// parameter changed with PostgreSQL 12.
    fn recovery_conf(&mut self, parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut recovery: BTreeMap<_, _> = parameters
            .iter()
            .filter(|(name, _)| RECOVERY_PARAMETERS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        recovery.extend(self.texts_of(section(self.map, "recovery_conf"), "postgresql.recovery_conf"));
        if self.major_version.is_some() {
            let names = ("trigger_file", "promote_trigger_file");
            let (wrong, right) = if self.is_at_least(120_000) {
                names
            } else {
                (names.1, names.0)
            };
            if let Some(value) = recovery.remove(wrong) {
                recovery.entry(right.to_owned()).or_insert(value);
            }
        }
        recovery
    }

    fn lines_of(&self, key: &str, role: Option<&str>) -> Option<Vec<String>> {
        role.and_then(|role| lines(self.map, &format!("{key}_{role}")))
            .or_else(|| lines(self.map, key))
    }

    fn options(&mut self, key: &str, forbidden: &[&str]) -> Vec<(String, Option<String>)> {
        allowed_options(
            self.map,
            key,
            |name, _| !is_one_of(name, forbidden),
            &mut self.problems,
        )
    }

    fn create_replica_methods(&mut self) -> Vec<ReplicaMethod> {
        let names = ["create_replica_methods", "create_replica_method"]
            .into_iter()
            .find_map(|key| self.map.get(key).filter(|value| value.is_truthy()))
            .map_or_else(|| vec!["basebackup".to_owned()], texts);
        names
            .iter()
            .map(|name| method(name, self.map, self.major_version, &mut self.problems))
            .collect()
    }
}

fn allowed_options(
    map: &Map,
    key: &str,
    is_allowed: impl Fn(&str, Option<&str>) -> bool,
    problems: &mut Problems,
) -> Vec<(String, Option<String>)> {
    let mut list = options(map.get(key));
    list.retain(|(name, value)| {
        let allowed = is_allowed(name, value.as_deref());
        if !allowed {
            let position = map.entry(key).and_then(|entry| entry.key_position.as_ref());
            let message = format!("the option {name} cannot be set here and is ignored");
            problems.push(Problem::warning(&format!("postgresql.{key}"), position, message));
        }
        allowed
    });
    list
}

fn method(name: &str, map: &Map, major_version: Option<u32>, problems: &mut Problems) -> ReplicaMethod {
    if name == "basebackup" {
        // Compression on the server's side came with PostgreSQL 15; on ours the files would stay compressed.
        let may_compress = major_version.is_some_and(|major| major >= 150_000);
        let is_allowed = |name: &str, value: Option<&str>| match name {
            "compress" => may_compress && value.is_some_and(|value| value.starts_with("server")),
            _ => !is_one_of(name, &FORBIDDEN_BASEBACKUP_OPTIONS),
        };
        return ReplicaMethod::Basebackup {
            options: allowed_options(map, name, is_allowed, problems),
        };
    }
    let section = section(map, name);
    let no_params = loose_flag(section, "no_params");
    let own: &[&str] = if no_params {
        &["command", "no_params", "no_leader", "keep_data"]
    } else {
        &["command", "scope", "role", "datadir", "connstring"]
    };
    ReplicaMethod::Custom {
        name: name.to_owned(),
        command: text(section, "command").unwrap_or_else(|| name.to_owned()),
        no_params,
        no_leader: loose_flag(section, "no_leader"),
        keep_data: loose_flag(section, "keep_data"),
        options: arguments(section, own),
    }
}

/// Everything under `postgresql` that may be the section of a method.
fn method_sections(map: &Map) -> Map {
    let mut sections = map.clone();
    sections.retain(|key, value| {
        key == "basebackup"
            || (value.as_map().is_some()
                && !matches!(
                    key,
                    "parameters" | "authentication" | "callbacks" | "bin_name" | "recovery_conf"
                ))
    });
    sections
}

fn callbacks(map: &Map) -> Callbacks {
    Callbacks {
        on_reload: text(map, "on_reload"),
        on_restart: text(map, "on_restart"),
        on_role_change: text(map, "on_role_change"),
        on_start: text(map, "on_start"),
        on_stop: text(map, "on_stop"),
    }
}
