//! The agent's side: finds the guard of a data directory or starts one, and talks to it.
//!
//! All calls wait, but never longer than [`Options::timeout`]; the guard answers in microseconds (a start: the time of
//! two executions). After [`Error::Gone`] the connection is of no use: call [`Client::connect_or_spawn`] again.
//! [`Client::as_fd`] is readable when an event has come: fetch it with [`Client::events`].

mod launch;

use crate::fence::{Lease, Stage};
use crate::place;
use crate::proc_fs;
use crate::protocol::{self, Builder, Event, HeldServer, Line, ServerCommand, ServerSignal, Status};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Events that are kept until they are fetched; of more, the oldest are dropped.
const MAX_EVENTS: usize = 64;

/// Why the guard did not do it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The guard has ended or closed the connection (a newer agent has taken over).
    Gone(io::Error),
    /// It did not answer in time.
    Timeout(Duration),
    /// It could not be started.
    Launch(io::Error),
    /// It refused.
    Refused {
        /// One word: `running`, `expired`, `gone`, `locked`, `full`, `not-agent`, `malformed`, `failed`, `unknown`
        /// (the guard is older than the request).
        reason: String,
        /// For people.
        message: String,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone(error) => write!(f, "lost the connection to the guard: {error}"),
            Self::Timeout(time) => write!(f, "the guard did not answer within {time:?}"),
            Self::Launch(error) => write!(f, "cannot start the guard: {error}"),
            Self::Refused { message, .. } => write!(f, "the guard refused: {message}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Gone(error) | Self::Launch(error) => Some(error),
            Self::Timeout(_) | Self::Refused { .. } => None,
        }
    }
}

/// Which guard, and how to get it.
#[derive(Debug)]
pub struct Options {
    /// The data directory; it need not exist yet.
    pub data_dir: PathBuf,
    /// Where its socket's directory is made; `None`: the first possible of [`place::runtime_directories`].
    pub runtime_dir: Option<PathBuf>,
    /// The program that has the guard as its hidden subcommand.
    pub program: PathBuf,
    /// Where the guard, and a server without descriptors of its own, write to; `None`: our own output.
    pub log: Option<File>,
    /// How long a guard stays without server and agent.
    pub idle: Duration,
    /// How long one call may take.
    pub timeout: Duration,
}

impl Options {
    /// Our own program as the guard's, 30 s idle, 5 s for a call.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            runtime_dir: None,
            // Works as well when an upgrade has replaced the file.
            program: "/proc/self/exe".into(),
            log: None,
            idle: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }
    }
}

/// A connection to a guard.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    timeout: Duration,
    received: Vec<u8>,
    events: VecDeque<Event>,
    last_id: u64,
    was_launched: bool,
}

impl Client {
    /// The guard that is there, as its agent from now on; starts one when there is none.
    ///
    /// # Errors
    /// When none is there and none can be started.
    pub fn connect_or_spawn(options: &Options) -> Result<Self, Error> {
        if let Some(client) = Self::connect(options)? {
            return Ok(client);
        }
        match launch::launch(options) {
            Ok(stream) => {
                let mut client = Self::over(stream, options.timeout);
                client.hello("agent")?;
                client.was_launched = true;
                Ok(client)
            }
            // Another agent may have been faster.
            Err(error) => Self::connect(options)?.ok_or(Error::Launch(error)),
        }
    }

    /// The guard that is there, as its agent from now on; `None`: there is none.
    ///
    /// # Errors
    /// When it is there and does not answer.
    pub fn connect(options: &Options) -> Result<Option<Self>, Error> {
        Self::connect_as(options, "agent")
    }

    /// The guard that is there, to look only ([`Client::status`], [`Client::recall`]); `None`: there is none.
    ///
    /// # Errors
    /// When it is there and does not answer.
    pub fn observe(options: &Options) -> Result<Option<Self>, Error> {
        Self::connect_as(options, "observer")
    }

