//! PostgreSQL's own quantities: positions, timelines, versions, states, and what `pg_controldata` says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A value that did not have the form its type demands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}")]
pub struct ParseError {
    /// What was expected.
    pub what: &'static str,
    /// The text that was found.
    pub text: String,
}

fn parse_error(what: &'static str, text: &str) -> ParseError {
    ParseError {
        what,
        text: text.to_owned(),
    }
}

/// A position in the write-ahead log, in bytes (PostgreSQL manual, section "pg_lsn Type").
///
/// Patroni stores it as a decimal number in the DCS; people read it as `X/Y` in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `0/0`, which PostgreSQL uses for "invalid".
    pub const ZERO: Self = Self(0);

    /// How many bytes `self` lies behind `other`; 0 when it is not behind.
    #[must_use]
    pub fn behind(self, other: Self) -> u64 {
        other.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let half = |part: &str| {
            let plain = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if plain {
                u64::from_str_radix(part, 16).ok()
            } else {
                None
            }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| parse_error("LSN", text))
    }
}

/// A timeline of the write-ahead log; 1 for a new cluster (PostgreSQL manual, section "Timelines").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number that `initdb` gives to a cluster and all its physical copies share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SystemIdentifier(String);

impl SystemIdentifier {
    /// The identifier's decimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SystemIdentifier {
    type Err = ParseError;

    /// At least ten decimal digits, as Patroni asks of the `initialize` key.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.len() >= 10 && text.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(parse_error("system identifier", text))
        }
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a member: unique in its cluster, `application_name` of its WAL receiver, source of its slot's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberName(pub String);

impl MemberName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The replication slot of this member on its upstream: lower case, `-` and `.` as `_`, any other character
    /// outside `[a-z0-9_]` as `u` and its code point in four decimal digits, 63 characters at most.
    #[must_use]
    pub fn slot_name(&self) -> SlotName {
        let mut slot = String::with_capacity(self.0.len());
        for c in self.0.chars().flat_map(char::to_lowercase) {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => slot.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        slot.truncate(63);
        SlotName(slot)
    }
}

impl From<&str> for MemberName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A transaction id. They go round: which one comes first holds only for ids less than half of all apart (PostgreSQL
/// manual, "Preventing Transaction ID Wraparound Failures").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Xid(pub u32);

impl Xid {
    /// It comes before `other`, or is the same.
    #[must_use]
    pub fn is_not_after(self, other: Self) -> bool {
        other.0.wrapping_sub(self.0) < 1 << 31
    }
}

/// The name of a replication slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SlotName(pub String);

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What part a member plays, as published in its member key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes writes. Patroni before 4.0 published it under an older word, which is read as this.
    #[serde(alias = "master")]
    Primary,
    /// Promotion has been asked for and is not finished.
    Promoted,
    /// Follows another member.
    Replica,
    /// Leads a standby cluster: replicates from outside, is followed by the members.
    StandbyLeader,
    /// Was primary and has been stopped.
    Demoted,
    /// Has no data directory.
    Uninitialized,
}

impl Role {
    /// The word in member keys, REST answers and callbacks.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Promoted => "promoted",
            Self::Replica => "replica",
            Self::StandbyLeader => "standby_leader",
            Self::Demoted => "demoted",
            Self::Uninitialized => "uninitialized",
        }
    }

    /// The role for a word of a member key or REST answer; `None` for an unknown word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "primary" | "master" => Self::Primary,
            "promoted" => Self::Promoted,
            "replica" => Self::Replica,
            "standby_leader" => Self::StandbyLeader,
            "demoted" => Self::Demoted,
            "uninitialized" => Self::Uninitialized,
            _ => return None,
        })
    }

    /// Takes writes, or is about to.
    #[must_use]
    pub fn is_primary(self) -> bool {
        matches!(self, Self::Primary | Self::Promoted)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the local server is doing, as published in the member key; the order is that of Patroni's metric
/// `patroni_postgres_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// `initdb` runs.
    #[serde(rename = "initializing new cluster")]
    Initializing,
    /// `initdb` failed.
    #[serde(rename = "initdb failed")]
    InitdbFailed,
    /// The custom bootstrap method runs.
    #[serde(rename = "running custom bootstrap script")]
    CustomBootstrap,
    /// The custom bootstrap method failed.
    #[serde(rename = "custom bootstrap failed")]
    CustomBootstrapFailed,
    /// A copy of another member is being made.
    #[serde(rename = "creating replica")]
    CreatingReplica,
    /// Accepts connections.
    #[serde(rename = "running")]
    Running,
    /// The postmaster is there and does not accept connections yet.
    #[serde(rename = "starting")]
    Starting,
    /// The first start after a custom bootstrap.
    #[serde(rename = "starting after custom bootstrap")]
    StartingAfterCustomBootstrap,
    /// The last start failed.
    #[serde(rename = "start failed")]
    StartFailed,
    /// A restart is on its way.
    #[serde(rename = "restarting")]
    Restarting,
    /// The last restart failed.
    #[serde(rename = "restart failed")]
    RestartFailed,
    /// A stop is on its way.
    #[serde(rename = "stopping")]
    Stopping,
    /// Not running, as wanted.
    #[serde(rename = "stopped")]
    Stopped,
    /// The last stop failed.
    #[serde(rename = "stop failed")]
    StopFailed,
    /// Not running, and nobody here stopped it.
    #[serde(rename = "crashed")]
    Crashed,
}

