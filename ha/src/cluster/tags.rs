//! The tags of a member, in the order and with the types of its configuration file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::pg::MemberName;

/// What a member's operator said about it (Patroni documentation, "YAML Configuration Settings", `tags`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub Map<String, Value>);

impl Tags {
    /// Never to be promoted: `nofailover`, else a `failover_priority` of 0 or less.
    #[must_use]
    pub fn nofailover(&self) -> bool {
        self.flag("nofailover")
            .unwrap_or_else(|| self.priority("failover_priority").is_some_and(|p| p <= 0))
    }

    /// Preferred on equal WAL positions when higher; 0 with `nofailover`, 1 by default.
    #[must_use]
    pub fn failover_priority(&self) -> i64 {
        if self.nofailover() {
            0
        } else {
            self.priority("failover_priority").map_or(1, |p| p.max(1))
        }
    }

    /// Never synchronous: `nosync`, else a `sync_priority` of 0 or less.
    #[must_use]
    pub fn nosync(&self) -> bool {
        self.flag("nosync")
            .unwrap_or_else(|| self.priority("sync_priority").is_some_and(|p| p <= 0))
    }

    /// Preferred as a synchronous standby when higher; 0 with `nosync`, 1 by default.
    #[must_use]
    pub fn sync_priority(&self) -> i64 {
        if self.nosync() {
            0
        } else {
            self.priority("sync_priority").map_or(1, |p| p.max(1))
        }
    }

    /// These tags while a synchronous standby prepares to stop: never synchronous.
    #[must_use]
    pub fn without_sync(&self) -> Self {
        let mut tags = self.clone();
        tags.0.insert("nosync".to_owned(), true.into());
        tags.0.insert("sync_priority".to_owned(), 0.into());
        tags
    }

    /// Preferred source for clones.
    #[must_use]
    pub fn clonefrom(&self) -> bool {
        self.flag("clonefrom").unwrap_or(false)
    }

    /// Not to be offered to load balancers as a replica.
    #[must_use]
    pub fn noloadbalance(&self) -> bool {
        self.flag("noloadbalance").unwrap_or(false)
    }

    /// Gets WAL from the archive only.
    #[must_use]
    pub fn nostream(&self) -> bool {
        self.flag("nostream").unwrap_or(false)
    }

    /// The member to stream from instead of the leader.
    #[must_use]
    pub fn replicatefrom(&self) -> Option<MemberName> {
        self.0
            .get("replicatefrom")
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty())
            .map(MemberName::from)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.0.get(key)? {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => Some(number.as_f64() != Some(0.0)),
            Value::String(text) => config::parse_bool(text),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn priority(&self, key: &str) -> Option<i64> {
        let value = self.0.get(key)?;
        value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(text: &str) -> Tags {
        serde_json::from_str(text).expect("tags")
    }

    #[test]
    fn a_flag_beats_a_priority() {
        for (text, nofailover, priority) in [
            ("{}", false, 1),
            (r#"{"nofailover":true}"#, true, 0),
            (r#"{"failover_priority":0}"#, true, 0),
            (r#"{"failover_priority":5}"#, false, 5),
            (r#"{"nofailover":true,"failover_priority":5}"#, true, 0),
            (r#"{"nofailover":false,"failover_priority":0}"#, false, 1),
        ] {
            assert_eq!(
                (tags(text).nofailover(), tags(text).failover_priority()),
                (nofailover, priority),
                "{text}"
            );
        }
    }
}
