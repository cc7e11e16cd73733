//! `local_commands_only`: what of the dynamic configuration could run a command, load code, or name a file that is read or
//! written as the operating system's user of PostgreSQL. Who can write the key `/config` can do all of that otherwise.

use crate::local::LocalConfig;
use crate::problem::{Problem, Problems};
use crate::value::{Kind, Map};

/// Parameters of PostgreSQL's that are commands, libraries or files, or decide where these are found (PostgreSQL manual,
/// "Server Configuration"). A log file is one: its name is anything, and clients have a hand in what stands in it.
const PARAMETERS: [&str; 23] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "config_file",
    "data_directory",
    "dynamic_library_path",
    "extension_control_path",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "jit_provider",
    "local_preload_libraries",
    "log_directory",
    "log_filename",
    "oauth_validator_libraries",
    "primary_conninfo",
    "promote_trigger_file",
    "recovery_end_command",
    "restore_command",
    "session_preload_libraries",
    "shared_preload_libraries",
    "ssl_passphrase_command",
    "trigger_file",
];

/// Parameters of procedural languages, which run code at their start (`plperl.on_init`, `pltcl.start_proc`).
const PREFIXES: [&str; 5] = ["plperl", "pltcl", "plpython", "pljava", "plv8"];

/// Keys of `postgresql` that are programs, or files with settings of any kind.
const KEYS: [&str; 6] = [
    "bin_dir",
    "bin_name",
    "before_stop",
    "callbacks",
    "custom_conf",
    "pre_promote",
];

/// Rules of access: a superuser runs commands by SQL (`COPY ... FROM PROGRAM`). With the ends of their keys for roles.
const ACCESS: [&str; 2] = ["pg_hba", "pg_ident"];

/// Mappings in `postgresql` that are no method of a replica's creation.
const MAPPINGS: [&str; 6] = [
    "parameters",
    "parameters_primary",
    "parameters_replica",
    "parameters_standby_leader",
    "basebackup",
    "rewind",
];

/// Removes from the dynamic document what may come from local files only, where that is asked for, and warns about it.
pub(crate) fn remove(local: &LocalConfig, document: &mut Map) -> Problems {
    if !local.local_commands_only {
        return Problems::default();
    }
    let mut removed = Vec::new();
    if let Some(map) = map_of(document, "postgresql") {
        remove_from_postgresql(map, &mut removed);
    }
    if let Some(map) = map_of(document, "standby_cluster") {
        retain(map, "standby_cluster", &mut removed, |name| !is_command(name));
    }
    let warn = |path: &String| {
        let message =
            "ignored: local_commands_only is on, so it counts in the member's own configuration only";
        Problem::warning(path, None, message)
    };
    let mut problems = Problems::default();
    removed
        .iter()
        .map(warn)
        .for_each(|problem| problems.push(problem));
    problems
}

fn remove_from_postgresql(map: &mut Map, removed: &mut Vec<String>) {
    let methods: Vec<String> = map
        .entries()
        .iter()
        .filter(|entry| matches!(entry.value.kind, Kind::Map(_)))
        .map(|entry| entry.key.clone())
        .filter(|key| !MAPPINGS.contains(&key.as_str()) && key != "recovery_conf")
        .collect();
    retain(map, "postgresql", removed, |key| {
        let is_access = ACCESS.iter().any(|name| {
            key.strip_prefix(name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        });
        !(KEYS.contains(&key) || is_access || methods.iter().any(|method| method == key))
    });
    let sections: Vec<String> = map.entries().iter().map(|entry| entry.key.clone()).collect();
    for key in sections {
        let holds_parameters =
            key == "recovery_conf" || key == "parameters" || key.starts_with("parameters_");
        if let Some(parameters) = map_of(map, &key).filter(|_| holds_parameters) {
            retain(parameters, &format!("postgresql.{key}"), removed, |name| {
                !is_command(name)
            });
        }
    }
}

/// Whether PostgreSQL's configuration file would read this as the name of a parameter (PostgreSQL documentation, "Parameter Names
/// and Values"). The directives `include` and its like are none: what they name could hold any setting.
pub(crate) fn is_parameter_name(name: &str) -> bool {
    let is_part = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
    };
    let is_directive = ["include", "include_if_exists", "include_dir"]
        .iter()
        .any(|directive| name.eq_ignore_ascii_case(directive));
    name.split('.').all(is_part) && !is_directive
}

/// Whether a parameter, in whatever case it is written, may come from local files only.
fn is_command(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let is_of_language = || {
        let (class, _) = name.split_once('.').unwrap_or_default();
        PREFIXES.iter().any(|prefix| class.starts_with(prefix))
    };
    PARAMETERS.contains(&name.as_str()) || is_of_language() || !is_parameter_name(&name)
}

fn map_of<'a>(map: &'a mut Map, key: &str) -> Option<&'a mut Map> {
    match &mut map.get_mut(key)?.kind {
        Kind::Map(map) => Some(map),
        _ => None,
    }
}

/// Keeps the entries whose key may stay, and notes the paths of the others.
fn retain(map: &mut Map, path: &str, removed: &mut Vec<String>, stays: impl Fn(&str) -> bool) {
    let gone: Vec<String> = map
        .entries()
        .iter()
        .map(|entry| entry.key.clone())
        .filter(|key| !stays(key))
        .collect();
    for key in gone {
        map.remove(&key);
        removed.push(format!("{path}.{key}"));
    }
}
