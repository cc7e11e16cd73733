//! Where the WAL of a crashed server ends, and so how much of it has to be replayed.
//!
//! Every page of WAL begins with its own position. In a segment that was recycled stand the pages of an older one, so the
//! last page that says where it stands is the last that was written; `pg_waldump` finds the last whole record on it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ha::facts::CrashRecovery;
use ha::pg::Lsn;

use crate::control::parse_wal_record;
use crate::process::postmaster;
use crate::{Error, Instant, Result, Server};

/// The first bytes of a page's header: magic number, flags, timeline, and where the page stands (PostgreSQL source,
/// `src/include/access/xlog_internal.h`).
const HEADER_BYTES: usize = 16;

/// The newest file of each segment of the WAL: its number, and the timeline with the path.
type Segments = BTreeMap<u64, (u32, PathBuf)>;

impl Server {
    /// What the crashed server would have to replay. Processes that outlived the postmaster are waited for: until the
    /// last has gone, more may be written.
    ///
    /// # Errors
    /// The server runs, or its control file or WAL cannot be read.
    pub async fn crash_recovery(&self, deadline: Instant) -> Result<CrashRecovery> {
        if self.postmaster()?.is_some() {
            return Err(Error::Unsuitable(
                "PostgreSQL runs: it has not crashed".to_owned(),
            ));
        }
        self.wait_for_leftovers(deadline).await?;
        let failed = Error::file("find the processes that work in", self.data_dir());
        if !postmaster::working_in(&self.data_dir())
            .map_err(failed)?
            .is_empty()
        {
            return Err(Error::timeout(
                "waiting for the processes of the crashed PostgreSQL",
            ));
        }
        let control = self.control_file(deadline).await?;
        let redo = control.data()?.redo;
        let (page_size, segment_size) = control.wal_sizes()?;
        let wal_dir = self.data_dir().join("pg_wal");
        let (timeline, page) = {
            let wal_dir = wal_dir.clone();
            tokio::task::spawn_blocking(move || last_page(&wal_dir, redo, page_size, segment_size))
                .await
                .map_err(|error| Error::parse("the WAL", error.to_string()))??
        };
        // A page that holds nothing but the rest of a record has none to begin at: the one before it has.
        for start in [page, Lsn(page.0.saturating_sub(page_size)), redo] {
            let start = start.max(redo);
            let args: [OsString; 4] = [
                "-p".into(),
                wal_dir.clone().into(),
                format!("--timeline={timeline}").into(),
                format!("--start={start}").into(),
            ];
            // It always ends by failing to read what comes after the last record.
            let output = self.run("pg_waldump", args, &BTreeMap::new(), deadline).await?;
            let last = output.stdout.lines().rfind(|line| line.starts_with("rmgr:"));
            if let Some(record) = last.and_then(|line| parse_wal_record(line, page_size, segment_size)) {
                return Ok(CrashRecovery {
                    redo,
                    end: record.end,
                });
            }
        }
        Err(Error::parse("the output of pg_waldump", "it shows no record"))
    }
}

/// The last page that was written from `redo` on, and its timeline.
fn last_page(wal_dir: &Path, redo: Lsn, page_size: u64, segment_size: u64) -> Result<(u32, Lsn)> {
    let segments =
        segments(wal_dir, segment_size).map_err(|error| Error::parse("pg_wal", error.to_string()))?;
    let mut number = redo.0 / segment_size;
    let mut last = None;
    while let Some((timeline, path)) = segments.get(&number) {
        let begin = number * segment_size;
        let Ok(file) = net::file::open(path) else { break };
        if !is_written(&file, 0, begin) {
            break;
        }
        last = Some((*timeline, file, begin));
        number += 1;
    }
    let Some((timeline, file, begin)) = last else {
        return Err(Error::parse("pg_wal", format!("no WAL at {redo}")));
    };
    // Pages are written in their order.
    let (mut written, mut unwritten) = (0, segment_size / page_size);
    while written + 1 < unwritten {
        let middle = written.midpoint(unwritten);
        if is_written(&file, middle * page_size, begin) {
            written = middle;
        } else {
            unwritten = middle;
        }
    }
    Ok((timeline, Lsn(begin + written * page_size)))
}

/// Whether the page at `offset` in the segment that begins at `begin` says that it stands there.
fn is_written(file: &File, offset: u64, begin: u64) -> bool {
    let mut header = [0; HEADER_BYTES];
    if file.read_exact_at(&mut header, offset).is_err() {
        return false;
    }
    let (_, position) = header.split_at(8);
    position
        .try_into()
        .is_ok_and(|position| u64::from_ne_bytes(position) == begin + offset)
}

/// The segments by their names: eight hexadecimal digits each for the timeline, and for both parts of the number.
fn segments(wal_dir: &Path, segment_size: u64) -> std::io::Result<Segments> {
    let per_part = (1 << 32) / segment_size;
    let mut found = Segments::new();
    for entry in std::fs::read_dir(wal_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.len() == 24) else {
            continue;
        };
        let part = |range| {
            let digits: Option<&str> = name.get(range);
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok())
        };
        if let (Some(timeline), Some(high), Some(low)) = (part(0..8), part(8..16), part(16..24)) {
            let number = u64::from(high) * per_part + u64::from(low);
            let newest = found.entry(number).or_insert((timeline, entry.path()));
            if newest.0 < timeline {
                *newest = (timeline, entry.path());
            }
        }
    }
    Ok(found)
}
