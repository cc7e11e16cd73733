//! What `/proc` tells about processes, read without allocation: the guard asks while it fences.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, openat, readlinkat_raw, statat};
use rustix::io::Errno;
use rustix::process::Pid;
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;
use std::path::PathBuf;

/// The process of this number, if it can be one: rustix takes none that is negative.
pub(crate) fn pid(number: i32) -> Option<Pid> {
    if number < 1 { None } else { Pid::from_raw(number) }
}

/// A path in `/proc`, short enough for the stack.
struct ProcPath {
    bytes: [u8; 48],
    length: usize,
}

impl ProcPath {
    fn new(pid: Pid, file: &str) -> Self {
        let mut path = Self {
            bytes: [0; 48],
            length: 0,
        };
        // "/proc/", at most 10 digits, "/" and one of our short names fit.
        let _ = write!(path, "/proc/{}/{file}", pid.as_raw_nonzero());
        path
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for ProcPath {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let place = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Some fields of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`unning, `S`leeping, s`T`opped, `Z`ombie, ...
    pub(crate) state: u8,
    pub(crate) parent: i32,
    /// Clock ticks since the machine's start.
    pub(crate) start_ticks: u64,
}

impl Stat {
    pub(crate) fn read(pid: Pid) -> io::Result<Self> {
        let path = ProcPath::new(pid, "stat");
        let file = openat(
            CWD,
            path.as_bytes(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut buffer = [0; 1024];
        let length = rustix::io::read(&file, &mut buffer)?;
        Self::parse(&buffer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The program's name stands in parentheses and may contain any byte.
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        Some(Self {
            state: *fields.next()?.as_bytes().first()?,
            parent: fields.next()?.parse().ok()?,
            start_ticks: fields.nth(17)?.parse().ok()?,
        })
    }

    /// It executes nothing any more, or not until it is continued.
    pub(crate) fn is_halted(self) -> bool {
        matches!(self.state, b'T' | b't' | b'Z' | b'X' | b'x')
    }

    pub(crate) fn has_ended(self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Calls `visit` with every process. One that begins or ends in the meantime may be missed.
pub(crate) fn each_process(mut visit: impl FnMut(Pid)) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, c"/proc", flags, Mode::empty())?;
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        if let Some(process) = name.and_then(|name| name.parse().ok()).and_then(pid) {
            visit(process);
        }
    }
    Ok(())
}

/// Calls `visit` with every process whose parent is `parent`, and that has not ended.
pub(crate) fn each_child(parent: Pid, mut visit: impl FnMut(Pid)) -> io::Result<()> {
    let parent = parent.as_raw_nonzero().get();
    each_process(|pid| {
        if Stat::read(pid).is_ok_and(|stat| stat.parent == parent && !stat.has_ended()) {
            visit(pid);
        }
    })
}

/// Program and working directory of a server's processes: what they have in common when their parent is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Likeness {
    program: PathBuf,
    current_dir: Directory,
    uid: u32,
}

/// A directory by device and inode. Its name says nothing: in a container, on the same machine, another server may have its
/// data under the same name.
type Directory = (u64, u64);

impl Likeness {
    /// That of a process of ours; `None` where the kernel does not tell, or where it works in `/` like so many.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let program = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).ok()?;
        let likeness = Self {
            program,
            current_dir: directory(&ProcPath::new(pid, "cwd")).ok()?,
            uid: rustix::process::geteuid().as_raw(),
        };
        (directory(&ProcPath::new(pid, "root")) != Ok(likeness.current_dir)).then_some(likeness)
    }

    pub(crate) fn is_shared_by(&self, pid: Pid) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let has_program = || {
            let path = ProcPath::new(pid, "exe");
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            match readlinkat_raw(CWD, path.as_bytes(), &mut buffer) {
                Ok((found, _)) => *found == *self.program.as_os_str().as_bytes(),
                // A process that is about to end has no program any more, but still its working directory.
                Err(error) => error == Errno::NOENT,
            }
        };
        owner(pid) == Some(self.uid)
            && directory(&ProcPath::new(pid, "cwd")) == Ok(self.current_dir)
            && has_program()
    }
}

fn directory(path: &ProcPath) -> Result<Directory, Errno> {
    statat(CWD, path.as_bytes(), AtFlags::empty()).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The effective user id of a process.
pub(crate) fn owner(pid: Pid) -> Option<u32> {
    statat(CWD, ProcPath::new(pid, "").as_bytes(), AtFlags::empty())
        .ok()
        .map(|stat| stat.st_uid)
}

/// When a process was started, in clock ticks since the machine's start; `None`: there is no such process.
pub(crate) fn start_ticks(pid: Pid) -> io::Result<Option<u64>> {
    match Stat::read(pid) {
        Ok(stat) if stat.has_ended() => Ok(None),
        Ok(stat) => Ok(Some(stat.start_ticks)),
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_be_anything() {
        let text = b"77 (a) R 1 (b) Z 5 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 1 1\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.start_ticks), (b'Z', 5, 123_456));
        assert!(stat.has_ended() && stat.is_halted());
        assert_eq!(Stat::parse(b"77 (a"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn we_are_among_the_processes() {
        let own = rustix::process::getpid();
        let mut found = false;
        each_process(|pid| found |= pid == own).unwrap();
        assert!(found);
        let parent = rustix::process::getppid().unwrap();
        let mut found = false;
        each_child(parent, |pid| found |= pid == own).unwrap();
        assert!(found);
        assert!(start_ticks(own).unwrap().is_some());
        assert_eq!(owner(own), Some(rustix::process::geteuid().as_raw()));
        let likeness = Likeness::of(own).unwrap();
        assert!(likeness.is_shared_by(own) && !likeness.is_shared_by(parent));
    }

    #[test]
    fn a_directory_of_the_same_name_elsewhere_is_another() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let dir = tempfile::tempdir().unwrap();
        let run = |is_elsewhere: bool| {
            let mut command = Command::new(if is_elsewhere { "unshare" } else { "env" });
            let mut mount = "";
            if is_elsewhere {
                mount = "mount -t tmpfs none \"$1\" && ";
                command.arg("--mount");
                if !rustix::process::geteuid().is_root() {
                    command.arg("--map-root-user");
                }
            }
            let script = format!("{mount}cd \"$1\" && exec \"$0\" -c 'echo ready; read line'");
            let command = command.args(["sh", "-c", &script, "sh"]).arg(dir.path());
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "ready\n");
            child
        };
        let mut children = [run(false), run(false), run(true)];
        let [one, two, elsewhere] = children
            .each_ref()
            .map(|child| pid(child.id().cast_signed()).unwrap());
        let likeness = Likeness::of(one).unwrap();
        assert!(likeness.is_shared_by(two), "another process of the same server");
        assert!(!likeness.is_shared_by(elsewhere), "a server in a container");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
