//! Starting, signalling and ending one process of a test.

use super::directory::{Directory, open_log, postgres_user};
use super::wait::{SECOND, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A command that runs as the user postgres if the test is root, in a clean environment. `setpriv` replaces itself by
/// the program, which ends when the test does.
pub fn command(directory: &Directory, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if postgres_user().is_some() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.arg("--").arg(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", directory.path())
        .env("LC_ALL", "C.UTF-8")
        .env("RUST_BACKTRACE", "1")
        .current_dir(directory.path())
        .stdin(Stdio::null());
    command
}

/// A process in the background; killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts the command; what it prints is appended to its log.
    pub fn spawn(directory: &Directory, name: &str, mut command: Command) -> Self {
        let log = open_log(&directory.log_file(name));
        command.stdout(log.try_clone().unwrap()).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Self {
            name: name.to_owned(),
            child: command.spawn().unwrap(),
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), limit, || {
            self.ended().ok_or("it still runs")
        })
    }

    /// Ends it as the kernel would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A hard link to the program where the user postgres can reach it, or a copy on another file system.
pub fn place_program(directory: &Directory, program: &Path) -> std::path::PathBuf {
    let place = directory.path().join(program.file_name().unwrap());
    if !place.exists() && std::fs::hard_link(program, &place).is_err() {
        std::fs::copy(program, &place).unwrap();
    }
    place
}

/// Output of a command that ends by itself within 60 s.
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

#[track_caller]
pub fn run(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let reader = std::thread::spawn(move || child.wait_with_output().unwrap());
    let begin = std::time::Instant::now();
    while !reader.is_finished() {
        if begin.elapsed() > 60 * SECOND {
            let _ = kill_process(pid, Signal::KILL);
            panic!("{command:?} did not end within 60 s");
        }
        std::thread::sleep(SECOND / 100);
    }
    let output = reader.join().unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
