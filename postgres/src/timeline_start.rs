//! The record that begins a timeline, in `pg_wal`: it tells one promotion from another.
//!
//! A promotion writes an end-of-recovery record, or a checkpoint, with its time (PostgreSQL source,
//! `src/backend/access/transam/xlog.c`, `CreateEndOfRecoveryRecord`). All standbys get the same bytes. What stands below is
//! the layout of pages and records since version 9.5, in the byte order of the machine (`xlog_internal.h`, `xlogrecord.h`).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ha::cluster::Origin;
use ha::pg::{HistoryEntry, Lsn, Timeline};

use crate::{Error, Result, Server};

/// The header of a page, and that of the first page of a segment.
const PAGE_HEADER_BYTES: u64 = 24;
const SEGMENT_HEADER_BYTES: u64 = 40;
/// A record's header.
const RECORD_HEADER_BYTES: usize = 24;
/// Behind that a byte for the kind of data and one for its length, and then, in both kinds of records that begin a
/// timeline, eight bytes and the timeline's number.
const TIMELINE_OFFSET: usize = RECORD_HEADER_BYTES + 2 + 8;
const READ_BYTES: usize = TIMELINE_OFFSET + 4;
/// Resource manager 0 with its records `CHECKPOINT_SHUTDOWN` and `END_OF_RECOVERY`.
const KINDS: [u8; 2] = [0x00, 0x90];
/// A few other records may come first, such as a change of `full_page_writes`.
const RECORDS_MAX: usize = 8;

impl Server {
    /// Which promotion this timeline of the server's comes from; `None` for timeline 1, and when its beginning is not in
    /// `pg_wal`: not yet, or not any more.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn origin(&self, timeline: Timeline) -> Result<Option<Origin>> {
        let history = self.history_before(timeline)?;
        history
            .last()
            .map_or(Ok(None), |last| self.begun_at(timeline, last.switch_lsn))
    }

    /// The same of this timeline and of all that led to it, as far as that is known.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn origins(&self, timeline: Timeline) -> Result<Vec<Origin>> {
        let history = self.history_before(timeline)?;
        let next = history
            .iter()
            .skip(1)
            .map(|entry| entry.timeline)
            .chain([timeline]);
        let begun = history.iter().zip(next);
        let origins = begun.map(|(entry, timeline)| self.begun_at(timeline, entry.switch_lsn));
        origins.filter_map(Result::transpose).collect()
    }

    fn history_before(&self, timeline: Timeline) -> Result<Vec<HistoryEntry>> {
        if timeline <= Timeline(1) {
            return Ok(Vec::new());
        }
        let read = self.history_file(timeline)?;
        Ok(read.map(|(history, _changed)| history).unwrap_or_default())
    }

    fn begun_at(&self, timeline: Timeline, switch_lsn: Lsn) -> Result<Option<Origin>> {
        let wal_dir = self.data_dir().join("pg_wal");
        let nonce = nonce(&wal_dir, timeline, switch_lsn).map_err(Error::file("read", wal_dir))?;
        Ok(nonce.map(|nonce| Origin {
            timeline,
            switch_lsn,
            nonce,
        }))
    }
}

