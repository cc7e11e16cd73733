//! The key `heartbeat`: `{"leader":"a","ttl_ms":30000,"takeover":7587}`, written by a leader with every renewal of its
//! lock. Patroni neither writes nor reads it.
//!
//! A renewal counts only if its transaction, which writes this key, was committed. So whoever has known a heartbeat
//! for `ttl` on its own clock, without a newer one, knows that the leader's lock is over: the leader counts from before
//! it sent the renewal, and nobody can know of it before it was committed. That holds even where the store gives every
//! lease its full time again, as etcd does when it elects a leader. `docs/lease.md` has the argument in full.
//!
//! A store that refuses writes and keeps leases alive, as a full etcd does, is the exception: the leader cannot write a
//! heartbeat there. Before it counts on its lease alone it revokes the lease `takeover`, without which the transaction
//! that supersedes it fails.
//!
//! A heartbeat may become known long after it was sent, when the store elects a leader of its own in between. So it also
//! says when it was sent, by the leader's own clock: what has passed there since the heartbeat before it bounds that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Leader, Version};
use crate::facts::Moment;
use crate::pg::MemberName;

/// The last renewal of the leader's lock that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The key's revision: another one with every renewal.
    pub version: Version,
    /// Whose renewal it was.
    pub leader: MemberName,
    /// For how long the leader counts on it.
    pub ttl: Duration,
    /// Whether the leader may be superseded once that time has passed.
    pub takeover: Takeover,
    /// When it was sent, if the leader says so.
    pub sent: Option<Sent>,
}

/// When a heartbeat was sent, at the earliest: what the leader counts on began before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// A random number of the agent: clocks of different agents have nothing in common.
    pub agent: u32,
    /// The leader's boot-time clock, in milliseconds, rounded up.
    pub at_ms: u64,
}

impl Sent {
    /// A reading of the boot-time clock of the agent with this random number.
    #[must_use]
    pub fn new(agent: u32, clock: Duration) -> Self {
        let at_ms = u64::try_from(clock.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Self { agent, at_ms }
    }

    /// How long after `earlier` this was sent, if the same agent has sent both.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let is_comparable = self.agent == earlier.agent;
        let passed_ms = self.at_ms.checked_sub(earlier.at_ms)?;
        is_comparable.then(|| Duration::from_millis(passed_ms))
    }
}

/// The newest heartbeat that a member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHeartbeat {
    /// The key's revision.
    pub version: Version,
    /// When it became known, on the own clock.
    pub known_at: Moment,
    /// It was sent before this moment of the own clock.
    pub sent_before: Moment,
    /// When it was sent, on the leader's clock.
    pub sent: Option<Sent>,
}

impl KnownHeartbeat {
    /// What is known of `heartbeat`, which was read `now`, after the one `before` it.
    #[must_use]
    pub fn of(heartbeat: &Heartbeat, before: Option<Self>, now: Moment) -> Self {
        if let Some(same) = before.filter(|before| before.version == heartbeat.version) {
            return same;
        }
        let passed = before
            .and_then(|before| Some((before.known_at, heartbeat.sent?.since(before.sent?)?)))
            // Two clocks that count the same time may differ a little.
            .map(|(known_at, passed)| known_at.after(passed).after(passed / 50));
        Self {
            version: heartbeat.version,
            known_at: now,
            sent_before: passed.map_or(now, |bound| bound.min(now)),
            sent: heartbeat.sent,
        }
    }
}

/// Whether a leader whose heartbeat is old may be superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Takeover {
    /// Yes: the leader renews its lock by heartbeats only, for its store or its version has no lease for that.
    Always,
    /// While this lease of the leader exists; the transaction proves that it does.
    WhileLease(i64),
    /// No: only the end of the lease of the leader key ends its lock.
    Never,
}

/// What must still be so for a lock that is over to be taken from its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    /// The leader key was last written in this revision.
    pub leader: Version,
    /// The heartbeat was last written in this revision.
    pub heartbeat: Version,
    /// This lease of the leader's must exist.
    pub takeover: Option<i64>,
}

impl Heartbeat {
    /// Reads the key's value; `None` when it is malformed.
    #[must_use]
    pub fn parse(version: Version, text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let leader = MemberName::from(value.get("leader")?.as_str()?);
        let ttl = Duration::from_millis(value.get("ttl_ms")?.as_u64()?);
        let takeover = match value.get("takeover").map(Value::as_i64) {
            None => Takeover::Always,
            Some(Some(lease)) if lease != 0 => Takeover::WhileLease(lease),
            Some(_) => Takeover::Never,
        };
        let sent = value.get("sent").and_then(|sent| Sent::deserialize(sent).ok());
        Some(Self {
            version,
            leader,
            ttl,
            takeover,
            sent,
        })
    }

    /// The key's value. `takeover`: the lease without which the leader cannot be superseded.
    #[must_use]
    pub fn to_json(leader: &MemberName, ttl: Duration, takeover: Option<i64>, sent: Option<Sent>) -> String {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let takeover = takeover.unwrap_or_default();
        value(
            json!({"leader": leader, "ttl_ms": ttl_ms, "takeover": takeover}),
            sent,
        )
    }

