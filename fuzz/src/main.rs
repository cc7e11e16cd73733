//! `cargo run --profile sim -p tamada-fuzz -- yaml --runs 10000000`: random input for one reader. What makes it panic is
//! printed, and the seed that makes it again.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use tamada_fuzz::{Mutator, TARGETS};

/// Feeds a reader with random input
#[derive(Parser)]
struct Arguments {
    /// Which reader
    #[arg(value_parser = TARGETS.map(|target| target.name))]
    target: String,
    /// How many inputs
    #[arg(long, default_value_t = 1_000_000)]
    runs: u64,
    /// Which inputs: the same seed makes the same
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let target = TARGETS.iter().find(|target| target.name == arguments.target);
    let target = target.ok_or_else(|| anyhow::anyhow!("there is no target {}", arguments.target))?;
    // The YAML parser panics too, and what reads with it turns that into an error.
    std::panic::set_hook(Box::new(|_| {}));
    let mut mutator = Mutator::new(target, arguments.seed);
    for run in 0..arguments.runs {
        let input = mutator.next_input();
        if catch_unwind(AssertUnwindSafe(|| (target.read)(&input))).is_err() {
            std::io::stdout().write_all(&input)?;
            println!(
                "\n{} panics at input {run} of seed {}",
                target.name, arguments.seed
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{}: {} inputs, no panic", target.name, arguments.runs);
    Ok(ExitCode::SUCCESS)
}
