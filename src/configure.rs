//! Configuration files as their own subject: are they right, what could one look like, and what would one be for a
//! server that runs already (Patroni documentation, "Validating", "Generating").

mod generate;
mod sample;
mod validate;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

/// What to do with configurations instead of running.
#[derive(clap::Args)]
#[group(multiple = false)]
pub struct Mode {
    /// Check the configuration and exit
    #[arg(long)]
    validate_config: bool,
    /// Print a configuration to begin with, or write it to CONFIG, and exit
    #[arg(long)]
    generate_sample_config: bool,
    /// Print the configuration for a PostgreSQL server that runs, or write it to CONFIG, and exit
    #[arg(long)]
    generate_config: bool,
}

/// More about [`Mode`].
#[derive(clap::Args)]
pub struct Details {
    /// How to connect to the server as a superuser, with --generate-config; otherwise PG* variables say it
    #[arg(long, value_name = "DSN", requires = "generate_config")]
    dsn: Option<String>,
    /// With --validate-config: a port on which something listens already is right
    #[arg(long, short, requires = "validate_config")]
    ignore_listen_port: bool,
    /// With --validate-config: print the configuration, environment included, when it is right
    #[arg(long, short, requires = "validate_config")]
    print: bool,
}

/// Does what was asked for; `None` when nothing was. `path`: the file or folder named on the command line.
#[must_use]
pub fn main(mode: &Mode, details: &Details, path: Option<&Path>) -> Option<ExitCode> {
    let done = if mode.validate_config {
        validate::run(path, details.ignore_listen_port, details.print)
    } else if mode.generate_sample_config {
        sample::make().and_then(|text| put(path, &text))
    } else if mode.generate_config {
        generate::make(details.dsn.as_deref()).and_then(|text| put(path, &text))
    } else {
        return None;
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    })
}

/// To the file, with its folders, or to standard output.
fn put(path: Option<&Path>, text: &str) -> anyhow::Result<()> {
    let Some(path) = path else {
        return std::io::stdout()
            .write_all(text.as_bytes())
            .context("could not write to standard output");
    };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    write_for_us_alone(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// The file may hold passwords.
fn write_for_us_alone(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

/// A program of PostgreSQL's: in `bin_dir`, or found by PATH.
fn program(bin_dir: &Path, name: &str) -> Option<PathBuf> {
    if !bin_dir.as_os_str().is_empty() {
        return Some(bin_dir.join(name)).filter(|path| path.is_file());
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The major version that the program `postgres` says it has, as Patroni counts: 9.6, 15.
fn major_version(postgres: &Path) -> anyhow::Result<postgres::ServerVersion> {
    let output = std::process::Command::new(postgres)
        .arg("--version")
        .output()
        .with_context(|| format!("could not run {} --version", postgres.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    postgres::ServerVersion::parse(text.trim())
        .with_context(|| format!("{} --version says {:?}", postgres.display(), text.trim()))
}

#[expect(clippy::print_stderr, reason = "this is what was asked for")]
fn complain(text: &str) {
    eprintln!("{text}");
}
