//! What fits the program into Debian's postgresql-common: configurations made from a template, and clusters that
//! `pg_createcluster` has made and `pg_lsclusters` shows.
//!
//! `pg_createconfig_patroni`, `pg_createcluster_patroni` and `pg_clonecluster_patroni` take the arguments and have the
//! effects of the programs of these names in Debian's package patroni; `tamada config create` is our own word for the
//! first. [`template`] computes; [`machine`] observes.

mod arguments;
mod clusters;
mod config_create;
mod createconfig;
mod machine;
mod passwords;
mod store_section;
mod template;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

pub use config_create::ConfigCreate;

/// Runs the program that is called `name`; `None` when there is none of this name here.
pub fn main(name: &str, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program: fn(&[String]) -> ExitCode = match name {
        "pg_createconfig_patroni" => createconfig::main,
        "pg_createcluster_patroni" => clusters::create,
        "pg_clonecluster_patroni" => clusters::clone,
        _ => return None,
    };
    let arguments: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    Some(program(&arguments))
}

/// Writes a line to standard output. Who closed it has nothing to read.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes a line to standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
