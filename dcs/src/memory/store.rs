//! The store itself: keys with revisions, leases, transactions and a bounded history of events. It has no clock: time
//! is what [`Store::advance`] was last told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::{Compare, Op, OpResult, Record, Snapshot, Txn, TxnResult};

/// How many events are kept for those who watch.
const HISTORY: usize = 4096;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The revision of the change.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// Its new record; `None` if it was deleted.
    pub record: Option<Record>,
}

#[derive(Debug, Clone)]
struct Lease {
    ttl: Duration,
    expires: Duration,
}

/// Why the store does not do what it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is full, as an etcd with the alarm NOSPACE: leases are kept alive and revoked, keys are read and deleted, but
    /// nothing is written and no lease is granted.
    #[error("etcdserver: mvcc: database space exceeded")]
    Full,
    /// Its members may only read: nothing is written or deleted.
    #[error("etcdserver: permission denied")]
    ReadOnly,
    /// The member key is another agent's.
    #[error("there is already a node with this name running")]
    NameTaken,
}

/// The store.
#[derive(Debug, Clone, Default)]
pub struct Store {
    refuses: Option<Refused>,
    generation: u64,
    now: Duration,
    revision: i64,
    records: BTreeMap<String, Record>,
    leases: BTreeMap<i64, Lease>,
    last_lease: i64,
    events: VecDeque<Event>,
}

impl Store {
    /// An empty store at time zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The time that the store was last told.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The revision of the last change.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Lets time pass up to `now` (it never goes back) and deletes what was bound to leases that ran out.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let due = |lease: &Lease| lease.expires <= self.now;
        let dead: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, lease)| due(lease))
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            self.revoke(id);
        }
    }

    /// When the next lease runs out, if nobody prolongs it.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.expires).min()
    }

    /// From now on the store refuses writes, or no longer.
    pub fn refuse(&mut self, why: Option<Refused>) {
        self.refuses = why;
    }

    /// Whether the store refuses writes.
    #[must_use]
    pub fn refuses(&self) -> Option<Refused> {
        self.refuses
    }

    /// As after an empty start or a restore from a backup at the same address: keys and leases are those of `backup`, whose
    /// leases get their full time, and nothing is known of what was done since.
    pub fn restore(&mut self, backup: &Self) {
        let (now, refuses, generation) = (self.now, self.refuses, self.generation + 1);
        // As with etcd, whose IDs are random, no lease gets an ID that another one had in the store before.
        let last_lease = self.last_lease.max(backup.last_lease);
        *self = Self {
            now,
            refuses,
            generation,
            last_lease,
            ..backup.clone()
        };
        for lease in self.leases.values_mut() {
            lease.expires = now + lease.ttl;
        }
    }

    /// Which store this is: goes up with each [`Store::restore`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A new lease.
    ///
    /// # Errors
    /// The store is full.
    pub fn grant(&mut self, ttl: Duration) -> Result<i64, Refused> {
        if self.refuses == Some(Refused::Full) {
            return Err(Refused::Full);
        }
        self.last_lease += 1;
        self.leases.insert(
            self.last_lease,
            Lease {
                ttl,
                expires: self.now + ttl,
            },
        );
        Ok(self.last_lease)
    }

    /// Prolongs a lease to its full length; `false` if it is gone.
    pub fn keep_alive(&mut self, lease: i64) -> bool {
        let now = self.now;
        let lease = self.leases.get_mut(&lease);
        lease.map(|lease| lease.expires = now + lease.ttl).is_some()
    }

    /// Ends a lease and deletes the keys bound to it; `false` if it was gone.
    pub fn revoke(&mut self, lease: i64) -> bool {
        if self.leases.remove(&lease).is_none() {
            return false;
        }
        let bound = self.records.iter().filter(|(_, record)| record.lease == lease);
        let bound: Vec<String> = bound.map(|(key, _)| key.clone()).collect();
        if !bound.is_empty() {
            self.revision += 1;
            for key in bound {
                self.remove(key);
            }
        }
        true
    }

    /// Whether a lease lives.
    #[must_use]
    pub fn has_lease(&self, lease: i64) -> bool {
        self.leases.contains_key(&lease)
    }

    /// One key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Record> {
        self.records.get(key)
    }

    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn range(&self, prefix: &str) -> Snapshot {
        let records = self.records.range(prefix.to_owned()..);
        let records = records.take_while(|(key, _)| key.starts_with(prefix));
        Snapshot {
            revision: self.revision,
            generation: self.generation,
            records: records
                .map(|(key, record)| (key.clone(), record.clone()))
                .collect(),
        }
    }

    /// Deletes all keys that begin with `prefix`; how many there were.
    pub fn delete_range(&mut self, prefix: &str) -> usize {
        let keys: Vec<String> = self.range(prefix).records.into_keys().collect();
        if !keys.is_empty() {
            self.revision += 1;
        }
        let count = keys.len();
        for key in keys {
            self.remove(key);
        }
        count
    }

    /// As [`Store::txn`], as a member whose writes the store may refuse.
    ///
    /// # Errors
    /// The store refuses writes and the transaction, on either side, is one.
    pub fn write(&mut self, txn: &Txn) -> Result<Option<TxnResult>, Refused> {
        match self.refuses {
            Some(why) if may_write(txn, why != Refused::Full) => Err(why),
            Some(_) | None => Ok(self.txn(txn)),
        }
    }

    /// Carries a transaction out. `None`, and nothing done, if it binds a key to a lease that does not live.
    pub fn txn(&mut self, txn: &Txn) -> Option<TxnResult> {
        let mut chosen = Vec::new();
        self.choose(txn, &mut chosen);
        let is_bound =
            |op: &&Op| matches!(op, Op::Put { lease, .. } if *lease != 0 && !self.has_lease(*lease));
        if chosen.iter().any(is_bound) {
            return None;
        }
        let writes = chosen.iter().any(|op| match op {
            Op::Put { .. } => true,
            Op::Delete(key) => self.records.contains_key(key),
            Op::Get(_) | Op::Txn(_) => false,
        });
        if writes {
            self.revision += 1;
        }
        Some(self.apply(txn))
    }

    /// The events below `prefix` after `revision`; `None` if some of them are no longer kept.
    #[must_use]
    pub fn events_after(&self, prefix: &str, revision: i64) -> Option<Vec<Event>> {
        if self.events.len() == HISTORY && self.events.front()?.revision > revision + 1 {
            return None;
        }
        let new = self.events.iter().filter(|event| event.revision > revision);
        Some(
            new.filter(|event| event.key.starts_with(prefix))
                .cloned()
                .collect(),
        )
    }

    /// The operations that will be done, inner transactions included: etcd evaluates all guards before any write.
    fn choose<'a>(&self, txn: &'a Txn, chosen: &mut Vec<&'a Op>) {
        for op in self.side(txn) {
            match op {
                Op::Txn(inner) => self.choose(inner, chosen),
                Op::Put { .. } | Op::Delete(_) | Op::Get(_) => chosen.push(op),
            }
        }
    }

    fn side<'a>(&self, txn: &'a Txn) -> &'a [Op] {
        if txn.compare.iter().all(|compare| self.holds(compare)) {
            &txn.then
        } else {
            &txn.otherwise
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.records.contains_key(key),
            Compare::Value(key, value) => self.get(key).is_some_and(|record| record.value == *value),
            Compare::ModRevision(key, revision) => {
                self.get(key).map_or(0, |record| record.mod_revision) == *revision
            }
            Compare::Lease(key, lease) => self.get(key).is_some_and(|record| record.lease == *lease),
        }
    }

    fn apply(&mut self, txn: &Txn) -> TxnResult {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let results = ops.iter().map(|op| self.apply_op(op)).collect();
        TxnResult {
            succeeded,
            revision: self.revision,
            results,
        }
    }

    fn apply_op(&mut self, op: &Op) -> OpResult {
        match op {
            Op::Put { key, value, lease } => {
                let record = Record {
                    value: value.clone(),
                    mod_revision: self.revision,
                    lease: *lease,
                };
                self.records.insert(key.clone(), record.clone());
                self.log(key.clone(), Some(record));
                OpResult::Put
            }
            Op::Delete(key) => OpResult::Delete(i64::from(self.remove(key.clone()))),
            Op::Get(key) => OpResult::Get(self.get(key).cloned()),
            Op::Txn(inner) => OpResult::Txn(self.apply(inner)),
        }
    }

    fn remove(&mut self, key: String) -> bool {
        let was_there = self.records.remove(&key).is_some();
        if was_there {
            self.log(key, None);
        }
        was_there
    }

    fn log(&mut self, key: String, record: Option<Record>) {
        if self.events.len() == HISTORY {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            revision: self.revision,
            key,
            record,
        });
    }
}

