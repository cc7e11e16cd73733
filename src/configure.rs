//! Configuration files as their own subject: are they right, what could one look like, and what would one be for a
//! server that runs already (Patroni documentation, "Validating", "Generating").

mod generate;
mod parameters;
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

/// The file may hold passwords: it is never for everybody, and one that is there keeps its owner, its group, and what its
/// mode allows them. A reader sees what was there before, or all of the new text.
fn write_for_us_alone(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let present = std::fs::metadata(&target).ok();
    if present.as_ref().is_some_and(|present| !present.is_file()) {
        // A pipe, or /dev/stdout.
        return std::fs::OpenOptions::new()
            .write(true)
            .open(&target)?
            .write_all(text.as_bytes());
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    let mut mode = 0o600;
    if let Some(present) = present {
        let is_kept = fchown(file.as_file(), Some(present.uid()), Some(present.gid())).is_ok();
        // What another group was allowed, ours is not.
        if is_kept || fchown(file.as_file(), None, Some(present.gid())).is_ok() {
            mode |= present.mode() & 0o660;
        }
    }
    file.as_file()
        .set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(&target).map_err(|error| error.error)?;
    Ok(())
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
    eprintln!("{}", config::escape::lines(text));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_configuration_that_is_written_is_for_nobody_who_could_not_read_it_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/patroni.yml");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        put(Some(&path), "a: 1\n").unwrap();
        assert_eq!(mode(&path), 0o600);
        for (before, after) in [
            (0o600, 0o600),
            (0o640, 0o640),
            (0o660, 0o660),
            (0o644, 0o640),
            (0o666, 0o660),
            (0o400, 0o600),
        ] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(before)).unwrap();
            put(Some(&path), "a: 2\n").unwrap();
            assert_eq!(mode(&path), after, "{before:o}");
        }
        let link = folder.path().join("link.yml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let before = std::fs::metadata(&path).unwrap().ino();
        put(Some(&link), "a: 3\n").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_ne!(
            std::fs::metadata(&path).unwrap().ino(),
            before,
            "replaced in one step"
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a: 3\n");
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        put(Some(Path::new("/dev/null")), "a: 4\n").unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }
}
