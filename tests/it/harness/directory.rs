//! The directory of one test: data, configuration and logs of all its processes, owned by whom PostgreSQL runs as.

use super::versions::target;
use super::wait::{SECOND, eventually, holds};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

/// How many of the last lines of a log are printed when a test fails.
const TAIL_LINES: usize = 80;

/// Below `/tmp`, so that paths of sockets stay short and the user postgres can get there.
pub struct Directory {
    path: PathBuf,
    test: String,
    sweeper: Child,
    /// The sweeper cleans up when this is closed, which a killed test does as well.
    lifeline: Option<ChildStdin>,
}

/// Kills whatever has the directory's name in its command line, and removes the directory: the last resort.
const SWEEP: &str = r#"
read -r _
for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    [ "$pid" = $$ ] || ! grep -qsF -- "$0" "$process/cmdline" || kill -9 "$pid" 2>/dev/null
done
rm -rf -- "$0"
"#;

impl Directory {
    pub fn new() -> Self {
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let path = tempfile::Builder::new()
            .prefix("tamada-")
            .tempdir_in("/tmp")
            .unwrap()
            .keep();
        let mut sweeper = Command::new("bash")
            .args(["-c", SWEEP])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let lifeline = sweeper.stdin.take();
        let this = Self {
            path,
            test,
            sweeper,
            lifeline,
        };
        give_away(&this.path);
        fs::set_permissions(&this.path, PermissionsExt::from_mode(0o755)).unwrap();
        fs::create_dir(this.path.join("log")).unwrap();
        this
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn log_file(&self, process: &str) -> PathBuf {
        self.path.join("log").join(format!("{process}.log"))
    }

    /// The file's path, below this directory, with this content; readable by its owner alone.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        give_away(&path);
        path
    }

    /// A new directory below this one.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap();
        give_away(&path);
        path
    }

    /// A guard listens in a folder elsewhere, which outlives it.
    fn remove_folders_of_guards(&self) {
        let user = postgres_user().map_or_else(|| rustix::process::geteuid().as_raw(), |(user, _)| user);
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            for runtime in guard::place::runtime_directories(user) {
                let socket = guard::place::socket_path(&runtime, &entry.path().join("data")).unwrap();
                let _ = fs::remove_dir_all(socket.parent().unwrap());
            }
        }
    }

    fn show_and_keep_logs(&self) {
        let kept = target().join("tmp/logs").join(&self.test);
        let _ = fs::remove_dir_all(&kept);
        fs::create_dir_all(&kept).unwrap();
        let mut logs: Vec<PathBuf> = fs::read_dir(self.path.join("log"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        logs.sort();
        for log in logs {
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(TAIL_LINES)..)
                .unwrap_or_default();
            println!(
                "\n==== {} (last {} of {} lines)",
                log.display(),
                tail.len(),
                lines.len()
            );
            tail.iter().for_each(|line| println!("{line}"));
            fs::copy(&log, kept.join(log.file_name().unwrap())).unwrap();
        }
        println!("\n==== all logs: {}", kept.display());
    }
}

use std::os::unix::fs::PermissionsExt;

impl Drop for Directory {
    fn drop(&mut self) {
        // PostgreSQL outlives an agent that was killed, and frees its shared memory only when it is asked to end.
        for (pid, _) in processes_below(&self.path) {
            let _ = kill_process(pid, Signal::QUIT);
            let _ = kill_process(pid, Signal::CONT);
        }
        let gone = || processes_below(&self.path).is_empty();
        let begin = std::time::Instant::now();
        while !gone() && begin.elapsed() < 3 * SECOND {
            std::thread::sleep(SECOND / 50);
        }
        if std::thread::panicking() {
            self.show_and_keep_logs();
        }
        self.remove_folders_of_guards();
        drop(self.lifeline.take());
        let _ = self.sweeper.wait();
    }
}

/// The processes that have this path in their command line, the sweeper left out.
pub fn processes_below(path: &Path) -> Vec<(Pid, String)> {
    let wanted = path.to_str().unwrap();
    let numbers = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter_map(Pid::from_raw)
        .filter_map(|pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (line.contains(wanted) && !line.starts_with("bash -c")).then_some((pid, line))
        })
        .collect()
}

/// Waits until no process with this path in its command line is left.
#[track_caller]
pub fn wait_until_all_ended(path: &Path) {
    eventually("all processes ended", 10 * SECOND, || {
        let left = processes_below(path);
        holds(left.is_empty(), || format!("{left:?}"))
    });
}

/// Makes the file or directory belong to the user that PostgreSQL runs as.
pub fn give_away(path: &Path) {
    if let Some((user, group)) = postgres_user() {
        std::os::unix::fs::chown(path, Some(user), Some(group)).unwrap();
    }
}

/// The ids of the user postgres, if this test runs as root: PostgreSQL refuses to.
pub fn postgres_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("there is no user postgres");
    let mut fields = line.split(':').skip(2).map(|id| id.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}

/// The log's file, opened for appending.
pub fn open_log(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}
