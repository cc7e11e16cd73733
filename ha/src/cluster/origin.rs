//! Which promotion has begun a timeline, and the key `origin`: `[{"timeline", "switch_lsn", "nonce", "promoter"}, …]`.
//!
//! PostgreSQL numbers timelines by what it finds in `pg_wal` and the archive. Two members that are promoted without knowing
//! of each other begin timelines of one number, often at one position, and nothing that PostgreSQL compares tells them
//! apart. Patroni has no such key and passes it over.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pg::{Lsn, MemberName, Timeline};

/// A timeline, and what no other one of its number has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// Its number.
    pub timeline: Timeline,
    /// Where it left the one before it.
    pub switch_lsn: Lsn,
    /// The checksum of the record that begins it. That holds the time of the promotion in microseconds.
    pub nonce: u32,
}

impl Origin {
    /// Reads the object; `None` when a field is absent or of a wrong type.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(Self {
            timeline: Timeline(number("timeline")?.try_into().ok()?),
            switch_lsn: Lsn(number("switch_lsn")?),
            nonce: u32::from_str_radix(value.get("nonce")?.as_str()?, 16).ok()?,
        })
    }

    /// The object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let nonce = format!("{:08x}", self.nonce);
        json!({"timeline": self.timeline, "switch_lsn": self.switch_lsn, "nonce": nonce})
    }

    /// Whether the two are different timelines of one number.
    #[must_use]
    pub fn is_rival_of(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self != other
    }
}

/// A promotion that became the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The timeline that it has begun.
    pub origin: Origin,
    /// Who was promoted.
    pub promoter: Option<MemberName>,
}

/// The promotions that led to the leader's timeline, as far as they are known, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origins(pub Vec<Promotion>);

impl Origins {
    /// Reads the key's value. Malformed JSON yields none, and so does a malformed line.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = serde_json::from_str::<Vec<Value>>(text).unwrap_or_default();
        let promotion = |line: &Value| {
            Some(Promotion {
                origin: Origin::from_json(line)?,
                promoter: line.get("promoter").and_then(Value::as_str).map(Into::into),
            })
        };
        Self(lines.iter().filter_map(promotion).collect())
    }

    /// The key's value.
    #[must_use]
    pub fn to_json(&self) -> String {
        let line = |promotion: &Promotion| {
            let mut object = promotion.origin.to_json();
            if let Some(promoter) = &promotion.promoter {
                object["promoter"] = promoter.as_str().into();
            }
            object
        };
        Value::Array(self.0.iter().map(line).collect()).to_string()
    }

    /// The newest timeline.
    #[must_use]
    pub fn newest(&self) -> Option<&Origin> {
        self.0.last().map(|promotion| &promotion.origin)
    }

    /// The timeline of that number.
    #[must_use]
    pub fn of(&self, timeline: Timeline) -> Option<&Origin> {
        let mut origins = self.0.iter().map(|promotion| &promotion.origin);
        origins.find(|origin| origin.timeline == timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_read_what_they_print() {
        let text = concat!(
            r#"[{"timeline":2,"switch_lsn":83886528,"nonce":"0a1b2c3d","promoter":"b"},"#,
            r#"{"timeline":3,"switch_lsn":100,"nonce":"ffffffff"}]"#
        );
        let origins = Origins::parse(text);
        assert_eq!(origins.to_json(), text);
        assert_eq!(origins.newest().map(|origin| origin.nonce), Some(u32::MAX));
        assert_eq!(
            origins.of(Timeline(2)).map(|origin| origin.nonce),
            Some(0x0a1b_2c3d)
        );
        assert_eq!(Origins::parse("broken"), Origins::default());
        assert_eq!(Origins::parse(r#"[{"timeline":2},7]"#), Origins::default());
    }

    #[test]
    fn only_timelines_of_one_number_are_rivals() {
        let origin = |timeline, lsn, nonce| Origin {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(lsn),
            nonce,
        };
        let ours = origin(2, 100, 7);
        assert!(ours.is_rival_of(&origin(2, 100, 8)) && ours.is_rival_of(&origin(2, 99, 7)));
        assert!(!ours.is_rival_of(&ours) && !ours.is_rival_of(&origin(3, 200, 8)));
    }
}
