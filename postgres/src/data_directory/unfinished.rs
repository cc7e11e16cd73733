//! The record of a data directory that is being filled: which directories may be filled, by which process, and what is to
//! become of them when that is cut off.
//!
//! The record lies beside the data directory, because a restore may remove every file in it that the backup does not have
//! (`pgbackrest restore --delta`). It is written before the first program is started and removed when the last one has
//! succeeded. A copy of it lies in the data directory, for one that is a mount point: it goes where the contents go.

use super::{DataDirectory, blocking, look_at};
use crate::files::{name_of, remove, with_suffix, write_if_changed};
use crate::process::{Postmaster, group, watch::Watch};
use crate::{Error, Result, Server};
use rustix::process::Pid;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The copy of the record in the data directory.
pub(crate) const UNFINISHED: &str = "tamada.unfinished";

/// `<data_dir>.unfinished`
const SUFFIX: &str = "unfinished";

/// In the environment of the programs that fill a directory, to find them and what they have started.
const VARIABLE: &str = "TAMADA_COPY";

/// One of these is the first that a program which fills a directory makes in it. `PG_VERSION` may come last of all:
/// pg_basebackup gets the files in the order in which the source's file system happens to list them.
const FIRST_FILES: [&str; 6] = [
    "PG_VERSION",
    "backup_label",
    "base",
    "global",
    "pg_wal",
    "pg_xlog",
];

/// Tells the copies of one agent apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What a program is about to fill.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filling {
    /// A new cluster, which is not complete before its roles are made.
    pub(crate) is_new_cluster: bool,
    /// `keep_data`: what is there when it is cut off stays for the next try.
    pub(crate) keep_data: bool,
    /// Directories elsewhere that it may fill as well.
    pub(crate) elsewhere: Elsewhere,
}

/// Directories outside of the data directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    pub(crate) wal: Vec<PathBuf>,
    pub(crate) tablespaces: Vec<PathBuf>,
}

impl Elsewhere {
    /// Those that hold nothing yet: what is in the others was not put there by the program.
    fn that_are_empty(mut self) -> Self {
        let is_empty = |path: &PathBuf| match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        for paths in [&mut self.wal, &mut self.tablespaces] {
            paths.retain(|path| path.is_absolute() && is_empty(path));
            paths.sort();
            paths.dedup();
        }
        self
    }
}

/// The record of a directory that is being filled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    data_dir: PathBuf,
    inode: Option<u64>,
    pub(crate) is_new_cluster: bool,
    pub(crate) keep_data: bool,
    /// The program has succeeded; of a new cluster the roles are missing.
    pub(crate) is_filled: bool,
    elsewhere: Elsewhere,
    token: String,
    /// Process id, start in clock ticks since the machine's, and which start of the machine that was.
    process: Option<(i32, i64, String)>,
    /// Somebody's files were there before: they are not recorded as ours.
    is_foreign: bool,
}

impl Record {
    fn to_text(&self) -> String {
        let paths = |paths: &[PathBuf]| -> Vec<Value> {
            paths
                .iter()
                .map(|path| Value::from(path.to_string_lossy().into_owned()))
                .collect()
        };
        let process = self
            .process
            .as_ref()
            .map(|(pid, started, boot)| json!([pid, started, boot]));
        let value = json!({
            "note": "this directory is being filled by Tamada and is not complete",
            "data_dir": self.data_dir.to_string_lossy(),
            "inode": self.inode,
            "new_cluster": self.is_new_cluster,
            "keep_data": self.keep_data,
            "filled": self.is_filled,
            "wal": paths(&self.elsewhere.wal),
            "tablespaces": paths(&self.elsewhere.tablespaces),
            "token": self.token,
            "process": process,
        });
        format!("{value}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let paths = |name: &str| -> Option<Vec<PathBuf>> {
            let list = value.get(name)?.as_array()?;
            list.iter().map(|path| path.as_str().map(PathBuf::from)).collect()
        };
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        let process = value.get("process").and_then(|process| {
            let number = |index: usize| process.get(index)?.as_i64();
            let boot = process.get(2)?.as_str()?.to_owned();
            Some((i32::try_from(number(0)?).ok()?, number(1)?, boot))
        });
        Some(Self {
            data_dir: value.get("data_dir")?.as_str()?.into(),
            inode: value.get("inode").and_then(Value::as_u64),
            is_new_cluster: flag("new_cluster")?,
            keep_data: flag("keep_data")?,
            is_filled: flag("filled")?,
            elsewhere: Elsewhere {
                wal: paths("wal")?,
                tablespaces: paths("tablespaces")?,
            },
            token: value.get("token")?.as_str()?.to_owned(),
            process,
            is_foreign: false,
        })
    }

