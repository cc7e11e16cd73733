//! The layers of a configuration: defaults < dynamic (DCS) < file < environment.

use crate::bounds;
use crate::controlled::{self, Checked};
use crate::env;
use crate::problem::{Problem, Problems};
use crate::value::{Kind, Map, Value};
use crate::yaml;
use std::collections::BTreeMap;

/// What `standby_cluster` is made of; the defaults are empty texts.
const STANDBY_CLUSTER: [&str; 7] = [
    "create_replica_methods",
    "host",
    "port",
    "primary_slot_name",
    "restore_command",
    "archive_cleanup_command",
    "recovery_min_apply_delay",
];

/// Keys of `postgresql` that the dynamic configuration cannot set.
const NOT_DYNAMIC: [&str; 7] = [
    "connect_address",
    "proxy_address",
    "listen",
    "config_dir",
    "data_dir",
    "pgpass",
    "authentication",
];

/// Whether a file of a configuration folder is read: those that end in `.yml` or `.yaml` are, in the order of names.
#[must_use]
pub fn is_configuration_file(name: &str) -> bool {
    name.ends_with(".yml") || name.ends_with(".yaml")
}

/// The local side: the files (name and text, in their order; later ones win and null removes) with the environment over
/// them. Without files `PATRONI_CONFIGURATION` alone counts if it is set, else the other variables.
///
/// # Errors
/// If a text is not YAML or no mapping, if all together exceed one of the [`bounds`], or if nothing is configured at all. Every broken
/// file is reported.
pub fn local(
    files: &[(String, String)],
    variables: &BTreeMap<String, String>,
) -> Result<(Map, Problems), Problems> {
    if files.is_empty()
        && let Some(text) = variables.get(env::CONFIGURATION).filter(|text| !text.is_empty())
    {
        let (tree, warnings) = document(env::CONFIGURATION, text)?;
        return not_empty(tree, warnings);
    }
    let mut tree = Map::new();
    let mut problems = Problems::default();
    for (name, text) in files {
        match document(name, text) {
            Ok((map, warnings)) => {
                tree.patch(&map);
                problems.0.extend(warnings.0);
            }
            Err(problem) => problems.push(problem),
        }
    }
    let bytes = files.iter().map(|(_, text)| text.len()).sum();
    if let Err(why) = bounds::check_text(bytes).and_then(|()| bounds::check_entries(&tree))
        && !problems.has_errors()
    {
        problems.push(Problem::error("", None, format!("all files together: {why}")));
    }
    let (environment, findings) = env::read(variables);
    problems.0.extend(findings.0);
    if problems.has_errors() {
        return Err(problems);
    }
    tree.patch(&environment);
    not_empty(tree, problems)
}

fn document(name: &str, text: &str) -> Result<(Map, Problems), Problem> {
    let (value, warnings) = yaml::parse_with_warnings(name, text)?;
    match value.kind {
        Kind::Map(map) => Ok((map, warnings)),
        _ => {
            let message = format!(
                "{name} does not contain a dict: expected `key: value` lines, found {}",
                value.describe_kind()
            );
            Err(Problem::error("", None, message))
        }
    }
}

fn not_empty(tree: Map, problems: Problems) -> Result<(Map, Problems), Problems> {
    if tree.is_empty() {
        return Err(Problem::error("", None, "Config is empty.").into());
    }
    Ok((tree, problems))
}

/// Whether a document of the `/config` key can be used at all. Where it cannot, the one before stays in force, as with Patroni: a
/// section that is no section would take all settings away that it had.
///
/// # Errors
/// What is wrong with it, and under which key.
pub fn check_document(document: &serde_json::Value) -> Result<(), Problem> {
    let value = Value::from(document);
    let Some(sections) = value.as_map() else {
        let message = format!("expected a mapping, found {}", value.describe_kind());
        return Err(Problem::error("", None, message));
    };
    bounds::check_text(document.to_string().len())
        .and_then(|()| bounds::check_entries(sections))
        .map_err(|why| Problem::error("", None, why))?;
    for path in ["postgresql", "standby_cluster", "postgresql.parameters"] {
        let section = value.at(path);
        if let Some(found) = section.filter(|found| found.as_map().is_none() && found.is_truthy()) {
            let message = format!("expected a mapping, found {}", found.describe_kind());
            return Err(Problem::error(path, None, message));
        }
    }
    Ok(())
}

