//! How far the copy is that a member is being made from, as its REST API tells it.

use serde_json::Value;

/// The sizes are in bytes. What is not known is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CopyProgress {
    /// What is there.
    pub(crate) bytes: u64,
    /// What there will be.
    pub(crate) total_bytes: Option<u64>,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) seconds_left: Option<u64>,
}

impl CopyProgress {
    /// From a member's status document; `None` while no copy is made, and from members of Patroni always.
    pub(crate) fn read(document: &Value) -> Option<Self> {
        let clone = document.get("tamada_clone")?;
        let number = |key: &str| clone.get(key).and_then(Value::as_u64);
        Some(Self {
            bytes: number("bytes")?,
            total_bytes: number("total_bytes"),
            bytes_per_second: number("bytes_per_second"),
            seconds_left: number("seconds_left"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::CopyProgress;

    #[test]
    fn what_a_member_does_not_know_is_not_there() {
        let some = json!({"tamada_clone": {"bytes": 7, "total_bytes": null, "bytes_per_second": 0}});
        let progress = CopyProgress {
            bytes: 7,
            total_bytes: None,
            bytes_per_second: Some(0),
            seconds_left: None,
        };
        assert_eq!(CopyProgress::read(&some), Some(progress));
        assert_eq!(CopyProgress::read(&json!({"state": "running"})), None);
    }
}