    /// Reads a record; `None` where there is none.
    fn read(path: &Path) -> Result<Option<Self>> {
        let text = match net::file::read_text(path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let unreadable = || {
            Error::parse(
                path.display().to_string(),
                "it is no record of an unfinished copy; remove it if the data directory is complete",
            )
        };
        Self::parse(&text).map(Some).ok_or_else(unreadable)
    }

    /// The programs that fill the directory, and what they have started.
    fn processes(&self) -> Vec<Postmaster> {
        let mut found = group::with_variable(VARIABLE, &self.token);
        if let Some((pid, started, boot)) = &self.process
            && *boot == boot_id()
            && let Some(leader) = Postmaster::open(*pid, 0)
            && leader.started_ticks() == Some(*started)
            && let Some(group) = Pid::from_raw(*pid)
        {
            let known: Vec<i32> = found.iter().map(Postmaster::pid).collect();
            let others = group::members(group).into_iter();
            found.extend(others.filter(|process| !known.contains(&process.pid())));
        }
        found
    }
}

fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

pub(super) fn has_first_files(data_dir: &Path) -> bool {
    FIRST_FILES.iter().any(|file| data_dir.join(file).exists())
}

impl Server {
    /// Beside the data directory.
    fn record_path(&self) -> PathBuf {
        with_suffix(&self.data_dir(), SUFFIX)
    }

    /// Where the record lies when its place beside the data directory cannot be written to: the folder of the password
    /// file, which the agent has to be able to write.
    fn other_record_path(&self) -> PathBuf {
        let name = format!("tamada-{}-{}.{SUFFIX}", self.scope(), self.name()).replace('/', "-");
        self.passfile().with_file_name(name)
    }

