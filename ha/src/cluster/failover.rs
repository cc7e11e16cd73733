//! The key `failover`: `{"leader","member","scheduled_at"}`, each optional; `{}` when nothing is asked for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Version;
use crate::pg::MemberName;

/// Which of the two actions is asked for. Patroni tells them apart by whether the old leader is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailoverKind {
    /// Planned: from a named, healthy leader.
    Switchover,
    /// By hand, to a named candidate, whatever the leader's state.
    Failover,
}

impl FailoverKind {
    /// The words in status lines and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "manual failover",
        }
    }
}

/// A switchover or failover that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// The key's revision.
    pub version: Version,
    /// The leader to switch over from.
    pub leader: Option<MemberName>,
    /// The candidate to switch or fail over to.
    pub candidate: Option<MemberName>,
    /// When to do it; `None` for at once.
    pub scheduled_at: Option<Timestamp>,
    /// The same as it was written, with its offset, to be shown.
    pub scheduled_at_text: Option<String>,
    /// `scheduled_at` as written, when it could not be read as a time with a zone.
    pub invalid_schedule: Option<String>,
}

impl Failover {
    /// The value that clears the key. Patroni writes it rather than deleting the key.
    pub const CLEARED: &'static str = "{}";

    /// Reads the key's value; also Patroni's old text form `leader:candidate`. `None` when nothing is asked for.
    #[must_use]
    pub fn parse(version: Version, text: &str) -> Option<Self> {
        let (leader, candidate, schedule) = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) => {
                let field = |key: &str| {
                    object
                        .get(key)
                        .and_then(Value::as_str)
                        .filter(|text| !text.is_empty())
                        .map(str::to_owned)
                };
                (field("leader"), field("member"), field("scheduled_at"))
            }
            Ok(_) => return None,
            Err(_) => {
                let (leader, candidate) = text.split_once(':').unwrap_or((text, ""));
                let some = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
                (some(leader), some(candidate), None)
            }
        };
        if leader.is_none() && candidate.is_none() {
            return None;
        }
        let scheduled_at = schedule.as_deref().and_then(|text| text.parse().ok());
        Some(Self {
            version,
            leader: leader.map(MemberName),
            candidate: candidate.map(MemberName),
            scheduled_at,
            invalid_schedule: schedule.clone().filter(|_| scheduled_at.is_none()),
            scheduled_at_text: schedule.filter(|_| scheduled_at.is_some()),
        })
    }

    /// The key's value for a new request; a time is written in ISO 8601 as given.
    #[must_use]
    pub fn to_json(leader: Option<&str>, candidate: Option<&str>, scheduled_at: Option<&str>) -> String {
        let mut object = Map::new();
        for (key, value) in [
            ("leader", leader),
            ("member", candidate),
            ("scheduled_at", scheduled_at),
        ] {
            if let Some(text) = value.filter(|text| !text.is_empty()) {
                object.insert(key.to_owned(), text.into());
            }
        }
        Value::Object(object).to_string()
    }

    /// A switchover names the leader, a failover only the candidate.
    #[must_use]
    pub fn kind(&self) -> FailoverKind {
        if self.leader.is_some() {
            FailoverKind::Switchover
        } else {
            FailoverKind::Failover
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_leader_or_candidate_is_a_request() {
        for none in [
            "{}",
            r#"{"scheduled_at":"2030-01-01T00:00:00+00:00"}"#,
            "[]",
            r#"{"leader":""}"#,
            "",
        ] {
            assert_eq!(Failover::parse(Version(1), none), None, "{none}");
        }
        let text = Failover::to_json(Some("a"), Some("b"), Some("2030-01-01T00:00:00+02:00"));
        assert_eq!(
            text,
            r#"{"leader":"a","member":"b","scheduled_at":"2030-01-01T00:00:00+02:00"}"#
        );
        let read = Failover::parse(Version(1), &text).expect("a request");
        assert_eq!(read.kind(), FailoverKind::Switchover);
        assert_eq!(
            read.scheduled_at.map(|at| at.to_string()).as_deref(),
            Some("2029-12-31T22:00:00Z")
        );
        let by_hand = Failover::parse(Version(1), r#"{"member":"b"}"#).expect("a request");
        assert_eq!(by_hand.kind(), FailoverKind::Failover);
    }

    #[test]
    fn a_time_without_a_zone_is_known_to_be_invalid() {
        let read = Failover::parse(
            Version(1),
            r#"{"leader":"a","scheduled_at":"2030-01-01T00:00:00"}"#,
        );
        assert!(read.is_some_and(|failover| failover.invalid_schedule.is_some()));
    }

    #[test]
    fn the_old_text_form_is_read() {
        let read = Failover::parse(Version(1), "a:b").expect("a request");
        assert_eq!(
            (read.leader, read.candidate),
            (Some("a".into()), Some("b".into()))
        );
    }
}
