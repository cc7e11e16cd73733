//! A running postmaster: recognised by its pid file, held by a pidfd, so that a pid that was given away again is never
//! taken for it.

use super::pidfile::PidFile;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far the start time of a process may lie from the one in its pid file.
const START_TIME_TOLERANCE_SECONDS: u64 = 3;

/// A postmaster that was alive when it was looked at.
#[derive(Debug, Clone)]
pub struct Postmaster {
    pid: Pid,
    start_time_seconds: i64,
    fd: Arc<OwnedFd>,
}

/// The last postmaster of a data directory that was seen: while its process is alive nothing else need be looked at, and
/// when that has ended, no file that cannot be read makes anybody believe that it runs.
#[derive(Debug, Default)]
pub(crate) enum LastSeen {
    /// None was seen yet.
    #[default]
    Never,
    /// This one, which was alive.
    Alive(Postmaster),
    /// One that has ended.
    Ended,
}

impl LastSeen {
    /// The postmaster of a data directory, if one is alive.
    ///
    /// # Errors
    /// Neither a process nor its absence could be proved.
    pub(crate) fn find(&mut self, data_dir: &Path, program: &str) -> io::Result<Option<Postmaster>> {
        if let Self::Alive(postmaster) = self {
            if postmaster.is_alive() {
                // One that we have launched has written its file by now, or will.
                if postmaster.start_time_seconds == 0
                    && let Ok(Some(file)) = PidFile::read(data_dir)
                    && file.pid == postmaster.pid()
                {
                    postmaster.start_time_seconds = file.start_time_seconds;
                }
                return Ok(Some(postmaster.clone()));
            }
            *self = Self::Ended;
        }
        match Postmaster::of_data_directory(data_dir, program) {
            Ok(Some(postmaster)) => {
                *self = Self::Alive(postmaster.clone());
                Ok(Some(postmaster))
            }
            Ok(None) => Ok(None),
            Err(error) => match self {
                // The end of the process was seen, which no file can disprove.
                Self::Ended => Ok(None),
                Self::Never | Self::Alive(_) => Err(error),
            },
        }
    }
}

