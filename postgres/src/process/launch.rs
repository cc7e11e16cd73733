//! Launching a postmaster so that it outlives us: in a session of its own, under a small parent that reaps it and
//! passes its log on.

use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Lines of a server's log that an error quotes.
const QUOTED_LINES: usize = 12;

/// A postmaster to be launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostmasterCommand {
    /// The server program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: BTreeMap<OsString, OsString>,
}

/// A postmaster that was launched.
#[derive(Debug)]
pub struct Launched {
    /// Its process id.
    pub pid: i32,
    /// What it logs while it starts.
    pub log: StartupLog,
}

/// A way to launch postmasters.
pub trait Launcher: Send + Sync {
    /// Launches one: detached from us, standard input from nowhere, its output to ours.
    ///
    /// # Errors
    /// When the program cannot be executed.
    fn launch(&self, command: PostmasterCommand) -> BoxFuture<'_, io::Result<Launched>>;
}

/// What a postmaster has logged since its launch, as far as it came here. Dropping it loses nothing of the log.
pub struct StartupLog {
    reader: Option<Box<dyn AsyncRead + Send + Unpin>>,
    tail: Vec<u8>,
}

impl std::fmt::Debug for StartupLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartupLog")
            .field("bytes", &self.tail.len())
            .finish_non_exhaustive()
    }
}

impl StartupLog {
    /// A log that comes through `reader`; it is dropped when it ends.
    #[must_use]
    pub fn new(reader: Option<Box<dyn AsyncRead + Send + Unpin>>) -> Self {
        Self {
            reader,
            tail: Vec::new(),
        }
    }

    /// Reads on for as long as it is polled; never ends. Cancel-safe.
    pub(crate) async fn collect(&mut self) -> std::convert::Infallible {
        self.read_to_end().await;
        std::future::pending().await
    }

    /// Reads until the other side closes. Cancel-safe.
    pub(crate) async fn read_to_end(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(reader) = &mut self.reader {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => self.reader = None,
                Ok(count) => {
                    self.tail.extend_from_slice(&buffer[..count]);
                    let surplus = self.tail.len().saturating_sub(32_768);
                    self.tail.drain(..surplus);
                }
            }
        }
    }

    /// The last lines.
    #[must_use]
    pub fn last_lines(&self) -> String {
        last_lines(&String::from_utf8_lossy(&self.tail))
    }
}

pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

/// Our own program with a hidden subcommand: by this path it is found also when an upgrade has replaced its file, or the
/// package was removed.
#[must_use]
pub fn own_executable(subcommand: &str) -> Vec<OsString> {
    vec!["/proc/self/exe".into(), subcommand.into()]
}

/// What a helper is called in the list of processes.
const HELPER_NAME: &str = "tamada";

/// Launches through a helper: our own program, called in a way that leads it to [`detach_main`].
#[derive(Debug, Clone)]
pub struct DetachedLauncher {
    /// The helper's program and first arguments, such as our own executable and a hidden subcommand.
    pub helper: Vec<OsString>,
}

impl DetachedLauncher {
    /// A launcher that calls our own executable with `subcommand` in front of the server's command line.
    #[must_use]
    pub fn own_executable(subcommand: &str) -> Self {
        Self {
            helper: own_executable(subcommand),
        }
    }
}

impl Launcher for DetachedLauncher {
    fn launch(&self, command: PostmasterCommand) -> BoxFuture<'_, io::Result<Launched>> {
        Box::pin(async move {
            let (program, first) = self.helper.split_first().ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, "no helper program to launch with")
            })?;
            let mut helper = tokio::process::Command::new(program)
                .arg0(HELPER_NAME)
                .args(first)
                .arg(&command.program)
                .args(&command.args)
                .env_clear()
                .envs(&command.env)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()?;
            let stdout = helper
                .stdout
                .take()
                .ok_or_else(|| io::Error::other("the helper has no output"))?;
            let mut reader = BufReader::new(stdout);
            let mut line = String::new();
            reader.read_line(&mut line).await?;
            let answer = line.trim();
            match answer.parse() {
                Ok(pid) => Ok(Launched {
                    pid,
                    log: StartupLog::new(Some(Box::new(reader))),
                }),
                Err(_) if answer.is_empty() => Err(io::Error::other("the helper ended without an answer")),
                Err(_) => Err(io::Error::other(answer.to_owned())),
            }
        })
    }
}

