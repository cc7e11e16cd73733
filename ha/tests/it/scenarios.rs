//! Every file of `scenarios/` is a story; `UPDATE_EXPECT=1` writes down what the decision does today.

use std::collections::BTreeSet;
use std::path::Path;

use tamada_ha::reason::Reason;

use crate::language;

#[test]
fn every_scenario_is_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 20, "the scenarios are there");
    let mut wrong = Vec::new();
    for file in files {
        let expected = std::fs::read_to_string(&file).unwrap();
        let actual = language::run(&expected);
        if actual == expected {
            continue;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&file, actual).unwrap();
        } else {
            wrong.push(format!(
                "{}\n--- expected\n{expected}\n--- actual\n{actual}",
                file.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What operators grep for: every status line of Patroni is how some scenario ends. `*` stands for what varies.
///
/// Two have no scenario: `started as a secondary` is of Patroni's Raft, and `Failed to run ..., ... is already in
/// progress` cannot be, as no decision begins a job while another one runs.
const STATUS_LINES: &[&str] = &[
    "no action. I am (*), the leader with the lock",
    "no action. I am (*), a secondary, and following a leader (*)",
    "no action. I am (*), the standby leader with the lock",
    "no action. I am (*), a secondary, and following a standby leader (*)",
    "no action. I am (*)",
    "continue following the old known standby leader",
    "acquired session lock as a leader",
    "promoted self to leader by acquiring session lock",
    "promoted self to leader because I had the session lock",
    "promoted self to a standby leader by acquiring session lock",
    "promoted self to a standby leader because i had the session lock",
    "waiting to become primary after promote...",
    "following new leader after trying and failing to obtain lock",
    "following a different leader because i am not the healthiest node",
    "following a different leader because I am not allowed to promote",
    "My (*) wal position moved since last heart beat loop, * seconds until leader race",
    "Postponing promotion because synchronous replication state was updated by somebody else",
    "Promotion cancelled because the pre-promote script failed",
    "Not promoting self because watchdog could not be activated",
    "not promoting because failed to update leader lock in DCS",
    "lost leader before promote",
    "demoted self after trying and failing to obtain lock",
    "demoting self because i am not the healthiest node",
    "demoting self because I am not allowed to become primary",
    "demoting self because I do not have the lock and I was a leader",
    "demoted self because failed to update leader lock in DCS",
    "demoted self because DCS is not accessible and I was a leader",
    "Demoting self because watchdog could not be activated",
    "lost leader lock during *",
    "switchover: demoting myself",
    "manual failover: demoting myself",
    "cannot be a real primary in standby cluster",
    "cannot be a real primary in a standby cluster",
    "removed leader lock because postgres is not running as primary",
    "removed leader lock because postgres is not running",
    "removed leader key after trying and failing to start postgres",
    "released leader key voluntarily as data dir empty and currently leader",
    "released leader key voluntarily as data dir not accessible and currently leader",
    "released leader key voluntarily due to the system ID mismatch",
    "starting primary after failure",
    "starting as a secondary",
    "starting as readonly because i had the session lock",
    "starting as a standby leader because i had the session lock",
    "trying to follow a remote member because standby cluster is unhealthy",
    "PostgreSQL is still starting up, * seconds until timeout",
    "primary start has timed out, but continuing to wait because failover is not possible",
    "stopped PostgreSQL because of startup timeout",
    "stopped PostgreSQL while starting up because leader key was lost",
    "stopped PostgreSQL to fail over after a crash",
    "terminated crash recovery because of startup timeout",
    "failed to start postgres",
    "doing crash recovery in a single user mode",
    "running pg_rewind from *",
    "reinitializing due to diverged timelines",
    "data dir for the cluster is not empty, but system ID is invalid; consider doing reinitialize",
    "data directory is not accessible: *",
    "running with empty data directory",
    "trying to bootstrap a new cluster",
    "trying to bootstrap a new standby leader",
    "failed to acquire initialize lock",
    "trying to bootstrap from leader '*'",
    "trying to bootstrap from replica '*'",
    "trying to bootstrap (without leader)",
    "waiting for leader to bootstrap",
    "waiting for standby_leader to bootstrap",
    "waiting for end of recovery after bootstrap",
    "running post_bootstrap",
    "initialized a new cluster",
    "* in progress",
    "updated leader lock during *",
    "restart initiated",
    "Copying logical slots [*] from the primary",
    "continue to run as primary without lock",
    "continue to run as primary after failing to update leader lock in DCS",
    "postgres is not running",
    "DCS is not accessible",
    "continue to run as a leader because failsafe mode is enabled and all members are accessible",
    "Error communicating with PostgreSQL. Will try again later",
    "Unexpected exception raised, please report it as a BUG",
];

#[test]
fn every_status_line_of_patroni_is_how_some_scenario_ends() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scenarios");
    let mut ends = BTreeSet::from([Reason::Defect.to_string()]);
    for file in std::fs::read_dir(folder).unwrap() {
        let told = language::run(&std::fs::read_to_string(file.unwrap().path()).unwrap());
        let lines = told.lines().filter_map(|line| line.strip_prefix("finish "));
        ends.extend(lines.map(|line| line.strip_prefix("PAUSE: ").unwrap_or(line).to_owned()));
    }
    let missing: Vec<_> = STATUS_LINES
        .iter()
        .filter(|pattern| !ends.iter().any(|line| fits(pattern, line)))
        .collect();
    assert!(missing.is_empty(), "no scenario ends with {missing:#?}");
}

/// Whether `line` is what `pattern` says, with something in place of each `*`.
fn fits(pattern: &str, line: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == line,
        Some((before, rest)) => line.strip_prefix(before).is_some_and(|tail| {
            (1..=tail.len()).any(|at| tail.is_char_boundary(at) && fits(rest, &tail[at..]))
        }),
    }
}