impl ServerState {
    /// All states, in the order of Patroni's metric.
    pub const ALL: [Self; 15] = [
        Self::Initializing,
        Self::InitdbFailed,
        Self::CustomBootstrap,
        Self::CustomBootstrapFailed,
        Self::CreatingReplica,
        Self::Running,
        Self::Starting,
        Self::StartingAfterCustomBootstrap,
        Self::StartFailed,
        Self::Restarting,
        Self::RestartFailed,
        Self::Stopping,
        Self::Stopped,
        Self::StopFailed,
        Self::Crashed,
    ];

    /// The words in member keys and REST answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "initializing new cluster",
            Self::InitdbFailed => "initdb failed",
            Self::CustomBootstrap => "running custom bootstrap script",
            Self::CustomBootstrapFailed => "custom bootstrap failed",
            Self::CreatingReplica => "creating replica",
            Self::Running => "running",
            Self::Starting => "starting",
            Self::StartingAfterCustomBootstrap => "starting after custom bootstrap",
            Self::StartFailed => "start failed",
            Self::Restarting => "restarting",
            Self::RestartFailed => "restart failed",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::StopFailed => "stop failed",
            Self::Crashed => "crashed",
        }
    }

    /// The state for the words of a member key; `None` for unknown ones.
    #[must_use]
    pub fn parse(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == words)
    }
}

impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a standby gets its WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicationState {
    /// Its WAL receiver streams.
    #[serde(rename = "streaming")]
    Streaming,
    /// It restores WAL with `restore_command`.
    #[serde(rename = "in archive recovery")]
    InArchiveRecovery,
}

impl ReplicationState {
    /// The words in member keys and REST answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::InArchiveRecovery => "in archive recovery",
        }
    }

    /// The state for its words; `None` for unknown ones.
    #[must_use]
    pub fn parse(words: &str) -> Option<Self> {
        match words {
            "streaming" => Some(Self::Streaming),
            "in archive recovery" => Some(Self::InArchiveRecovery),
            _ => None,
        }
    }
}

/// `Database cluster state` of `pg_controldata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatabaseState {
    /// `starting up`.
    StartingUp,
    /// `shut down`: a clean stop of a primary.
    ShutDown,
    /// `shut down in recovery`: a clean stop of a standby.
    ShutDownInRecovery,
    /// `shutting down`.
    ShuttingDown,
    /// `in crash recovery`.
    InCrashRecovery,
    /// `in archive recovery`: a standby that runs, or one that did not stop cleanly.
    InArchiveRecovery,
    /// `in production`: a primary that runs, or one that did not stop cleanly.
    InProduction,
}

/// What `pg_controldata` tells of a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlData {
    /// `Database system identifier`; `None` when it is not a valid one.
    pub system_identifier: Option<SystemIdentifier>,
    /// `Database cluster state`.
    pub state: DatabaseState,
    /// `Latest checkpoint location`.
    pub checkpoint: Lsn,
    /// `Latest checkpoint's REDO location`.
    pub redo: Lsn,
    /// `Latest checkpoint's TimeLineID`.
    pub timeline: Timeline,
    /// `Minimum recovery ending location`; `0/0` on one that was a primary.
    pub minimum_recovery: Lsn,
    /// `Min recovery ending loc's timeline`; `None` when it is 0.
    pub minimum_recovery_timeline: Option<Timeline>,
    /// `wal_log_hints setting` is `on`, or `Data page checksum version` is not 0: what pg_rewind needs.
    pub can_be_rewound: bool,
}

/// One line of a timeline history: where a timeline was left for the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where it was left.
    pub switch_lsn: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

/// Reads a `<timeline>.history` file (PostgreSQL source, `src/backend/access/transam/timeline.c`): tab separated
/// `parent timeline`, `switch point`, `reason`. Comments, blank and malformed lines are passed over.
#[must_use]
pub fn parse_history_file(text: &str) -> Vec<HistoryEntry> {
    let line = |line: &str| {
        let mut fields = line.trim_end().splitn(3, '\t');
        Some(HistoryEntry {
            timeline: Timeline(fields.next()?.trim().parse().ok()?),
            switch_lsn: fields.next()?.trim().parse().ok()?,
            reason: fields.next().unwrap_or_default().to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_what_it_prints() {
        for (text, bytes) in [
            ("0/0", 0),
            ("0/4F27AC0", 0x04F2_7AC0),
            ("16/B374D848", 0x16_B374_D848),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(bytes)));
            assert_eq!(Lsn(bytes).to_string(), text);
        }
        for bad in ["", "/", "0", "0/", "/0", "0/G", "0/123456789", "+1/0", "0/0/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn slot_names_follow_patronis_rule() {
        let long = "x".repeat(80);
        let cut = "x".repeat(63);
        for (name, slot) in [
            ("a b", "au0032b"),
            ("Node-1.x", "node_1_x"),
            ("pg_1", "pg_1"),
            (&*long, &*cut),
        ] {
            assert_eq!(MemberName::from(name).slot_name().0, slot);
        }
    }

    #[test]
    fn a_history_file_is_read_line_by_line() {
        let text = "1\t0/3000158\tno recovery target specified\n\n# note\n2\t0/4000000\tbefore 2026\n";
        let read = parse_history_file(text);
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].timeline, Timeline(2));
        assert_eq!(read[1].switch_lsn, Lsn(0x400_0000));
        assert_eq!(read[0].reason, "no recovery target specified");
    }

    #[test]
    fn a_system_identifier_has_ten_digits_or_more() {
        assert!("7268616322854375442".parse::<SystemIdentifier>().is_ok());
        for bad in ["", "123", "72686163228543754x"] {
            assert!(bad.parse::<SystemIdentifier>().is_err());
        }
    }
}
