//! What a standby gets beyond PostgreSQL's own defaults, unless somebody has set it: a connection that is dead is noticed
//! within the time that a leader's lease lasts, and a new one is tried at once.

use std::collections::BTreeMap;
use std::time::Duration;

/// Settings that give way to the user's, in whatever file those stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyDefaults {
    /// Parameters for postgresql.conf, by name (PostgreSQL manual, "Standby Servers").
    pub parameters: BTreeMap<String, String>,
    /// libpq's keywords for `primary_conninfo` (PostgreSQL manual, "Parameter Key Words").
    pub connection: BTreeMap<String, String>,
}

/// Below that a loaded machine would lose good connections.
const SHORTEST: Duration = Duration::from_secs(3);

/// PostgreSQL's own `wal_receiver_timeout`.
const LONGEST: Duration = Duration::from_secs(60);

impl StandbyDefaults {
    /// Those that follow from `ttl`: a third of it, so that a standby whose source has vanished is looking for the next
    /// one when the race for the leader key begins.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let timeout = (ttl / 3).clamp(SHORTEST, LONGEST);
        let seconds = timeout.as_secs();
        let map = |pairs: [(&str, String); 2]| pairs.map(|(name, value)| (name.to_owned(), value));
        let mut connection = BTreeMap::from(map([
            ("tcp_user_timeout", (seconds * 1000).to_string()),
            ("keepalives_idle", (seconds / 2).to_string()),
        ]));
        // Two probes more: half of the time and twice a quarter.
        connection.extend(map([
            ("keepalives_interval", (seconds / 4).max(1).to_string()),
            ("keepalives_count", "2".to_owned()),
        ]));
        Self {
            parameters: BTreeMap::from(map([
                ("wal_receiver_timeout", format!("{seconds}s")),
                // After the end of the WAL receiver the startup process sleeps so long and may not notice a promotion.
                ("wal_retrieve_retry_interval", "100ms".to_owned()),
            ])),
            connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_follow_from_ttl() {
        for (ttl, receiver, user, idle, interval) in [
            (3, "3s", "3000", "1", "1"),
            (9, "3s", "3000", "1", "1"),
            (20, "6s", "6000", "3", "1"),
            (30, "10s", "10000", "5", "2"),
            (300, "60s", "60000", "30", "15"),
        ] {
            let defaults = StandbyDefaults::new(Duration::from_secs(ttl));
            assert_eq!(defaults.parameters["wal_receiver_timeout"], receiver, "{ttl}");
            assert_eq!(defaults.parameters["wal_retrieve_retry_interval"], "100ms");
            assert_eq!(defaults.connection["tcp_user_timeout"], user, "{ttl}");
            assert_eq!(defaults.connection["keepalives_idle"], idle, "{ttl}");
            assert_eq!(defaults.connection["keepalives_interval"], interval, "{ttl}");
            assert_eq!(defaults.connection["keepalives_count"], "2");
        }
    }
}