    /// Kills a guard that does not answer, so that another one can take its place. Whether there was one. Only while no server
    /// runs: the kernel ends the guard's children with it.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill_silent(options: &Options) -> Result<bool, Error> {
        let sockets = place::canonical(&options.data_dir)
            .and_then(|data_dir| place::candidates(options.runtime_dir.as_deref(), &data_dir))
            .map_err(Error::Launch)?;
        let mut found = false;
        for socket in &sockets {
            found |= launch::kill(socket, options.timeout).map_err(Error::Launch)?;
        }
        Ok(found)
    }

    /// How long one call may take from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn connect_as(options: &Options, role: &str) -> Result<Option<Self>, Error> {
        let sockets = place::canonical(&options.data_dir)
            .and_then(|data_dir| place::candidates(options.runtime_dir.as_deref(), &data_dir))
            .map_err(Error::Launch)?;
        for socket in &sockets {
            if let Some(stream) = launch::connect(socket) {
                let mut client = Self::over(stream, options.timeout);
                client.hello(role)?;
                return Ok(Some(client));
            }
        }
        Ok(None)
    }

    /// Over a connection that is made, before any hello.
    fn over(stream: UnixStream, timeout: Duration) -> Self {
        Self {
            stream,
            timeout,
            received: Vec::new(),
            events: VecDeque::new(),
            last_id: 0,
            was_launched: false,
        }
    }

    /// Whether [`Client::connect_or_spawn`] has started this guard: it knows of no server then.
    #[must_use]
    pub fn was_launched(&self) -> bool {
        self.was_launched
    }

    fn hello(&mut self, role: &str) -> Result<Status, Error> {
        let fill = |line: &mut Builder<'_>| {
            line.text("version", env!("CARGO_PKG_VERSION").as_bytes())
                .number("protocol", protocol::VERSION)
                .word("role", role);
        };
        self.ask("hello", fill, Status::read)
    }

    /// How things stand.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&mut self) -> Result<Status, Error> {
        self.ask("status", |_| {}, Status::read)
    }

    /// Moves the deadline. The answer tells whether a stop has begun before: then it goes on, by the new lease's times.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn lease(&mut self, lease: &Lease) -> Result<Stage, Error> {
        self.ask("lease", |line| protocol::write_lease(lease, line), stage)
    }

    /// Nothing is stopped any more by the deadline: for a replica, in pause mode, after a demotion.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn disarm(&mut self) -> Result<Stage, Error> {
        self.ask("disarm", |_| {}, stage)
    }

    /// Starts a server as the guard's child. Its output goes to `output` (standard output and error), else to the
    /// guard's. Before: a lease for a primary, [`Client::disarm`] for a replica.
    ///
    /// # Errors
    /// `running`: there is one; `expired`: the lease has run out; `locked`: another guard has the data directory;
    /// `failed`: the program cannot be executed.
    pub fn start(
        &mut self,
        command: &ServerCommand,
        output: Option<[BorrowedFd<'_>; 2]>,
    ) -> Result<HeldServer, Error> {
        let mut text = String::new();
        let id = self.begin("start", &mut text, |line| protocol::write_command(command, line));
        match &output {
            None => self.send_text(&text)?,
            Some(fds) => self.send_with(&text, fds)?,
        }
        self.await_answer(id, server)
    }

    /// Hands a server over that something else has started. The guard watches it and stops it at the deadline, but the
    /// kernel does not stop it when the guard dies. To be sure that it was the process that you meant, see afterwards
    /// that it is still alive.
    ///
    /// # Errors
    /// `gone`: there is no such process; `running`: another one is held; `expired`; `locked`.
    pub fn adopt(&mut self, pid: i32) -> Result<HeldServer, Error> {
        let ticks = process_start_ticks(pid).ok().flatten();
        let fill = |line: &mut Builder<'_>| {
            line.number("pid", pid);
            if let Some(ticks) = ticks {
                line.number("start_ticks", ticks);
            }
        };
        self.ask("adopt", fill, server)
    }

    /// Signals the postmaster.
    ///
    /// # Errors
    /// `gone`: none runs.
    pub fn signal(&mut self, signal: ServerSignal) -> Result<(), Error> {
        self.ask("signal", |line| _ = line.word("name", signal.name()), |_| ())
    }

    /// Leaves a note with the guard, for the agent that comes after us. `key`: letters, digits, `-_.`.
    ///
    /// # Errors
    /// `full`: more than [`protocol::MAX_NOTES_BYTES`].
    pub fn remember(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        let fill = |line: &mut Builder<'_>| _ = line.text("key", key.as_bytes()).text("value", value);
        self.ask("remember", fill, |_| ())
    }

    /// The note of an agent before us.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn recall(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let fill = |line: &mut Builder<'_>| _ = line.text("key", key.as_bytes());
        self.ask("recall", fill, |answer| answer.bytes("value"))
    }

    /// Takes a note away.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn forget(&mut self, key: &str) -> Result<(), Error> {
        self.ask("forget", |line| _ = line.text("key", key.as_bytes()), |_| ())
    }

    /// Ends the guard.
    ///
    /// # Errors
    /// `running`: a postmaster does.
    pub fn quit(mut self) -> Result<(), Error> {
        self.ask("quit", |_| {}, |_| ())
    }

    /// The events that have come, without waiting. To be called when the descriptor is readable.
    ///
    /// # Errors
    /// [`Error::Gone`] when the guard has ended or a newer agent has taken over, and all events were fetched.
    pub fn events(&mut self) -> Result<Vec<Event>, Error> {
        let lost = loop {
            match self.receive() {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        // An answer that nobody waits for any more is dropped here.
        while self.next_line().is_some() {}
        match lost {
            Some(error) if self.events.is_empty() => Err(error),
            _ => Ok(self.events.drain(..).collect()),
        }
    }

    /// The next event, waiting for it at most `time`.
    ///
    /// # Errors
    /// As [`Client::events`].
    pub fn wait_event(&mut self, time: Duration) -> Result<Option<Event>, Error> {
        let until = Instant::now() + time;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            while self.next_line().is_some() {}
            if self.events.is_empty() {
                if !self.wait_readable(until) {
                    return Ok(None);
                }
                self.receive()?;
            }
        }
    }

    fn ask<T>(
        &mut self,
        verb: &str,
        fill: impl FnOnce(&mut Builder<'_>),
        read: impl FnOnce(&Line<'_>) -> T,
    ) -> Result<T, Error> {
        let mut text = String::new();
        let id = self.begin(verb, &mut text, fill);
        self.send_text(&text)?;
        self.await_answer(id, read)
    }

    fn begin(&mut self, verb: &str, text: &mut String, fill: impl FnOnce(&mut Builder<'_>)) -> u64 {
        self.last_id += 1;
        let mut line = Builder::new(text, verb);
        line.number("id", self.last_id);
        fill(&mut line);
        line.finish();
        self.last_id
    }

    fn send_text(&self, text: &str) -> Result<(), Error> {
        let until = Instant::now() + self.timeout;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match send(&self.stream, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::AGAIN) if self.wait_for(PollFlags::OUT, until) => {}
                Err(Errno::AGAIN) => return Err(Error::Timeout(self.timeout)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Gone(errno.into())),
            }
        }
        Ok(())
    }

    /// The descriptors travel with the first byte.
    fn send_with(&self, text: &str, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let (first, rest) = text.split_at(1);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(fds));
        let bytes = [IoSlice::new(first.as_bytes())];
        let until = Instant::now() + self.timeout;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(&self.stream, &bytes, &mut control, flags) {
                Ok(_) => return self.send_text(rest),
                Err(Errno::AGAIN) if self.wait_for(PollFlags::OUT, until) => {}
                Err(Errno::AGAIN) => return Err(Error::Timeout(self.timeout)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::Gone(errno.into())),
            }
        }
    }

    fn await_answer<T>(&mut self, id: u64, read: impl FnOnce(&Line<'_>) -> T) -> Result<T, Error> {
        let until = Instant::now() + self.timeout;
        loop {
            while let Some(text) = self.next_line() {
                let line = Line::new(&text);
                if line.number("id") != Some(id) {
                    continue;
                }
                if line.verb == "ok" {
                    return Ok(read(&line));
                }
                return Err(Error::Refused {
                    reason: line.get("reason").unwrap_or("failed").to_owned(),
                    message: line.text("message").unwrap_or_default(),
                });
            }
            if !self.wait_readable(until) {
                return Err(Error::Timeout(self.timeout));
            }
            self.receive()?;
        }
    }

    /// The next line that is an answer; events on the way are kept.
    fn next_line(&mut self) -> Option<String> {
        loop {
            let end = self.received.iter().position(|byte| *byte == b'\n')?;
            let bytes: Vec<u8> = self.received.drain(..=end).collect();
            let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let line = Line::new(&text);
            match Event::decode(&line) {
                Some(event) => {
                    if self.events.len() == MAX_EVENTS {
                        self.events.pop_front();
                    }
                    self.events.push_back(event);
                }
                // An event of a newer guard.
                None if line.verb == "event" => {}
                None => return Some(text),
            }
        }
    }

    /// Reads what is there; `false`: nothing.
    fn receive(&mut self) -> Result<bool, Error> {
        let mut buffer = [0; 4096];
        match recv(&self.stream, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(Error::Gone(io::ErrorKind::UnexpectedEof.into())),
            Ok((count, _)) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(Error::Gone(errno.into())),
        }
    }

    fn wait_readable(&self, until: Instant) -> bool {
        self.wait_for(PollFlags::IN, until)
    }

    fn wait_for(&self, what: PollFlags, until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), what)];
            match poll(&mut fds, Some(&crate::clock::timespec(left))) {
                Ok(ready) => return ready > 0,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Readable when an event has come, or when the guard has gone.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn stage(answer: &Line<'_>) -> Stage {
    answer
        .get("stage")
        .and_then(Stage::from_name)
        .unwrap_or(Stage::Running)
}

fn server(answer: &Line<'_>) -> HeldServer {
    HeldServer {
        pid: answer.number("pid").unwrap_or(0),
        start_ticks: answer.number("start_ticks").unwrap_or(0),
        is_child: answer.flag("child"),
    }
}

/// When a process was started, as [`HeldServer::start_ticks`]; `None`: there is no such process.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn process_start_ticks(pid: i32) -> io::Result<Option<u64>> {
    match proc_fs::pid(pid) {
        Some(pid) => proc_fs::start_ticks(pid),
        None => Ok(None),
    }
}

/// The path of a guard's socket, for messages.
///
/// # Errors
/// When the data directory's parent does not exist, or the path is too long.
pub fn likely_socket(data_dir: &Path) -> io::Result<PathBuf> {
    let data_dir = place::canonical(data_dir)?;
    let sockets = place::candidates(None, &data_dir)?;
    let existing = sockets.iter().find(|socket| socket.exists());
    existing
        .or(sockets.first())
        .cloned()
        .ok_or_else(|| io::Error::other("no runtime directory"))
}
