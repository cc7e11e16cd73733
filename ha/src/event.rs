//! What has happened, and what decided it: the typed values from which logs of events, `tamada ctl events` and `why`
//! are made.
//!
//! An event is derived from the same facts, notes and reasons as the log (`chronicle`), says what it says in one place
//! (`text`), and is written as one JSON object. Whoever reads events of another version keeps what it does not know.

mod chronicle;
mod record;
pub(crate) mod shared;
mod text;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use chronicle::Chronicle;
pub use record::Record;

use crate::cluster::{FailoverKind, SyncState};
use crate::facts::Moment;
use crate::pg::{Lsn, MemberName, Role, ServerState, Timeline};
use crate::reason::Reason;
use crate::step::{Exit, StopMode, StopPurpose, Task, TaskOutcome};

/// The version of an event's form. A change that old readers would misread makes it another one.
pub const VERSION: u32 = 1;

/// One thing that has happened on one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Event {
    /// Counts the member's events; given when it is kept, 0 before.
    pub id: u64,
    /// When, on the member's wall clock.
    pub at: Timestamp,
    /// When, on the member's boot-time clock: differences of one member's events are exact.
    pub moment: Moment,
    /// On which member.
    pub member: MemberName,
    /// What.
    pub what: What,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "facts", rename_all = "snake_case")]
pub enum What {
    /// The agent was started.
    AgentStarted {
        /// Its version.
        version: String,
        /// As what it has found the server.
        role: Role,
        /// How it has found the server.
        state: ServerState,
        /// How the agent before it ended, if the supervisor had to start another one.
        after: Option<String>,
    },
    /// The agent ends.
    AgentEnded {
        /// How.
        exit: Exit,
    },
    /// The outcome of a cycle is another one than before.
    Status {
        /// The status line.
        status: String,
        /// The same, typed.
        reason: Reason,
        /// What else was said.
        notes: Vec<String>,
    },
    /// The server's role or state has changed.
    Server {
        /// The role before.
        from_role: Role,
        /// The state before.
        from_state: ServerState,
        /// The role now.
        role: Role,
        /// The state now.
        state: ServerState,
    },
    /// Another member leads, or nobody: as this member has read it in the DCS.
    Leader {
        /// Who led.
        from: Option<MemberName>,
        /// Who leads.
        to: Option<MemberName>,
        /// The key is still there, but its lease is over by this member's clock.
        is_expired: bool,
        /// How long before this member had learnt of the last renewal of who led.
        #[serde(with = "shared::seconds_option")]
        silent_for: Option<Duration>,
    },
    /// The leader key is ours now.
    LockGained {
        /// How.
        how: Gain,
        /// Until when at least, unless it is prolonged.
        #[serde(with = "shared::moment")]
        valid_until: Moment,
        /// How long that is from now.
        #[serde(with = "shared::seconds")]
        valid_for: Duration,
    },
    /// The leader key is not ours any more.
    LockLost {
        /// Why.
        why: Loss,
        /// Until when it would have been ours.
        #[serde(with = "shared::moment")]
        valid_until: Moment,
    },
    /// Nobody led, and this member has compared itself with the others.
    Race(Box<Race>),
    /// A primary is being stopped to become a standby.
    Demotion {
        /// What for.
        purpose: StopPurpose,
        /// The status line of the decision.
        because: String,
    },
    /// A long job has begun.
    TaskBegun {
        /// Which.
        task: Task,
    },
    /// PostgreSQL was told to stop: its sessions end, so a primary takes no more writes.
    StopSignalled {
        /// How.
        mode: StopMode,
    },
    /// A server that is being stopped has written its shutdown checkpoint, and waits for who still gets its WAL.
    ShutdownCheckpoint {
        /// Where that is.
        checkpoint: Lsn,
    },
    /// A long job has ended.
    TaskEnded {
        /// Which.
        task: Task,
        /// How.
        outcome: TaskOutcome,
        /// How long it took, if its beginning was seen.
        #[serde(with = "shared::seconds_option")]
        took: Option<Duration>,
    },
    /// Something short was done.
    Done {
        /// What.
        what: String,
        /// Why not, if it failed.
        failure: Option<String>,
    },
    /// The DCS does not answer.
    DcsLost {
        /// What went wrong.
        error: String,
    },
    /// The DCS answers again.
    DcsBack {
        /// After how long.
        #[serde(with = "shared::seconds")]
        after: Duration,
    },
    /// Somebody has asked for a switchover or failover.
    Asked {
        /// Which of them.
        operation: FailoverKind,
        /// From whom.
        leader: Option<MemberName>,
        /// To whom.
        candidate: Option<MemberName>,
        /// When; at once else.
        scheduled_at: Option<Timestamp>,
    },
    /// What was asked for is not there any more: done, or given up.
    AskedNoMore {
        /// Which of them.
        operation: FailoverKind,
    },
    /// The synchronous standbys are others.
    Synchronous {
        /// As the DCS has it.
        sync: SyncState,
    },
    /// Settings are others.
    Configuration {
        /// Where they come from.
        origin: Origin,
        /// Which, by their first words; none when that is not known.
        changed: Vec<String>,
    },
    /// The guard stops PostgreSQL, because the lease was not renewed in time.
    Fencing {
        /// How far it goes.
        stage: String,
    },
    /// The guard had stopped PostgreSQL while no agent was there.
    Fenced {
        /// The postmaster's process id.
        pid: i32,
        /// How far it had to go.
        stage: String,
        /// How the postmaster ended.
        exit: String,
    },
    /// PostgreSQL is without the guard that the configuration asks for, or has it again.
    Guard {
        /// It is without one.
        is_missing: bool,
        /// Why; empty when it has one.
        why: String,
    },
    /// Connections that are not a member's own use its name to stream WAL, or do not any more.
    Stranger {
        /// Whose name it is.
        name: MemberName,
        /// They have ended, or the name is nobody's any more.
        is_gone: bool,
    },
    /// Something of another version of this program.
    #[serde(skip)]
    Other {
        /// What it calls it.
        kind: String,
        /// What it says.
        text: String,
        /// What it knows.
        facts: Value,
    },
}

