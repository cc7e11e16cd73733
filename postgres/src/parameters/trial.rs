//! Whether the server would start with the settings in force. They are tried before a running server is stopped, by the
//! server's own program: it reads the same files, loads the same libraries and the same certificate, and computes its
//! shared memory, in an empty data directory with a copy of `pg_control` (`postgres -C shared_memory_size`).

use crate::command::Invocation;
use crate::connection::Purpose;
use crate::files::configuration::directories;
use crate::files::{ensure_directory, with_suffix};
use crate::process::PidFile;
use crate::server::locked;
use crate::{Error, Instant, Recovery, Result, Server};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the whole trial may take before the restart goes on without it.
const TRIAL_TIME: Duration = Duration::from_secs(20);

/// How long the running server may take to check the rules of `pg_hba.conf`.
const RULES_TIME: Duration = Duration::from_secs(2);

/// Where the server has its temporary files (PostgreSQL source, `PG_TEMP_FILES_DIR`).
const TEMPORARY_FILES: &str = "base/pgsql_tmp";

const KIBIBYTES_PER_MEBIBYTE: u64 = 1024;

/// What a trial has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trial {
    /// The server would start, as far as its program can tell beforehand.
    Passed,
    /// It would not; why.
    Failed(String),
    /// It could not be found out; why.
    Unknown(String),
}

impl Server {
    /// Why a server that runs now would not start again with the settings in force. `None`: nothing speaks against it, or
    /// it could not be found out, which is logged then.
    pub async fn restart_obstacle(&self, as_standby: bool, deadline: Instant) -> Option<String> {
        self.postmaster().ok().flatten()?;
        let deadline = deadline.min(Instant::now() + TRIAL_TIME);
        match self.try_settings(as_standby, deadline).await {
            Trial::Passed => None,
            Trial::Failed(why) => {
                self.note_failed_settings(&why);
                Some(why)
            }
            Trial::Unknown(why) => {
                tracing::warn!("the settings could not be tried before the restart: {why}");
                None
            }
        }
    }

    async fn try_settings(&self, as_standby: bool, deadline: Instant) -> Trial {
        if let Err(error) = self.write_for_trial(deadline).await {
            return match error {
                Error::Timeout { .. } => Trial::Unknown(error.to_string()),
                error => Trial::Failed(error.to_string()),
            };
        }
        if let Some(why) = self.broken_access_rule(deadline).await {
            return Trial::Failed(why);
        }
        let replaced = match as_standby {
            true => self.needed_on_standby(deadline).await.unwrap_or_default(),
            false => BTreeMap::new(),
        };
        let replaced = replaced
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect();
        let trial = self.try_program(&self.config_path(), &replaced, deadline).await;
        let Trial::Failed(why) = trial else {
            return match self.unusable_listen(deadline).await {
                Some(why) => Trial::Failed(why),
                None => trial,
            };
        };
        // Where the settings that the server runs with fail in the same way, the trial shows nothing.
        match self.try_last_working(deadline).await {
            Some(Trial::Failed(same)) if same == why => Trial::Unknown(why),
            Some(_) | None => Trial::Failed(why),
        }
    }

    async fn unusable_listen(&self, deadline: Instant) -> Option<String> {
        let hosts = self.value_after_restart("listen_addresses", deadline).await?;
        let port = self.value_after_restart("port", deadline).await?;
        let wanted: u16 = port.trim().parse().ok()?;
        let running = PidFile::read(&self.data_dir()).ok().flatten();
        // The port that the running server holds is free when it has stopped.
        let is_ours = running.is_some_and(|file| file.port == Some(wanted));
        // Names are resolved, which may take its time.
        let tried =
            tokio::task::spawn_blocking(move || refused_addresses(&hosts, if is_ours { 0 } else { wanted }));
        let refused = tokio::time::timeout_at(deadline, tried).await.ok()?.ok()??;
        Some(format!(
            "could not create any TCP/IP sockets: PostgreSQL cannot listen on port {wanted} of {refused}; check \
             postgresql.listen"
        ))
    }

