//! The language between agent and guard: lines of UTF-8, `verb key=value key=value`, ended by `\n`.
//!
//! The agent asks, each request with an `id`; the guard answers `ok id=N ...` or `error id=N reason=WORD message=TEXT`,
//! and sends `event ...` lines in between. Other bytes than letters, digits and `-_.,:/@+` are written `%XX` in values.
//! Keys may occur several times (`arg`, `env`). So that a guard of one version serves an agent of another:
//! keys that are not known are passed over, a verb that is not known is answered `error reason=unknown`, and verbs and
//! keys keep their meaning for ever.

use crate::clock::BootTime;
use crate::fence::{Lease, Stage};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The version of the protocol that is written here; it grows with every verb and key.
pub const VERSION: u32 = 1;

/// The longest line: arguments and environment of a server.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// What the guard keeps for the agent (`remember`) may take so many bytes, keys and values together.
pub const MAX_NOTES_BYTES: usize = 4096;

/// A postmaster to be started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerCommand {
    /// The server program.
    pub program: PathBuf,
    /// Its arguments, without the program.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts; `None`: in `/`.
    pub current_dir: Option<PathBuf>,
}

/// A signal to the postmaster (PostgreSQL manual, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerSignal {
    /// SIGTERM: smart shutdown.
    Smart,
    /// SIGINT: fast shutdown.
    Fast,
    /// SIGQUIT: immediate shutdown.
    Immediate,
    /// SIGHUP: read the configuration again.
    Reload,
    /// SIGKILL for postmaster and backends, so that none of them lives on.
    Kill,
}

impl ServerSignal {
    const ALL: [Self; 5] = [Self::Smart, Self::Fast, Self::Immediate, Self::Reload, Self::Kill];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
            Self::Reload => "reload",
            Self::Kill => "kill",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }
}

/// How a postmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was adopted, not a child of the guard: nobody but its parent learns that.
    Unknown,
}

impl Exit {
    fn write(self, line: &mut Builder<'_>) {
        match self {
            Self::Code(code) => line.number("code", code),
            Self::Signal(signal) => line.number("signal", signal),
            Self::Unknown => line,
        };
    }

    fn read(line: &Line<'_>) -> Self {
        match (line.number("code"), line.number("signal")) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// What the guard tells unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The postmaster has ended, and nothing of it is left.
    Exited {
        /// Its process id.
        pid: i32,
        /// How it ended.
        exit: Exit,
    },
    /// The lease has run out, and the guard has begun this.
    Fencing(Stage),
}

impl Event {
    pub(crate) fn encode(self, text: &mut String) {
        let mut line = Builder::new(text, "event");
        match self {
            Self::Exited { pid, exit } => {
                line.word("what", "exited").number("pid", pid);
                exit.write(&mut line);
            }
            Self::Fencing(stage) => {
                line.word("what", "fencing").word("stage", stage.name());
            }
        }
        line.finish();
    }

    /// `None`: a line of another kind, or an event of a newer guard.
    pub(crate) fn decode(line: &Line<'_>) -> Option<Self> {
        match (line.verb, line.get("what")?) {
            ("event", "exited") => Some(Self::Exited {
                pid: line.number("pid")?,
                exit: Exit::read(line),
            }),
            ("event", "fencing") => Stage::from_name(line.get("stage")?).map(Self::Fencing),
            _ => None,
        }
    }
}

/// The postmaster that the guard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldServer {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since the machine's start (field 22 of `/proc/PID/stat`): with `pid` this
    /// names a process for ever.
    pub start_ticks: u64,
    /// The guard is its parent: the kernel stops it when the guard dies. Not so for one that was adopted.
    pub is_child: bool,
}

/// A postmaster that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastServer {
    /// Its process id.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
    /// How far the guard had gone with stopping it.
    pub stage: Stage,
}

/// What a guard says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The program's version.
    pub guard_version: String,
    /// The protocol's version.
    pub protocol: u32,
    /// The guard's process id.
    pub guard_pid: i32,
    /// The postmaster that runs.
    pub server: Option<HeldServer>,
    /// The one that ended last.
    pub last_server: Option<PastServer>,
    /// The lease, if not disarmed.
    pub lease: Option<Lease>,
    /// How far the stopping of the postmaster has gone by the lease.
    pub stage: Stage,
    /// Whether its memory is locked.
    pub memory_locked: bool,
    /// Its nice value: -20 comes first, 0 is usual.
    pub priority: i32,
}

