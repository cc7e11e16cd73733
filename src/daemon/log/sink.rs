//! Where lines go: standard error, the journal in its place, or files that are rotated by size.

use std::fs::{File, OpenOptions, rename};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use config::LogConfig;

use super::entry::Entry;
use super::journal::Journal;

/// A record, ready to be written.
pub(super) struct Line {
    pub(super) text: String,
    /// The same for the journal, where there is one.
    pub(super) entry: Option<Entry>,
}

/// Standard error: a stream that takes lines of text, or the journal behind it, which takes records with fields.
pub struct StandardError {
    text: Box<dyn Write + Send>,
    journal: Option<Journal>,
}

impl StandardError {
    /// Records go to the journal if there is one, and as lines of text to `text` when it does not take them.
    pub fn new(text: impl Write + Send + 'static, journal: Option<Journal>) -> Self {
        Self {
            text: Box::new(text),
            journal,
        }
    }

    /// That of this process, and the journal if it leads there.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::new(std::io::stderr(), Journal::behind_stderr())
    }

    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Where nobody reads it either, a line is lost: there is no other place to tell it.
    fn write(&mut self, line: &Line) {
        if let (Some(journal), Some(entry)) = (&mut self.journal, &line.entry)
            && journal.send(entry).is_ok()
        {
            return;
        }
        let _ = write_line(&mut self.text, &line.text);
    }
}

pub(super) struct Sink {
    stderr: StandardError,
    files: Option<Files>,
}

/// `<dir>/patroni.log`, and `.1` to `.N` behind it, the newest first.
pub(super) struct Files {
    path: PathBuf,
    mode: Option<u32>,
    size_max: u64,
    kept: u32,
    file: File,
    size: u64,
}

impl Sink {
    pub(super) fn new(stderr: StandardError) -> Self {
        Self { stderr, files: None }
    }

    /// From now on lines go to these files; without files, to standard error.
    pub(super) fn redirect(&mut self, files: Option<Files>) {
        self.files = files;
    }

    /// Writes a line. A log that cannot be written must not stop the daemon, so a failure goes to standard error.
    pub(super) fn write(&mut self, line: &Line) {
        let Some(files) = &mut self.files else {
            self.stderr.write(line);
            return;
        };
        if let Err(error) = files.write(&line.text) {
            let path = files.path.display();
            let _ = writeln!(
                self.stderr.text,
                "could not write to {path}: {error}\n{}",
                line.text
            );
        }
    }
}

fn write_line(target: &mut impl Write, line: &str) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(line.len() + 1);
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    target.write_all(&bytes)
}

fn open(path: &Path, mode: Option<u32>) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o666)
        .open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Files {
    /// The files that a configuration asks for, if it does.
    ///
    /// # Errors
    /// The directory cannot be made or the file cannot be opened; what is wrong, for the log.
    pub(super) fn from_config(config: &LogConfig) -> Result<Option<Self>, String> {
        let Some(dir) = &config.dir else {
            return Ok(None);
        };
        let path = dir.join("patroni.log");
        let open = || {
            std::fs::create_dir_all(dir)?;
            open(&path, config.mode)
        };
        let (file, size) = open().map_err(|error| {
            format!(
                "log.dir: could not open {}: {error}; logging goes on where it went before",
                path.display()
            )
        })?;
        Ok(Some(Self {
            path,
            mode: config.mode,
            size_max: config.file_size_bytes,
            kept: config.file_num,
            file,
            size,
        }))
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        let length = line.len() as u64 + 1;
        let is_full = self.size > 0 && self.size + length > self.size_max;
        if is_full && self.size_max > 0 && self.kept > 0 {
            self.rotate()?;
        }
        write_line(&mut self.file, line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let numbered = |number: u32| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        for number in (1..self.kept).rev() {
            if numbered(number).exists() {
                rename(numbered(number), numbered(number + 1))?;
            }
        }
        rename(&self.path, numbered(1))?;
        (self.file, self.size) = open(&self.path, self.mode)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_falls_away() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("patroni.log");
        let (file, size) = open(&path, Some(0o640)).expect("opens");
        let mut files = Files {
            path: path.clone(),
            mode: Some(0o640),
            size_max: 10,
            kept: 2,
            file,
            size,
        };
        for line in ["first", "second", "third", "fourth"] {
            files.write(line).expect("writes");
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("patroni.log").as_deref(), Some("fourth\n"));
        assert_eq!(read("patroni.log.1").as_deref(), Some("third\n"));
        assert_eq!(read("patroni.log.2").as_deref(), Some("second\n"));
        assert_eq!(read("patroni.log.3"), None);
        let mode = path.metadata().expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
