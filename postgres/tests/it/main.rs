//! The server against real PostgreSQL, of every version that is there.
//!
//! PostgreSQL refuses to run as root, so this binary has a main function of its own (`harness = false`): started as
//! root it executes itself again as the user `postgres`, then runs its tests as libtest would (libtest-mimic), under
//! `cargo test` and `cargo nextest` alike. It is also its own helper for launching postmasters.

#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod archive;
mod bootstrap;
mod bring_up;
mod broken;
mod crash;
mod harness;
mod logical;
mod replication;
mod rewind;
mod scripts;
mod settings;
mod standby;
mod unfinished;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

/// Leads to the helper that launches a postmaster.
const LAUNCH: &str = "start-postmaster";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    if args.nth(1).is_some_and(|first| first == LAUNCH) {
        return tamada_postgres::process::detach_main(args);
    }
    harness::give_up_root();
    let tests: Vec<(&str, harness::Test)> = [
        archive::TESTS,
        bring_up::TESTS,
        settings::TESTS,
        replication::TESTS,
        logical::TESTS,
        rewind::TESTS,
        crash::TESTS,
        broken::TESTS,
        bootstrap::TESTS,
        scripts::TESTS,
        standby::TESTS,
        unfinished::TESTS,
    ]
    .concat();
    let mut trials = Vec::new();
    let installations = harness::installations();
    for installation in &installations {
        for (name, test) in &tests {
            let (installation, test) = (installation.clone(), *test);
            let name = format!("{name}_on_{}", installation.major);
            trials.push(Trial::test(name, move || harness::run(installation, test)));
        }
    }
    if installations.is_empty() {
        let missing = || {
            Err(Failed::from(
                "no PostgreSQL found: set TAMADA_TEST_PG_BIN to its bin directory",
            ))
        };
        trials.push(Trial::test("postgresql_is_installed", missing));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
