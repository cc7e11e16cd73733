//! Checks of the project itself, `cargo xtask tidy`, and measurements beside Patroni, `cargo xtask bench`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for developers speaks to their terminal"
)]

use std::process::ExitCode;

mod bench;
mod tidy;

const USAGE: &str = "usage: cargo xtask tidy | bench

  tidy    check dependencies between packages, versions, sizes of files and functions, words, forgotten files
  bench   run the same faults for this program and for Patroni, and print a table; `cargo xtask bench --help`";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["tidy"] => tidy::run(),
        ["bench", "help" | "--help" | "-h"] => {
            println!("{}", bench::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        ["bench", ..] => bench::run(&arguments[1..]),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