    /// The record of the data directory, while it is being filled or after that was cut off.
    pub(crate) fn unfinished(&self) -> Result<Option<Record>> {
        if let Some(record) = Record::read(&self.record_path())? {
            return Ok(Some(record));
        }
        let data_dir = self.data_dir();
        // The folder may be shared with other hosts.
        let is_ours = |record: &Record| {
            record.data_dir == data_dir
                && record
                    .inode
                    .is_none_or(|before| inode(&data_dir).is_none_or(|now| now == before))
        };
        match Record::read(&self.other_record_path()) {
            Ok(Some(record)) if is_ours(&record) => return Ok(Some(record)),
            Ok(_) => {}
            // Nor was anything written there.
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
        match Record::read(&data_dir.join(UNFINISHED)) {
            // Nobody else writes a file of that name.
            Err(Error::Parse { .. }) => Ok(Some(Record {
                data_dir,
                ..Record::default()
            })),
            read => read,
        }
    }

    /// Writes the record before a program is started that fills the data directory. Programs that another one has left
    /// behind are ended first.
    pub(crate) async fn begin_filling(&self, filling: &Filling) -> Result<Record> {
        self.end_filling().await?;
        let data_dir = self.data_dir();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let started = Postmaster::open(own, 0)
            .and_then(|own| own.started_ticks())
            .unwrap_or(0);
        let record = Record {
            inode: inode(&data_dir),
            is_new_cluster: filling.is_new_cluster,
            keep_data: filling.keep_data,
            is_filled: false,
            elsewhere: filling.elsewhere.clone().that_are_empty(),
            token: format!(
                "{}-{own}-{started}-{}",
                boot_id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            process: None,
            is_foreign: !filling.keep_data && look_at(&data_dir) != DataDirectory::Empty,
            data_dir,
        };
        self.write_record(&record);
        // Before the program begins, which may begin with the removal of what is there.
        if has_first_files(&record.data_dir) {
            mark_inside(&record);
        }
        Ok(record)
    }

    /// The environment by which the programs are found again.
    pub(crate) fn mark_of_programs(record: &Record) -> (&'static str, String) {
        (VARIABLE, record.token.clone())
    }

    /// The program runs.
    pub(crate) fn note_filling(&self, record: &mut Record, pid: Option<u32>) {
        let process = pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(|pid| Postmaster::open(pid, 0));
        record.process =
            process.and_then(|process| Some((process.pid(), process.started_ticks()?, boot_id())));
        self.write_record(record);
    }

    /// Beside the data directory or where else there is place.
    fn write_record(&self, record: &Record) {
        if record.is_foreign {
            return;
        }
        let text = record.to_text();
        let Err(error) = write_if_changed(&self.record_path(), &text, 0o600) else {
            return;
        };
        match write_if_changed(&self.other_record_path(), &text, 0o600) {
            Ok(_) => tracing::info!(
                "the record of the unfinished directory is kept as {}: {error}",
                self.other_record_path().display()
            ),
            Err(other) => tracing::warn!(
                "the directory is recorded as unfinished only in itself, where a restore may remove the record: {error}; \
                 {other}"
            ),
        }
    }

    /// Puts a copy of the record into the data directory as soon as something is in it; never ends. To be run beside the program
    /// that fills it. A copy that the program removes is not put there again: it may be removing the whole directory, as
    /// `pg_clonecluster_patroni` does, which would fail on a file that has just come back.
    pub(crate) async fn keep_marked_unfinished(&self, record: &Record) {
        let data_dir = self.data_dir();
        let parent = data_dir.parent().unwrap_or(&data_dir).to_owned();
        let name = name_of(&data_dir);
        let mut is_marked = data_dir.join(UNFINISHED).exists();
        loop {
            let exists = data_dir.is_dir();
            is_marked &= exists;
            let watch = if exists {
                Watch::new(&[&data_dir])
            } else {
                Watch::new(&[&parent])
            };
            if !is_marked && has_first_files(&data_dir) {
                mark_inside(record);
                is_marked = true;
            }
            if exists == data_dir.is_dir() {
                watch
                    .changed(|file| FIRST_FILES.contains(&file) || file == name)
                    .await;
            }
        }
    }

    /// The programs have succeeded, and a new cluster only lacks its roles: it may be started, by this agent.
    pub(crate) fn mark_filled(&self) -> Result<()> {
        if let Some(mut record) = self.unfinished()? {
            record.is_filled = true;
            self.write_record(&record);
        }
        remove(&self.data_dir().join(UNFINISHED)).map(drop)
    }

    /// The directory is complete, or what was in it is gone.
    pub(crate) fn mark_finished(&self) -> Result<()> {
        remove(&self.data_dir().join(UNFINISHED))?;
        let other = self.other_record_path();
        if let Ok(Some(record)) = Record::read(&other)
            && record.data_dir == self.data_dir()
        {
            remove(&other)?;
        }
        remove(&self.record_path()).map(drop)
    }

    /// The data directory holds a new cluster whose creation was cut off after its first start.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn is_unfinished_cluster(&self) -> Result<bool> {
        Ok(self.unfinished()?.is_some_and(|record| record.is_new_cluster))
    }

    /// Ends the programs that fill the data directory, if any outlived the job or the agent that had begun with it.
    ///
    /// # Errors
    /// When they do not end: nothing else may fill the directory then.
    pub async fn end_filling(&self) -> Result<()> {
        let Some(record) = self.unfinished()? else {
            return Ok(());
        };
        let running = record.processes();
        if running.is_empty() {
            return Ok(());
        }
        let pids: Vec<i32> = running.iter().map(Postmaster::pid).collect();
        tracing::warn!("ending the processes {pids:?} of an unfinished copy");
        group::end(|| record.processes(), group::TERM_TIME).await.map_err(|left| {
            Error::Unsuitable(format!(
                "the processes {left:?}, which fill {}, do not end; nothing else is copied there beside them",
                self.data_dir().display()
            ))
        })
    }

    /// Removes what a copy that was cut off has left behind, tablespaces and a WAL directory elsewhere included: only
    /// directories that we began to fill ourselves. With `keep_data` everything stays for the next try. Returns whether
    /// something was removed.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove_unfinished_copy(&self) -> Result<bool> {
        self.end_filling().await?;
        match self.unfinished()? {
            None => Ok(false),
            Some(record) if record.keep_data => {
                tracing::warn!(
                    "{} is a copy that was not finished; keep_data: it is left for the next try",
                    self.data_dir().display()
                );
                Ok(false)
            }
            Some(_) => self.discard_unfinished().await,
        }
    }

