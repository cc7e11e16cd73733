//! The files: one JSON object in each line, rotated, so that the last ones are always there. A line that cannot be read
//! is passed over: a machine that lost its power may have left half of one.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::Deserialize;

use super::{KEPT, PAGE_BYTES, Since};

/// How much of the journals of cycles one file takes; there are two.
const JOURNAL_BYTES: u64 = 4 * 1024 * 1024;

/// How large one file of events gets at most, whatever stands in it.
const EVENT_BYTES: u64 = 16 * 1024 * 1024;

/// A longer line is none of ours.
const LINE_BYTES: u64 = 1024 * 1024;

/// Where everything is.
#[derive(Debug)]
pub(super) struct Files {
    stem: PathBuf,
    /// Held while files are renamed, and while a reader opens them.
    rotation: Mutex<()>,
}

/// What of an event it takes to find it.
#[derive(Deserialize)]
struct Head {
    id: u64,
    at: Timestamp,
}

/// A file that is written to, and its predecessor.
pub(super) struct Rotated<'a> {
    files: &'a Files,
    kind: &'static str,
    lines_max: usize,
    bytes_max: u64,
    open: Option<Open>,
}

struct Open {
    file: File,
    lines: usize,
    bytes: u64,
}

impl Files {
    pub(super) fn new(stem: PathBuf) -> Self {
        Self {
            stem,
            rotation: Mutex::new(()),
        }
    }

    fn path(&self, kind: &str, is_older: bool) -> PathBuf {
        let mut name = self.stem.clone().into_os_string();
        name.push(format!(".{kind}{}.jsonl", if is_older { ".1" } else { "" }));
        name.into()
    }

    /// The file of events.
    pub(super) fn events(&self) -> Rotated<'_> {
        self.rotated("events", KEPT, EVENT_BYTES)
    }

    /// The file of the journals of cycles.
    pub(super) fn journals(&self) -> Rotated<'_> {
        self.rotated("journals", usize::MAX, JOURNAL_BYTES)
    }

    fn rotated(&self, kind: &'static str, lines_max: usize, bytes_max: u64) -> Rotated<'_> {
        Rotated {
            files: self,
            kind,
            lines_max,
            bytes_max,
            open: None,
        }
    }

    /// The wanted events that are on disk, oldest first: the first ones after an id, the newest ones else.
    pub(super) fn read(&self, since: Since, limit: usize) -> Vec<(u64, String)> {
        let opened = {
            let _rotation = self.rotation.lock().unwrap_or_else(PoisonError::into_inner);
            [true, false].map(|is_older| net::file::open(self.path("events", is_older)))
        };
        let mut found: VecDeque<(u64, String)> = VecDeque::new();
        let mut bytes = 0;
        for file in opened.into_iter().flatten() {
            for_each_event(file, |head, line| {
                let is_new = found.back().is_none_or(|(last, _)| *last < head.id);
                if !(is_new && since.is_before(head.id, head.at)) {
                    return;
                }
                let wants_first = matches!(since, Since::Id(_));
                if wants_first && (found.len() >= limit || bytes > PAGE_BYTES) {
                    return;
                }
                bytes += line.len();
                found.push_back((head.id, line.to_owned()));
                while !wants_first && (found.len() > limit || (bytes > PAGE_BYTES && found.len() > 1)) {
                    bytes -= found.pop_front().map_or(0, |(_, line)| line.len());
                }
            });
        }
        found.into()
    }
}

fn for_each_event(file: File, mut take: impl FnMut(Head, &str)) {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Ok(text) = std::str::from_utf8(&line)
            && let Ok(head) = serde_json::from_str::<Head>(text)
        {
            take(head, text.trim_end());
        }
    }
}

impl Rotated<'_> {
    /// Appends lines, each with its end.
    ///
    /// # Errors
    /// They could not be written, or only a part of them.
    pub(super) fn append(&mut self, text: &str, lines: usize) -> io::Result<()> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.lines >= self.lines_max || open.bytes >= self.bytes_max)
        {
            self.rotate()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let path = self.files.path(self.kind, false);
                self.open.insert(Open::at(&path)?)
            }
        };
        match open.file.write_all(text.as_bytes()) {
            Ok(()) => {
                open.lines += lines;
                open.bytes += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                // What was written may end in the middle of a line: that is looked at when it is opened again.
                self.open = None;
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let _rotation = self.files.rotation.lock().unwrap_or_else(PoisonError::into_inner);
        self.open = None;
        std::fs::rename(
            self.files.path(self.kind, false),
            self.files.path(self.kind, true),
        )
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let mut reader = BufReader::new(&file);
        let (mut lines, mut bytes, mut ends_line) = (0, 0, true);
        loop {
            let buffer = reader.fill_buf()?;
            let Some(last) = buffer.last() else { break };
            ends_line = *last == b'\n';
            lines += buffer.iter().filter(|byte| **byte == b'\n').count();
            let length = buffer.len();
            bytes += length as u64;
            reader.consume(length);
        }
        file.seek(SeekFrom::End(0))?;
        if !ends_line {
            file.write_all(b"\n")?;
            bytes += 1;
        }
        Ok(Self { file, lines, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u64) -> String {
        format!(
            "{{\"v\":1,\"id\":{id},\"at\":\"2026-01-31T00:00:{:02}Z\"}}\n",
            id % 60
        )
    }

    fn ids(files: &Files, since: Since, limit: usize) -> Vec<u64> {
        files.read(since, limit).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn what_is_broken_is_passed_over_and_written_behind() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("demo-a"));
        let mut events = files.events();
        events.append(&(line(1) + &line(2)), 2).unwrap();
        let path = folder.path().join("demo-a.events.jsonl");
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"\xff\xfe\x00\n{}\n\n[1,2]\n{\"id\":3,\"at\":\"2026")
            .unwrap();
        let mut events = files.events();
        events.append(&line(4), 1).unwrap();
        assert_eq!(ids(&files, Since::Ever, 10), [1, 2, 4]);
        let text = std::fs::read(&path).unwrap();
        assert!(text.ends_with(line(4).as_bytes()));
    }

    #[test]
    fn the_file_before_is_read_too_and_limits_hold() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("demo-a"));
        let mut events = files.rotated("events", 3, EVENT_BYTES);
        for id in 1..=8 {
            events.append(&line(id), 1).unwrap();
        }
        assert_eq!(ids(&files, Since::Ever, 10), [4, 5, 6, 7, 8]);
        assert_eq!(ids(&files, Since::Ever, 2), [7, 8]);
        assert_eq!(ids(&files, Since::Id(4), 2), [5, 6]);
        let time = "2026-01-31T00:00:06Z".parse().unwrap();
        assert_eq!(ids(&files, Since::Time(time), 10), [6, 7, 8]);
        assert!(ids(&Files::new(folder.path().join("other")), Since::Ever, 10).is_empty());
    }

    #[test]
    fn a_page_takes_only_so_much() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("demo-a"));
        let mut events = files.events();
        let padding = "x".repeat(PAGE_BYTES / 5);
        for id in 1..=12 {
            let line = line(id).replace("\"v\":1", &format!("\"v\":1,\"x\":\"{padding}\""));
            events.append(&line, 1).unwrap();
        }
        assert_eq!(ids(&files, Since::Ever, 100), [9, 10, 11, 12]);
        assert_eq!(ids(&files, Since::Id(2), 100), [3, 4, 5, 6, 7]);
        assert_eq!(ids(&files, Since::Id(2), 2), [3, 4]);
    }
}
