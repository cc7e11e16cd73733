//! Commands for developers: `cargo xtask tidy` checks the project, `cargo xtask sample` draws texts for a reader to judge, `cargo
//! xtask bench` measures Tamada beside Patroni.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for developers prints to the terminal"
)]

use std::process::ExitCode;

mod bench;
mod sample;
mod tidy;

const USAGE: &str = "usage: cargo xtask tidy | sample | bench

  tidy     check dependencies between packages, versions, sizes of files and functions, words, files that are not compiled
  sample   print a random sample of comments, messages and pages; `cargo xtask sample --help`
  bench    run the same faults for Tamada and for Patroni, and print a table; `cargo xtask bench --help`";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["tidy"] => tidy::run(),
        ["sample", "help" | "--help" | "-h"] => {
            println!("{}", sample::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        ["sample", ..] => sample::run(&arguments[1..]),
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
