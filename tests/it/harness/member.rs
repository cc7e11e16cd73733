//! One member: an agent, its PostgreSQL, and how a client reaches both.

use super::cluster::Program;
use super::directory::{Directory, processes_below, wait_until_all_ended};
use super::http::{self, Response};
use super::ports;
use super::process::{Process, command};
use super::sql;
use super::wait::{eventually, holds, seconds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Duration;

pub struct Member {
    pub name: String,
    pub rest_port: u16,
    pub postgresql_port: u16,
    pub config_file: PathBuf,
    /// Environment variables of the agent.
    pub environment: Vec<(&'static str, String)>,
    directory: Rc<Directory>,
    pub program: Program,
    agent: Option<Process>,
}

impl Member {
    pub fn new(directory: &Rc<Directory>, name: &str, program: Program) -> Self {
        directory.make(name);
        Self {
            name: name.to_owned(),
            rest_port: ports::free(),
            postgresql_port: ports::free(),
            config_file: directory.path().join(format!("{name}.yml")),
            environment: Vec::new(),
            directory: Rc::clone(directory),
            program,
            agent: None,
        }
    }

    /// All of this member's files but its configuration and its log.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join(&self.name)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home().join("data")
    }

    pub fn config(&self) -> String {
        std::fs::read_to_string(&self.config_file).unwrap()
    }

    /// Replaces a part of the configuration file, which has to be there.
    #[track_caller]
    pub fn edit_config(&self, from: &str, to: &str) {
        let config = self.config();
        assert!(
            config.contains(from),
            "no {from:?} in the configuration of {}:\n{config}",
            self.name
        );
        self.write_config(&config.replace(from, to));
    }

    pub fn write_config(&self, config: &str) {
        self.directory
            .write(self.config_file.file_name().unwrap().to_str().unwrap(), config);
    }

    /// Replaces the section `tags`, which is the last one, by these lines.
    pub fn set_tags(&self, lines: &[&str]) {
        let config = self.config();
        let (before, _) = config.split_once("\ntags:").unwrap();
        let tags: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        let empty = if lines.is_empty() { " {}" } else { "" };
        self.write_config(&format!("{before}\ntags:{empty}\n{tags}"));
    }

    /// [`Member::set_tags`], and has the agent read them.
    #[track_caller]
    pub fn reload_tags(&self, lines: &[&str]) {
        self.set_tags(lines);
        assert_eq!(self.ask("POST", "/reload", None).status, 202);
    }

    // ---- the agent

    pub fn start(&mut self) {
        assert!(self.agent.is_none(), "{} runs already", self.name);
        let mut agent = command(&self.directory, &self.program.path);
        agent.args(&self.program.arguments).arg(&self.config_file);
        agent.envs(self.environment.clone());
        self.agent = Some(Process::spawn(&self.directory, &self.name, agent));
    }

    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("the agent was started")
    }

    pub fn is_started(&self) -> bool {
        self.agent.is_some()
    }

    /// SIGTERM, and waits for the agent's end: PostgreSQL has to be down then.
    #[track_caller]
    pub fn stop(&mut self) {
        self.agent().signal(Signal::TERM);
        self.wait_until_stopped();
    }

    #[track_caller]
    pub fn wait_until_stopped(&mut self) {
        let status = self.wait_for_exit(seconds(30));
        assert!(status.success(), "the agent of {} ended with {status}", self.name);
        assert_eq!(
            self.postmaster(),
            None,
            "{} ended and left PostgreSQL running",
            self.name
        );
    }

    /// Waits until the agent ends by itself.
    #[track_caller]
    pub fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let status = self.agent().wait(limit);
        self.agent = None;
        status
    }

    /// SIGKILL of everything that the member consists of, as when the power fails.
    #[track_caller]
    pub fn kill_all(&mut self) {
        let mut doomed = self.postmaster().map(descendants).unwrap_or_default();
        if let Some(agent) = &self.agent {
            doomed.extend(descendants(agent.pid()));
        }
        // The agent first: it must not see the others die.
        if let Some(mut agent) = self.agent.take() {
            agent.kill();
        }
        doomed.into_iter().for_each(kill);
        processes_below(&self.home())
            .into_iter()
            .for_each(|(pid, _)| kill(pid));
        wait_until_all_ended(&self.home());
    }

    /// SIGKILL of the agent alone: what becomes of PostgreSQL is up to the guard.
    pub fn kill_agent(&mut self) {
        self.agent().kill();
        self.agent = None;
    }

    /// Stops the agent alone in its tracks.
    pub fn freeze_agent(&mut self) -> Frozen {
        let agent = self.agent().pid();
        kill_process(agent, Signal::STOP).unwrap();
        Frozen {
            processes: vec![agent],
        }
    }

    /// Stops all its processes in their tracks, as when its virtual machine is paused.
    pub fn freeze(&self) -> Frozen {
        let mut processes = Vec::new();
        let mut stop = |process| {
            let _ = kill_process(process, Signal::STOP);
            processes.push(process);
        };
        // Parents first: then they have no children that are not in the list.
        let parents = [self.postmaster(), self.agent.as_ref().map(Process::pid)];
        for parent in parents.into_iter().flatten() {
            stop(parent);
            descendants(parent).into_iter().for_each(&mut stop);
        }
        processes_below(&self.home())
            .into_iter()
            .for_each(|(pid, _)| stop(pid));
        Frozen { processes }
    }

    /// All that was logged so far, by the agent and by PostgreSQL.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.directory.log_file(&self.name)).unwrap_or_default())
            .into_owned()
    }

    /// Waits until a text stands in the log.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, limit: Duration) {
        eventually(&format!("{} logs {text:?}", self.name), limit, || {
            holds(self.log().contains(text), || "not logged".to_owned())
        });
    }

    /// How long the log is now, for [`Member::wait_for_log_after`].
    pub fn log_end(&self) -> usize {
        self.log().len()
    }

    /// Waits until a text stands in the log that was not there when it was `begin` long.
    #[track_caller]
    pub fn wait_for_log_after(&self, begin: usize, text: &str, limit: Duration) {
        eventually(&format!("{} logs {text:?}", self.name), limit, || {
            let log = self.log();
            holds(log.get(begin..).unwrap_or_default().contains(text), || {
                "not logged".to_owned()
            })
        });
    }

    // ---- the REST API

    pub fn get(&self, path: &str) -> Result<Response, String> {
        http::get(self.rest_port, path)
    }

    /// A request that must be answered, within the time that a switchover or a restart may take.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        http::request(self.rest_port, method, path, body, seconds(60)).unwrap()
    }

    /// The status code of a GET; 0 if nobody answers.
    pub fn status_code(&self, path: &str) -> u16 {
        self.get(path).map_or(0, |response| response.status)
    }

    /// The document of `/patroni`.
    pub fn status(&self) -> Result<Value, String> {
        let response = self.get("/patroni")?;
        serde_json::from_str(&response.body).map_err(|error| format!("{error} in {response:?}"))
    }

    // ---- PostgreSQL

    pub fn conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres password='{}' dbname=postgres connect_timeout=2",
            self.postgresql_port,
            sql::SUPERUSER_PASSWORD
        )
    }

    pub fn query(&self, statements: &str) -> Result<Vec<Vec<Option<String>>>, String> {
        sql::query(&self.conninfo(), statements)
    }

    /// The first column of the first row.
    #[track_caller]
    pub fn value(&self, statements: &str) -> String {
        let rows = self
            .query(statements)
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
        rows.first()
            .and_then(|row| row.first())
            .cloned()
            .flatten()
            .unwrap_or_default()
    }

    /// The process in `postmaster.pid`, if it runs.
    pub fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        // Single-user mode writes its number as a negative one.
        let pid = text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        let pid = Pid::from_raw(pid)?;
        is_running(pid).then_some(pid)
    }

    #[track_caller]
    pub fn kill_postmaster(&self) {
        kill_process(self.postmaster().expect("PostgreSQL runs"), Signal::KILL).unwrap();
    }

    /// Stops or continues the processes of PostgreSQL whose title contains the text, such as `walsender`.
    pub fn signal_backends(&self, title: &str, signal: Signal) -> usize {
        let children = self.postmaster().map(descendants).unwrap_or_default();
        let wanted = children
            .into_iter()
            .filter(|pid| command_line(*pid).contains(title));
        wanted.map(|pid| kill_process(pid, signal).unwrap()).count()
    }

    /// Waits until this member is a replica that streams from the leader.
    #[track_caller]
    pub fn wait_until_streaming(&self, limit: Duration) {
        eventually(&format!("{} streams", self.name), limit, || {
            let status = self.status()?;
            let is_streaming = status["role"] == "replica" && status["replication_state"] == "streaming";
            holds(is_streaming, || status.to_string())
        });
    }
}

/// Processes that stand still.
pub struct Frozen {
    processes: Vec<Pid>,
}

impl Frozen {
    /// They go on.
    pub fn thaw(self) {
        for process in self.processes {
            let _ = kill_process(process, Signal::CONT);
        }
    }
}

fn is_running(pid: Pid) -> bool {
    // A process that ended and that nobody has asked for its exit code yet does not run.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn command_line(pid: Pid) -> String {
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

/// The process and all processes below it.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let parent = |pid: Pid| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let all: Vec<(Pid, i32)> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter_map(|pid| Some((pid, parent(pid)?)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(above) = found.get(next).map(|pid| pid.as_raw_nonzero().get()) {
        found.extend(
            all.iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found
}

/// Ends the process, if it is still there.
fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}
