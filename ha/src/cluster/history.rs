//! The key `history`: `[[timeline, switch LSN, "reason", "timestamp", "new leader"], …]`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pg::{Lsn, Timeline};

/// The end of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where it was left.
    pub switch_lsn: Lsn,
    /// PostgreSQL's reason.
    pub reason: String,
    /// When, in ISO 8601 with the zone of the member that wrote it.
    pub timestamp: Option<String>,
    /// Who was promoted.
    pub new_leader: Option<String>,
}

/// All timelines that ended, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// The lines.
    pub lines: Vec<HistoryLine>,
}

impl History {
    /// Reads the key's value. Malformed JSON yields no lines, and so does a malformed line.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let lines = serde_json::from_str::<Vec<Value>>(text).unwrap_or_default();
        Self {
            lines: lines.iter().filter_map(Self::parse_line).collect(),
        }
    }

    fn parse_line(line: &Value) -> Option<HistoryLine> {
        let fields = line.as_array()?;
        let text = |index: usize| fields.get(index).and_then(Value::as_str).map(str::to_owned);
        Some(HistoryLine {
            timeline: Timeline(fields.first()?.as_u64()?.try_into().ok()?),
            switch_lsn: Lsn(fields.get(1)?.as_u64()?),
            reason: text(2).unwrap_or_default(),
            timestamp: text(3),
            new_leader: text(4),
        })
    }

    /// The key's value.
    #[must_use]
    pub fn to_json(&self) -> String {
        let line = |line: &HistoryLine| {
            let mut fields = vec![json!(line.timeline), json!(line.switch_lsn), json!(line.reason)];
            if let Some(timestamp) = &line.timestamp {
                fields.push(json!(timestamp));
                fields.extend(line.new_leader.as_ref().map(|name| json!(name)));
            }
            Value::Array(fields)
        };
        Value::Array(self.lines.iter().map(line).collect()).to_string()
    }

    /// How far the WAL of a member on this timeline goes that the cluster went on with. What it has beyond the point where the
    /// timeline was left is a branch of its own, and positions on it are not comparable with the cluster's: 1. the primary is
    /// suspended, 2. another member is promoted and takes writes, 3. the former one writes a record or switches to the next
    /// segment before it finds out. Its position may then be the highest of all.
    #[must_use]
    pub fn shared(&self, timeline: Timeline, position: Lsn) -> Lsn {
        // A list in another order was not written by a leader, and tells nothing.
        let is_sound = self
            .lines
            .is_sorted_by(|one, next| one.timeline < next.timeline && one.switch_lsn <= next.switch_lsn);
        let left = self.lines.iter().find(|line| line.timeline == timeline);
        left.filter(|_| is_sound)
            .map_or(position, |left| position.min(left.switch_lsn))
    }

    /// The timeline after the last one that ended; 1 when none has.
    #[must_use]
    pub fn next_timeline(&self) -> Timeline {
        self.lines
            .last()
            .map_or(Timeline(1), |line| Timeline(line.timeline.0.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_reads_what_it_prints() {
        let text =
            r#"[[1,83886528,"no recovery target specified"],[2,100,"x","2026-01-02T03:04:05+00:00","b"]]"#;
        let history = History::parse(text);
        assert_eq!(history.to_json(), text);
        assert_eq!(history.next_timeline(), Timeline(3));
        assert_eq!(History::parse("[]").next_timeline(), Timeline(1));
        assert_eq!(History::parse("broken"), History::default());
    }

    #[test]
    fn what_lies_beyond_the_end_of_a_timeline_does_not_count() {
        let history = History::parse(r#"[[1,100,"x"],[3,200,"x"]]"#);
        let shared = |timeline, position| history.shared(Timeline(timeline), Lsn(position));
        assert_eq!(shared(1, 99), Lsn(99));
        assert_eq!(shared(1, 900), Lsn(100));
        assert_eq!(shared(3, 900), Lsn(200));
        assert_eq!(shared(4, 900), Lsn(900));
        let nonsense = History::parse(r#"[[4,1,"x"],[1,100,"x"],[3,200,"x"]]"#);
        assert_eq!(nonsense.shared(Timeline(4), Lsn(900)), Lsn(900));
        // Nothing is known of where it was left.
        assert_eq!(shared(2, 900), Lsn(900));
    }
}
