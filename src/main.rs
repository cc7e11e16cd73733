//! Picks daemon or ctl, by the name that the program is called with or by its first argument.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tamada::command_line::{Command, Config, Patroni, Program, Run, Side};
use tamada::{complete, configure, ctl, daemon, debian, scripts, supervise};

/// What `--supervise` is called on the command line.
const SUPERVISE: &str = "--supervise";

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    let name = Path::new(&called_as)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    complete::answer();
    let mut rest = args.peekable();
    if let Some(first) = rest.peek().cloned()
        && let Some(code) = daemon::hidden(&first, rest.by_ref().skip(1))
    {
        return code;
    }
    // By a link of this name, or as a subcommand where there is none.
    if let Some(code) = name.as_deref().and_then(|name| companion(name, rest.by_ref())) {
        return code;
    }
    if let Some(first) = rest.peek().and_then(|first| first.to_str()).map(str::to_owned)
        && let Some(code) = companion(&first, rest.by_ref().skip(1))
    {
        return code;
    }
    match name.as_deref() {
        Some("patronictl") => ctl("patronictl", rest),
        Some("patroni") => patroni(Patroni::parse()),
        _ => program(Program::parse()),
    }
}

/// The programs beside the agent and `ctl`.
fn companion(name: &str, mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    debian::main(name, arguments.by_ref()).or_else(|| scripts::main(name, arguments))
}

fn patroni(program: Patroni) -> ExitCode {
    if program.version {
        return say(&format!("patroni {}", tamada::PATRONI_VERSION));
    }
    run(program.run)
}

fn program(program: Program) -> ExitCode {
    match program.command {
        Some(Command::Run(arguments)) => run(arguments),
        Some(Command::Ctl { arguments }) => ctl("tamada ctl", arguments.into_iter()),
        Some(Command::Config(Config::Create(create))) => create.run(),
        Some(Command::Config(Config::Schema { side })) => {
            let schema = match side {
                Side::Local => config::settings::schema::local(),
                Side::Dynamic => config::settings::schema::dynamic(),
            };
            say(&format!("{schema:#}"))
        }
        Some(Command::Barman(barman)) => barman.run(),
        Some(Command::WaleRestore(restore)) => restore.run(),
        Some(Command::Aws(aws)) => aws.run(),
        None => say(&daemon::version_text()),
    }
}

fn run(arguments: Run) -> ExitCode {
    if let Some(code) = configure::main(&arguments.mode, &arguments.details, arguments.config.as_deref()) {
        return code;
    }
    if !supervise::is_wanted(arguments.supervise) {
        return daemon::run(arguments.config);
    }
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    supervise::run(called_as, args.filter(|arg| arg != SUPERVISE).collect())
}

fn ctl(name: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    ctl::main(std::iter::once(OsString::from(name)).chain(arguments))
}

#[expect(clippy::print_stdout, reason = "this is what was asked for")]
fn say(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}
