//! The data directory that a copy replaces: where there is room it is moved aside and kept until the copy runs.
//!
//! A copy may fail, its source may die, and what was there before may then be the last of its kind. Nothing is ever
//! removed here but what was moved here.

use super::{DataDirectory, UNFINISHED, blocking, linked_directories, look_at};
use crate::files::{name_of, with_suffix};
use crate::{Result, Server};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// `<data_dir>.former`; WAL directory and tablespaces likewise.
pub(super) const SUFFIX: &str = "former";

/// Says in a directory that was moved aside that it was, so that no other of that name is ever removed.
const MARK: &str = "tamada.former";

impl Server {
    /// Makes place for a copy: the data directory, with a WAL directory and tablespaces elsewhere, is moved aside, or
    /// removed where there is no room for both.
    ///
    /// # Errors
    /// When a postmaster runs in it, or neither works.
    pub(crate) async fn make_place(&self) -> Result<()> {
        self.refuse_while_running("replaced")?;
        // What made it may have been killed a moment ago, and not be gone.
        self.discard_unfinished().await?;
        let data_dir = self.data_dir();
        let moved = blocking({
            let data_dir = data_dir.clone();
            move || move_aside(&data_dir)
        })
        .await;
        match moved {
            Ok(true) => {
                tracing::info!(
                    "{} is kept as {} until the copy runs",
                    data_dir.display(),
                    with_suffix(&data_dir, SUFFIX).display()
                );
                return Ok(());
            }
            Ok(false) => {}
            Err(error) => tracing::info!("{} cannot be moved aside: {error}", data_dir.display()),
        }
        self.remove_data_directory().await
    }

    /// Removes what was moved aside for a copy that runs now. Nobody waits for it.
    pub fn remove_former(&self) {
        let former = with_suffix(&self.data_dir(), SUFFIX);
        if !former.join(MARK).exists() {
            return;
        }
        let removing = std::thread::Builder::new().name("former".to_owned());
        let spawned = removing.spawn(move || match remove_marked(&former) {
            Ok(()) => tracing::info!("the copy runs: {} was removed", former.display()),
            Err(error) => tracing::warn!("could not remove {}: {error}", former.display()),
        });
        if let Err(error) = spawned {
            tracing::warn!("could not begin to remove what the copy replaced: {error}");
        }
    }
}