/// The checksum of the record that begins the timeline.
fn nonce(wal_dir: &Path, timeline: Timeline, switch_lsn: Lsn) -> io::Result<Option<u32>> {
    let Some(sizes) = Sizes::of_timeline(wal_dir, timeline)? else {
        return Ok(None);
    };
    let file = match net::file::open(sizes.path(wal_dir, timeline, switch_lsn)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut position = switch_lsn.0;
    for _ in 0..RECORDS_MAX {
        position = sizes.behind_a_header(position);
        let Some(bytes) = sizes.read(&file, position)? else {
            return Ok(None);
        };
        let (length, kind, manager) = (number(&bytes, 0), bytes[16] & 0xf0, bytes[17]);
        if manager == 0 && KINDS.contains(&kind) && number(&bytes, TIMELINE_OFFSET) == timeline.0 {
            return Ok(Some(number(&bytes, 20)));
        }
        let is_record = (RECORD_HEADER_BYTES..=sizes.page as usize).contains(&(length as usize));
        let end = position + u64::from(length).next_multiple_of(8);
        if !is_record || end / sizes.page != position / sizes.page {
            return Ok(None);
        }
        position = end;
    }
    Ok(None)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

/// The sizes of pages and segments, which are chosen when a cluster is created.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    page: u64,
    segment: u64,
}

impl Sizes {
    /// As any segment of the timeline tells in its first page.
    fn of_timeline(wal_dir: &Path, timeline: Timeline) -> io::Result<Option<Self>> {
        let prefix = format!("{:08X}", timeline.0);
        for entry in fs::read_dir(wal_dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_segment = |name: &&str| name.len() == 24 && name.starts_with(&prefix);
            if name.to_str().filter(is_segment).is_none() {
                continue;
            }
            let mut header = [0; SEGMENT_HEADER_BYTES as usize];
            let read = net::file::open(entry.path()).and_then(|file| file.read_exact_at(&mut header, 0));
            let sizes = Self {
                segment: number(&header, 32).into(),
                page: number(&header, 36).into(),
            };
            if read.is_ok() && sizes.are_possible() {
                return Ok(Some(sizes));
            }
        }
        Ok(None)
    }

    fn are_possible(self) -> bool {
        let segment = self.segment.is_power_of_two() && (1 << 20..=1 << 30).contains(&self.segment);
        segment && self.page.is_power_of_two() && (1 << 10..=1 << 16).contains(&self.page)
    }

    fn path(self, wal_dir: &Path, timeline: Timeline, lsn: Lsn) -> PathBuf {
        let (number, per_part) = (lsn.0 / self.segment, (1 << 32) / self.segment);
        let (high, low) = (number / per_part, number % per_part);
        wal_dir.join(format!("{:08X}{high:08X}{low:08X}", timeline.0))
    }

    /// No record begins where a page does: its header stands there.
    fn behind_a_header(self, position: u64) -> u64 {
        if position.is_multiple_of(self.segment) {
            position + SEGMENT_HEADER_BYTES
        } else if position.is_multiple_of(self.page) {
            position + PAGE_HEADER_BYTES
        } else {
            position
        }
    }

    /// The first bytes of the record at that position, if its page is written; they may go on behind the next page's
    /// header. `None` where that is in another segment.
    fn read(self, file: &File, position: u64) -> io::Result<Option<[u8; READ_BYTES]>> {
        let mut bytes = [0; READ_BYTES];
        let on_page = self.page - position % self.page;
        let (here, there) = bytes.split_at_mut(READ_BYTES.min(on_page.try_into().unwrap_or(READ_BYTES)));
        let next_page = position + on_page;
        let is_split = !there.is_empty();
        if !self.is_written(file, position - position % self.page)?
            || (is_split && (next_page.is_multiple_of(self.segment) || !self.is_written(file, next_page)?))
        {
            return Ok(None);
        }
        file.read_exact_at(here, position % self.segment)?;
        if is_split {
            file.read_exact_at(there, next_page % self.segment + PAGE_HEADER_BYTES)?;
        }
        Ok(Some(bytes))
    }

    /// Whether the page says that it stands there: in a segment that was recycled stand those of an older one.
    fn is_written(self, file: &File, page: u64) -> io::Result<bool> {
        let mut address = [0; 8];
        match file.read_exact_at(&mut address, page % self.segment + 8) {
            Ok(()) => Ok(u64::from_ne_bytes(address) == page),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 8192;
    const SEGMENT: u64 = 1 << 20;
    const TIMELINE: Timeline = Timeline(2);

    /// A segment with those records from there on; a record is its kind, its timeline and its checksum.
    fn write(wal_dir: &Path, begin: u64, records: &[(u8, u32, u32)]) {
        let mut bytes = vec![0; SEGMENT as usize];
        let first = begin - begin % SEGMENT;
        for page in (0..SEGMENT).step_by(PAGE as usize) {
            let at = page as usize;
            bytes[at + 8..at + 16].copy_from_slice(&(first + page).to_ne_bytes());
        }
        bytes[32..36].copy_from_slice(&(SEGMENT as u32).to_ne_bytes());
        bytes[36..40].copy_from_slice(&(PAGE as u32).to_ne_bytes());
        let sizes = Sizes {
            page: PAGE,
            segment: SEGMENT,
        };
        let mut position = begin;
        for (kind, timeline, checksum) in records {
            position = sizes.behind_a_header(position);
            let mut record = [0; READ_BYTES];
            record[..4].copy_from_slice(&(READ_BYTES as u32 + 4).to_ne_bytes());
            record[16] = *kind;
            record[20..24].copy_from_slice(&checksum.to_ne_bytes());
            record[TIMELINE_OFFSET..].copy_from_slice(&timeline.to_ne_bytes());
            for (offset, byte) in record.iter().enumerate() {
                let mut at = position + offset as u64;
                if at / PAGE != position / PAGE {
                    at += PAGE_HEADER_BYTES;
                }
                bytes[(at % SEGMENT) as usize] = *byte;
            }
            position += u64::from(READ_BYTES as u32 + 4).next_multiple_of(8);
        }
        fs::write(sizes.path(wal_dir, TIMELINE, Lsn(begin)), bytes).unwrap();
    }

    #[test]
    fn the_record_that_begins_a_timeline_is_found() {
        for (what, begin, records, expected) in [
            ("at once", 3 * SEGMENT + 800, &[(0x90, 2, 7)][..], Some(7)),
            ("a checkpoint", 3 * SEGMENT + 800, &[(0x00, 2, 7)], Some(7)),
            ("at the begin of a page", 5000 * PAGE, &[(0x90, 2, 7)], Some(7)),
            (
                "at the begin of a segment",
                (1 << 33) * SEGMENT,
                &[(0x90, 2, 7)],
                Some(7),
            ),
            ("across pages", 5001 * PAGE - 16, &[(0x90, 2, 7)], Some(7)),
            (
                "after another one",
                3 * SEGMENT + 800,
                &[(0x80, 0, 5), (0x90, 2, 7)],
                Some(7),
            ),
            ("of an older timeline", 3 * SEGMENT + 800, &[(0x90, 1, 7)], None),
            ("not written yet", 3 * SEGMENT + 800, &[], None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), begin, records);
            let found = nonce(directory.path(), TIMELINE, Lsn(begin)).unwrap();
            assert_eq!(found, expected, "{what}");
            let gone = nonce(directory.path(), TIMELINE, Lsn(begin + SEGMENT)).unwrap();
            assert_eq!(gone, None, "{what}: another segment");
        }
    }

    #[test]
    fn what_an_older_segment_has_left_is_no_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let begin = 3 * SEGMENT + 800;
        write(directory.path(), begin, &[(0x90, 2, 7)]);
        let sizes = Sizes {
            page: PAGE,
            segment: SEGMENT,
        };
        let path = |lsn| sizes.path(directory.path(), TIMELINE, Lsn(lsn));
        fs::rename(path(begin), path(begin + SEGMENT)).unwrap();
        let found = nonce(directory.path(), TIMELINE, Lsn(begin + SEGMENT)).unwrap();
        assert_eq!(found, None);
        assert_eq!(nonce(directory.path(), Timeline(3), Lsn(begin)).unwrap(), None);
    }
}
