//! Where lines go: standard error, or files that are rotated by size.

use std::fs::{File, OpenOptions, rename};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use config::LogConfig;

pub(super) enum Sink {
    Stderr,
    Files(Files),
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
    /// The sink that a configuration asks for.
    ///
    /// # Errors
    /// The directory cannot be made or the file cannot be opened; what is wrong, for the log.
    pub(super) fn from_config(config: &LogConfig) -> Result<Self, String> {
        let Some(dir) = &config.dir else {
            return Ok(Self::Stderr);
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
        Ok(Self::Files(Files {
            path,
            mode: config.mode,
            size_max: config.file_size_bytes,
            kept: config.file_num,
            file,
            size,
        }))
    }

    pub(super) fn replace_by(&mut self, other: Self) {
        *self = other;
    }

    /// Writes a line. A log that cannot be written must not stop the daemon, so a failure goes to standard error.
    pub(super) fn write(&mut self, line: &str) {
        let failed = match self {
            Self::Stderr => write_line(&mut std::io::stderr().lock(), line).err(),
            Self::Files(files) => files.write(line).err(),
        };
        if let (Some(error), Self::Files(files)) = (failed, &*self) {
            let path = files.path.display();
            let _ = writeln!(
                std::io::stderr().lock(),
                "could not write to {path}: {error}\n{line}"
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
