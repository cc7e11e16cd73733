//! Runs seeds: `cargo run --package tamada-sim -- --seeds 5000`, or one of them with all that happened:
//! `cargo run --package tamada-sim -- --seed 17 --verbose`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program for people"
)]

use std::process::ExitCode;

use tamada_sim::Marks;
use tamada_sim::run::{Setup, Verdict, run};

const USAGE: &str = "usage: tamada-sim [--seed N] [--seeds COUNT] [--from N] [--agent-dies] [--synchronous] [--keep-going] \
                     [--lines N] [--verbose]";

struct Options {
    from: u64,
    count: u64,
    agent_dies: bool,
    is_synchronous: bool,
    is_verbose: bool,
    keeps_going: bool,
    lines: usize,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    // A panic is a verdict here and is told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let mut marks = Marks::default();
    let mut broken = 0_u64;
    for seed in options.from..options.from + options.count {
        let verdict = run(Setup {
            seed,
            agent_dies: options.agent_dies,
            is_synchronous: options.is_synchronous,
            journal_lines: 0,
        });
        marks.merge(&verdict.marks);
        if let Some(violation) = &verdict.violation {
            broken += 1;
            println!(
                "seed {seed}: at {:.3} s: {}",
                violation.at.as_secs_f64(),
                violation.text
            );
            if options.keeps_going {
                continue;
            }
        }
        if verdict.violation.is_some() || options.is_verbose {
            tell(seed, &options);
        }
        if verdict.violation.is_some() {
            return ExitCode::FAILURE;
        }
    }
    println!(
        "{} seeds, {broken} of them broke a rule; paths taken:",
        options.count
    );
    for (name, count) in marks.iter() {
        println!("{count:>10}  {name}");
    }
    if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the seed again, which gives the same run, and tells what happened.
fn tell(seed: u64, options: &Options) {
    let lines = if options.is_verbose {
        usize::MAX
    } else {
        options.lines
    };
    let Verdict { journal, plan, .. } = run(Setup {
        seed,
        agent_dies: options.agent_dies,
        is_synchronous: options.is_synchronous,
        journal_lines: lines,
    });
    println!("{plan:#?}");
    for line in journal {
        println!("{line}");
    }
    println!("again: cargo run --package tamada-sim -- --seed {seed} --verbose");
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        from: 0,
        count: 1,
        agent_dies: false,
        is_synchronous: false,
        is_verbose: false,
        keeps_going: false,
        lines: 200,
    };
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, String> {
            let text = arguments
                .next()
                .ok_or_else(|| format!("{argument} needs a number"))?;
            text.parse()
                .map_err(|_| format!("{argument} needs a number, not {text:?}"))
        };
        match argument.as_str() {
            "--seed" | "--from" => options.from = number()?,
            "--seeds" => options.count = number()?,
            "--lines" => options.lines = usize::try_from(number()?).unwrap_or(usize::MAX),
            "--agent-dies" => options.agent_dies = true,
            "--synchronous" => options.is_synchronous = true,
            "--keep-going" => options.keeps_going = true,
            "--verbose" => options.is_verbose = true,
            _ => return Err(format!("unknown argument {argument:?}")),
        }
    }
    Ok(options)
}
