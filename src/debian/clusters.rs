//! `pg_createcluster_patroni` and `pg_clonecluster_patroni`: how the agent has its data directory made, so that it is a
//! cluster that postgresql-common knows.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use super::arguments::Arguments;
use super::complain;

/// What postgresql-common calls a cluster, from the scope that the agent gives: `18-demo`, or `18/demo`.
struct Cluster<'a> {
    version: &'a str,
    name: &'a str,
}

impl<'a> Cluster<'a> {
    fn from_scope(scope: &'a str) -> Option<Self> {
        let (version, name) = scope.split_once('-').or_else(|| scope.split_once('/'))?;
        let is_path = |part: &str| part.is_empty() || part.contains('/') || part == "..";
        (!is_path(version) && !is_path(name)).then_some(Self { version, name })
    }

    fn config_folder(&self) -> PathBuf {
        Path::new("/etc/postgresql").join(self.version).join(self.name)
    }

    /// `pg_createcluster` for this cluster; nothing but the agent is to start it.
    fn create(&self, datadir: Option<&str>) -> Command {
        let mut command = Command::new("pg_createcluster");
        command.arg("--start-conf=manual");
        if let Some(datadir) = datadir {
            command.arg(format!("--datadir={datadir}"));
        }
        command.args([self.version, self.name]);
        command
    }
}

/// Why a command line cannot be followed, or a step has failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("--{0} is missing")]
    Missing(&'static str),
    #[error("the scope '{0}' is not made of a version and a name, as in 18-demo")]
    Scope(String),
    #[error("could not run {program}: {source}")]
    Run { program: String, source: std::io::Error },
    #[error("could not remove {path}: {source}", path = .path.display())]
    Remove { path: PathBuf, source: std::io::Error },
}

/// `pg_createcluster_patroni --scope=VERSION-CLUSTER [--datadir=FOLDER]`; what else the agent gives is of no use here.
pub(super) fn create(arguments: &[String]) -> ExitCode {
    end(
        "pg_createcluster_patroni",
        create_cluster(&Arguments::parse(arguments)),
    )
}

/// `pg_clonecluster_patroni --scope=VERSION-CLUSTER --datadir=FOLDER --connstring=CONNINFO [--role=replica]`.
pub(super) fn clone(arguments: &[String]) -> ExitCode {
    end(
        "pg_clonecluster_patroni",
        clone_cluster(&Arguments::parse(arguments)),
    )
}

fn create_cluster(arguments: &Arguments<'_>) -> Result<ExitCode, Error> {
    let cluster = cluster(arguments)?;
    run(&mut cluster.create(arguments.value("datadir")))
}

/// The cluster is created like any other, so that its configuration is there, and then its data is replaced.
fn clone_cluster(arguments: &Arguments<'_>) -> Result<ExitCode, Error> {
    let cluster = cluster(arguments)?;
    let datadir = required(arguments, "datadir")?;
    let connstring = required(arguments, "connstring")?;
    let folder = cluster.config_folder();
    if folder.join("postgresql.conf").is_file() {
        // Where there is no data any more it complains, and removes the rest all the same.
        run(Command::new("pg_dropcluster").args([cluster.version, cluster.name]))?;
        remove(fs::remove_file, &folder.join("postgresql.base.conf"))?;
    }
    let code = run(cluster.create(Some(datadir)).stdout(Stdio::null()))?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    remove(fs::remove_dir_all, Path::new(datadir))?;
    let program = format!("/usr/lib/postgresql/{}/bin/pg_basebackup", cluster.version);
    let mut copy = Command::new(program);
    copy.args(["--pgdata", datadir, "-X", "stream"])
        .arg(format!("--dbname={connstring}"));
    run(&mut copy)
}

fn cluster<'a>(arguments: &Arguments<'a>) -> Result<Cluster<'a>, Error> {
    let scope = required(arguments, "scope")?;
    Cluster::from_scope(scope).ok_or_else(|| Error::Scope(scope.to_owned()))
}

fn required<'a>(arguments: &Arguments<'a>, name: &'static str) -> Result<&'a str, Error> {
    arguments.value(name).ok_or(Error::Missing(name))
}

fn run(command: &mut Command) -> Result<ExitCode, Error> {
    let status = command.status().map_err(|source| Error::Run {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    Ok(exit_code(status))
}

/// The command's own; one that a signal has ended has failed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

fn remove(by: fn(PathBuf) -> std::io::Result<()>, path: &Path) -> Result<(), Error> {
    match by(path.to_owned()) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Remove {
            path: path.to_owned(),
            source,
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn end(program: &str, result: Result<ExitCode, Error>) -> ExitCode {
    result.unwrap_or_else(|error| {
        complain(&format!("{program}: {error}"));
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::Cluster;

    #[test]
    fn a_scope_is_a_version_and_a_name() {
        let parts = |scope| Cluster::from_scope(scope).map(|cluster| (cluster.version, cluster.name));
        assert_eq!(parts("18-demo"), Some(("18", "demo")));
        assert_eq!(parts("18/demo"), Some(("18", "demo")));
        // The same cluster on the member that creates it and on those that copy it.
        assert_eq!(parts("18-my-app"), Some(("18", "my-app")));
        for scope in ["", "demo", "18-", "-demo", "18-../../x", "..-x/"] {
            assert_eq!(parts(scope), None, "{scope}");
        }
    }
}
