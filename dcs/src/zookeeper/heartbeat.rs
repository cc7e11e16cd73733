//! When the newest heartbeat became known, on the own clock.
//!
//! ZooKeeper may delete the leader key while its holder counts on the lock. A follower answers a renewal and tells ZooKeeper's leader only
//! with its next ping (half a tick later) that the session lives; a follower that is cut off in between tells nothing, and the session
//! ends by the renewal before. It also ends sooner than `ttl` where `maxSessionTimeout` is less. So a key that is gone is free only once
//! the last heartbeat is as old as its `ttl`, or was withdrawn by a release.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::connection::lock;

#[derive(Debug, Default)]
pub(super) struct Heartbeats(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    /// Versions of different stores have nothing to do with each other.
    generation: u64,
    known: Option<(i64, Instant)>,
}

impl Heartbeats {
    /// The heartbeat is, or was a moment ago, in this version.
    pub(super) fn saw(&self, generation: u64, version: i64) {
        self.saw_at(generation, version, Instant::now());
    }

    fn saw_at(&self, generation: u64, version: i64, now: Instant) -> Option<(i64, Instant)> {
        let mut newest = lock(&self.0);
        let is_news =
            newest.generation != generation || newest.known.is_none_or(|(known, _)| version > known);
        if is_news {
            *newest = Newest {
                generation,
                known: Some((version, now)),
            };
        }
        newest.known
    }

    /// Whether the lock of a heartbeat in this version is over: it was known for `ttl`, and a fiftieth more for clocks that differ.
    pub(super) fn is_over(&self, generation: u64, version: i64, ttl: Duration) -> bool {
        self.is_over_at(generation, version, ttl, Instant::now())
    }

    fn is_over_at(&self, generation: u64, version: i64, ttl: Duration, now: Instant) -> bool {
        self.saw_at(generation, version, now)
            .is_some_and(|(known, since)| known == version && now.duration_since(since) >= ttl + ttl / 50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_over_when_it_was_known_for_its_ttl() {
        let (heartbeats, ttl, begun) = (Heartbeats::default(), Duration::from_secs(10), Instant::now());
        assert!(!heartbeats.is_over_at(0, 5, ttl, begun));
        assert!(
            !heartbeats.is_over_at(0, 5, ttl, begun + ttl),
            "clocks differ a little"
        );
        let later = begun + ttl + ttl / 50;
        heartbeats.saw_at(0, 4, later);
        assert!(
            heartbeats.is_over_at(0, 5, ttl, later),
            "a server that is behind changes nothing"
        );
        assert!(!heartbeats.is_over_at(0, 6, ttl, later), "a newer one");
        assert!(!heartbeats.is_over_at(0, 5, ttl, later), "there was a newer one");
        assert!(!heartbeats.is_over_at(1, 3, ttl, later), "another store");
    }
}