    /// The files as a start would write them.
    async fn write_for_trial(&self, deadline: Instant) -> Result<()> {
        for directory in directories(&self.settings()) {
            ensure_directory(&directory)?;
        }
        let recovery = locked(&self.shared.follow).current.clone();
        let recovery = recovery.filter(|recovery| !matches!(recovery, Recovery::Custom(_)));
        self.write_postgresql_conf(recovery.as_ref(), deadline).await?;
        self.write_hba_and_ident()?;
        Ok(())
    }

    /// The first line of `pg_hba.conf`, as it is on disk, that the server does not understand: it would not start with it.
    async fn broken_access_rule(&self, deadline: Instant) -> Option<String> {
        let sql = "SELECT current_setting('hba_file') AS file, line_number, error FROM pg_hba_file_rules \
                   WHERE error IS NOT NULL ORDER BY line_number LIMIT 1";
        let deadline = deadline.min(Instant::now() + RULES_TIME);
        let rows = self
            .query_kept(Purpose::Heartbeat, "checking pg_hba.conf", sql, deadline)
            .await
            .inspect_err(|error| tracing::debug!("pg_hba.conf could not be checked: {error}"))
            .ok()?;
        let row = rows.first()?;
        let (file, line) = (row.get("file")?, row.get("line_number")?);
        Some(format!("{file} line {line}: {}", row.get("error")?))
    }

    /// Lets the server's program start as far as it can without harm.
    pub(super) async fn try_program(
        &self,
        config_file: &Path,
        replaced: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Trial {
        let tried = async {
            let directory = self.trial_directory()?;
            let mut trial = ProgramTrial {
                program: self.program("postgres"),
                args: Vec::new(),
                directory: directory.path().to_owned(),
                deadline,
            };
            trial.args = self.postmaster_arguments_for(directory.path(), config_file, replaced);
            if self.version(deadline).await?.is_at_least(15) {
                trial.computed().await
            } else {
                let libraries = self.library_directory(deadline).await;
                trial.libraries(libraries.as_deref()).await
            }
        };
        tried
            .await
            .unwrap_or_else(|error: Error| Trial::Unknown(error.to_string()))
    }

    /// A directory that looks like ours as far as a start looks before it touches data: the control file, and links to
    /// files that settings may name by a relative path. It lies where the server has its temporary files: on a file system
    /// that works, in no base backup, and removed by the next start if this process is killed.
    fn trial_directory(&self) -> Result<tempfile::TempDir> {
        let data_dir = self.data_dir();
        let private = fs::Permissions::from_mode(0o700);
        let parent = data_dir.join(TEMPORARY_FILES);
        match fs::DirBuilder::new()
            .mode(0o750 & mode_of(&data_dir))
            .create(&parent)
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::file("create the directory", &parent)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let made = tempfile::Builder::new()
            .prefix("pgsql_tmp_trial")
            .permissions(private)
            .tempdir_in(&parent);
        let made = made.map_err(Error::file("create a directory in", &parent))?;
        let global = made.path().join("global");
        fs::create_dir(&global).map_err(Error::file("create the directory", &global))?;
        let control = data_dir.join("global/pg_control");
        fs::copy(&control, global.join("pg_control")).map_err(Error::file("copy", &control))?;
        let entries = fs::read_dir(&data_dir).map_err(Error::file("list", &data_dir))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let is_data =
                entry.path().is_dir() && (text.starts_with("pg_") || text == "base" || text == "global");
            if is_data || matches!(&*text, "postmaster.pid" | "postmaster.opts") {
                continue;
            }
            let link = made.path().join(&name);
            symlink(entry.path(), &link).map_err(Error::file("create the link", link))?;
        }
        Ok(made)
    }

    /// `$libdir` of the server that runs.
    async fn library_directory(&self, deadline: Instant) -> Option<PathBuf> {
        let sql = "SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'";
        let rows = self.query_kept(Purpose::Heartbeat, "asking for $libdir", sql, deadline);
        Some(PathBuf::from(rows.await.ok()?.first()?.get(0)?))
    }
}