impl Postmaster {
    /// The postmaster of a data directory, if one is alive. `program` is the file name of the server program. Where the pid
    /// file cannot be read, the processes that work in the directory tell.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn of_data_directory(data_dir: &Path, program: &str) -> io::Result<Option<Self>> {
        let file = match PidFile::read(data_dir) {
            Ok(Some(file)) => file,
            // Somebody has removed or damaged it, or there is no server.
            Ok(None) => return postmaster_in(data_dir, program),
            Err(error) => {
                return postmaster_in(data_dir, program).map_err(|_| error);
            }
        };
        if file.is_single_user {
            return Ok(None);
        }
        let Some(postmaster) = Self::try_open(file.pid, file.start_time_seconds)? else {
            return Ok(None);
        };
        let traits = Traits::read(&file, program, data_dir)?;
        // What was read of a process that has ended since then is not the postmaster's.
        let is_ours = traits.fit(is_relative_of_ours(file.pid)) && postmaster.is_alive();
        Ok(is_ours.then_some(postmaster))
    }

    /// A process that may be alive; `None` when it is gone.
    ///
    /// # Errors
    /// No descriptor could be had for it.
    fn try_open(pid: i32, start_time_seconds: i64) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(Self {
                pid,
                start_time_seconds,
                fd: Arc::new(fd),
            })),
            Err(Errno::SRCH) => Ok(None),
            // A number that belongs to a thread, since Linux 6.9: no postmaster.
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A process that is known to be the postmaster; `None` when it is gone.
    #[must_use]
    pub fn open(pid: i32, start_time_seconds: i64) -> Option<Self> {
        Self::try_open(pid, start_time_seconds).ok().flatten()
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// When it was started by its pid file, in seconds since 1970; another one means another postmaster.
    #[must_use]
    pub fn start_time_seconds(&self) -> i64 {
        self.start_time_seconds
    }

    /// Whether the process still runs. One that has ended and was not reaped does not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(ready) if ready > 0)
    }

    /// Waits until the process has ended. May be dropped and called again, by several callers at once.
    pub async fn exited(&self) {
        let waited = async {
            let fd = super::watch::wait_readable(self.fd.try_clone()?)?;
            fd.readable().await.map(drop)
        };
        if waited.await.is_err() {
            // Only when no file descriptor can be had: looking now and then is better than being blind.
            while self.is_alive() {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    /// When the process was started, in clock ticks since the machine's: together with the pid it names one process.
    pub(crate) fn started_ticks(&self) -> Option<i64> {
        stat_fields(self.pid()).ok()??.get(19)?.parse().ok()
    }

    /// Sends a signal; that the process is gone is no error.
    ///
    /// # Errors
    /// When the kernel forbids it.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The processes whose parent it is.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let parent = self.pid();
        processes()
            .into_iter()
            .flatten()
            .filter(|pid| parent_of(*pid) == Some(parent))
            .filter_map(|pid| Self::open(pid, 0))
            .collect()
    }
}

/// The processes that work in `data_dir`: PostgreSQL's processes change to it. They may outlive a killed postmaster.
///
/// # Errors
/// The processes of the machine cannot be looked at.
pub(crate) fn working_in(data_dir: &Path) -> io::Result<Vec<Postmaster>> {
    let mut found = Vec::new();
    for pid in workers_in(data_dir, |name| name.starts_with("postgres"))? {
        found.extend(Postmaster::try_open(pid, 0)?);
    }
    Ok(found)
}

/// The one of them that is a postmaster: its children have other titles.
fn postmaster_in(data_dir: &Path, program: &str) -> io::Result<Option<Postmaster>> {
    // The kernel cuts the names of commands.
    let is_server = |name: &str| [cut(program), "postgres", "postmaster"].contains(&name);
    for pid in workers_in(data_dir, is_server)? {
        let Some(arguments) = readable(fs::read(format!("/proc/{pid}/cmdline")))? else {
            continue;
        };
        let started = start_time(pid)?.unwrap_or(0);
        if is_command_line_of_postmaster(&arguments)
            && let Some(postmaster) = Postmaster::try_open(pid, started)?
            && postmaster.is_alive()
        {
            return Ok(Some(postmaster));
        }
    }
    Ok(None)
}

/// A name as `/proc/PID/comm` shows it.
fn cut(name: &str) -> &str {
    name.get(..15).unwrap_or(name)
}

/// Neither a child, which has a title such as `postgres: checkpointer`, nor a server for a moment, which serves nobody.
fn is_command_line_of_postmaster(arguments: &[u8]) -> bool {
    let mut arguments = arguments.split(|byte| *byte == 0);
    let is_title = |name: &[u8]| name.is_empty() || name.starts_with(b"postgres:");
    let serves = |argument: &[u8]| {
        let other = [
            &b"--single"[..],
            b"--boot",
            b"--check",
            b"--describe-config",
            b"-C",
        ];
        !other.contains(&argument)
    };
    arguments.next().is_some_and(|name| !is_title(name)) && arguments.all(serves)
}

fn workers_in(data_dir: &Path, has_name: impl Fn(&str) -> bool) -> io::Result<Vec<i32>> {
    let directory = match fs::metadata(data_dir) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for pid in processes()?.filter(|pid| *pid != own_pid()) {
        let works_here = readable(fs::metadata(current_dir(pid)))?
            .is_some_and(|its| (its.dev(), its.ino()) == (directory.dev(), directory.ino()));
        if works_here && readable(command_name(pid))?.is_some_and(|name| has_name(&name)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The runs of pg_rewind on `data_dir`. They may outlive an agent that was killed.
///
/// # Errors
/// The processes of the machine cannot be looked at.
pub(crate) fn rewinding(data_dir: &Path) -> io::Result<Vec<Postmaster>> {
    let mut found = Vec::new();
    for pid in processes()? {
        if readable(command_name(pid))?.as_deref() != Some("pg_rewind") {
            continue;
        }
        let line = readable(fs::read(format!("/proc/{pid}/cmdline")))?.unwrap_or_default();
        let has_directory = line
            .split(|byte| *byte == 0)
            .filter(|arg| *arg == data_dir.as_os_str().as_encoded_bytes())
            .any(|_| is_same_directory(&seen_by(pid, data_dir), data_dir) == Some(true));
        if has_directory {
            found.extend(Postmaster::try_open(pid, 0)?);
        }
    }
    Ok(found)
}

fn current_dir(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/cwd"))
}

/// What `path` is for that process, which may have another root: `/proc/PID/root` leads into its file systems.
fn seen_by(pid: i32, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    match path.strip_prefix("/") {
        Ok(below) => root.join(below),
        Err(_) => current_dir(pid).join(path),
    }
}

/// Whether two paths lead to one directory; `None` when that cannot be found out. The names say nothing: in a container, on
/// the same machine, another cluster may have its data under the same path.
fn is_same_directory(one: &Path, other: &Path) -> Option<bool> {
    let (one, other) = (fs::metadata(one).ok()?, fs::metadata(other).ok()?);
    Some((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn processes() -> io::Result<impl Iterator<Item = i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        pids.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    if pids.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "/proc is not mounted"));
    }
    Ok(pids.into_iter())
}

/// What the kernel shows of a process; `None` where it does not show it to us, or the process is gone. An error says
/// nothing about the process: we could not look.
fn readable<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    let error = match read {
        Ok(value) => return Ok(Some(value)),
        Err(error) => error,
    };
    let is_hidden = matches!(
        Errno::from_io_error(&error),
        Some(Errno::ACCESS | Errno::PERM | Errno::NOENT | Errno::SRCH)
    );
    if is_hidden { Ok(None) } else { Err(error) }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Ourselves, our parent, or a direct child of ours: after a restart of a container its pid may stand in a pid file
/// that was left behind.
fn is_relative_of_ours(pid: i32) -> bool {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    pid == own_pid() || pid == parent || parent_of(pid) == Some(own_pid())
}

/// The fields of `/proc/<pid>/stat` after the command name (proc(5)), which may itself hold blanks and parentheses.
fn stat_fields(pid: i32) -> io::Result<Option<Vec<String>>> {
    let Some(text) = readable(fs::read_to_string(format!("/proc/{pid}/stat")))? else {
        return Ok(None);
    };
    let rest = text.rsplit_once(')').map(|(_, rest)| rest);
    Ok(rest.map(|rest| rest.split_whitespace().map(str::to_owned).collect()))
}

fn command_name(pid: i32) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).map(|name| name.trim_end().to_owned())
}

fn parent_of(pid: i32) -> Option<i32> {
    stat_fields(pid).ok()??.get(1)?.parse().ok()
}

/// When a process was started, in seconds since 1970; `None` when the kernel does not show it.
fn start_time(pid: i32) -> io::Result<Option<i64>> {
    let Some(fields) = stat_fields(pid)? else {
        return Ok(None);
    };
    let stat = fs::read_to_string("/proc/stat")?;
    let boot = stat.lines().find_map(|line| line.strip_prefix("btime "));
    let boot: Option<i64> = boot.and_then(|seconds| seconds.trim().parse().ok());
    let ticks: Option<i64> = fields.get(19).and_then(|ticks| ticks.parse().ok());
    let per_second = i64::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
    Ok(boot
        .zip(ticks)
        .map(|(boot, ticks)| boot + ticks / per_second.max(1)))
}

/// The user whose process it is. With `hidepid` the processes of other users are not shown.
fn owner_of(pid: i32) -> io::Result<Option<u32>> {
    let status = readable(fs::read_to_string(format!("/proc/{pid}/status")))?;
    let line = |status: &String| {
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        // Real, effective, ...
        ids.split_whitespace().nth(1)?.parse().ok()
    };
    Ok(status.as_ref().and_then(line))
}

/// What tells the postmaster from another process that has got the pid of one. `None`: the kernel does not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Traits {
    /// The process is of the user who has written the pid file, or of ours.
    owner: Option<bool>,
    /// It was started when the pid file says. A clock that was set in between makes this differ.
    start: Option<bool>,
    /// It runs a server program. A wrapper may have another name.
    program: Option<bool>,
    /// It works in the data directory.
    directory: Option<bool>,
}