impl Status {
    pub(crate) fn write(&self, line: &mut Builder<'_>) {
        line.text("version", self.guard_version.as_bytes())
            .number("protocol", self.protocol)
            .number("guard_pid", self.guard_pid)
            .word("stage", self.stage.name())
            .flag("memory_locked", self.memory_locked)
            .number("priority", self.priority);
        if let Some(server) = self.server {
            line.number("pid", server.pid)
                .number("start_ticks", server.start_ticks)
                .flag("child", server.is_child);
        }
        if let Some(lease) = &self.lease {
            write_lease(lease, line);
        }
        if let Some(past) = self.last_server {
            line.number("last_pid", past.pid)
                .word("last_stage", past.stage.name());
            match past.exit {
                Exit::Code(code) => line.number("last_code", code),
                Exit::Signal(signal) => line.number("last_signal", signal),
                Exit::Unknown => line,
            };
        }
    }

    pub(crate) fn read(line: &Line<'_>) -> Self {
        let stage = |key| line.get(key).and_then(Stage::from_name).unwrap_or(Stage::Running);
        let last_exit = match (line.number("last_code"), line.number("last_signal")) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        };
        Self {
            guard_version: line.text("version").unwrap_or_default(),
            protocol: line.number("protocol").unwrap_or(0),
            guard_pid: line.number("guard_pid").unwrap_or(0),
            server: line.number("pid").map(|pid| HeldServer {
                pid,
                start_ticks: line.number("start_ticks").unwrap_or(0),
                is_child: line.flag("child"),
            }),
            last_server: line.number("last_pid").map(|pid| PastServer {
                pid,
                exit: last_exit,
                stage: stage("last_stage"),
            }),
            lease: read_lease(line),
            stage: stage("stage"),
            memory_locked: line.flag("memory_locked"),
            priority: line.number("priority").unwrap_or(0),
        }
    }
}

pub(crate) fn write_lease(lease: &Lease, line: &mut Builder<'_>) {
    line.number("deadline_boottime_ns", lease.deadline.as_nanos())
        .number("stop_at_ns", lease.stop_at.as_nanos());
    if let Some(bound) = lease.kill_after {
        line.number("kill_after_ns", bound.as_nanos());
    }
    line.flag("fence", lease.fence);
}

/// `None` without a deadline. Without `stop_at_ns` there is no fast shutdown before it.
pub(crate) fn read_lease(line: &Line<'_>) -> Option<Lease> {
    let moment = |key| line.number(key).map(BootTime::from_nanos);
    let deadline = moment("deadline_boottime_ns")?;
    Some(Lease {
        stop_at: moment("stop_at_ns").unwrap_or(deadline),
        deadline,
        kill_after: moment("kill_after_ns"),
        fence: line.flag("fence"),
    })
}

pub(crate) fn write_command(command: &ServerCommand, line: &mut Builder<'_>) {
    line.text("program", command.program.as_os_str().as_bytes());
    if let Some(dir) = &command.current_dir {
        line.text("dir", dir.as_os_str().as_bytes());
    }
    for arg in &command.args {
        line.text("arg", arg.as_bytes());
    }
    for (name, value) in &command.env {
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        line.text("env", &pair);
    }
}

pub(crate) fn read_command(line: &Line<'_>) -> Option<ServerCommand> {
    let os = OsString::from_vec;
    Some(ServerCommand {
        program: os(line.bytes("program")?).into(),
        args: line.all("arg").map(|value| os(decode(value))).collect(),
        env: line
            .all("env")
            .filter_map(|value| {
                let pair = decode(value);
                let equals = pair.iter().position(|byte| *byte == b'=')?;
                Some((os(pair[..equals].to_vec()), os(pair[equals + 1..].to_vec())))
            })
            .collect(),
        current_dir: line.bytes("dir").map(|dir| os(dir).into()),
    })
}

/// A line that is being written, into a buffer that the caller keeps.
#[derive(Debug)]
pub(crate) struct Builder<'a>(&'a mut String);

impl<'a> Builder<'a> {
    /// Begins a line after what `text` has.
    pub(crate) fn new(text: &'a mut String, verb: &str) -> Self {
        text.push_str(verb);
        Self(text)
    }

    /// A value that needs no encoding.
    pub(crate) fn word(&mut self, key: &str, value: &str) -> &mut Self {
        self.number(key, value)
    }

    pub(crate) fn number(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        // Writing into a String cannot fail.
        let _ = write!(self.0, " {key}={value}");
        self
    }

    pub(crate) fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.number(key, value)
    }

    pub(crate) fn text(&mut self, key: &str, value: &[u8]) -> &mut Self {
        let _ = write!(self.0, " {key}=");
        for byte in value {
            if byte.is_ascii_alphanumeric() || b"-_.,:/@+".contains(byte) {
                self.0.push(char::from(*byte));
            } else {
                let _ = write!(self.0, "%{byte:02X}");
            }
        }
        self
    }

    /// Ends the line.
    pub(crate) fn finish(&mut self) {
        self.0.push('\n');
    }
}

/// A line that came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    pub(crate) verb: &'a str,
    rest: &'a str,
}

impl<'a> Line<'a> {
    /// `line` without its end.
    pub(crate) fn new(line: &'a str) -> Self {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        Self { verb, rest }
    }