fn mode_of(directory: &Path) -> u32 {
    fs::metadata(directory).map_or(0o700, |meta| meta.permissions().mode())
}

/// The addresses of `listen_addresses` and why nobody can listen there, if that is so of all: the server starts when it has one.
fn refused_addresses(hosts: &str, port: u16) -> Option<String> {
    let mut refused = Vec::new();
    for host in hosts.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        match can_listen(host, port) {
            Ok(()) => return None,
            Err(error) => refused.push(format!("{host}: {error}")),
        }
    }
    (!refused.is_empty()).then(|| refused.join(", "))
}

/// Listens for a moment, as the server would.
fn can_listen(host: &str, port: u16) -> io::Result<()> {
    if host == "*" {
        let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        return any
            .or_else(|_| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
            .map(drop);
    }
    TcpListener::bind((host, port)).map(drop)
}

struct ProgramTrial {
    program: PathBuf,
    args: Vec<OsString>,
    directory: PathBuf,
    deadline: Instant,
}

impl ProgramTrial {
    /// What `postgres -C NAME` prints, or why the program ended instead.
    async fn value(&self, name: &str) -> Result<std::result::Result<String, String>> {
        let mut invocation = Invocation::new(&self.program, ["-C", name]);
        invocation.args.extend(self.args.iter().cloned());
        invocation = invocation.env("LC_ALL", "C").arg(OsString::from(format!(
            "--data_directory={}",
            self.directory.display()
        )));
        let output = invocation.run(self.deadline).await?;
        let why = reason_in(&output.stderr);
        Ok(match output.into_success() {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(error) => Err(if why.is_empty() { error.to_string() } else { why }),
        })
    }

    /// Since PostgreSQL 15 the program computes the size of its shared memory, and loads what takes a part of it.
    async fn computed(&self) -> Result<Trial> {
        let size = match self.value("shared_memory_size").await? {
            Ok(size) => size,
            Err(why) => return Ok(Trial::Failed(why)),
        };
        let memory = Memory::read();
        let needed = size.parse::<u64>().unwrap_or(0) * KIBIBYTES_PER_MEBIBYTE;
        if self.value("huge_pages").await? == Ok("on".to_owned()) {
            let pages = self.value("shared_memory_size_in_huge_pages").await?;
            let pages = pages.ok().and_then(|pages| pages.parse::<u64>().ok());
            return Ok(memory.holds_pages(pages));
        }
        Ok(memory.holds(needed))
    }

    /// Older programs load nothing for `-C`: the libraries are looked for as the server does (PostgreSQL manual,
    /// `dynamic_library_path`).
    async fn libraries(&self, library_directory: Option<&Path>) -> Result<Trial> {
        let (names, path) = match (
            self.value("shared_preload_libraries").await?,
            self.value("dynamic_library_path").await?,
        ) {
            (Ok(names), Ok(path)) => (names, path),
            (Err(why), _) | (_, Err(why)) => return Ok(Trial::Failed(why)),
        };
        let Some(library_directory) = library_directory else {
            return Ok(Trial::Unknown(
                "the server does not tell where its libraries are".to_owned(),
            ));
        };
        let missing = library_names(&names).find(|name| !is_found(name, &path, library_directory));
        Ok(missing.map_or(Trial::Passed, |name| {
            Trial::Failed(format!(
                "could not access file \"{name}\": No such file or directory"
            ))
        }))
    }
}

fn library_names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(|name| name.trim().trim_matches('"'))
        .filter(|name| !name.is_empty())
}

fn is_found(name: &str, path: &str, library_directory: &Path) -> bool {
    let expand = |text: &str| match text.strip_prefix("$libdir") {
        Some(rest) => library_directory.join(rest.trim_start_matches('/')),
        None => PathBuf::from(text),
    };
    let is_there = |file: PathBuf| file.is_file() || with_suffix(&file, "so").is_file();
    if name.contains('/') {
        return is_there(expand(name));
    }
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .any(|directory| is_there(expand(directory).join(name)))
}

