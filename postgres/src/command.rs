//! Running other programs: with a deadline, a bounded capture of what they print, and never leaving them behind.

use crate::error::Whose;
use crate::process::group;
use crate::process::launch::last_lines;
use crate::{Error, Instant, Result, Server};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// What is kept of each output stream: its end.
const KEPT_BYTES: usize = 1 << 20;

/// How long a stream may stay open after its program has ended, held by something that it left in the background.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// A program to run.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Added to our own environment, see [`child_environment`].
    pub(crate) env: BTreeMap<OsString, OsString>,
    /// Written to its standard input, which is empty otherwise.
    pub(crate) stdin: Option<String>,
    /// Its output goes where ours goes, instead of being captured.
    pub(crate) inherits_output: bool,
    /// How long it may take to end after SIGTERM when nobody waits for it any more; zero: it is killed immediately.
    pub(crate) patience: Duration,
}

impl Invocation {
    pub(crate) fn new<A: Into<OsString>>(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: BTreeMap::new(),
            stdin: None,
            inherits_output: false,
            patience: Duration::ZERO,
        }
    }

    /// A command line of the configuration, split as a shell would.
    pub(crate) fn of_command_line(command: &str) -> Result<Self> {
        let mut words = split_words(command)
            .ok_or_else(|| {
                // All of it is not shown: an argument may be a secret.
                let first = command.split_whitespace().next().unwrap_or_default();
                Error::Setting(format!(
                    "the command that begins with {first:?} has an unclosed quote"
                ))
            })?
            .into_iter();
        let program = words
            .next()
            .ok_or_else(|| Error::Setting("a configured command is empty".to_owned()))?;
        let mut invocation = Self::new(program, words);
        invocation.inherits_output = true;
        Ok(invocation)
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gets SIGTERM first when it is ended early: what it writes to, an archive or a data directory, is left in a state
    /// that the program itself has chosen.
    pub(crate) fn gently(mut self) -> Self {
        self.patience = group::TERM_TIME;
        self
    }

    fn whose(&self) -> Whose {
        // Commands of the configuration write where the agent writes.
        if self.inherits_output {
            Whose::Configured
        } else {
            Whose::PostgreSql
        }
    }

    pub(crate) fn name(&self) -> String {
        self.program
            .file_name()
            .unwrap_or(self.program.as_os_str())
            .to_string_lossy()
            .into_owned()
    }

    /// Starts it, in a process group of its own that is ended when the handle is dropped.
    pub(crate) fn spawn(&self) -> Result<Running> {
        let output = || {
            if self.inherits_output {
                Stdio::inherit()
            } else {
                Stdio::piped()
            }
        };
        let child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(child_environment())
            .envs(&self.env)
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(output())
            .stderr(output())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn {
                program: self.program.display().to_string(),
                whose: self.whose(),
                source,
            })?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok(Running {
            child: Some(child),
            group,
            patience: self.patience,
        })
    }

    /// Runs it to its end. Dropping the call kills it with all its children.
    pub(crate) async fn run(&self, deadline: Instant) -> Result<Output> {
        let mut running = self.spawn()?;
        let outcome = tokio::time::timeout_at(deadline, running.finish(self)).await;
        outcome.map_err(|_| Error::timeout(self.name()))?
    }
}

/// A program that runs.
pub(crate) struct Running {
    /// Always there until it is dropped.
    child: Option<Child>,
    group: Option<Pid>,
    patience: Duration,
}

impl Running {
    /// Its process id, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    pub(crate) async fn finish(&mut self, invocation: &Invocation) -> Result<Output> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let Some(child) = self.child.as_mut() else {
            return Err(Error::NotRunning);
        };
        let (out, err, input) = (child.stdout.take(), child.stderr.take(), child.stdin.take());
        let status = {
            let streams = async { tokio::join!(read_tail(out, &mut stdout), read_tail(err, &mut stderr)) };
            tokio::pin!(streams);
            let write = async {
                if let (Some(mut pipe), Some(text)) = (input, &invocation.stdin) {
                    // A program that does not want its input has ended or will say so itself.
                    let _ = pipe.write_all(text.as_bytes()).await;
                }
            };
            let wait = async { tokio::join!(write, child.wait()).1 };
            tokio::pin!(wait);
            let mut drained = false;
            let status = loop {
                tokio::select! {
                    status = &mut wait => break status,
                    _ = &mut streams, if !drained => drained = true,
                }
            };
            if !drained {
                let _ = tokio::time::timeout(DRAIN_TIME, &mut streams).await;
            }
            status.map_err(|source| Error::Spawn {
                program: invocation.name(),
                whose: invocation.whose(),
                source,
            })?
        };
        self.group = None;
        Ok(Output {
            program: invocation.name(),
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// Lets it run on when the handle is dropped.
    pub(crate) fn leave(&mut self) {
        self.group = None;
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = match &mut self.child {
            Some(child) => child.wait().await,
            None => Err(std::io::Error::other("it was dropped")),
        };
        self.group = None;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Still our unreaped child, so that its id cannot have been given away.
        let (Some(group), Some(child)) = (self.group.take(), self.child.take()) else {
            return;
        };
        let ending = Ending { child, group };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !self.patience.is_zero() => {
                let _ = kill_process_group(group, Signal::TERM);
                runtime.spawn(ending.end(self.patience));
            }
            Ok(_) | Err(_) => drop(ending),
        }
    }
}

