//! A running postmaster: recognised by its pid file, held by a pidfd, so that a pid that was given away again is never
//! taken for it.

use super::pidfile::PidFile;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How far the start time of a process may lie from the one in its pid file.
const START_TIME_TOLERANCE_SECONDS: i64 = 3;

/// A postmaster that was alive when it was looked at.
#[derive(Debug, Clone)]
pub struct Postmaster {
    pid: Pid,
    start_time_seconds: i64,
    fd: Arc<OwnedFd>,
}

impl Postmaster {
    /// The postmaster of a data directory, if one is alive. `program` is the file name of the server program.
    ///
    /// # Errors
    /// When the pid file cannot be read.
    pub fn of_data_directory(data_dir: &Path, program: &str) -> io::Result<Option<Self>> {
        let Some(file) = PidFile::read(data_dir)? else {
            return Ok(None);
        };
        if file.is_single_user {
            return Ok(None);
        }
        let Some(postmaster) = Self::open(file.pid, file.start_time_seconds) else {
            return Ok(None);
        };
        let is_ours = !is_relative_of_ours(file.pid)
            && postmaster.is_alive()
            && (starts_agree(file.pid, file.start_time_seconds) || looks_like(file.pid, program, data_dir));
        Ok(is_ours.then_some(postmaster))
    }

    /// A process that is known to be the postmaster; `None` when it is gone.
    #[must_use]
    pub fn open(pid: i32, start_time_seconds: i64) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        Some(Self {
            pid,
            start_time_seconds,
            fd: Arc::new(fd),
        })
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
        stat_fields(self.pid())?.get(19)?.parse().ok()
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
            .filter(|pid| parent_of(*pid) == Some(parent))
            .filter_map(|pid| Self::open(pid, 0))
            .collect()
    }
}

/// The processes that work in `data_dir`: PostgreSQL's processes change to it. They may outlive a killed postmaster.
pub(crate) fn working_in(data_dir: &Path) -> Vec<Postmaster> {
    processes()
        .filter(|pid| *pid != own_pid() && is_same_directory(&current_dir(*pid), data_dir) == Some(true))
        .filter(|pid| command_name(*pid).is_some_and(|name| name.starts_with("postgres")))
        .filter_map(|pid| Postmaster::open(pid, 0))
        .collect()
}

/// The runs of pg_rewind on `data_dir`. They may outlive an agent that was killed.
pub(crate) fn rewinding(data_dir: &Path) -> Vec<Postmaster> {
    let has_directory = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .filter(|arg| *arg == data_dir.as_os_str().as_encoded_bytes())
            .any(|_| is_same_directory(&seen_by(*pid, data_dir), data_dir) == Some(true))
    };
    processes()
        .filter(|pid| command_name(*pid).as_deref() == Some("pg_rewind"))
        .filter(has_directory)
        .filter_map(|pid| Postmaster::open(pid, 0))
        .collect()
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

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
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
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn command_name(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()
        .map(|name| name.trim_end().to_owned())
}

fn parent_of(pid: i32) -> Option<i32> {
    stat_fields(pid)?.get(1)?.parse().ok()
}

/// When a process was started, in seconds since 1970.
fn start_time(pid: i32) -> Option<i64> {
    let ticks: i64 = stat_fields(pid)?.get(19)?.parse().ok()?;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: i64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let ticks_per_second = i64::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some(boot + ticks / ticks_per_second.max(1))
}

fn starts_agree(pid: i32, start_time_seconds: i64) -> bool {
    start_time(pid).is_some_and(|seen| (seen - start_time_seconds).abs() <= START_TIME_TOLERANCE_SECONDS)
}

/// Whether the process runs a server program in the data directory; true when that cannot be found out.
fn looks_like(pid: i32, program: &str, data_dir: &Path) -> bool {
    let executable = fs::read_link(format!("/proc/{pid}/exe"));
    let name_fits = executable.map_or(true, |path| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
        name == program || name == "postmaster"
    });
    name_fits && is_same_directory(&current_dir(pid), data_dir) != Some(false)
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
            ("pg_rewind", rewinding as fn(&Path) -> Vec<Postmaster>),
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
            assert!(
                found.is_none() || pid == 1 && !Path::new("/proc/1/exe").exists(),
                "{pid}"
            );
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
