//! `--validate-config`: PostgreSQL's parameters, judged by the server's own program.

use std::collections::BTreeMap;
use std::time::Duration;

use config::{LocalConfig, Map, Value, shown_parameter};
use postgres::{Complaint, Instant, parameter_complaints, parameter_names};

use super::program;

/// How long the program may take.
const TIME: Duration = Duration::from_secs(10);

/// Where parameters stand.
const SECTIONS: [&str; 2] = ["postgresql", "bootstrap.dcs.postgresql"];

/// How these mappings are called there.
const MAPPINGS: [&str; 5] = [
    "parameters",
    "parameters_primary",
    "parameters_replica",
    "parameters_standby_leader",
    "recovery_conf",
];

/// Names of older versions, which are read as what they are called now.
const TRANSLATED: [&str; 5] = [
    "pause_at_recovery_target",
    "promote_trigger_file",
    "standby_mode",
    "trigger_file",
    "wal_keep_segments",
];

/// What the programs that the configuration names do not take: the path of the setting, and what is wrong.
pub(super) async fn problems(tree: &Map, local: &LocalConfig) -> Vec<(String, String)> {
    let postgresql = &local.postgresql;
    let Some(server) = program(&postgresql.bin_dir, postgresql.bin_name.file_name("postgres")) else {
        return Vec::new();
    };
    let mut found: Vec<(String, String)> = Vec::new();
    for section in SECTIONS {
        for mapping in MAPPINGS {
            let above = format!("{section}.{mapping}");
            let Some(map) = at(tree, &above) else { continue };
            let deadline = Instant::now() + TIME;
            // A program that cannot be run is complained of elsewhere.
            let complaints = parameter_complaints(&server, &written(map), deadline).await;
            for complaint in complaints.unwrap_or_default() {
                let known = match complaint {
                    Complaint::Unknown(_) => parameter_names(&server, deadline).await.unwrap_or_default(),
                    _ => Vec::new(),
                };
                let (path, message) = problem(&above, map, &complaint, &known);
                // Of one value PostgreSQL may say twice what is wrong.
                if found.iter().all(|(other, _)| *other != path) {
                    found.push((path, message));
                }
            }
        }
    }
    found
}

fn at<'a>(tree: &'a Map, path: &str) -> Option<&'a Map> {
    path.split('.').try_fold(tree, |map, key| map.get(key)?.as_map())
}

fn written(map: &Map) -> BTreeMap<String, String> {
    map.iter()
        .filter(|(_, value)| !value.is_null())
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), value.guc_text()?)))
        .filter(|(name, _)| !TRANSLATED.contains(&name.as_str()))
        .collect()
}

fn problem(above: &str, map: &Map, complaint: &Complaint, known: &[String]) -> (String, String) {
    let (Complaint::Unknown(name) | Complaint::Invalid(name) | Complaint::OutOfRange(name, _)) = complaint;
    let entry = map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    let path = format!("{above}.{}", entry.map_or(name.as_str(), |(key, _)| key));
    let value = entry
        .and_then(|(_, value)| Value::guc_text(value))
        .unwrap_or_default();
    let shown = shown_parameter(name, &value);
    let message = match complaint {
        Complaint::Unknown(name) => match config::settings::nearest(name, known.iter().map(String::as_str)) {
            Some(near) => format!("PostgreSQL has no such parameter: did you mean {near}?"),
            None => "PostgreSQL has no such parameter, or takes it from no file".to_owned(),
        },
        Complaint::Invalid(_) => format!("PostgreSQL does not take the value {shown:?} for it"),
        Complaint::OutOfRange(_, bound) => {
            format!(
                "{shown:?} is out of PostgreSQL's range: {bound} is the {} in the parameter's own unit",
                side(bound, &value)
            )
        }
    };
    (path, message)
}

fn side(bound: &str, value: &str) -> &'static str {
    let number = |text: &str| {
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '.')))
            .unwrap_or(text.len());
        text.get(..end).and_then(|digits| digits.parse::<f64>().ok())
    };
    if number(bound) > number(value) {
        "least"
    } else {
        "most"
    }
}