    /// The same whether or not the data was to be kept.
    pub(crate) async fn discard_unfinished(&self) -> Result<bool> {
        self.end_filling().await?;
        let Some(record) = self.unfinished()? else {
            return Ok(false);
        };
        let data_dir = self.data_dir();
        tracing::warn!(
            "removing {}: it is a copy that was not finished",
            data_dir.display()
        );
        let elsewhere = record.elsewhere.clone();
        blocking(move || empty_elsewhere(&elsewhere))
            .await
            .map_err(Error::file(
                "empty the directories that were filled for",
                &data_dir,
            ))?;
        self.remove_data_directory().await?;
        Ok(true)
    }
}

/// What a program leaves that is ended before it has filled a directory: marked, even if that is so soon that
/// [`Server::keep_marked_unfinished`] has not seen its first file.
pub(crate) struct Leftovers(pub(crate) Record);

impl Drop for Leftovers {
    fn drop(&mut self) {
        if has_first_files(&self.0.data_dir) {
            mark_inside(&self.0);
        }
    }
}

fn mark_inside(record: &Record) {
    if record.is_foreign {
        return;
    }
    if let Err(error) = write_if_changed(&record.data_dir.join(UNFINISHED), record.to_text(), 0o600) {
        tracing::warn!("the directory could not be marked as unfinished: {error}");
    }
}

/// They were empty before the copy. Yet only what PostgreSQL puts there is removed.
fn empty_elsewhere(elsewhere: &Elsewhere) -> io::Result<()> {
    let all = elsewhere.tablespaces.iter().map(|path| (path, false));
    for (directory, is_wal) in all.chain(elsewhere.wal.iter().map(|path| (path, true))) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let name = name_of(&path);
            if name.starts_with("PG_") && !is_wal || is_wal && is_of_wal(&name) {
                super::remove_any(&path)?;
            }
        }
    }
    Ok(())
}

/// Names in `pg_wal`: segments, also partial and temporary ones, histories, and the directories of the server.
fn is_of_wal(name: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.get(..24).is_some_and(is_hex)
        || name.get(..8).is_some_and(is_hex) && name.get(8..).is_some_and(|rest| rest.starts_with(".history"))
        || name.starts_with("xlogtemp.")
        || matches!(name, "archive_status" | "summaries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            data_dir: "/x/data".into(),
            inode: Some(7),
            is_new_cluster: true,
            keep_data: true,
            is_filled: false,
            elsewhere: Elsewhere {
                wal: vec!["/wal".into()],
                tablespaces: vec!["/a b".into(), "/c".into()],
            },
            token: "t".to_owned(),
            process: Some((4711, 99, "boot".to_owned())),
            is_foreign: false,
        };
        assert_eq!(Record::parse(&record.to_text()), Some(record.clone()));
        let waiting = Record {
            process: None,
            inode: None,
            ..record
        };
        assert_eq!(Record::parse(&waiting.to_text()), Some(waiting));
        for bad in ["", "1 1\n", "{}", "[]"] {
            assert_eq!(Record::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_was_empty_is_emptied_and_only_of_what_is_postgresqls() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["wal", "space", "taken"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::create_dir(at("taken/PG_15_1")).unwrap();
        let elsewhere = Elsewhere {
            wal: vec![at("wal"), at("wal"), "relative".into()],
            tablespaces: vec![at("taken"), at("space"), at("later")],
        };
        let elsewhere = elsewhere.that_are_empty();
        assert_eq!(elsewhere.wal, [at("wal")]);
        assert_eq!(elsewhere.tablespaces, [at("later"), at("space")]);
        for name in ["space/PG_15_1", "later/PG_15_1", "wal/archive_status"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in [
            "space/note",
            "wal/000000010000000000000001",
            "wal/00000002.history",
            "wal/note",
        ] {
            fs::write(at(name), "").unwrap();
        }
        empty_elsewhere(&elsewhere).unwrap();
        let left = |name: &str| {
            fs::read_dir(at(name))
                .unwrap()
                .map(|entry| name_of(&entry.unwrap().path()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (left("space"), left("wal")),
            (vec!["note".to_owned()], vec!["note".to_owned()])
        );
        assert!(left("later").is_empty() && at("taken/PG_15_1").exists());
    }
}
