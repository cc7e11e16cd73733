//! The guard without the agent: `tamada-guard guard VERB ...`, as the program has it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The program's own name and the word `guard`.
    tamada_guard::main(std::env::args_os().skip(2))
}