impl Traits {
    fn read(file: &PidFile, program: &str, data_dir: &Path) -> io::Result<Self> {
        let pid = file.pid;
        // Where this cannot be read /proc is not mounted, and says nothing.
        fs::metadata("/proc/self/stat")?;
        let us = rustix::process::geteuid();
        let ours = [Some(us.as_raw()).filter(|_| !us.is_root()), file.owner];
        let start = start_time(pid)?.map(|seen| {
            let difference = seen.abs_diff(file.start_time_seconds);
            file.start_time_seconds > 0 && difference <= START_TIME_TOLERANCE_SECONDS
        });
        let executable = readable(fs::read_link(format!("/proc/{pid}/exe")))?;
        let directory = match readable(fs::metadata(current_dir(pid)))? {
            None => None,
            Some(its) => {
                let ours = fs::metadata(data_dir)?;
                Some((its.dev(), its.ino()) == (ours.dev(), ours.ino()))
            }
        };
        Ok(Self {
            owner: owner_of(pid)?
                .filter(|_| ours != [None, None])
                .map(|owner| ours.contains(&Some(owner))),
            start,
            program: executable.map(|path| is_server_program(&path, program)),
            directory,
        })
    }

    /// All that can be read has to fit. What cannot be read does not fit, unless the start time agrees, and whoever works in
    /// the data directory may have been started at another time by a clock that was set since then, or by a wrapper of
    /// another name.
    fn fit(self, is_relative: bool) -> bool {
        let is_foreign = self.owner == Some(false) || self.directory == Some(false);
        let (starts_then, runs_server) = (self.start == Some(true), self.program == Some(true));
        if is_foreign {
            return false;
        }
        match self.directory {
            Some(_) => runs_server || (starts_then && !is_relative),
            None => starts_then && self.program != Some(false) && !is_relative,
        }
    }
}

