//! The data directory as a whole: what is in it, removing it, setting it aside.
//!
//! Its path is canonical (`files/resolve.rs`), so that nothing here ever meets a symbolic link instead of the directory.

mod former;
mod unfinished;

pub(crate) use unfinished::{Elsewhere, Filling, Leftovers, UNFINISHED};

use crate::files::{name_of, signal, with_suffix};
use crate::process::Postmaster;
use crate::server::locked;
use crate::{Error, Result, Server};
use ha::pg::{HistoryEntry, Role, Timeline, parse_history_file};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// It is missing, or holds nothing but dot files and `lost+found`.
    Empty,
    /// It holds a cluster's files.
    Filled,
    /// It holds files, but not those without which there is no cluster, and which: whose they are is not known.
    Incomplete(String),
    /// It is being filled, or that was cut off: nothing may be started on it, whatever it looks like.
    Unfinished,
    /// It cannot be read, and why.
    Inaccessible(String),
}

/// Which signal file there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoverySignal {
    /// None: it starts as a primary.
    None,
    /// standby.signal
    Standby,
    /// recovery.signal
    Recovery,
}

impl Server {
    /// What the data directory holds.
    #[must_use]
    pub fn data_directory(&self) -> DataDirectory {
        let found = look_at(&self.data_dir());
        match self.unfinished() {
            _ if found == DataDirectory::Empty => found,
            Ok(Some(record)) if !record.is_filled => DataDirectory::Unfinished,
            Ok(_) => found,
            Err(error) => DataDirectory::Inaccessible(error.to_string()),
        }
    }

    /// Which signal file there is.
    #[must_use]
    pub fn recovery_signal(&self) -> RecoverySignal {
        signal::read(&self.data_dir())
    }

    /// `backup_label` lies there: the directory is a copy that has not been recovered yet.
    #[must_use]
    pub fn has_backup_label(&self) -> bool {
        self.data_dir().join("backup_label").exists()
    }

    /// The role that the data directory speaks of: uninitialized, replica or primary.
    #[must_use]
    pub fn role_of_data_directory(&self) -> Role {
        if self.data_directory() != DataDirectory::Filled {
            Role::Uninitialized
        } else if self.recovery_signal() == RecoverySignal::None {
            Role::Primary
        } else {
            Role::Replica
        }
    }