    /// The values of a key, still encoded.
    pub(crate) fn all(&self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.rest
            .split(' ')
            .filter_map(|pair| pair.split_once('='))
            .filter(move |(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    pub(crate) fn get(&self, key: &'a str) -> Option<&'a str> {
        self.all(key).next()
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, key: &'a str) -> Option<T> {
        self.get(key)?.parse().ok()
    }

    pub(crate) fn flag(&self, key: &'a str) -> bool {
        self.get(key) == Some("true")
    }

    pub(crate) fn bytes(&self, key: &'a str) -> Option<Vec<u8>> {
        self.get(key).map(decode)
    }

    pub(crate) fn text(&self, key: &'a str) -> Option<String> {
        self.bytes(key)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn decode(value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let escaped = match (byte, after) {
            (b'%', [high, low, ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                digit(high).zip(digit(low)).map(|(high, low)| high * 16 + low)
            }
            _ => None,
        };
        // Two hexadecimal digits fit into a byte.
        match escaped.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn through<T>(fill: impl FnOnce(&mut Builder<'_>), read: impl FnOnce(&Line<'_>) -> T) -> T {
        let mut text = String::new();
        let mut line = Builder::new(&mut text, "ok");
        fill(&mut line);
        line.finish();
        assert_eq!(text.matches('\n').count(), 1);
        read(&Line::new(text.trim_end_matches('\n')))
    }

    #[test]
    fn every_byte_comes_through() {
        let all: Vec<u8> = (0..=255).collect();
        let came = through(|line| _ = line.text("value", &all), |line| line.bytes("value"));
        assert_eq!(came, Some(all));
        assert_eq!(decode("100%"), b"100%");
        assert_eq!(decode("%4"), b"%4");
        assert_eq!(decode("%zz%41"), b"%zzA");
        assert_eq!(decode("%é"), "%é".as_bytes());
    }

    #[test]
    fn a_command_comes_through() {
        let command = ServerCommand {
            program: "/usr/lib/postgresql/15/bin/postgres".into(),
            args: vec!["-D".into(), "/data dir".into(), "".into(), "--port=5432".into()],
            env: vec![
                ("PATH".into(), "/bin:/usr/bin".into()),
                ("ODD".into(), OsStr::from_bytes(b"a=b\n\xff").into()),
                ("EMPTY".into(), "".into()),
            ],
            current_dir: Some("/".into()),
        };
        assert_eq!(
            through(|line| write_command(&command, line), read_command),
            Some(command)
        );
    }

    #[test]
    fn a_status_comes_through() {
        let full = Status {
            guard_version: "1.2.3 (x)".into(),
            protocol: 7,
            guard_pid: 42,
            server: Some(HeldServer {
                pid: 43,
                start_ticks: u64::MAX,
                is_child: true,
            }),
            last_server: Some(PastServer {
                pid: 41,
                exit: Exit::Signal(9),
                stage: Stage::Killing,
            }),
            lease: Some(Lease {
                stop_at: BootTime::from_nanos(5),
                deadline: BootTime::from_nanos(6),
                kill_after: Some(BootTime::from_nanos(7)),
                fence: true,
            }),
            stage: Stage::FastStop,
            memory_locked: true,
            priority: -20,
        };
        assert_eq!(through(|line| full.write(line), Status::read), full);
        let empty = Status {
            server: None,
            last_server: None,
            lease: None,
            ..full
        };
        assert_eq!(through(|line| empty.write(line), Status::read), empty);
    }

    #[test]
    fn events_come_through_and_unknown_ones_are_passed_over() {
        for event in [
            Event::Exited {
                pid: 4,
                exit: Exit::Code(0),
            },
            Event::Exited {
                pid: 4,
                exit: Exit::Signal(9),
            },
            Event::Exited {
                pid: 4,
                exit: Exit::Unknown,
            },
            Event::Fencing(Stage::ImmediateStop),
        ] {
            let mut text = String::new();
            event.encode(&mut text);
            assert_eq!(Event::decode(&Line::new(text.trim_end())), Some(event), "{text}");
        }
        assert_eq!(Event::decode(&Line::new("event what=sang song=1")), None);
        assert_eq!(Event::decode(&Line::new("ok what=exited pid=1")), None);
    }

    #[test]
    fn unknown_keys_are_passed_over() {
        let line =
            Line::new("lease id=3 moon=full deadline_boottime_ns=8 fence=true deadline_boottime_ns=9 x");
        let lease = read_lease(&line).unwrap();
        assert_eq!(
            (lease.deadline.as_nanos(), lease.stop_at.as_nanos(), lease.fence),
            (8, 8, true)
        );
        assert_eq!(read_lease(&Line::new("lease fence=true")), None);
        assert_eq!(
            read_lease(&Line::new("lease deadline_boottime_ns=soon fence=true")),
            None
        );
    }
}