/// The helper's whole program. `args`: the server program and its arguments. Starts a session, spawns the server,
/// prints its pid (or one line that tells why it could not), then passes the server's output on to standard error
/// until the server has ended; a copy goes to standard output for as long as somebody reads there.
#[must_use]
pub fn detach_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let Some(program) = args.next() else {
        return ExitCode::from(2);
    };
    // Fails only for the leader of a process group, which then stays in its session but is in a group of its own.
    let _ = rustix::process::setsid();
    match detached(&program, args) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stdout(), "{}: {error}", program.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}

fn detached(program: &OsStr, args: impl Iterator<Item = OsString>) -> io::Result<ExitCode> {
    let (mut log, log_writer) = io::pipe()?;
    let mut server = std::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log_writer.try_clone()?)
        .stderr(log_writer)
        .spawn()?;
    write_line(server.id());
    pass_on(&mut log);
    let status = server.wait()?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The answer for whoever has launched us. When nobody reads it any more, the server runs all the same.
fn write_line(pid: u32) {
    let mut launcher = io::stdout();
    let _ = writeln!(launcher, "{pid}").and_then(|()| launcher.flush());
}

/// Passes a log on to standard error until its end; a copy goes to standard output for as long as somebody reads there.
fn pass_on(log: &mut impl Read) {
    let mut launcher = Some(io::stdout());
    // A launcher that does not read must not hold the server's log up.
    if let Ok(flags) = rustix::fs::fcntl_getfl(io::stdout().as_fd()) {
        let _ = rustix::fs::fcntl_setfl(io::stdout().as_fd(), flags | rustix::fs::OFlags::NONBLOCK);
    }
    let mut buffer = [0; 16_384];
    let mut own_log = io::stderr();
    loop {
        match log.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let _ = own_log.write_all(&buffer[..count]);
                let sent = launcher
                    .as_mut()
                    .is_none_or(|out| out.write_all(&buffer[..count]).and_then(|()| out.flush()).is_ok());
                if !sent {
                    launcher = None;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// A process that passes on the log of a server which is nobody's child here, and outlives us as the server does.
#[derive(Debug)]
pub struct LogRelay {
    /// Where the server shall write; the relay ends when nobody has it any more.
    pub input: OwnedFd,
    /// What comes through.
    pub log: StartupLog,
}

impl LogRelay {
    /// Starts one through a helper: our own program, called in a way that leads it to [`relay_main`].
    ///
    /// # Errors
    /// When the helper cannot be executed.
    pub fn start(helper: &[OsString]) -> io::Result<Self> {
        let (program, first) = helper.split_first().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "no helper program to pass the log on",
            )
        })?;
        let (output, input) = io::pipe()?;
        let mut helper = tokio::process::Command::new(program)
            .arg0(HELPER_NAME)
            .args(first)
            .env_clear()
            .stdin(output)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let log = helper
            .stdout
            .take()
            .map(|out| Box::new(out) as Box<dyn AsyncRead + Send + Unpin>);
        Ok(Self {
            input: input.into(),
            log: StartupLog::new(log),
        })
    }
}

/// The relay's whole program: passes standard input on to standard error until its end; a copy goes to standard output
/// for as long as somebody reads there.
#[must_use]
pub fn relay_main() -> ExitCode {
    // A terminal's signals, or those for the agent's group, are not for the server's log.
    let _ = rustix::process::setsid();
    pass_on(&mut io::stdin().lock());
    ExitCode::SUCCESS
}
