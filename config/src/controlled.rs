//! The PostgreSQL parameters that have to fit together across a cluster: only the dynamic configuration sets them, and
//! they are given on the postmaster's command line, where `ALTER SYSTEM` cannot override them. Patroni documentation:
//! dynamic configuration, "PostgreSQL parameters controlled by Patroni".

use crate::value::{Map, Value};

enum Rule {
    /// Follows from another setting.
    Never,
    WalLevel,
    True,
    Bool,
    /// At least so many, in the base unit.
    AtLeast(i64, Option<&'static str>),
}

struct Row {
    name: &'static str,
    default: &'static str,
    rule: Rule,
    /// Version number of the first major version that knows it.
    since: u32,
}

const fn row(name: &'static str, default: &'static str, rule: Rule, since: u32) -> Row {
    Row {
        name,
        default,
        rule,
        since,
    }
}

/// In the order in which they stand on the command line.
const ROWS: [Row; 15] = [
    row("listen_addresses", "", Rule::Never, 90100),
    row("port", "", Rule::Never, 90100),
    row("cluster_name", "", Rule::Never, 90500),
    row("wal_level", "hot_standby", Rule::WalLevel, 90100),
    row("hot_standby", "on", Rule::True, 90100),
    row("max_connections", "100", Rule::AtLeast(25, None), 90100),
    row("max_wal_senders", "10", Rule::AtLeast(3, None), 90100),
    row("wal_keep_segments", "8", Rule::AtLeast(1, None), 90100),
    row("wal_keep_size", "128MB", Rule::AtLeast(16, Some("MB")), 130_000),
    row("max_prepared_transactions", "0", Rule::AtLeast(0, None), 90100),
    row("max_locks_per_transaction", "64", Rule::AtLeast(32, None), 90100),
    row("track_commit_timestamp", "off", Rule::Bool, 90500),
    row("max_replication_slots", "10", Rule::AtLeast(4, None), 90400),
    row("max_worker_processes", "8", Rule::AtLeast(2, None), 90400),
    row("wal_log_hints", "on", Rule::Bool, 90400),
];

/// What [`check`] found.
pub(crate) enum Checked {
    /// An ordinary parameter.
    NotControlled,
    /// The value to use.
    Valid(Value),
    /// The default that is used instead.
    Invalid(&'static str),
}

fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

/// Whether only the dynamic configuration may set `name`.
pub(crate) fn is_controlled(name: &str) -> bool {
    find(name).is_some()
}

/// Whether a server of this major version knows the controlled parameter `name`.
pub(crate) fn is_known_to(name: &str, major_version: u32) -> bool {
    find(name).is_none_or(|row| row.since <= major_version)
}

/// Names in the order of the command line, on which `wal_keep_*` are not given.
pub(crate) fn on_command_line() -> impl Iterator<Item = &'static str> {
    ROWS.iter()
        .map(|row| row.name)
        .filter(|name| !name.starts_with("wal_keep_"))
}

/// The defaults, but for what follows from other settings and `wal_keep_*`, which depend on the version.
pub(crate) fn defaults() -> Map {
    ROWS.iter()
        .filter(|row| !matches!(row.rule, Rule::Never) && !row.name.starts_with("wal_keep_"))
        .map(|row| {
            (
                row.name,
                row.default
                    .parse::<i64>()
                    .map_or_else(|_| Value::from(row.default), Value::from),
            )
        })
        .collect()
}

/// Checks the value that the dynamic configuration gives to the parameter `name`.
pub(crate) fn check(name: &str, value: &Value) -> Checked {
    let Some(row) = find(name) else {
        return Checked::NotControlled;
    };
    let valid = match row.rule {
        Rule::Never => None,
        Rule::WalLevel => value
            .as_str()
            .filter(|text| {
                ["hot_standby", "replica", "logical"]
                    .iter()
                    .any(|word| word.eq_ignore_ascii_case(text))
            })
            .map(|text| Value::from(text.to_ascii_lowercase())),
        Rule::True => value.to_bool().filter(|on| *on).map(|_| Value::from("on")),
        Rule::Bool => value
            .to_bool()
            .map(|on| Value::from(if on { "on" } else { "off" })),
        // With a unit the text stays as it was written; PostgreSQL knows the unit.
        Rule::AtLeast(minimum, unit) => {
            value
                .to_int(unit)
                .filter(|number| *number >= minimum)
                .map(|number| {
                    value
                        .to_int(None)
                        .map_or_else(|| value.clone(), |_| Value::from(number))
                })
        }
    };
    valid.map_or(
        Checked::Invalid(if row.default.is_empty() {
            "None"
        } else {
            row.default
        }),
        Checked::Valid,
    )
}
