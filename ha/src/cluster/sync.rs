//! The key `sync`: `{"leader":"a","quorum":0,"sync_standby":"b,c"}`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Version;
use crate::pg::MemberName;

/// Which members may lack nothing that was acknowledged under synchronous replication.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SyncState {
    /// The key's revision; `None` when the key is absent.
    pub version: Option<Version>,
    /// The primary that wrote it; `None` when the state is empty.
    pub leader: Option<MemberName>,
    /// How many voters must be at the primary's position for a failover in quorum mode.
    pub quorum: usize,
    /// The synchronous standbys, sorted.
    pub voters: Vec<MemberName>,
}

impl SyncState {
    /// Reads the key's value; without a leader, or malformed, it is empty.
    #[must_use]
    pub fn parse(version: Version, text: &str) -> Self {
        let object: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let some = |key: &str| {
            object
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let empty = Self {
            version: Some(version),
            ..Self::default()
        };
        let Some(leader) = some("leader") else {
            return empty;
        };
        let mut voters: Vec<_> = some("sync_standby")
            .map(|names| {
                names
                    .split(',')
                    .map(|name| MemberName::from(name.trim()))
                    .collect()
            })
            .unwrap_or_default();
        voters.retain(|name: &MemberName| !name.0.is_empty());
        voters.sort();
        let number = object.get("quorum");
        let number = number.and_then(|n| n.as_u64().or_else(|| n.as_str()?.parse().ok()));
        Self {
            leader: Some(leader.into()),
            quorum: number.and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            voters,
            ..empty
        }
    }

    /// The key's value.
    #[must_use]
    pub fn to_json(leader: &MemberName, quorum: usize, voters: &[MemberName]) -> String {
        let mut names: Vec<&str> = voters.iter().map(MemberName::as_str).collect();
        names.sort_unstable();
        let names = if names.is_empty() {
            Value::Null
        } else {
            names.join(",").into()
        };
        let fields = [
            ("leader", json!(leader)),
            ("quorum", json!(quorum)),
            ("sync_standby", names),
        ];
        Value::Object(
            fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        )
        .to_string()
    }

    /// Nobody has enabled synchronous replication.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leader.is_none()
    }

    /// Whether `name` is a voter, or with `or_leader` the leader; names compare without regard to case.
    #[must_use]
    pub fn lists(&self, name: &MemberName, or_leader: bool) -> bool {
        let same = |other: &MemberName| other.0.eq_ignore_ascii_case(&name.0);
        self.voters.iter().any(same) || (or_leader && self.leader.as_ref().is_some_and(same))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_reads_what_it_prints() {
        let text = SyncState::to_json(&"a".into(), 1, &["c".into(), "b".into()]);
        assert_eq!(text, r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#);
        let state = SyncState::parse(Version(4), &text);
        assert!(
            state.lists(&"B".into(), false)
                && !state.lists(&"a".into(), false)
                && state.lists(&"A".into(), true)
        );
        assert_eq!(
            SyncState::to_json(&"a".into(), 0, &[]),
            r#"{"leader":"a","quorum":0,"sync_standby":null}"#
        );
        assert!(SyncState::parse(Version(4), r#"{"sync_standby":"b"}"#).is_empty());
        assert!(SyncState::parse(Version(4), "broken").is_empty());
    }
}
