//! The programs that Patroni ships beside itself, for backups and clouds: `patroni_barman`, `patroni_wale_restore` and
//! `patroni_aws`, with their arguments and exit codes; by links of these names, or as commands of the program.
//!
//! The agent runs them as it runs any script: as a replica method, a bootstrap method or a callback.

mod arguments;
mod aws;
mod barman;
mod journal;
mod wale_restore;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use journal::Journal;

pub use aws::Aws;
pub use barman::Barman;
pub use wale_restore::WaleRestore;

/// Runs the program that is called `name`; `None` when there is none of this name here.
pub fn main(name: &str, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    Some(match name {
        "patroni_barman" | "barman" => parsed::<Barman>("patroni_barman", arguments).run(),
        "patroni_wale_restore" | "wale-restore" => {
            parsed::<WaleRestore>("patroni_wale_restore", arguments).run()
        }
        "patroni_aws" | "aws" => aws::main(arguments),
        _ => return None,
    })
}

/// The command lines, for manuals.
#[must_use]
pub fn commands() -> Vec<clap::Command> {
    vec![
        Barman::command().name("patroni_barman"),
        WaleRestore::command().name("patroni_wale_restore"),
        Aws::command().name("patroni_aws"),
    ]
}

/// What stands on the command line, of what is known: the agent adds `--scope=`, `--role=` and others to every script's.
fn parsed<T: Parser>(name: &'static str, arguments: impl Iterator<Item = OsString>) -> T {
    let command = T::command().name(name).bin_name(name);
    let known = arguments::known(&command, arguments);
    let mut matches = command.get_matches_from(std::iter::once(OsString::from(name)).chain(known));
    T::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

/// Runs `work` to its end; without a runtime it says so, and the result is `failed`.
fn run_to_end<T>(journal: &Journal, failed: T, work: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            journal.error(&format!("the program cannot wait for anything here: {error}"));
            failed
        }
    }
}
