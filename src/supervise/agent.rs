//! The agent as its supervisor sees it: a process, and a socket on which it says how it is.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::notify;

/// How long an agent may be silent until it says how long.
const PATIENCE_AT_START: Duration = Duration::from_secs(30);

/// Longer than everything that it says.
const MESSAGE_BYTES: usize = 4096;

pub(super) struct Agent {
    /// Nobody else takes it in, so that this is its process until [`super::Supervisor::reap`].
    pid: Pid,
    socket: UnixDatagram,
    is_ready: bool,
    /// It was told to end, or killed: silence means nothing any more.
    is_ending: bool,
    heard_at: Instant,
    patience: Duration,
}

impl Agent {
    /// Starts one: our own program with our own command line. Its end of the socket is its standard input, which it has
    /// no other use for, and passes on to nobody. `before`: how the one before it ended.
    pub(super) fn start(called_as: &OsStr, args: &[OsString], before: Option<&str>) -> io::Result<Self> {
        let (socket, its_end) = UnixDatagram::pair()?;
        socket.set_nonblocking(true)?;
        // Our own program, even when its file was replaced or removed by an upgrade.
        let child = Command::new("/proc/self/exe")
            .arg0(called_as)
            .args(args)
            .env(notify::SUPERVISOR_VARIABLE, std::process::id().to_string())
            .env(
                notify::WATCHDOG_VARIABLE,
                PATIENCE_AT_START.as_micros().to_string(),
            )
            .env_remove(notify::WATCHDOG_PID_VARIABLE)
            .env_remove(notify::SOCKET_VARIABLE)
            .env_remove(notify::BEFORE_VARIABLE)
            .envs(before.map(|before| (notify::BEFORE_VARIABLE, before)))
            .stdin(Stdio::from(OwnedFd::from(its_end)))
            .spawn()?;
        Ok(Self {
            pid: super::pid_of(&child),
            socket,
            is_ready: false,
            is_ending: false,
            heard_at: Instant::now(),
            patience: PATIENCE_AT_START,
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The next that it has said, if there is something.
    pub(super) fn hear(&mut self) -> Option<String> {
        let mut buffer = [0; MESSAGE_BYTES];
        let length = self.socket.recv(&mut buffer).ok().filter(|length| *length > 0)?;
        self.heard_at = Instant::now();
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        for line in message.lines() {
            match line.split_once('=') {
                _ if line == notify::READY => self.is_ready = true,
                _ if line == notify::STOPPING => self.is_ending = true,
                Some((notify::WATCHDOG_VARIABLE, time)) => {
                    self.patience = time.parse().map_or(self.patience, Duration::from_micros);
                }
                _ => {}
            }
        }
        Some(message)
    }

    /// When it is to have said something; `None` when it need not.
    pub(super) fn must_speak_by(&self) -> Option<Instant> {
        (!self.is_ending).then(|| self.heard_at + self.patience)
    }

    pub(super) fn silence(&self) -> Duration {
        self.heard_at.elapsed()
    }

    /// Its silence up to now does not count.
    pub(super) fn forgive(&mut self) {
        self.heard_at = Instant::now();
    }

    pub(super) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Tells it to end.
    pub(super) fn end(&mut self, signal: Signal) {
        self.is_ending = true;
        self.signal(signal);
    }

    pub(super) fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid, signal);
    }
}
