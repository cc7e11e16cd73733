//! A guard in a temporary directory and a server that is made up; whatever was started is stopped at the end.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tamada_guard::{BootTime, Client, Error, Event, Exit, Lease, Options, ServerCommand, Stage};
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A shell in the postmaster's place: children in sessions of their own, their pids in `children`, every signal in
/// `log`. `polite` obeys SIGINT and SIGQUIT, `stubborn` neither.
const SERVER: &str = r#"#!/bin/sh
mode=$1; cd "$2" || exit 9
for child in 1 2 3; do setsid sleep 1000 & echo $! >> children; done
obey() { echo "$1" >> log; [ $mode = stubborn ] && return; kill -9 $(cat children); wait; exit "$2"; }
trap 'obey INT 0' INT
trap 'obey QUIT 2' QUIT
trap 'echo HUP >> log' HUP
echo ready >> log
while :; do wait; done
"#;

pub(crate) struct Scene {
    pub(crate) dir: TempDir,
    pub(crate) data_dir: PathBuf,
    /// Whatever is to be killed at the end.
    pub(crate) pids: Vec<i32>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().canonicalize().unwrap().join("data");
        fs::create_dir(&data_dir).unwrap();
        let script = dir.path().join("server");
        fs::write(&script, SERVER).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            data_dir,
            pids: Vec::new(),
        }
    }

    pub(crate) fn options(&self) -> Options {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("guard.log"))
            .unwrap();
        Options {
            runtime_dir: Some(self.dir.path().into()),
            program: env!("CARGO_BIN_EXE_tamada-guard").into(),
            log: Some(log),
            idle: Duration::from_secs(10),
            timeout: LIMIT,
            ..Options::new(&self.data_dir)
        }
    }

    /// An agent's connection.
    pub(crate) fn agent(&mut self) -> Client {
        let mut client = Client::connect_or_spawn(&self.options()).unwrap();
        self.pids.push(client.status().unwrap().guard_pid);
        client
    }

    pub(crate) fn server(&self, mode: &str) -> ServerCommand {
        ServerCommand {
            program: self.dir.path().join("server"),
            args: vec![mode.into(), self.data_dir.clone().into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            current_dir: None,
        }
    }

    /// Starts the made-up server and waits until it handles signals.
    pub(crate) fn start(&mut self, client: &mut Client, mode: &str) -> i32 {
        let pid = client.start(&self.server(mode), None).unwrap().pid;
        self.pids.push(pid);
        self.wait_for_log("ready");
        pid
    }

    pub(crate) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.data_dir.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_for_log(&self, line: &str) {
        wait_until(line, || self.log().iter().any(|found| found == line));
    }

    pub(crate) fn guard_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("guard.log")).unwrap()
    }

    /// The made-up server's children.
    pub(crate) fn children(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.data_dir.join("children")).unwrap_or_default();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) fn assert_nothing_lives(&self, server: i32) {
        let children = self.children();
        assert_eq!(children.len(), 3);
        for pid in children.into_iter().chain([server]) {
            assert!(!is_alive(pid), "{pid} is alive");
        }
    }

    pub(crate) fn assert_all_live(&self, server: i32) {
        for pid in self.children().into_iter().chain([server]) {
            assert!(is_alive(pid), "{pid} is dead");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for pid in self.children().into_iter().chain(self.pids.drain(..)) {
            signal(pid, Signal::KILL);
        }
    }
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// It exists and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    tamada_guard::client::process_start_ticks(pid).unwrap().is_some()
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A lease of a primary: fast stop, deadline, kill, in milliseconds from now.
pub(crate) fn lease(stop_at: u64, deadline: u64, kill_after: u64) -> Lease {
    let now = BootTime::now();
    Lease {
        stop_at: now + millis(stop_at),
        deadline: now + millis(deadline),
        kill_after: Some(now + millis(kill_after)),
        fence: true,
    }
}

pub(crate) fn next_event(client: &mut Client) -> Event {
    client.wait_event(LIMIT).unwrap().expect("no event came")
}

/// The stages of the fence until the server's end.
pub(crate) fn events_until_exit(client: &mut Client) -> (Vec<Stage>, Exit) {
    let mut stages = Vec::new();
    loop {
        match next_event(client) {
            Event::Fencing(stage) => stages.push(stage),
            Event::Exited { exit, .. } => return (stages, exit),
        }
    }
}

/// The word by which the guard refused.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result.unwrap_err() {
        Error::Refused { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

pub(crate) fn socket_of(scene: &Scene) -> PathBuf {
    tamada_guard::place::socket_path(scene.dir.path(), Path::new(&scene.data_dir)).unwrap()
}
