//! Reads files that people name: what is no file neither keeps the reader waiting nor fills the memory.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// The most that a file of the configuration, a certificate or a token may hold, in bytes.
pub const SIZE_MAX: u64 = 4 << 20;

/// Where a shell puts what it passes on by `<(command)` or a redirection: a pipe there is as good as a file.
const PASSED_ON: [&str; 3] = ["/dev/fd/", "/proc/self/fd/", "/dev/stdin"];

/// The contents of a regular file, or of a pipe that this process was started with.
///
/// # Errors
/// It cannot be opened or read, is something else, such as a named pipe, a device or a directory, or has more than
/// [`SIZE_MAX`] bytes.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    open(path)?.take(SIZE_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > SIZE_MAX {
        let message = format!("it has more than {SIZE_MAX} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(contents)
}

/// As [`read`], as text.
///
/// # Errors
/// Those of [`read`], or it is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Opens what [`read`] reads.
///
/// # Errors
/// It cannot be opened, or is no file.
pub fn open(path: &Path) -> Result<File> {
    let is_passed_on = PASSED_ON
        .iter()
        .any(|begin| path.starts_with(begin) || path.as_os_str() == *begin);
    let mut options = OpenOptions::new();
    options.read(true);
    if !is_passed_on {
        // A named pipe without a writer would be waited for.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    let kind = file.metadata()?.file_type();
    let what = if kind.is_file() || (is_passed_on && !kind.is_dir()) {
        return Ok(file);
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(Error::new(
        ErrorKind::InvalidInput,
        format!("it is {what}, not a file"),
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "ttl: 30\n").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(path("pipe"))
                .status()
                .unwrap()
                .success()
        );
        let _listener = UnixListener::bind(path("socket")).unwrap();
        for name in ["file", "link"] {
            assert_eq!(read_text(&path(name)).unwrap(), "ttl: 30\n");
        }
        for (path, why) in [
            (path("pipe"), "it is a named pipe, not a file"),
            (path("."), "it is a directory, not a file"),
            ("/dev/zero".into(), "it is a device, not a file"),
            (path("dangling"), "No such file or directory (os error 2)"),
            (path("socket"), "No such device or address (os error 6)"),
        ] {
            assert_eq!(read(&path).unwrap_err().to_string(), why, "{}", path.display());
        }
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        File::create(&path).unwrap().set_len(10 << 30).unwrap();
        assert_eq!(
            read(&path).unwrap_err().to_string(),
            "it has more than 4194304 bytes"
        );
    }

    /// `tamada run <(command)`.
    #[test]
    fn a_pipe_of_the_shell_is_read() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"ttl: 30\n").unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        assert_eq!(read_text(Path::new(&path)).unwrap(), "ttl: 30\n");
    }
}
