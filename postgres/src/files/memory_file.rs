//! Files for programs that are run once, in memory: neither a full disk nor a missing TMPDIR is in their way, and nothing
//! of them is left when this process is killed.

use crate::{Error, Result};
use rustix::fs::{MemfdFlags, Mode, fchmod, memfd_create};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

/// A file that this user alone can read, as long as the handle lives.
pub(crate) struct MemoryFile(File);

impl MemoryFile {
    /// A file with this content. `what` is for the error message.
    pub(crate) fn new(what: &'static str, content: &str) -> Result<Self> {
        let created = || -> io::Result<Self> {
            // Hosts may insist on the flag, and kernels before 6.3 do not know it.
            let flags = MemfdFlags::CLOEXEC;
            let fd = memfd_create("tamada", flags | MemfdFlags::NOEXEC_SEAL)
                .or_else(|_| memfd_create("tamada", flags))?;
            fchmod(&fd, Mode::RUSR | Mode::WUSR)?;
            let mut file = Self(File::from(fd));
            file.replace(content)?;
            Ok(file)
        };
        created().map_err(Error::file("create in memory", what))
    }

    /// Gives it another content.
    pub(crate) fn replace(&mut self, content: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(content.as_bytes())
    }

    /// Where other processes find it.
    pub(crate) fn path(&self) -> PathBuf {
        let own = rustix::process::getpid().as_raw_nonzero();
        PathBuf::from(format!("/proc/{own}/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn another_process_reads_it_as_a_plain_private_file() {
        let mut file = MemoryFile::new("a test", "first").unwrap();
        file.replace("2nd").unwrap();
        let output = std::process::Command::new("cat")
            .arg(file.path())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "2nd", "{output:?}");
        let meta = fs::metadata(file.path()).unwrap();
        assert!(meta.is_file());
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        let path = file.path();
        drop(file);
        assert!(fs::read(path).is_err());
    }
}