/// How the leader key became ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gain {
    /// Nobody had it.
    Acquired,
    /// Its holder's lease was over.
    Superseded,
    /// By a bootstrap.
    Taken,
    /// It was ours when the agent came.
    Found,
}

/// How the leader key ceased to be ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// We gave it up.
    Released,
    /// The DCS has said that it is not ours.
    NotHeld,
    /// Somebody else has it.
    Taken(MemberName),
    /// It is gone.
    Gone,
    /// PostgreSQL was stopped because the lease could not be prolonged, or ran out: the key may be another member's.
    Stopped,
}

/// Where settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The key `config`.
    Cluster,
    /// The member's own configuration.
    Member,
}

/// How a member has compared itself with the others when nobody led.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Race {
    /// This member's position.
    pub position: Option<Lsn>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// The last position that a leader has published.
    pub published: Option<Lsn>,
    /// Who led before.
    pub former_leader: Option<MemberName>,
    /// Whom it has asked.
    pub rivals: Vec<Rival>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why, in the words of the log.
    pub why: Vec<String>,
}

/// Another member in a race.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rival {
    /// Its name.
    pub name: MemberName,
    /// Its position.
    pub position: Option<Lsn>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// It does not run for the leader key: what its tags, its watchdog or its role say.
    pub not_running_because: Option<String>,
    /// Why it is not known.
    pub failure: Option<String>,
}

/// What came of a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The leader key is ours.
    Won,
    /// This member wanted it, and somebody else was faster.
    Late,
    /// This member does not want it.
    Waived,
}

impl What {
    /// The word for this kind of event.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::AgentStarted { .. } => "agent_started",
            Self::AgentEnded { .. } => "agent_ended",
            Self::Status { .. } => "status",
            Self::Server { .. } => "server",
            Self::Leader { .. } => "leader",
            Self::LockGained { .. } => "lock_gained",
            Self::LockLost { .. } => "lock_lost",
            Self::Race(_) => "race",
            Self::Demotion { .. } => "demotion",
            Self::TaskBegun { .. } => "task_begun",
            Self::StopSignalled { .. } => "stop_signalled",
            Self::ShutdownCheckpoint { .. } => "shutdown_checkpoint",
            Self::TaskEnded { .. } => "task_ended",
            Self::Done { .. } => "done",
            Self::DcsLost { .. } => "dcs_lost",
            Self::DcsBack { .. } => "dcs_back",
            Self::Asked { .. } => "asked",
            Self::AskedNoMore { .. } => "asked_no_more",
            Self::Synchronous { .. } => "synchronous",
            Self::Configuration { .. } => "configuration",
            Self::Fencing { .. } => "fencing",
            Self::Fenced { .. } => "fenced",
            Self::Guard { .. } => "guard",
            Self::Stranger { .. } => "stranger",
            Self::Other { kind, .. } => kind,
        }
    }
}

