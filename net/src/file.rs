//! Reads files that people name: what is no file neither keeps the reader waiting nor fills the memory.

use std::fs::{File, FileType, OpenOptions};
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
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    read_from(open(path)?)
}

/// As [`read`], as text.
///
/// # Errors
/// Those of [`read`], or it is not UTF-8.
pub fn read_text(path: impl AsRef<Path>) -> Result<String> {
    read_text_from(open(path)?)
}

/// Everything that is left in a reader such as standard input, as text.
///
/// # Errors
/// It cannot be read, is not UTF-8, or has more than [`SIZE_MAX`] bytes.
pub fn read_text_from(reader: impl Read) -> Result<String> {
    String::from_utf8(read_from(reader)?).map_err(|_| Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
}

fn read_from(reader: impl Read) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    reader.take(SIZE_MAX + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > SIZE_MAX {
        let message = format!("it has more than {SIZE_MAX} bytes");
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(contents)
}

/// Opens what [`read`] reads.
///
/// # Errors
/// It cannot be opened, or is no file.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    let is_passed_on = is_passed_on(path);
    // To open a device may already do something: a watchdog is armed.
    check(std::fs::metadata(path)?.file_type(), is_passed_on)?;
    let mut options = OpenOptions::new();
    options.read(true);
    if !is_passed_on {
        // What was a file may be a named pipe by now, and one without a writer would be waited for.
        options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    check(file.metadata()?.file_type(), is_passed_on)?;
    Ok(file)
}

/// Whether it is a pipe, or something like it, that this process was started with: it can be read once.
#[must_use]
pub fn is_read_once(path: &Path) -> bool {
    is_passed_on(path) && std::fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir())
}

fn is_passed_on(path: &Path) -> bool {
    PASSED_ON
        .iter()
        .any(|begin| path.starts_with(begin) || path.as_os_str() == *begin)
}

fn check(kind: FileType, is_passed_on: bool) -> Result<()> {
    let what = if kind.is_file() || (is_passed_on && !kind.is_dir()) {
        return Ok(());
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
            assert_eq!(read_text(path(name)).unwrap(), "ttl: 30\n");
        }
        for (path, why) in [
            (path("pipe"), "it is a named pipe, not a file"),
            (path("."), "it is a directory, not a file"),
            ("/dev/zero".into(), "it is a device, not a file"),
            (path("dangling"), "No such file or directory (os error 2)"),
            (path("socket"), "it is a socket, not a file"),
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
        assert!(is_read_once(Path::new(&path)));
        assert_eq!(read_text(&path).unwrap(), "ttl: 30\n");
        // A redirection from a file can be read again.
        let file = File::open("/proc/self/status").unwrap();
        let path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        assert!(!is_read_once(Path::new(&path)) && !is_read_once(Path::new("/dev/zero")));
    }

    /// Standard input without end.
    #[test]
    fn a_reader_has_the_same_bound() {
        assert_eq!(
            read_text_from(std::io::repeat(b'a')).unwrap_err().to_string(),
            "it has more than 4194304 bytes"
        );
    }
}