/// Whether a transaction writes, or deletes if that counts. etcd looks at both sides.
fn may_write(txn: &Txn, deletions_count: bool) -> bool {
    txn.then.iter().chain(&txn.otherwise).any(|op| match op {
        Op::Put { .. } => true,
        Op::Delete(_) => deletions_count,
        Op::Get(_) => false,
        Op::Txn(inner) => may_write(inner, deletions_count),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str, lease: i64) -> Txn {
        Txn {
            then: vec![Op::Put {
                key: key.into(),
                value: value.into(),
                lease,
            }],
            ..Txn::default()
        }
    }

    #[test]
    fn a_lease_takes_its_keys_along() {
        let mut store = Store::new();
        let lease = store.grant(Duration::from_secs(3)).unwrap();
        assert!(store.txn(&put("/a/leader", "x", lease)).is_some());
        store.advance(Duration::from_secs(2));
        assert!(store.keep_alive(lease));
        store.advance(Duration::from_millis(4999));
        assert!(store.get("/a/leader").is_some());
        store.advance(Duration::from_secs(5));
        assert!(store.get("/a/leader").is_none() && !store.keep_alive(lease));
        assert!(
            store.txn(&put("/a/leader", "x", lease)).is_none(),
            "bound to a dead lease"
        );
        let events = store.events_after("/a/", 1).unwrap();
        assert_eq!(
            events,
            [Event {
                revision: 2,
                key: "/a/leader".into(),
                record: None
            }]
        );
    }

    #[test]
    fn a_guard_is_judged_before_any_write() {
        let mut store = Store::new();
        let create = Txn {
            compare: vec![Compare::Absent("k".into())],
            ..put("k", "1", 0)
        };
        assert!(store.txn(&create).unwrap().succeeded);
        let again = store.txn(&create).unwrap();
        assert!(!again.succeeded && again.revision == 1);
        let change = Txn {
            compare: vec![Compare::ModRevision("k".into(), 1)],
            ..put("k", "2", 0)
        };
        assert!(store.txn(&change).unwrap().succeeded);
        assert!(!store.txn(&change).unwrap().succeeded);
        assert_eq!(store.get("k").unwrap().value, "2");
    }
}
