//! Where the guard of a data directory is found: a socket in a directory of its owner, one guard for each.
//!
//! The places below must stay the same from version to version: an agent that was upgraded looks for its guard here.

use rustix::fs::{
    Access, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, accessat, flock, fstat, mkdirat, openat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest path of a socket (`sun_path` of `sockaddr_un` without the zero at its end).
const MAX_SOCKET_PATH_BYTES: usize = 107;

const SOCKET: &str = "guard.sock";
const LOCK: &str = "guard.lock";

/// The directories that may hold the guard's, best first: PostgreSQL's own, the user's, one under `/tmp`.
///
/// PostgreSQL's comes first because it stays for as long as the machine runs: a user's runtime directory goes with the
/// user's last login, a service's with each stop of the service.
#[must_use]
pub fn runtime_directories(uid: u32) -> [PathBuf; 3] {
    [
        "/run/postgresql".into(),
        format!("/run/user/{uid}").into(),
        format!("/tmp/tamada-{uid}").into(),
    ]
}

/// The path of the socket of the guard of `data_dir` (canonical) in a runtime directory.
///
/// # Errors
/// When the path is longer than a socket's may be.
pub fn socket_path(runtime: &Path, data_dir: &Path) -> io::Result<PathBuf> {
    let name = format!("tamada-{:016x}", hash(data_dir.as_os_str().as_bytes()));
    let path = runtime.join(name).join(SOCKET);
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} is longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket's path; choose a shorter runtime \
                 directory",
                path.display()
            ),
        ));
    }
    Ok(path)
}

/// FNV-1a with 64 bits: the same in all versions.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The one name of a data directory, which need not exist yet.
///
/// # Errors
/// When its parent does not exist or cannot be looked at.
pub fn canonical(data_dir: &Path) -> io::Result<PathBuf> {
    match data_dir.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let absolute = std::path::absolute(data_dir)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    Ok(canonical(parent)?.join(name))
}

/// The sockets at which a guard of `data_dir` may listen, best first; `runtime`: only there.
pub(crate) fn candidates(runtime: Option<&Path>, data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    match runtime {
        Some(runtime) => Ok(vec![socket_path(runtime, data_dir)?]),
        None => runtime_directories(geteuid().as_raw())
            .iter()
            .map(|runtime| socket_path(runtime, data_dir))
            .collect(),
    }
}

/// Whether the directory of this socket is ours alone: only then is who listens there the guard.
pub(crate) fn is_private(socket: &Path) -> bool {
    socket.parent().is_some_and(|dir| open_private(dir).is_ok())
}

/// The best of `sockets` whose directory can be ours, made where it is missing.
pub(crate) fn prepare(sockets: &[PathBuf]) -> io::Result<&Path> {
    let mut failure = io::Error::other("no runtime directory");
    for socket in sockets {
        match prepare_one(socket) {
            Ok(()) => return Ok(socket),
            Err((dir, error)) => {
                failure = io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
            }
        }
    }
    Err(io::Error::new(
        failure.kind(),
        format!("no directory for the guard's socket: {failure}"),
    ))
}

fn prepare_one(socket: &Path) -> Result<(), (PathBuf, io::Error)> {
    let dir = socket.parent().unwrap_or(socket);
    let runtime = dir.parent().unwrap_or(dir);
    // The directories of the system are there or not; only the last one is ours to make.
    let [_, _, own] = runtime_directories(geteuid().as_raw());
    let is_ours_to_make = runtime == own;
    let outer = if is_ours_to_make {
        make_private(runtime).and_then(|()| open_private(runtime))
    } else {
        open_trusted(runtime)
    };
    outer.map_err(|error| (runtime.to_owned(), error))?;
    make_private(dir)
        .and_then(|()| open_private(dir).map(drop))
        .map_err(|error| (dir.to_owned(), error))
}

fn make_private(dir: &Path) -> io::Result<()> {
    match mkdirat(CWD, dir, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The directory itself, never one that a symbolic link leads to.
fn open_directory(dir: &Path) -> io::Result<(OwnedFd, rustix::fs::Stat)> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(CWD, dir, flags, Mode::empty())?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}

fn open_private(dir: &Path) -> io::Result<OwnedFd> {
    let (fd, stat) = open_directory(dir)?;
    if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "belongs to somebody else, or others may enter it (mode 0700 is needed)",
        ));
    }
    Ok(fd)
}

/// A directory in which nobody but us, root and its group can exchange what is ours.
fn open_trusted(dir: &Path) -> io::Result<OwnedFd> {
    let (fd, stat) = open_directory(dir)?;
    let belongs = [0, geteuid().as_raw()].contains(&stat.st_uid);
    let is_open_to_all = stat.st_mode & 0o002 != 0 && stat.st_mode & 0o1000 == 0;
    if !belongs || is_open_to_all {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "belongs to another user, or is writable for everybody",
        ));
    }
    accessat(CWD, dir, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?;
    Ok(fd)
}

/// Held by the one guard of a data directory for as long as it lives.
#[derive(Debug)]
pub(crate) struct GuardLock {
    _file: File,
}