    /// The key's value in a store where no lease permits the leader to be superseded: once the heartbeat is old, anybody may.
    #[must_use]
    pub fn without_lease(leader: &MemberName, ttl: Duration, sent: Option<Sent>) -> String {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        value(json!({"leader": leader, "ttl_ms": ttl_ms}), sent)
    }

    /// What must still be so for the present holder to be superseded once this heartbeat is old; `None` when only the end
    /// of its lease counts.
    #[must_use]
    pub fn expired(&self, leader: &Leader) -> Option<Expired> {
        let takeover = match self.takeover {
            Takeover::Always => None,
            Takeover::WhileLease(lease) => Some(lease),
            Takeover::Never => return None,
        };
        self.is_of(leader).then_some(Expired {
            leader: leader.version,
            heartbeat: self.version,
            takeover,
        })
    }

    /// Whether it tells of the present holder of the key: its own, and not older than the key. A Patroni member that
    /// takes the key writes it anew and no heartbeat, so an old one of the same name does not count.
    #[must_use]
    pub fn is_of(&self, leader: &Leader) -> bool {
        self.leader == leader.name && self.version >= leader.version
    }
}

fn value(mut value: Value, sent: Option<Sent>) -> String {
    if let Some(sent) = sent {
        value["sent"] = json!(sent);
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_reads_what_it_prints() {
        let sent = Some(Sent::new(7, Duration::from_micros(1500)));
        let text = Heartbeat::to_json(&"a".into(), Duration::from_secs(30), Some(7587), sent);
        let expected = r#"{"leader":"a","ttl_ms":30000,"takeover":7587,"sent":{"agent":7,"at_ms":2}}"#;
        assert_eq!(text, expected);
        let read = Heartbeat::parse(Version(7), &text).expect("a heartbeat");
        assert_eq!((read.leader, read.ttl), ("a".into(), Duration::from_secs(30)));
        let without_lease = Heartbeat::without_lease(&"a".into(), Duration::from_millis(1), sent);
        assert_eq!((read.takeover, read.sent), (Takeover::WhileLease(7587), sent));
        for (text, takeover) in [
            (without_lease.as_str(), Takeover::Always),
            (r#"{"leader":"a","ttl_ms":1,"takeover":0}"#, Takeover::Never),
            (r#"{"leader":"a","ttl_ms":1,"takeover":"x"}"#, Takeover::Never),
        ] {
            let read = Heartbeat::parse(Version(7), text).expect("a heartbeat");
            assert_eq!(read.takeover, takeover, "{text}");
        }
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"leader":"a"}"#,
            r#"{"leader":"a","ttl_ms":-1}"#,
        ] {
            assert_eq!(Heartbeat::parse(Version(7), bad), None, "{bad}");
        }
    }

    #[test]
    fn a_heartbeat_older_than_the_key_tells_nothing() {
        let heartbeat = |version, name: &str| Heartbeat {
            version: Version(version),
            leader: name.into(),
            ttl: Duration::from_secs(30),
            takeover: Takeover::Always,
            sent: None,
        };
        let leader = Leader {
            version: Version(5),
            name: "a".into(),
            session: "1".to_owned(),
        };
        assert!(heartbeat(5, "a").is_of(&leader) && heartbeat(9, "a").is_of(&leader));
        assert!(!heartbeat(4, "a").is_of(&leader) && !heartbeat(9, "b").is_of(&leader));
    }

    /// A heartbeat that becomes known late was sent before what the leader's clock says, and never counts as older than that.
    #[test]
    fn when_a_heartbeat_was_sent_is_bounded_by_the_one_before() {
        let seconds = |seconds| Moment(Duration::from_secs(seconds));
        let heartbeat = |version, sent| Heartbeat {
            version: Version(version),
            leader: "a".into(),
            ttl: Duration::from_secs(3),
            takeover: Takeover::Always,
            sent,
        };
        let sent = |agent, at_s| Some(Sent::new(agent, Duration::from_secs(at_s)));
        let first = KnownHeartbeat::of(&heartbeat(1, sent(1, 50)), None, seconds(100));
        assert_eq!((first.known_at, first.sent_before), (seconds(100), seconds(100)));
        // Another agent, a clock that has begun anew, no clock at all: nothing is known but when it was read.
        for other in [sent(2, 51), sent(1, 49), None] {
            let next = KnownHeartbeat::of(&heartbeat(2, other), Some(first), seconds(105));
            assert_eq!(
                (next.known_at, next.sent_before),
                (seconds(105), seconds(105)),
                "{other:?}"
            );
        }
        let next = KnownHeartbeat::of(&heartbeat(2, sent(1, 51)), Some(first), seconds(105));
        assert_eq!(
            (next.known_at, next.sent_before.0),
            (seconds(105), Duration::from_millis(101_020))
        );
        let same = KnownHeartbeat::of(&heartbeat(2, sent(1, 51)), Some(next), seconds(109));
        assert_eq!(same, next);
        // On time: it became known before the bound.
        let next = KnownHeartbeat::of(&heartbeat(3, sent(1, 59)), Some(next), seconds(106));
        assert_eq!(next.sent_before, seconds(106));
    }
}