/// Moves a whole cluster's directory aside; `false` where there is none, or not enough room for another one.
fn move_aside(data_dir: &Path) -> io::Result<bool> {
    if look_at(data_dir) != DataDirectory::Filled || data_dir.join(UNFINISHED).exists() {
        return Ok(false);
    }
    let links = linked_directories(data_dir);
    let is_all_ours = |(link, target): &(PathBuf, PathBuf)| {
        *link == data_dir.join("pg_wal")
            || entries(target).is_ok_and(|paths| paths.iter().all(|path| name_of(path).starts_with("PG_")))
    };
    if !links.iter().all(is_all_ours) {
        return Ok(false);
    }
    let former = with_suffix(data_dir, SUFFIX);
    if former.join(MARK).exists() {
        if data_dir.join("backup_label").exists() {
            // A whole copy that was never started: what it has replaced may be the last that works.
            return Ok(false);
        }
        // Of a copy that has not run since: what is there now is newer.
        remove_marked(&former)?;
    }
    let mut directories: Vec<&Path> = vec![data_dir];
    directories.extend(links.iter().map(|(_, target)| target.as_path()));
    if directories.iter().any(|path| with_suffix(path, SUFFIX).exists()) || !has_room(&directories)? {
        return Ok(false);
    }
    fs::write(data_dir.join(MARK), "moved aside for a copy\n")?;
    let moved = move_all(data_dir, &links);
    if moved.is_err() {
        let _ = fs::remove_file(data_dir.join(MARK));
    }
    moved.map(|()| true)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

/// All or nothing: what was moved is moved back after an error.
fn move_all(data_dir: &Path, links: &[(PathBuf, PathBuf)]) -> io::Result<()> {
    let mut done: Vec<&(PathBuf, PathBuf)> = Vec::new();
    let undo = |done: &[&(PathBuf, PathBuf)]| {
        for (link, target) in done {
            let _ = fs::remove_dir(target);
            let _ = fs::rename(with_suffix(target, SUFFIX), target);
            let _ = fs::remove_file(link);
            let _ = symlink(target, link);
        }
    };
    for pair @ (link, target) in links {
        if let Err(error) = move_linked(link, target) {
            done.push(pair);
            undo(&done);
            return Err(error);
        }
        done.push(pair);
    }
    fs::rename(data_dir, with_suffix(data_dir, SUFFIX)).inspect_err(|_| undo(&done))
}

/// A directory elsewhere: the link leads to its new place, and an empty one is where it was, as a copy needs it.
fn move_linked(link: &Path, target: &Path) -> io::Result<()> {
    let mode = fs::metadata(target)?.permissions().mode();
    let aside = with_suffix(target, SUFFIX);
    fs::rename(target, &aside)?;
    fs::create_dir(target)?;
    fs::set_permissions(target, fs::Permissions::from_mode(mode))?;
    fs::remove_file(link)?;
    symlink(&aside, link)
}

/// Whether each file system could hold all of it once more, and a tenth.
fn has_room(directories: &[&Path]) -> io::Result<bool> {
    let mut wanted: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
    for directory in directories {
        let device = fs::metadata(directory)?.dev();
        wanted.entry(device).or_insert((0, directory)).0 += bytes_in(directory)?;
    }
    for (bytes, directory) in wanted.into_values() {
        let room = rustix::fs::statvfs(directory)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < bytes.saturating_add(bytes / 10) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn bytes_in(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    for path in entries(directory)? {
        let meta = path.symlink_metadata()?;
        bytes = bytes.saturating_add(if meta.is_dir() {
            bytes_in(&path)?
        } else {
            meta.blocks().saturating_mul(512)
        });
    }
    Ok(bytes)
}

/// A directory that was moved aside, and those elsewhere that went with it.
fn remove_marked(former: &Path) -> io::Result<()> {
    for (_, target) in linked_directories(former) {
        if name_of(&target).ends_with(&format!(".{SUFFIX}")) {
            fs::remove_dir_all(&target)?;
        }
    }
    // The mark goes last, so that a removal which was broken off can be taken up.
    for path in entries(former)? {
        if name_of(&path) != MARK {
            super::remove_any(&path)?;
        }
    }
    fs::remove_dir_all(former)
}

#[cfg(test)]
mod tests {
    use super::super::tests::cluster;
    use super::*;

    #[test]
    fn what_a_copy_replaces_is_kept_with_tablespaces_until_it_runs() {
        let root = tempfile::tempdir().unwrap();
        let data = cluster(root.path());
        fs::remove_file(root.path().join("space/note")).unwrap();
        assert!(move_aside(&data).unwrap());
        let former = root.path().join("data.former");
        assert!(!data.exists() && former.join("base/1/1").exists());
        assert!(former.join("pg_wal/000000010000000000000001").exists());
        assert!(former.join("pg_tblspc/16400/PG_15_1").exists());
        for place in ["wal", "space"] {
            assert_eq!(entries(&root.path().join(place)).unwrap().len(), 0, "{place}");
        }
        remove_marked(&former).unwrap();
        assert!(!former.exists());
        assert!(!root.path().join("space.former").exists() && !root.path().join("wal.former").exists());
        assert!(root.path().join("space").exists());
    }

    #[test]
    fn what_is_not_ours_is_neither_moved_nor_removed() {
        let root = tempfile::tempdir().unwrap();
        let data = cluster(root.path());
        assert!(
            !move_aside(&data).unwrap(),
            "somebody's file lies in a tablespace's directory"
        );
        fs::remove_file(root.path().join("space/note")).unwrap();
        fs::create_dir(root.path().join("data.former")).unwrap();
        fs::write(root.path().join("data.former/letter"), "somebody's").unwrap();
        assert!(!move_aside(&data).unwrap(), "the place is taken");
        assert!(root.path().join("data.former/letter").exists() && data.join("base/1/1").exists());
        fs::remove_dir_all(root.path().join("data.former")).unwrap();
        fs::write(data.join(UNFINISHED), "1 1").unwrap();
        assert!(
            !move_aside(&data).unwrap(),
            "a copy that was broken off is not kept"
        );
    }

    #[test]
    fn a_copy_that_never_ran_does_not_replace_what_it_has_replaced() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir_all(data.join("global")).unwrap();
        fs::write(data.join("global/pg_control"), "first").unwrap();
        assert!(move_aside(&data).unwrap());
        let former = root.path().join("data.former/global/pg_control");
        fs::create_dir_all(data.join("global")).unwrap();
        for file in ["global/pg_control", "backup_label"] {
            fs::write(data.join(file), "copy").unwrap();
        }
        assert!(!move_aside(&data).unwrap());
        assert_eq!(fs::read_to_string(&former).unwrap(), "first");
        // PostgreSQL renames the label as soon as it has begun with it.
        fs::remove_file(data.join("backup_label")).unwrap();
        assert!(move_aside(&data).unwrap());
        assert_eq!(fs::read_to_string(&former).unwrap(), "copy");
    }

    #[test]
    fn an_error_on_the_way_leaves_everything_where_it_was() {
        let root = tempfile::tempdir().unwrap();
        let data = cluster(root.path());
        let links = linked_directories(&data);
        let mut impossible = links.clone();
        impossible.push((data.join("none"), root.path().join("none")));
        assert!(move_all(&data, &impossible).is_err());
        assert!(data.join("base/1/1").exists() && root.path().join("space/PG_15_1").exists());
        assert_eq!(linked_directories(&data), links);
        assert!(!root.path().join("space.former").exists() && !root.path().join("data.former").exists());
    }
}
