//! A member's tags: the built-in ones with their meaning, and any others. Patroni documentation: YAML configuration
//! settings, "Tags".

use crate::value::{Map, Value};

/// The tags of one member, in the order and with the YAML types in which they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tags(Map);

/// Built-in tags that are published only when they are true.
const PUBLISHED_WHEN_TRUE: [&str; 5] = ["clonefrom", "nofailover", "noloadbalance", "nosync", "nostream"];

impl Tags {
    /// The tags as the file (`tags`) or a member key has them.
    #[must_use]
    pub fn new(map: Map) -> Self {
        Self(map)
    }

    /// The tags of a member key's JSON; anything but an object means none.
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        Self(Value::from(json).as_map().cloned().unwrap_or_default())
    }

    /// All tags as they were written.
    #[must_use]
    pub fn all(&self) -> &Map {
        &self.0
    }

    /// One tag by name, for `tag_` filters of health checks.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// `nofailover`: never promoted. Wins over `failover_priority`; without it a priority of 0 or less means the same.
    #[must_use]
    pub fn nofailover(&self) -> bool {
        self.forbids("nofailover", "failover_priority")
    }

    /// `failover_priority`: higher is preferred at an equal WAL position; 0 when `nofailover`; default 1.
    #[must_use]
    pub fn failover_priority(&self) -> i64 {
        self.priority("nofailover", "failover_priority")
    }

    /// `nosync`: never a synchronous standby. Wins over `sync_priority`; without it a priority of 0 or less means the
    /// same.
    #[must_use]
    pub fn nosync(&self) -> bool {
        self.forbids("nosync", "sync_priority")
    }

    /// `sync_priority`: higher is preferred as synchronous standby; 0 when `nosync`; default 1.
    #[must_use]
    pub fn sync_priority(&self) -> i64 {
        self.priority("nosync", "sync_priority")
    }

    /// `clonefrom`: preferred source of new replicas.
    #[must_use]
    pub fn clonefrom(&self) -> bool {
        self.flag("clonefrom").unwrap_or(false)
    }

    /// `noloadbalance`: the replica health checks fail.
    #[must_use]
    pub fn noloadbalance(&self) -> bool {
        self.flag("noloadbalance").unwrap_or(false)
    }

    /// `nostream`: recovers from the archive alone.
    #[must_use]
    pub fn nostream(&self) -> bool {
        self.flag("nostream").unwrap_or(false)
    }

    /// `replicatefrom`: the member to follow instead of the leader.
    #[must_use]
    pub fn replicatefrom(&self) -> Option<String> {
        self.0
            .get("replicatefrom")
            .filter(|value| value.is_truthy())
            .map(Value::python_text)
    }

    /// The tags as they are published in the member key and by the REST API: built-in flags only when they are true, but
    /// `nofailover` always beside `failover_priority` and `nosync` beside `sync_priority`.
    #[must_use]
    pub fn published(&self) -> serde_json::Map<String, serde_json::Value> {
        let is_published = |name: &str, value: &Value| {
            !PUBLISHED_WHEN_TRUE.contains(&name)
                || value.is_truthy()
                || (name == "nofailover" && self.0.contains_key("failover_priority"))
                || (name == "nosync" && self.0.contains_key("sync_priority"))
        };
        self.0
            .iter()
            .filter(|(name, value)| is_published(name, value))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect()
    }

    /// These tags while a synchronous standby prepares to stop: never synchronous.
    #[must_use]
    pub fn without_sync(&self) -> Self {
        let mut tags = self.clone();
        tags.0.insert("nosync", true);
        tags.0.insert("sync_priority", 0);
        tags
    }

    /// Contradictions between a flag and its priority, in Patroni's words.
    #[must_use]
    pub fn conflicts(&self) -> Vec<String> {
        [("nofailover", "failover_priority"), ("nosync", "sync_priority")]
            .into_iter()
            .filter_map(|(flag_name, priority_name)| {
                let (flag, priority) = (self.0.get(flag_name)?, self.0.get(priority_name)?);
                let contradicts = truth(flag)? == (priority.to_int(None)? > 0);
                let (flag, priority) = (flag.python_text(), priority.python_text());
                contradicts.then(|| {
                    format!(
                        "Conflicting configuration between {flag_name}: {flag} and {priority_name}: {priority}. \
                         Defaulting to {flag_name}: {flag}"
                    )
                })
            })
            .collect()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name).and_then(truth)
    }

    fn forbids(&self, flag: &str, priority: &str) -> bool {
        self.flag(flag).unwrap_or_else(|| {
            self.0
                .get(priority)
                .and_then(|p| p.to_int(None))
                .is_some_and(|p| p <= 0)
        })
    }

    fn priority(&self, flag: &str, priority: &str) -> i64 {
        if self.flag(flag) == Some(true) {
            return 0;
        }
        self.0.get(priority).and_then(|p| p.to_int(None)).unwrap_or(1)
    }
}