/// What the host has, of `/proc/meminfo`, in KiB and in huge pages; `None`: not known.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Memory {
    all: Option<u64>,
    limit: Option<u64>,
    huge_pages: Option<u64>,
}

impl Memory {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let overcommit = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
        Self::parse(&text, overcommit.trim() == "2")
    }

    fn parse(text: &str, is_strict: bool) -> Self {
        let number = |name: &str| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            all: number("MemTotal").map(|memory| memory + number("SwapTotal").unwrap_or(0)),
            limit: number("CommitLimit").filter(|_| is_strict),
            huge_pages: number("HugePages_Total"),
        }
    }

    fn holds(self, needed: u64) -> Trial {
        let has = [self.all, self.limit].into_iter().flatten().min();
        match has.filter(|has| needed > *has) {
            Some(has) => Trial::Failed(format!(
                "PostgreSQL would need {} MiB of shared memory and this host has {} MiB: lower shared_buffers",
                needed / KIBIBYTES_PER_MEBIBYTE,
                has / KIBIBYTES_PER_MEBIBYTE
            )),
            None => Trial::Passed,
        }
    }

    fn holds_pages(self, needed: Option<u64>) -> Trial {
        match (needed, self.huge_pages) {
            (Some(needed), Some(has)) if needed > has => Trial::Failed(format!(
                "huge_pages is on and PostgreSQL would need {needed} huge pages, this host has {has}: raise \
                 vm.nr_hugepages or set huge_pages to try"
            )),
            _ => Trial::Passed,
        }
    }
}

/// The server's own words for why it ended: of its last FATAL line, else its last line.
pub(crate) fn reason_in(log: &str) -> String {
    let lines = || log.lines().rev().filter(|line| !line.trim().is_empty());
    let fatal = ["FATAL:  ", "PANIC:  ", "ERROR:  "]
        .iter()
        .find_map(|word| lines().find_map(|line| line.split_once(word)))
        .map(|(_, message)| message);
    fatal.or(lines().next()).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_servers() {
        let log = "2026-11-30 23:25:07 UTC [1] LOG:  starting\n\
                   2026-11-30 23:25:07 UTC [1] FATAL:  could not access file \"pg_cronn\": No such file\n\
                   2026-11-30 23:25:07 UTC [1] LOG:  database system is shut down\n";
        assert_eq!(reason_in(log), "could not access file \"pg_cronn\": No such file");
        assert_eq!(
            reason_in("postgres: x plus y must be less than z\n\n"),
            "postgres: x plus y must be less than z"
        );
        assert_eq!(reason_in(""), "");
    }

    #[test]
    fn libraries_are_looked_for_as_the_server_does() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("known.so"), "").unwrap();
        for (name, path, found) in [
            ("known", "$libdir", true),
            ("known.so", "$libdir", true),
            ("$libdir/known", "", true),
            ("pg_cronn", "$libdir", false),
            ("known", "/nowhere", false),
            ("known", "/nowhere:$libdir", true),
        ] {
            assert_eq!(is_found(name, path, directory.path()), found, "{name} {path}");
        }
        let names: Vec<_> = library_names("a, \"b c\" ,,d").collect();
        assert_eq!(names, ["a", "b c", "d"]);
    }

    #[test]
    fn memory_that_the_host_lacks_is_refused() {
        let text = "MemTotal:  1000 kB\nSwapTotal:  500 kB\nCommitLimit: 1200 kB\nHugePages_Total:  3\n";
        let (lax, strict) = (Memory::parse(text, false), Memory::parse(text, true));
        assert_eq!(lax.holds(1500), Trial::Passed);
        assert!(matches!(lax.holds(1501), Trial::Failed(_)));
        assert!(matches!(strict.holds(1201), Trial::Failed(_)));
        assert_eq!(lax.holds_pages(Some(3)), Trial::Passed);
        assert!(matches!(lax.holds_pages(Some(4)), Trial::Failed(_)));
        assert_eq!(Memory::default().holds(u64::MAX), Trial::Passed);
    }
}