/// A program that was told to end and has not yet. The child stays unreaped as long as its group is looked for.
struct Ending {
    child: Child,
    group: Pid,
}

impl Ending {
    async fn end(mut self, patience: Duration) {
        let group = self.group;
        if let Err(left) = group::end(|| group::members(group), patience).await {
            tracing::warn!("processes {left:?} do not end, though they were killed");
        }
        let _ = self.child.wait().await;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Reaped: its id may be another's by now.
        if self.child.id().is_some() {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}

async fn read_tail<R: AsyncRead + Unpin>(stream: Option<R>, tail: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16_384];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..count]);
        let surplus = tail.len().saturating_sub(KEPT_BYTES);
        tail.drain(..surplus);
    }
}

/// What a program that has ended printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) program: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Standard output of a program that succeeded.
    pub(crate) fn into_success(self) -> Result<String> {
        if self.status.success() {
            Ok(self.stdout)
        } else {
            Err(self.failure())
        }
    }

    /// The error that it is, with the last lines it printed.
    pub(crate) fn failure(&self) -> Error {
        let text = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        Error::Program {
            program: self.program.clone(),
            status: describe(self.status),
            output: last_lines(text),
        }
    }
}

pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

/// What an init system, or our supervisor, tells the agent alone.
const OWN_VARIABLES: [&str; 4] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "TAMADA_SUPERVISOR",
];

/// Our environment without what is meant for us alone.
pub(crate) fn child_environment() -> BTreeMap<OsString, OsString> {
    std::env::vars_os()
        .filter(|(name, _)| !OWN_VARIABLES.iter().any(|own| name == own))
        .filter(|(name, _)| !config::env::is_ours(&name.to_string_lossy()))
        .collect()
}

/// The environment of a postmaster: also without Kubernetes' variables; `PG_MALLOC_ARENA_MAX` is meant for it.
pub(crate) fn postmaster_environment() -> BTreeMap<OsString, OsString> {
    let mut env = child_environment();
    env.retain(|name, _| !name.to_string_lossy().starts_with("KUBERNETES_"));
    if let Some(value) = env.remove(OsStr::new("PG_MALLOC_ARENA_MAX")) {
        env.insert("MALLOC_ARENA_MAX".into(), value);
    }
    env
}

/// Splits a command line into words: blanks separate, quotes and backslashes protect. `None` with an unclosed quote.
pub(crate) fn split_words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\'' => {
                let quoted = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '\'' => break,
                        c => quoted.push(c),
                    }
                }
            }
            '"' => {
                let quoted = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        '"' => break,
                        '\\' => match chars.next()? {
                            c @ ('"' | '\\') => quoted.push(c),
                            c => quoted.extend(['\\', c]),
                        },
                        c => quoted.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

impl Server {
    /// Runs one of PostgreSQL's programs with messages in English.
    pub(crate) async fn run<A: Into<OsString>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = A>,
        env: &BTreeMap<OsString, OsString>,
        deadline: Instant,
    ) -> Result<Output> {
        let mut invocation = Invocation::new(self.program(program), args)
            .env("LC_ALL", "C")
            .env("LANG", "C");
        invocation
            .env
            .extend(env.iter().map(|(name, value)| (name.clone(), value.clone())));
        invocation.run(deadline).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn command_lines_are_split_as_a_shell_does() {
        for (line, words) in [
            ("/a/b --c=d  e", vec!["/a/b", "--c=d", "e"]),
            (
                "a 'b c' \"d \\\"e\\x\" f\\ g ''",
                vec!["a", "b c", "d \"e\\x", "f g", ""],
            ),
            ("", vec![]),
        ] {
            assert_eq!(split_words(line).unwrap(), words);
        }
        assert_eq!(split_words("a 'b"), None);
    }

    #[tokio::test]
    async fn a_program_is_killed_with_its_children_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", pid_file.display());
        let deadline = Instant::now() + Duration::from_millis(400);
        let error = Invocation::new("sh", ["-c", &script])
            .run(deadline)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }));
        let pid: i32 = std::fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        if let Some(process) = crate::Postmaster::open(pid, 0) {
            tokio::time::timeout(Duration::from_secs(5), process.exited())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_failure_quotes_what_was_printed() {
        let output = Invocation::new("sh", ["-c", "echo out; echo err >&2; exit 3"])
            .run(soon())
            .await
            .unwrap();
        let text = output.into_success().unwrap_err().to_string();
        assert!(text.contains("exit code 3") && text.contains("err"), "{text}");
        let error = Invocation::new("/nonexistent/initdb", ["x"])
            .run(soon())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nonexistent/initdb") && error.contains("bin_dir"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_background_child_does_not_hold_the_result_up() {
        let began = Instant::now();
        let output = Invocation::new("sh", ["-c", "sleep 30 & echo $!"])
            .run(soon())
            .await
            .unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
        let pid = output.stdout.trim().parse().unwrap();
        crate::Postmaster::open(pid, 0)
            .unwrap()
            .signal(Signal::KILL)
            .unwrap();
    }
}