/// The configuration in force: the dynamic document over the defaults, and the local side over both, each as far as it
/// may say so. `postgresql.parameters` holds the controlled parameters with valid values. What of the dynamic document is no section is
/// left out.
///
/// # Errors
/// If `postgresql.parameters` is no mapping on the local side.
pub fn effective(local: &Map, dynamic: &Map) -> Result<(Map, Problems), Problems> {
    let mut problems = Problems::default();
    let mut config = defaults();
    let mut postgresql = Map::new();
    postgresql.insert("use_slots", true);
    let mut parameters = controlled::defaults();
    for (key, value) in dynamic.iter() {
        match key {
            "postgresql" => dynamic_postgresql(value, &mut postgresql, &mut parameters, &mut problems),
            "standby_cluster" => standby_cluster(value, &mut config),
            "ttl" | "loop_wait" | "retry_timeout" => {
                // What is no number has been reported where the timers are read.
                if let Some(seconds) = value.to_int(None) {
                    config.insert(key, seconds);
                }
            }
            _ => {}
        }
    }
    for entry in local.entries() {
        match entry.key.as_str() {
            "citus" => {
                if crate::local::citus(&entry.value).is_some() {
                    config.insert_entry(entry.clone());
                }
            }
            "postgresql" => local_postgresql(&entry.value, &mut postgresql, &mut parameters, &mut problems)?,
            key if config.contains_key(key) => {}
            _ => {
                let mut entry = entry.clone();
                if !entry.value.is_truthy() {
                    entry.value.kind = Kind::Map(Map::new());
                }
                config.insert_entry(entry);
            }
        }
    }
    postgresql.insert("parameters", parameters);
    config.insert("postgresql", postgresql);
    Ok((config, problems))
}

fn defaults() -> Map {
    let mut config = Map::new();
    config.insert("ttl", 30);
    config.insert("loop_wait", 10);
    config.insert("retry_timeout", 10);
    config.insert(
        "standby_cluster",
        STANDBY_CLUSTER.into_iter().map(|key| (key, "")).collect::<Map>(),
    );
    config
}

fn standby_cluster(value: &Value, config: &mut Map) {
    let Some(Value {
        kind: Kind::Map(section),
        ..
    }) = config.get_mut("standby_cluster")
    else {
        return;
    };
    for entry in value.as_map().map(Map::entries).unwrap_or_default() {
        if STANDBY_CLUSTER.contains(&entry.key.as_str()) {
            section.insert_entry(entry.clone());
        }
    }
}

/// `postgresql.parameters` of the local side.
fn parameters_of(value: &Value) -> Result<&[crate::value::Entry], Problem> {
    match &value.kind {
        Kind::Map(map) => Ok(map.entries()),
        _ if !value.is_truthy() => Ok(&[]),
        _ => {
            let message = "postgresql.parameters is not a dictionary (in the local configuration)";
            Err(Problem::error("", value.position.as_ref(), message))
        }
    }
}

fn dynamic_postgresql(value: &Value, postgresql: &mut Map, parameters: &mut Map, problems: &mut Problems) {
    for entry in value.as_map().map(Map::entries).unwrap_or_default() {
        if entry.key == "parameters" {
            for parameter in entry.value.as_map().map(Map::entries).unwrap_or_default() {
                let name = parameter.key.to_ascii_lowercase();
                match controlled::check(&name, &parameter.value) {
                    Checked::NotControlled => {
                        parameters.insert(name, parameter.value.clone());
                    }
                    Checked::Valid(value) => {
                        parameters.insert(name, value);
                    }
                    Checked::Invalid(default) => problems.push(Problem::notice(format!(
                        "postgresql parameter {}={} failed validation, defaulting to {default}",
                        parameter.key,
                        parameter.value.python_text()
                    ))),
                }
            }
        } else if !NOT_DYNAMIC.contains(&entry.key.as_str()) {
            postgresql.insert_entry(entry.clone());
        }
    }
}

fn local_postgresql(
    value: &Value,
    postgresql: &mut Map,
    parameters: &mut Map,
    problems: &mut Problems,
) -> Result<(), Problem> {
    for entry in value.as_map().map(Map::entries).unwrap_or_default() {
        match entry.key.as_str() {
            "parameters" => {
                for parameter in parameters_of(&entry.value)? {
                    let name = parameter.key.to_ascii_lowercase();
                    if controlled::is_controlled(&name) {
                        problems.push(Problem::warning(
                            &format!("postgresql.parameters.{}", parameter.key),
                            parameter.key_position.as_ref(),
                            "has no effect here: it must be the same on all members and belongs to the dynamic \
                             configuration (edit-config)",
                        ));
                    } else {
                        parameters.insert(name, parameter.value.clone());
                    }
                }
            }
            "use_slots" => {}
            _ => {
                postgresql.insert_entry(entry.clone());
            }
        }
    }
    Ok(())
}
