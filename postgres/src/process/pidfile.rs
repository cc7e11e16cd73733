//! `postmaster.pid`: the lines that PostgreSQL keeps there (PostgreSQL source, `src/include/utils/pidfile.h`).

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// More than PostgreSQL ever writes there.
const LENGTH_MAX: u64 = 65_536;

/// The last line: how far the postmaster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostmasterStatus {
    /// It does not accept connections yet.
    Starting,
    /// It shuts down.
    Stopping,
    /// It accepts connections.
    Ready,
    /// It is in recovery and `hot_standby` is off: up, but without connections.
    Standby,
}

/// What `postmaster.pid` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// Process id; that of a server in single-user mode is written as a negative number.
    pub pid: i32,
    /// It is a server in single-user mode.
    pub is_single_user: bool,
    /// When it was started, in seconds since 1970.
    pub start_time_seconds: i64,
    /// TCP port.
    pub port: Option<u16>,
    /// First directory of Unix-domain sockets.
    pub socket_dir: Option<String>,
    /// First listen address.
    pub listen_address: Option<String>,
    /// `None` until the postmaster has written it.
    pub status: Option<PostmasterStatus>,
    /// The user whose file it is; `None` when it was not read from one.
    pub owner: Option<u32>,
}

impl PidFile {
    /// The file's name in the data directory.
    pub const NAME: &'static str = "postmaster.pid";

    /// Reads the file of a data directory; `None` when there is none, or none worth the name.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        let mut opened = match net::file::open(data_dir.join(Self::NAME)) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let owner = opened.metadata()?.uid();
        let mut bytes = Vec::new();
        (&mut opened).take(LENGTH_MAX).read_to_end(&mut bytes)?;
        let file = Self::parse(&String::from_utf8_lossy(&bytes));
        Ok(file.map(|file| Self {
            owner: Some(owner),
            ..file
        }))
    }

    /// Reads the lines.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let filled = |index: usize| lines.get(index).copied().filter(|line| !line.is_empty());
        let pid: i32 = filled(0)?.parse().ok()?;
        if pid == 0 || pid == i32::MIN {
            return None;
        }
        Some(Self {
            pid: pid.abs(),
            is_single_user: pid < 0,
            start_time_seconds: filled(2).and_then(|line| line.parse().ok()).unwrap_or(0),
            port: filled(3).and_then(|line| line.parse().ok()),
            socket_dir: filled(4).map(str::to_owned),
            listen_address: filled(5).map(str::to_owned),
            status: filled(7).and_then(|word| match word {
                "starting" => Some(PostmasterStatus::Starting),
                "stopping" => Some(PostmasterStatus::Stopping),
                "ready" => Some(PostmasterStatus::Ready),
                "standby" => Some(PostmasterStatus::Standby),
                _ => None,
            }),
            owner: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_are_read() {
        let text = "4711\n/data\n1760000000\n5432\n/run/postgresql\n*\n   123456         7\nready   \n";
        let file = PidFile::parse(text).unwrap();
        assert_eq!(
            (file.pid, file.port, file.is_single_user),
            (4711, Some(5432), false)
        );
        assert_eq!(file.start_time_seconds, 1_760_000_000);
        assert_eq!(file.status, Some(PostmasterStatus::Ready));
        assert_eq!(file.listen_address.as_deref(), Some("*"));
    }

    #[test]
    fn an_unfinished_file_is_read_as_far_as_it_goes() {
        let file = PidFile::parse("4711\n/data\n1760000000\n").unwrap();
        assert_eq!((file.port, file.status), (None, None));
        assert!(PidFile::parse("-12\n/data\n1\n").unwrap().is_single_user);
        for bad in ["", "\n", "postgres\n", "0\n"] {
            assert_eq!(PidFile::parse(bad), None);
        }
    }
}