    /// The history file of a timeline, with its time of change; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn history_file(&self, timeline: Timeline) -> Result<Option<(Vec<HistoryEntry>, SystemTime)>> {
        let path = self.data_dir().join(format!("pg_wal/{:08X}.history", timeline.0));
        let read = net::file::read_text(&path).and_then(|text| Ok((text, fs::metadata(&path)?.modified()?)));
        match read {
            Ok((text, changed)) => Ok(Some((parse_history_file(&text), changed))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// The postmaster that runs on the data directory; `None` when it is certain that none does.
    ///
    /// # Errors
    /// It cannot be found out, such as for want of a file descriptor.
    pub fn postmaster(&self) -> Result<Option<Postmaster>> {
        let settings = self.settings();
        let program = settings.local.bin_name.file_name("postgres");
        let data_dir = &settings.local.data_dir;
        locked(&self.shared.postmaster)
            .find(data_dir, program)
            .map_err(Error::file("find out whether PostgreSQL runs in", data_dir))
    }

    /// Empties the data directory, with tablespaces and a WAL directory elsewhere. Refused while a postmaster runs in
    /// it. What cannot be removed, or does not look like PostgreSQL's, is renamed to `.failed`.
    ///
    /// # Errors
    /// When a postmaster runs in it, or neither works.
    pub async fn remove_data_directory(&self) -> Result<()> {
        self.refuse_while_running("removed")?;
        let data_dir = self.data_dir();
        let removed = blocking({
            let data_dir = data_dir.clone();
            move || {
                if looks_like_ours(&data_dir) {
                    remove_tree(&data_dir)
                } else {
                    Err(io::Error::other("not PostgreSQL's"))
                }
            }
        })
        .await;
        match removed {
            Ok(()) => self.mark_finished(),
            Err(error) => {
                tracing::warn!(
                    "could not remove {} ({error}), it is renamed instead",
                    data_dir.display()
                );
                self.set_data_directory_aside().await
            }
        }
    }

    /// Renames data directory, WAL directory and tablespaces to `.failed`, for a look at what went wrong.
    ///
    /// # Errors
    /// When a postmaster runs in it, or renaming fails.
    pub async fn set_data_directory_aside(&self) -> Result<()> {
        self.refuse_while_running("renamed")?;
        let data_dir = self.data_dir();
        let path = data_dir.clone();
        blocking(move || set_aside(&path))
            .await
            .map_err(Error::file("rename", data_dir))?;
        self.mark_finished()
    }

    /// The directories elsewhere that belong to what is in the data directory now, or was moved aside for a copy.
    pub(crate) fn linked_elsewhere(&self) -> Elsewhere {
        let data_dir = self.data_dir();
        let mut elsewhere = Elsewhere::default();
        for (root, is_former) in [
            (data_dir.clone(), false),
            (with_suffix(&data_dir, former::SUFFIX), true),
        ] {
            for (link, target) in linked_directories(&root) {
                let target = if is_former {
                    target
                        .to_str()
                        .and_then(|path| path.strip_suffix(".former"))
                        .map_or(target.clone(), PathBuf::from)
                } else {
                    target
                };
                let places = if link == root.join("pg_wal") {
                    &mut elsewhere.wal
                } else {
                    &mut elsewhere.tablespaces
                };
                places.push(target);
            }
        }
        elsewhere
    }

    /// The directory's contents, whether or not they are complete.
    pub(crate) fn holds_a_cluster(&self) -> bool {
        look_at(&self.data_dir()) == DataDirectory::Filled
    }

    /// # Errors
    /// [`Error::Unsuitable`] while the directory is being filled, or when that was cut off.
    pub(crate) fn refuse_unfinished(&self) -> Result<()> {
        if self.data_directory() == DataDirectory::Unfinished {
            return Err(Error::Unsuitable(format!(
                "{} is a copy that was not finished: it has to be copied anew",
                self.data_dir().display()
            )));
        }
        Ok(())
    }

    fn refuse_while_running(&self, what: &str) -> Result<()> {
        match self.postmaster()? {
            Some(postmaster) => Err(Error::Unsuitable(format!(
                "{} is not {what}: PostgreSQL runs in it (process {})",
                self.data_dir().display(),
                postmaster.pid()
            ))),
            None => Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn look_at(data_dir: &Path) -> DataDirectory {
    match data_dir.join("global/pg_control").try_exists() {
        Ok(true) => return DataDirectory::Filled,
        Ok(false) => {}
        // Where the directory itself may not be read, that is what is to be told.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => return DataDirectory::Inaccessible(format!("global/pg_control: {error}")),
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return DataDirectory::Empty,
        Err(error) => return DataDirectory::Inaccessible(error.to_string()),
    };
    for entry in entries {
        match entry {
            Err(error) => return DataDirectory::Inaccessible(error.to_string()),
            Ok(entry) => {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                if name == "global" && entry.path().read_dir().is_err() {
                    return DataDirectory::Inaccessible(format!("{} cannot be read", entry.path().display()));
                }
                if !name.starts_with('.') && name != "lost+found" {
                    return DataDirectory::Incomplete(format!(
                        "{} is not empty and holds no PostgreSQL cluster (no global/pg_control)",
                        data_dir.display()
                    ));
                }
            }
        }
    }
    DataDirectory::Empty
}

/// Empty, or with what a cluster's directory has.
fn looks_like_ours(data_dir: &Path) -> bool {
    let has = |name: &str| data_dir.join(name).exists();
    let is_empty = matches!(look_at(data_dir), DataDirectory::Empty);
    is_empty || has("PG_VERSION") || has("global/pg_control") || has(UNFINISHED)
}

/// Directories elsewhere that belong to it: the link in the directory, and where it leads.
fn linked_directories(data_dir: &Path) -> Vec<(PathBuf, PathBuf)> {
    let tablespaces = fs::read_dir(data_dir.join("pg_tblspc"))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()));
    std::iter::once(data_dir.join("pg_wal"))
        .chain(tablespaces)
        .filter(|path| path.is_symlink())
        .filter_map(|link| Some((link.clone(), fs::canonicalize(link).ok()?)))
        .collect()
}

fn remove_tree(data_dir: &Path) -> io::Result<()> {
    for (link, target) in linked_directories(data_dir) {
        // A tablespace's directory may hold other versions' files; a WAL directory is ours alone.
        let is_wal = link == data_dir.join("pg_wal");
        for entry in fs::read_dir(&target)? {
            let path = entry?.path();
            if is_wal || name_of(&path).starts_with("PG_") {
                remove_any(&path)?;
            }
        }
    }
    let entries = match fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // What tells a cluster's directory from others goes last, so that a removal which was broken off can be taken up.
    let (last, first): (Vec<_>, Vec<_>) = entries
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .map(|entry| entry.path())
        .partition(|path| matches!(name_of(path).as_str(), "PG_VERSION" | UNFINISHED));
    for path in first
        .iter()
        .filter(|path| name_of(path) == "global")
        .chain(&first)
        .chain(&last)
    {
        if path.symlink_metadata().is_ok() && name_of(path) != "lost+found" {
            remove_any(path)?;
        }
    }
    // It stays where it is a mount point or its parent is not ours.
    let _ = fs::remove_dir(data_dir);
    Ok(())
}

fn remove_any(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn set_aside(data_dir: &Path) -> io::Result<()> {
    if matches!(look_at(data_dir), DataDirectory::Empty) {
        return Ok(());
    }
    for (link, target) in linked_directories(data_dir) {
        let aside = with_suffix(&target, "failed");
        let _ = remove_tree(&aside);
        let _ = fs::remove_dir(&aside);
        fs::rename(&target, &aside)?;
        fs::remove_file(&link)?;
        std::os::unix::fs::symlink(&aside, &link)?;
    }
    let aside = with_suffix(data_dir, "failed");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    if fs::metadata(data_dir)?.dev() == fs::metadata(data_dir.parent().unwrap_or(data_dir))?.dev() {
        return fs::rename(data_dir, &aside);
    }
    // A mount point cannot be renamed: its contents move into a directory in it.
    let inside = data_dir.join(".failed");
    let _ = fs::remove_dir_all(&inside);
    fs::create_dir(&inside)?;
    for entry in fs::read_dir(data_dir)? {
        let path = entry?.path();
        let name = name_of(&path);
        if !name.starts_with('.') && name != "lost+found" {
            fs::rename(&path, inside.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    pub(super) fn cluster(root: &Path) -> PathBuf {
        let data = root.join("data");
        for directory in ["global", "base/1", "pg_tblspc"] {
            fs::create_dir_all(data.join(directory)).unwrap();
        }
        for file in ["PG_VERSION", "global/pg_control", "base/1/1"] {
            fs::write(data.join(file), "x").unwrap();
        }
        for (link, target) in [("pg_wal", "wal"), ("pg_tblspc/16400", "space")] {
            fs::create_dir(root.join(target)).unwrap();
            symlink(root.join(target), data.join(link)).unwrap();
        }
        fs::write(root.join("wal/000000010000000000000001"), "x").unwrap();
        fs::create_dir(root.join("space/PG_15_1")).unwrap();
        fs::write(root.join("space/note"), "somebody's").unwrap();
        data
    }

    #[test]
    fn contents_are_recognised() {
        let root = tempfile::tempdir().unwrap();
        let data = cluster(root.path());
        assert_eq!(look_at(&data), DataDirectory::Filled);
        assert_eq!(look_at(&root.path().join("none")), DataDirectory::Empty);
        let empty = root.path().join("empty");
        fs::create_dir_all(empty.join("lost+found")).unwrap();
        fs::write(empty.join(".hidden"), "").unwrap();
        assert_eq!(look_at(&empty), DataDirectory::Empty);
        fs::write(empty.join("letter.txt"), "").unwrap();
        assert!(
            matches!(look_at(&empty), DataDirectory::Incomplete(why) if why.contains("no PostgreSQL cluster"))
        );
        assert!(!looks_like_ours(&empty), "never wiped");
    }

    #[test]
    fn removing_takes_what_lies_elsewhere_along_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let data = cluster(root.path());
        remove_tree(&data).unwrap();
        assert!(!data.exists());
        assert!(root.path().join("wal").read_dir().unwrap().next().is_none());
        assert!(root.path().join("space/note").exists() && !root.path().join("space/PG_15_1").exists());
        remove_tree(&data).unwrap();
    }

    #[test]
    fn setting_aside_keeps_everything() {
        let root = tempfile::tempdir().unwrap();
        let data = cluster(root.path());
        set_aside(&data).unwrap();
        let aside = root.path().join("data.failed");
        assert!(!data.exists() && aside.join("base/1/1").exists());
        assert!(aside.join("pg_wal/000000010000000000000001").exists());
        assert!(root.path().join("space.failed/note").exists());
    }
}
