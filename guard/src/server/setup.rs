//! Becoming the guard: into the background, out of the way of signals and swapping, one for each data directory.

use super::connection::Connection;
use super::log::Log;
use super::run::Server;
use crate::command_line::{SERVE, SUBCOMMAND};
use crate::fence::Fence;
use crate::place::{self, GuardLock};
use crate::proc_fs::each_child;
use rustix::fs::Mode;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{getpid, getpriority_process, set_child_subreaper, setpriority_process, setsid, umask};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What the guard says through its standard input, a pipe to whoever has started it, when it listens.
pub(crate) const READY: &str = "ready";

/// The nice value that comes first.
const HIGHEST_PRIORITY: i32 = -20;

/// What the guard was told at its start.
pub(super) struct Settings {
    pub(super) data_dir: PathBuf,
    pub(super) socket: PathBuf,
    /// How long it stays without server and agent.
    pub(super) idle: Duration,
}

impl Settings {
    fn read(args: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut args = args.into_iter();
        Some(Self {
            data_dir: args.next()?.into(),
            socket: args.next()?.into(),
            idle: Duration::from_millis(args.next()?.to_str()?.parse().ok()?),
        })
    }
}

/// What could be had for the guard's safety. All of it needs rights that it may lack.
pub(super) struct Surroundings {
    pub(super) memory_locked: bool,
    pub(super) priority: i32,
    /// The nice value that the server gets: that of the agent.
    pub(super) server_nice: i32,
}

/// Starts the guard in a session of its own and ends, so that the guard is nobody's child but init's. `args`: those
/// of [`main`].
pub fn launch_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let started = setsid().map_err(io::Error::from).and_then(|_| {
        Command::new("/proc/self/exe")
            .arg0("tamada")
            .args([SUBCOMMAND, SERVE])
            .args(args)
            .spawn()
    });
    match started {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("cannot start the guard: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Is the guard, until it is not needed any more. `args`: the data directory, the socket's path (its directory exists
/// and is ours alone), and for how many milliseconds to stay without server and agent.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Some(settings) = Settings::read(args) else {
        report("the guard's data directory, socket or idle time is missing");
        return ExitCode::from(2);
    };
    match begin(settings) {
        Ok(server) => {
            report(READY);
            if let Ok(null) = File::open("/dev/null") {
                let _ = rustix::stdio::dup2_stdin(&null);
            }
            server.run()
        }
        Err(error) => {
            report(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// One line through the pipe that is our standard input.
fn report(text: &str) {
    if let Ok(pipe) = io::stdin().as_fd().try_clone_to_owned() {
        let _ = writeln!(File::from(pipe), "{text}");
    }
}

fn begin(settings: Settings) -> io::Result<Server> {
    // Already so when launched; a guard that was started otherwise must not share its starter's signals either.
    let _ = setsid();
    let _ = rustix::thread::set_name(c"tamada-guard");
    let lock = GuardLock::take(&settings.socket)?;
    place::remove_stale(&settings.socket)?;
    let listener = listen(&settings.socket)?;
    // Backends whose postmaster died become ours, and are found.
    let _ = set_child_subreaper(Some(getpid()));
    let timer = timerfd_create(
        TimerfdClockId::Boottime,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let surroundings = secure();
    Ok(Server {
        settings,
        surroundings,
        listener,
        timer,
        connections: [const { None::<Connection> }; 4],
        connections_made: 0,
        agent: None,
        fence: Fence::new(),
        held: None,
        last: None,
        notes: BTreeMap::new(),
        idle_since: None,
        log: Log::new(),
        reply: String::with_capacity(2048),
        _lock: lock,
    })
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = UnixListener::bind(socket);
    umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn secure() -> Surroundings {
    let server_nice = getpriority_process(None).unwrap_or(0);
    let _ = setpriority_process(None, HIGHEST_PRIORITY);
    // Once through what fencing needs, so that its pages are there and are locked.
    let _ = each_child(getpid(), |_| {});
    // Pages as they come into use: the whole program would be many megabytes. Not those of the future: where little
    // memory may be locked, getting more of it would fail then.
    let memory_locked = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).is_ok();
    Surroundings {
        memory_locked,
        priority: getpriority_process(None).unwrap_or(0),
        server_nice,
    }
}
