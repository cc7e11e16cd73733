//! How much room the file systems under the server have: measured by a thread of its own, because a file system that hangs
//! must hold up neither the HA loop nor the REST API; said in the log when little is left, and shown in the metrics.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ha::facts::Moment;

use super::clock;

/// How often is looked: at 500 MB/s of WAL the least room that is warned about lasts a little longer.
const EVERY: Duration = Duration::from_secs(10);
/// … and how often while there is no data directory.
const EVERY_WITHOUT_DATA: Duration = Duration::from_secs(1);
/// What was measured before that is not shown any more: the file system hangs.
const CURRENT: Duration = Duration::from_secs(60);
/// Little room is less than a twentieth of the file system, but never more than this …
const LIMIT_MOST: u64 = 10 << 30;
/// … and never less than this: a few WAL segments.
const LIMIT_LEAST: u64 = 128 << 20;

/// The room in one directory's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    /// What the directory is: `data`, `pg_wal`, or `tablespace` with its OID.
    pub(crate) directory: String,
    /// Where it is.
    path: PathBuf,
    /// Which file system that is.
    device: u64,
    /// Bytes that PostgreSQL can still write.
    pub(crate) free_bytes: u64,
    /// Bytes in all.
    pub(crate) size_bytes: u64,
}

/// When it was begun, and what was found.
type Newest = Option<(Moment, Vec<Room>)>;

/// The newest measurement. The thread ends when the last of these is gone.
#[derive(Clone)]
pub struct Disk {
    newest: Arc<Mutex<Newest>>,
    _alive: SyncSender<()>,
}

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn start(data_dir: PathBuf) -> io::Result<Self> {
        let (_alive, ended) = sync_channel(0);
        let newest = Arc::default();
        let shared = Arc::clone(&newest);
        std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || watch(&data_dir, &shared, &ended))?;
        Ok(Self { newest, _alive })
    }

    /// What was measured a short while ago; nothing when no measurement has ended since.
    pub(crate) fn rooms(&self, now: Moment) -> Vec<Room> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let current = newest.as_ref().filter(|(at, _)| now.since(*at) < CURRENT);
        current.map(|(_, rooms)| rooms.clone()).unwrap_or_default()
    }
}

fn watch(data_dir: &Path, newest: &Mutex<Newest>, ended: &Receiver<()>) {
    let mut low = Low::default();
    loop {
        let (at, rooms) = (clock::now(), measure(data_dir));
        for said in low.judge(&rooms) {
            match said {
                Said::Little(text) => tracing::warn!("{text}"),
                Said::Enough(text) => tracing::info!("{text}"),
            }
        }
        let pause = if rooms.len() > 1 {
            EVERY
        } else {
            EVERY_WITHOUT_DATA
        };
        *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, rooms));
        if ended.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// What cannot be looked at, as before a cluster is made, is left out.
fn measure(data_dir: &Path) -> Vec<Room> {
    let mut directories = vec![
        ("data".to_owned(), data_dir.to_owned()),
        ("pg_wal".to_owned(), data_dir.join("pg_wal")),
    ];
    let tablespaces = data_dir.join("pg_tblspc").read_dir();
    let mut tablespaces: Vec<_> = tablespaces.into_iter().flatten().flatten().collect();
    tablespaces.sort_by_key(std::fs::DirEntry::file_name);
    for entry in tablespaces {
        let name = format!("tablespace {}", entry.file_name().display());
        directories.push((name, entry.path()));
    }
    let rooms = directories.into_iter().map(|(name, path)| room(name, path));
    rooms.filter_map(Result::ok).collect()
}

fn room(directory: String, path: PathBuf) -> io::Result<Room> {
    let device = path.metadata()?.dev();
    let room = rustix::fs::statvfs(&path)?;
    Ok(Room {
        directory,
        path,
        device,
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        size_bytes: room.f_blocks.saturating_mul(room.f_frsize),
    })
}

/// The file systems that have little room, so that this is said once.
#[derive(Default)]
struct Low(BTreeSet<u64>);

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Little(String),
    Enough(String),
}

impl Low {
    /// What is to be said. It is enough again only with half as much more than what is little.
    fn judge(&mut self, rooms: &[Room]) -> Vec<Said> {
        let mut said = Vec::new();
        let mut seen = BTreeSet::new();
        for room in rooms.iter().filter(|room| seen.insert(room.device)) {
            let limit = (room.size_bytes / 20).clamp(LIMIT_LEAST, LIMIT_MOST);
            let (free, path) = (room.free_bytes >> 20, room.path.display());
            if room.free_bytes < limit && self.0.insert(room.device) {
                let of = room.size_bytes >> 20;
                said.push(Said::Little(format!(
                    "the file system of {path} is nearly full: {free} MiB of {of} MiB are free"
                )));
            } else if room.free_bytes > limit + limit / 2 && self.0.remove(&room.device) {
                said.push(Said::Enough(format!(
                    "the file system of {path} has room again: {free} MiB are free"
                )));
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(free_mib: u64) -> [Room; 2] {
        ["data", "pg_wal"].map(|directory| Room {
            directory: directory.to_owned(),
            path: Path::new("/d").join(directory),
            device: 1,
            free_bytes: free_mib << 20,
            size_bytes: 10_000 << 20,
        })
    }

    #[test]
    fn a_file_system_that_is_nearly_full_is_told_once_and_again_only_after_it_had_room() {
        let mut low = Low::default();
        let mut said = |free| low.judge(&rooms(free));
        let little = |free| {
            vec![Said::Little(format!(
                "the file system of /d/data is nearly full: {free} MiB of 10000 MiB are free"
            ))]
        };
        let nothing = Vec::<Said>::new();
        assert_eq!(said(501), nothing);
        assert_eq!(said(499), little(499));
        assert_eq!(said(300), nothing);
        assert_eq!(said(600), nothing);
        assert_eq!(said(499), nothing);
        let enough = "the file system of /d/data has room again: 751 MiB are free";
        assert_eq!(said(751), [Said::Enough(enough.to_owned())]);
        assert_eq!(said(499), little(499));
    }

    #[test]
    fn what_is_there_is_measured_and_what_is_not_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("pg_tblspc")).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = directory.path().join("pg_tblspc/16400");
        std::os::unix::fs::symlink(elsewhere.path(), link).unwrap();
        let measured = measure(directory.path());
        let names: Vec<&str> = measured.iter().map(|room| room.directory.as_str()).collect();
        assert_eq!(names, ["data", "tablespace 16400"]);
        assert!(
            measured
                .iter()
                .all(|room| room.size_bytes >= room.free_bytes && room.size_bytes > 0)
        );
    }
}
