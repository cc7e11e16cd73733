//! The key `status`: `{"optime":…,"slots":{…},"retain_slots":[…]}`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::pg::{Lsn, SlotName};

const FINAL: &str = "shutdown_checkpoint";

/// What the leader last published about its position and its slots.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The leader's flush position; `None` when nobody has published one.
    pub optime: Option<Lsn>,
    /// Positions of slots: `confirmed_flush` of logical ones, `restart_lsn` of physical ones.
    pub slots: Option<BTreeMap<SlotName, Lsn>>,
    /// Slots of members that are to be kept although the member is away.
    pub retain_slots: Option<Vec<SlotName>>,
    /// The leader was stopped in an orderly way, and its shutdown checkpoint begins at `optime`: no WAL comes after it.
    /// Not in Patroni.
    #[serde(default)]
    pub is_final: bool,
}

impl Status {
    /// Reads the key's value; also the bare number of Patroni's older key `optime/leader`, and string-encoded parts.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let parsed: Value = serde_json::from_str(text).unwrap_or_default();
        let Value::Object(object) = &parsed else {
            return Self {
                optime: number(&parsed),
                ..Self::default()
            };
        };
        let decoded = |key: &str| match object.get(key) {
            Some(Value::String(text)) => serde_json::from_str(text).unwrap_or_default(),
            other => other.cloned().unwrap_or_default(),
        };
        let slots = decoded("slots").as_object().map(|slots| {
            slots
                .iter()
                .filter_map(|(name, lsn)| Some((SlotName(name.clone()), number(lsn)?)))
                .collect()
        });
        let retain_slots = decoded("retain_slots").as_array().map(|names| {
            names
                .iter()
                .filter_map(|name| Some(SlotName(name.as_str()?.to_owned())))
                .collect()
        });
        Self {
            optime: object.get("optime").and_then(number),
            slots,
            retain_slots,
            is_final: object.get(FINAL) == Some(&Value::Bool(true)),
        }
    }

    /// The key's value: parts that are not known are left out.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        object.insert("optime".to_owned(), json!(self.optime.unwrap_or_default()));
        if let Some(slots) = self.slots.as_ref().filter(|slots| !slots.is_empty()) {
            let slots = slots
                .iter()
                .map(|(name, lsn)| (name.0.clone(), json!(lsn)))
                .collect::<Map<_, _>>();
            object.insert("slots".to_owned(), Value::Object(slots));
        }
        if let Some(names) = self.retain_slots.as_ref().filter(|names| !names.is_empty()) {
            object.insert("retain_slots".to_owned(), json!(names));
        }
        if self.is_final {
            object.insert(FINAL.to_owned(), json!(true));
        }
        Value::Object(object).to_string()
    }
}

/// A position that PostgreSQL can have written. Half of the range would take it longer than anybody lives.
fn number(value: &Value) -> Option<Lsn> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    i64::try_from(number).is_ok().then_some(Lsn(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_position_is_unknown() {
        for bad in ["-1", "9223372036854775808", "1e300", "1.5", "\"x\"", "null", "[]"] {
            let status = Status::parse(&format!(r#"{{"optime":{bad},"slots":{{"a":{bad},"b":7}}}}"#));
            assert_eq!(status.optime, None, "{bad}");
            assert_eq!(status.slots.map(|slots| slots.len()), Some(1), "{bad}");
        }
    }

    #[test]
    fn status_reads_what_it_prints() {
        let text = r#"{"optime":67108968,"slots":{"b":67108968},"retain_slots":["b","c"]}"#;
        assert_eq!(Status::parse(text).to_json(), text);
        let text = r#"{"optime":67108968,"shutdown_checkpoint":true}"#;
        assert!(Status::parse(text).is_final);
        assert_eq!(Status::parse(text).to_json(), text);
        assert_eq!(Status::parse("67108968").optime, Some(Lsn(67_108_968)));
        assert_eq!(Status::parse("nonsense"), Status::default());
    }

    #[test]
    fn string_encoded_parts_are_read() {
        let status = Status::parse(r#"{"optime":"5","slots":"{\"a\":7}","retain_slots":"[\"a\"]"}"#);
        assert_eq!(status.optime, Some(Lsn(5)));
        assert_eq!(
            status
                .slots
                .and_then(|slots| slots.get(&SlotName("a".into())).copied()),
            Some(Lsn(7))
        );
        assert_eq!(status.retain_slots, Some(vec![SlotName("a".into())]));
    }
}