impl GuardLock {
    /// # Errors
    /// `WouldBlock`, with the other's pid in the text, when another guard has it.
    pub(crate) fn take(socket: &Path) -> io::Result<Self> {
        let path = socket.with_file_name(LOCK);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    format!("another guard (process {}) holds {}", pid.trim(), path.display()),
                ));
            }
            Err(errno) => return Err(errno.into()),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self { _file: file })
    }
}

/// Locks a data directory, so that two guards that do not know each other (a runtime directory that went away in
/// between) never hold the same server. `None`: the directory is not there, or its file system has no locks.
///
/// # Errors
/// `WouldBlock` when another guard has it.
pub(crate) fn lock_data_directory(data_dir: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(fd) = openat(CWD, data_dir, flags, Mode::empty()) else {
        return Ok(None);
    };
    match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            format!("another guard holds {}", data_dir.display()),
        )),
        Err(_) => Ok(None),
    }
}

/// Removes the socket that a guard left when it was killed. Only whoever holds the lock may.
pub(crate) fn remove_stale(socket: &Path) -> io::Result<()> {
    match rustix::fs::lstat(socket) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => std::fs::remove_file(socket),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is not a socket; remove it", socket.display()),
        )),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_place_is_the_same_in_all_versions() {
        let path = |runtime: &str, data_dir: &str| socket_path(runtime.as_ref(), data_dir.as_ref()).unwrap();
        assert_eq!(
            path("/run/postgresql", "/var/lib/postgresql/15/main"),
            Path::new("/run/postgresql/tamada-426f30cbf3faadfb/guard.sock")
        );
        assert_ne!(path("/run", "/data/a"), path("/run", "/data/b"));
        assert_eq!(
            runtime_directories(101).map(|dir| dir.display().to_string()),
            ["/run/postgresql", "/run/user/101", "/tmp/tamada-101"]
        );
        // FNV's published test vectors.
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_path_too_long_is_refused() {
        let runtime = |length: usize| PathBuf::from(format!("/{}", "r".repeat(length - 1)));
        // "/tamada-", 16 digits, "/guard.sock"
        let rest = 8 + 16 + 11;
        assert!(socket_path(&runtime(107 - rest), Path::new("/data")).is_ok());
        let error = socket_path(&runtime(108 - rest), Path::new("/data")).unwrap_err();
        assert!(error.to_string().contains("107 bytes"), "{error}");
    }

    #[test]
    fn a_data_directory_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir(real.join("pg")).unwrap();
        symlink(real.join("pg"), real.join("link")).unwrap();
        assert_eq!(canonical(&real.join("link")).unwrap(), real.join("pg"));
        assert_eq!(canonical(&real.join("./pg/../pg")).unwrap(), real.join("pg"));
        assert_eq!(canonical(&real.join("link/new")).unwrap(), real.join("pg/new"));
    }

    #[test]
    fn only_a_directory_of_ours_alone_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let socket = |runtime: &str| socket_path(&dir.path().join(runtime), Path::new("/data")).unwrap();
        fs::create_dir(dir.path().join("good")).unwrap();
        fs::create_dir(dir.path().join("open")).unwrap();
        fs::set_permissions(dir.path().join("open"), fs::Permissions::from_mode(0o777)).unwrap();
        symlink(dir.path().join("good"), dir.path().join("link")).unwrap();

        let refused = prepare(&[socket("missing"), socket("link"), socket("open")]).unwrap_err();
        assert!(
            refused.to_string().contains("writable for everybody"),
            "{refused}"
        );
        let sockets = [socket("missing"), socket("open"), socket("good")];
        assert_eq!(prepare(&sockets).unwrap(), sockets[2]);
        assert!(is_private(&sockets[2]) && !is_private(&sockets[0]));
        // Once made, it must not have been opened to others, nor exchanged.
        let made = sockets[2].parent().unwrap();
        fs::set_permissions(made, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!is_private(&sockets[2]) && prepare(&sockets).is_err());
        fs::remove_dir(made).unwrap();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        symlink(dir.path().join("elsewhere"), made).unwrap();
        assert!(!is_private(&sockets[2]) && prepare(&sockets).is_err());
    }

    #[test]
    fn one_lock_for_each_place_and_each_data_directory() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET);
        let first = GuardLock::take(&socket).unwrap();
        let refused = GuardLock::take(&socket).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(
            refused.to_string().contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(first);
        assert!(GuardLock::take(&socket).is_ok());

        let held = lock_data_directory(dir.path()).unwrap();
        assert!(held.is_some() && lock_data_directory(dir.path()).is_err());
        drop(held);
        assert!(lock_data_directory(dir.path()).unwrap().is_some());
        assert!(lock_data_directory(&dir.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn only_a_socket_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join(SOCKET);
        remove_stale(&socket).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        remove_stale(&socket).unwrap();
        assert!(!socket.exists());
        fs::write(&socket, "precious").unwrap();
        assert!(remove_stale(&socket).is_err() && socket.exists());
    }
}
