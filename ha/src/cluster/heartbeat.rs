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

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Leader, Version};
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
        Some(Self {
            version,
            leader,
            ttl,
            takeover,
        })
    }

    /// The key's value. `takeover`: the lease without which the leader cannot be superseded.
    #[must_use]
    pub fn to_json(leader: &MemberName, ttl: Duration, takeover: Option<i64>) -> String {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let takeover = takeover.unwrap_or_default();
        json!({"leader": leader, "ttl_ms": ttl_ms, "takeover": takeover}).to_string()
    }

    /// The key's value in a store where no lease permits the leader to be superseded: once the heartbeat is old, anybody may.
    #[must_use]
    pub fn without_lease(leader: &MemberName, ttl: Duration) -> String {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        json!({"leader": leader, "ttl_ms": ttl_ms}).to_string()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_reads_what_it_prints() {
        let text = Heartbeat::to_json(&"a".into(), Duration::from_secs(30), Some(7587));
        assert_eq!(text, r#"{"leader":"a","ttl_ms":30000,"takeover":7587}"#);
        let read = Heartbeat::parse(Version(7), &text).expect("a heartbeat");
        assert_eq!((read.leader, read.ttl), ("a".into(), Duration::from_secs(30)));
        assert_eq!(read.takeover, Takeover::WhileLease(7587));
        let without_lease = Heartbeat::without_lease(&"a".into(), Duration::from_millis(1));
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
        };
        let leader = Leader {
            version: Version(5),
            name: "a".into(),
            session: "1".to_owned(),
        };
        assert!(heartbeat(5, "a").is_of(&leader) && heartbeat(9, "a").is_of(&leader));
        assert!(!heartbeat(4, "a").is_of(&leader) && !heartbeat(9, "b").is_of(&leader));
    }
}