/// What a flag means: a text like `off` what it says, any other value whether it is empty; null is not written.
fn truth(value: &Value) -> Option<bool> {
    if value.is_null() {
        None
    } else {
        Some(value.to_bool().unwrap_or_else(|| value.is_truthy()))
    }
}

#[cfg(test)]
mod tests {
    use super::Tags;
    use serde_json::json;

    #[test]
    fn flags_win_over_priorities() {
        let table = [
            (json!({}), false, 1),
            (json!({"nofailover": true}), true, 0),
            (json!({"nofailover": true, "failover_priority": 2}), true, 0),
            (json!({"nofailover": false, "failover_priority": 0}), false, 0),
            (json!({"failover_priority": 0}), true, 0),
            (json!({"failover_priority": -1}), true, -1),
            (json!({"failover_priority": "3"}), false, 3),
            (json!({"failover_priority": "high"}), false, 1),
            (json!({"nofailover": null, "failover_priority": 0}), true, 0),
            (json!({"nofailover": "off"}), false, 1),
        ];
        for (tags, nofailover, priority) in table {
            let parsed = Tags::from_json(&tags);
            assert_eq!(
                (parsed.nofailover(), parsed.failover_priority()),
                (nofailover, priority),
                "{tags}"
            );
        }
    }

    #[test]
    fn published_in_the_order_of_the_file() {
        let tags = Tags::from_json(&json!({
            "zone": "b", "nofailover": false, "clonefrom": true, "noloadbalance": false, "replicatefrom": "p2",
            "failover_priority": 2, "nosync": false, "nostream": false, "rack": 7,
        }));
        assert_eq!(
            serde_json::Value::Object(tags.published()).to_string(),
            r#"{"zone":"b","nofailover":false,"clonefrom":true,"replicatefrom":"p2","failover_priority":2,"rack":7}"#
        );
        assert_eq!(tags.replicatefrom().as_deref(), Some("p2"));
        assert_eq!(
            serde_json::Value::Object(tags.without_sync().published()).to_string(),
            r#"{"zone":"b","nofailover":false,"clonefrom":true,"replicatefrom":"p2","failover_priority":2,"nosync":true,"rack":7,"sync_priority":0}"#
        );
    }

    #[test]
    fn contradictions_are_said_in_patronis_words() {
        let conflicts = |json: serde_json::Value| Tags::from_json(&json).conflicts();
        assert_eq!(
            conflicts(json!({"nofailover": true, "failover_priority": 1})),
            [
                "Conflicting configuration between nofailover: True and failover_priority: 1. \
              Defaulting to nofailover: True"
            ]
        );
        assert_eq!(
            conflicts(json!({"nosync": false, "sync_priority": 0})),
            [
                "Conflicting configuration between nosync: False and sync_priority: 0. Defaulting to nosync: False"
            ]
        );
        assert!(conflicts(json!({"nofailover": false, "failover_priority": 1})).is_empty());
        assert!(conflicts(json!({"nofailover": true, "failover_priority": 0})).is_empty());
        assert!(conflicts(json!({"nofailover": true})).is_empty());
    }
}