fn is_server_program(executable: &Path, program: &str) -> bool {
    let name = executable.file_name().and_then(|name| name.to_str());
    let name = name.unwrap_or_default();
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    [program, "postgres", "postmaster"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    #[tokio::test]
    async fn an_exit_is_noticed_at_once_and_a_zombie_is_not_alive() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Postmaster::open(i32::try_from(child.id()).unwrap(), 0).unwrap();
        assert!(process.is_alive());
        process.signal(Signal::KILL).unwrap();
        tokio::time::timeout(Duration::from_secs(5), process.exited())
            .await
            .unwrap();
        assert!(!process.is_alive(), "not reaped, but not alive either");
        child.wait().unwrap();
        process.signal(Signal::TERM).unwrap();
    }

    /// Runs `program`, a copy of the shell, with `directory` as its argument and working directory: here, or where
    /// another file system has that name.
    fn run_in(program: &Path, directory: &Path, is_elsewhere: bool) -> Child {
        let mount = if is_elsewhere {
            "mount -t tmpfs none \"$1\" && "
        } else {
            ""
        };
        let script = format!("{mount}cd \"$1\" && exec \"$0\" -c 'echo ready; read line' \"$1\"");
        let mut command = Command::new(if is_elsewhere { "unshare" } else { "env" });
        if is_elsewhere {
            command.arg("--mount");
            if !rustix::process::geteuid().is_root() {
                command.arg("--map-root-user");
            }
        }
        let command = command.args(["sh", "-c", &script]).arg(program).arg(directory);
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
    }

    #[test]
    fn processes_of_this_directory_are_found_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
        for (name, find) in [
            ("pg_rewind", rewinding as fn(&Path) -> io::Result<Vec<Postmaster>>),
            ("postgres", working_in),
        ] {
            for directory in [&ours, &other] {
                fs::create_dir_all(directory).unwrap();
            }
            let program = dir.path().join(name);
            fs::copy("/bin/sh", &program).unwrap();
            let mut children = [(&ours, false), (&other, false), (&ours, true)]
                .map(|(directory, is_elsewhere)| run_in(&program, directory, is_elsewhere));
            let pids: Vec<u32> = find(&ours)
                .unwrap()
                .iter()
                .map(|found| found.pid().cast_unsigned())
                .collect();
            assert_eq!(pids, [children[0].id()], "{name}");
            for child in &mut children {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }

    #[test]
    fn what_fits_is_taken_for_the_postmaster() {
        let (yes, no, hidden) = (Some(true), Some(false), None);
        // owner, start time, program, data directory; and what follows for a stranger and for a child of ours
        let cases = [
            ((yes, yes, yes, yes), (true, true)),
            // The clock was set since it was started.
            ((yes, no, yes, yes), (true, true)),
            ((yes, hidden, yes, yes), (true, true)),
            // A wrapper, or a program of another name.
            ((yes, yes, no, yes), (true, false)),
            ((yes, yes, hidden, yes), (true, false)),
            // A shell in the data directory has got the pid.
            ((yes, no, no, yes), (false, false)),
            // The postmaster of another cluster has.
            ((yes, no, yes, no), (false, false)),
            ((yes, yes, yes, no), (false, false)),
            // Another user's process, of which the kernel shows little.
            ((no, no, hidden, hidden), (false, false)),
            ((no, yes, hidden, hidden), (false, false)),
            ((hidden, hidden, hidden, hidden), (false, false)),
            ((hidden, no, hidden, hidden), (false, false)),
            // Ours, with a kernel that shows little: the start time tells.
            ((yes, yes, hidden, hidden), (true, false)),
            ((hidden, yes, hidden, hidden), (true, false)),
            ((yes, no, hidden, hidden), (false, false)),
            ((yes, yes, no, hidden), (false, false)),
            ((yes, no, yes, hidden), (false, false)),
        ];
        for ((owner, start, program, directory), expected) in cases {
            let traits = Traits {
                owner,
                start,
                program,
                directory,
            };
            assert_eq!((traits.fit(false), traits.fit(true)), expected, "{traits:?}");
        }
    }

    #[test]
    fn only_what_hides_a_process_is_an_answer() {
        for (errno, is_answer) in [
            (Errno::ACCESS, true),
            (Errno::PERM, true),
            (Errno::NOENT, true),
            (Errno::SRCH, true),
            (Errno::MFILE, false),
            (Errno::NFILE, false),
            (Errno::NOMEM, false),
            (Errno::IO, false),
            (Errno::STALE, false),
            (Errno::TIMEDOUT, false),
        ] {
            let read: io::Result<()> = Err(errno.into());
            assert_eq!(matches!(readable(read), Ok(None)), is_answer, "{errno}");
        }
    }

    #[test]
    fn command_lines_of_postmasters_are_told_from_others() {
        for (line, expected) in [
            ("/usr/lib/postgresql/18/bin/postgres\0-D\0/data\0", true),
            ("postgres\0", true),
            ("postgres: checkpointer \0", false),
            ("", false),
            ("/bin/postgres\0--single\0-D\0/data\0", false),
            ("/bin/postgres\0--boot\0", false),
            ("/bin/postgres\0-D\0/data\0-C\0port\0", false),
        ] {
            assert_eq!(
                is_command_line_of_postmaster(line.as_bytes()),
                expected,
                "{line:?}"
            );
        }
    }

    #[test]
    fn a_process_that_is_known_needs_no_file_and_its_end_is_proof() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        // Nothing here can be looked at: not the pid file, nor the directory.
        std::os::unix::fs::symlink(&data_dir, &data_dir).unwrap();
        let mut seen = LastSeen::default();
        assert!(seen.find(&data_dir, "postgres").is_err(), "nothing is known");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        seen = LastSeen::Alive(Postmaster::open(pid, 7).unwrap());
        let found = seen.find(&data_dir, "postgres").unwrap().unwrap();
        assert_eq!((found.pid(), found.start_time_seconds()), (pid, 7));
        child.kill().unwrap();
        child.wait().unwrap();
        for _ in 0..2 {
            assert!(seen.find(&data_dir, "postgres").unwrap().is_none());
        }
    }

    #[test]
    fn a_postmaster_is_found_without_its_pid_file() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        assert!(LastSeen::default().find(&data_dir, "postgres").unwrap().is_none());
        let program = dir.path().join("postgres");
        fs::copy("/bin/sh", &program).unwrap();
        let mut child = run_in(&program, &data_dir, false);
        let pid_file = data_dir.join(PidFile::NAME);
        for damage in ["none", "empty", "unreadable"] {
            match damage {
                "empty" => fs::write(&pid_file, "").unwrap(),
                "unreadable" => {
                    fs::remove_file(&pid_file).unwrap();
                    std::os::unix::fs::symlink(&pid_file, &pid_file).unwrap();
                }
                _ => {}
            }
            let found = LastSeen::default().find(&data_dir, "postgres").unwrap();
            assert_eq!(
                found.map(|found| found.pid().cast_unsigned()),
                Some(child.id()),
                "{damage}"
            );
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(
            LastSeen::default().find(&data_dir, "postgres").unwrap().is_none(),
            "no process works there"
        );
    }

    #[test]
    fn a_foreign_process_in_a_pid_file_is_not_taken_for_the_postmaster() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        for (pid, started) in [
            (own_pid(), 0),
            (1, 1000),
            (i32::try_from(child.id()).unwrap(), 0),
            (i32::MAX, 0),
        ] {
            fs::write(
                dir.path().join(PidFile::NAME),
                format!("{pid}\n/x\n{started}\n5432\n"),
            )
            .unwrap();
            let found = Postmaster::of_data_directory(dir.path(), "postgres").unwrap();
            assert!(found.is_none(), "{pid}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