/// An event as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    id: u64,
    at: String,
    /// Seconds on the boot-time clock.
    boot: f64,
    member: MemberName,
    kind: String,
    text: String,
    #[serde(default)]
    facts: Value,
}

impl From<Event> for Written {
    fn from(event: Event) -> Self {
        let text = event.what.to_string();
        let kind = event.what.kind().to_owned();
        let facts = match event.what {
            What::Other { facts, .. } => facts,
            known => serde_json::to_value(known)
                .ok()
                .and_then(|mut value| value.get_mut("facts").map(Value::take))
                .unwrap_or_default(),
        };
        Self {
            v: VERSION,
            id: event.id,
            at: format!("{:.3}", event.at),
            boot: (event.moment.0.as_secs_f64() * 1000.0).round() / 1000.0,
            member: event.member,
            kind,
            text,
            facts,
        }
    }
}

impl TryFrom<Written> for Event {
    type Error = jiff::Error;

    fn try_from(written: Written) -> Result<Self, jiff::Error> {
        let tagged = serde_json::json!({"kind": written.kind, "facts": written.facts});
        let known = if written.v == VERSION {
            serde_json::from_value(tagged).ok()
        } else {
            None
        };
        Ok(Self {
            id: written.id,
            at: written.at.parse()?,
            moment: Moment(Duration::try_from_secs_f64(written.boot).unwrap_or_default()),
            member: written.member,
            what: known.unwrap_or(What::Other {
                kind: written.kind,
                text: written.text,
                facts: written.facts,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: What) -> Event {
        Event {
            id: 7,
            at: "2026-01-31T03:12:08.123Z".parse().unwrap(),
            moment: Moment(Duration::from_millis(12_345_678)),
            member: "pg2".into(),
            what,
        }
    }

    #[test]
    fn an_event_is_one_object_that_reads_back() {
        let gained = event(What::LockGained {
            how: Gain::Acquired,
            valid_until: Moment(Duration::from_secs(12_375)),
            valid_for: Duration::from_secs(30),
        });
        let text = serde_json::to_string(&gained).unwrap();
        assert!(
            text.starts_with(
                r#"{"v":1,"id":7,"at":"2026-01-31T03:12:08.123Z","boot":12345.678,"member":"pg2","kind":"lock_gained","text":""#
            ),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), gained);
        let race = event(What::Race(Box::new(Race {
            position: Some(Lsn(77)),
            timeline: Some(Timeline(1)),
            published: None,
            former_leader: Some("pg1".into()),
            rivals: vec![Rival {
                name: "pg3".into(),
                position: Some(Lsn(76)),
                timeline: None,
                not_running_because: None,
                failure: None,
            }],
            verdict: Verdict::Won,
            why: Vec::new(),
        })));
        let text = serde_json::to_string(&race).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), race);
    }

    #[test]
    fn what_another_version_has_written_is_kept_as_it_is() {
        for text in [
            r#"{"v":1,"id":1,"at":"2026-01-31T03:12:08.123Z","boot":1.0,"member":"a","kind":"moon","text":"full","facts":{"phase":4}}"#,
            r#"{"v":1,"id":1,"at":"2026-01-31T03:12:08.123Z","boot":1.0,"member":"a","kind":"leader","text":"new","facts":{"crowned":true}}"#,
        ] {
            let event: Event = serde_json::from_str(text).unwrap();
            assert!(matches!(event.what, What::Other { .. }), "{event:?}");
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
        let newer = r#"{"v":2,"id":1,"at":"2026-01-31T03:12:08Z","boot":1,"member":"a","kind":"fencing","text":"x","facts":{"stage":"fast"}}"#;
        let event: Event = serde_json::from_str(newer).unwrap();
        assert!(matches!(event.what, What::Other { .. }));
        assert!(serde_json::from_str::<Event>("{}").is_err());
    }
}
