//! The watched copy of the cluster's keys.
//!
//! Two layers: what the watch has told so far, and above it what the verbs' own answers have told sooner. The watch
//! takes an entry of the upper layer away when it has come as far.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::{Changes, Layout, Record, Snapshot};

/// What a verb's answer told about a key.
#[derive(Debug, Clone)]
struct Told {
    revision: i64,
    record: Option<Record>,
    /// This member made the change itself, so that it is no news.
    is_own: bool,
}

#[derive(Debug, Default)]
struct State {
    watched: Snapshot,
    told: BTreeMap<String, Told>,
    /// Why the copy is not being kept, if it is not.
    trouble: Option<String>,
}

/// The copy.
pub(crate) struct Cache {
    layout: Layout,
    state: Mutex<State>,
    is_ready: watch::Sender<bool>,
    changes: watch::Sender<Changes>,
}

impl Cache {
    pub(crate) fn new(layout: Layout) -> Self {
        let state = State {
            trouble: Some("the first read is under way".to_owned()),
            ..State::default()
        };
        Self {
            layout,
            state: Mutex::new(state),
            is_ready: watch::channel(false).0,
            changes: watch::channel(Changes::default()).0,
        }
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh read from which the watch goes on.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        let mut state = self.lock();
        // Revisions of different stores have nothing to do with each other.
        let is_same = state.watched.generation == snapshot.generation;
        let own: Vec<_> = state
            .told
            .iter()
            .filter(|(_, told)| is_same && told.is_own)
            .map(|(key, told)| (key.clone(), told.record.clone()))
            .collect();
        state
            .told
            .retain(|_, told| is_same && told.revision > snapshot.revision);
        let mut old = std::mem::replace(&mut state.watched, snapshot);
        let mut new = state.watched.clone();
        // What this member has written itself is no news, neither now nor when a later read shows it.
        for (key, record) in own {
            let is_later = state.told.contains_key(&key);
            for snapshot in std::iter::once(&mut old).chain(is_later.then_some(&mut new)) {
                match &record {
                    Some(record) => snapshot.records.insert(key.clone(), record.clone()),
                    None => snapshot.records.remove(&key),
                };
            }
        }
        let was_unknown = state.trouble.take().is_some();
        self.changes.send_if_modified(|changes| {
            let before = *changes;
            changes.note_all(&self.layout, &old, &new);
            // Who found the store unreachable looks again now, though nothing has changed in it.
            changes.leader += u64::from(was_unknown);
            *changes != before
        });
        drop(state);
        self.is_ready.send_replace(true);
    }

    /// The copy is no longer kept, until the next [`Cache::replace`].
    pub(crate) fn invalidate(&self, trouble: String) {
        self.lock().trouble = Some(trouble);
        self.is_ready.send_replace(false);
    }

    /// One change that the watch told.
    pub(crate) fn apply(&self, key: &str, revision: i64, record: Option<Record>) {
        self.apply_in(&mut self.lock(), key, revision, record);
    }

    /// Several changes that show together.
    pub(crate) fn apply_all(&self, changes: Vec<(String, i64, Option<Record>)>) {
        let mut state = self.lock();
        for (key, revision, record) in changes {
            self.apply_in(&mut state, &key, revision, record);
        }
    }

    fn apply_in(&self, state: &mut State, key: &str, revision: i64, record: Option<Record>) {
        if revision
            <= state
                .watched
                .records
                .get(key)
                .map_or(0, |known| known.mod_revision)
        {
            return;
        }
        let is_own = state
            .told
            .get(key)
            .is_some_and(|told| told.is_own && told.revision == revision);
        if state.told.get(key).is_some_and(|told| told.revision <= revision) {
            state.told.remove(key);
        }
        let old = match &record {
            Some(record) => state.watched.records.insert(key.to_owned(), record.clone()),
            None => state.watched.records.remove(key),
        };
        state.watched.revision = state.watched.revision.max(revision);
        if !is_own {
            self.changes.send_if_modified(|changes| {
                let before = *changes;
                changes.note(&self.layout, key, old.as_ref(), record.as_ref());
                *changes != before
            });
        }
    }

    /// What an answer told about a key at `revision`.
    pub(crate) fn tell(&self, key: &str, revision: i64, record: Option<Record>, is_own: bool) {
        let mut state = self.lock();
        let known = state
            .watched
            .records
            .get(key)
            .map_or(0, |known| known.mod_revision);
        let told = state.told.get(key).map_or(0, |told| told.revision);
        let is_known = record.is_some() && revision <= known || revision <= state.watched.revision;
        if revision > told && !is_known {
            state.told.insert(
                key.to_owned(),
                Told {
                    revision,
                    record,
                    is_own,
                },
            );
        }
    }

    /// One key, as far as is known; `None` when it is absent or nothing is known just now.
    pub(crate) fn get(&self, key: &str) -> Option<Record> {
        let state = self.lock();
        if state.trouble.is_some() {
            return None;
        }
        match state.told.get(key) {
            Some(told) => told.record.clone(),
            None => state.watched.records.get(key).cloned(),
        }
    }

    /// Whether a record that was read at `revision` was never in the store that the copy is of: it was last written before the copy's
    /// newest change, and the copy has another one. A copy that has gone on since the read says nothing. Revisions alone do not tell where a backup was restored with higher ones (`etcdutl snapshot restore
    /// --bump-revision`), or after the store had been wiped.
    pub(crate) fn contradicts(&self, generation: u64, revision: i64, key: &str, record: &Record) -> bool {
        let state = self.lock();
        let copy = &state.watched;
        copy.generation == generation
            && copy.revision <= revision
            && record.mod_revision < copy.revision
            && copy.records.get(key) != Some(record)
    }

    /// What the watch has told so far, if it is of this store.
    pub(crate) fn watched(&self, generation: u64) -> Option<Snapshot> {
        let state = self.lock();
        let is_of_it = state.watched.generation == generation;
        is_of_it.then(|| state.watched.clone())
    }

    /// A key that [`Cache::contradicts`].
    pub(crate) fn contradiction<'s>(&self, fresh: &'s Snapshot) -> Option<&'s str> {
        let mut records = fresh.records.iter();
        let found =
            records.find(|(key, record)| self.contradicts(fresh.generation, fresh.revision, key, record));
        found.map(|(key, _)| key.as_str())
    }

    /// All keys; waits until they are known, and says why they are not when `deadline` passes.
    pub(crate) async fn snapshot(&self, deadline: Instant) -> Result<Snapshot, String> {
        let mut is_ready = self.is_ready.subscribe();
        let _ = timeout_at(deadline, is_ready.wait_for(|ready| *ready)).await;
        let state = self.lock();
        if let Some(trouble) = &state.trouble {
            return Err(trouble.clone());
        }
        let mut snapshot = state.watched.clone();
        for (key, told) in &state.told {
            match &told.record {
                Some(record) => snapshot.records.insert(key.clone(), record.clone()),
                None => snapshot.records.remove(key),
            };
            snapshot.revision = snapshot.revision.max(told.revision);
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(value: &str, mod_revision: i64) -> Record {
        Record {
            value: value.to_owned(),
            mod_revision,
            lease: 0,
        }
    }

    fn cache() -> Cache {
        let cache = Cache::new(Layout::new("service", "a", None));
        let records = BTreeMap::from([("/service/a/leader".to_owned(), record("x", 5))]);
        cache.replace(Snapshot {
            revision: 5,
            generation: 0,
            records,
        });
        cache
    }

    const LEADER: &str = "/service/a/leader";

    #[test]
    fn own_writes_show_at_once_and_are_no_news() {
        let cache = cache();
        let before = *cache.changes().borrow();
        cache.tell(LEADER, 7, Some(record("y", 7)), true);
        assert_eq!(cache.get(LEADER).unwrap().value, "y");
        cache.apply(LEADER, 6, Some(record("z", 6)));
        assert_eq!(
            cache.get(LEADER).unwrap().value,
            "y",
            "an older event does not show"
        );
        assert_eq!(cache.changes().borrow().leader, before.leader + 1, "z was news");
        cache.apply(LEADER, 7, Some(record("y", 7)));
        assert_eq!(cache.changes().borrow().leader, before.leader + 1, "y was not");
        cache.tell(LEADER, 8, None, true);
        assert_eq!(cache.get(LEADER), None);
    }

    #[test]
    fn what_a_refused_write_told_is_still_news_when_the_watch_tells_it() {
        let cache = cache();
        let before = *cache.changes().borrow();
        cache.tell(LEADER, 6, Some(record("z", 6)), false);
        assert_eq!(cache.get(LEADER).unwrap().value, "z");
        cache.apply(LEADER, 6, Some(record("z", 6)));
        assert_eq!(cache.changes().borrow().leader, before.leader + 1);
    }

    #[test]
    fn a_store_that_is_back_is_news_though_nothing_has_changed_in_it() {
        let cache = cache();
        let before = *cache.changes().borrow();
        let snapshot = cache.lock().watched.clone();
        cache.replace(snapshot.clone());
        assert_eq!(*cache.changes().borrow(), before);
        cache.invalidate("test".to_owned());
        cache.replace(snapshot);
        assert_eq!(cache.changes().borrow().leader, before.leader + 1);
    }

    #[test]
    fn own_writes_are_no_news_in_a_fresh_read_either() {
        let cache = cache();
        let before = *cache.changes().borrow();
        cache.tell(LEADER, 7, Some(record("y", 7)), true);
        for (revision, value) in [(6, "x"), (7, "y"), (8, "z")] {
            let records = BTreeMap::from([(LEADER.to_owned(), record(value, revision))]);
            cache.replace(Snapshot {
                revision,
                generation: 0,
                records,
            });
            let is_news = u64::from(value == "z");
            assert_eq!(
                cache.changes().borrow().leader,
                before.leader + is_news,
                "{value}"
            );
        }
    }

    #[test]
    fn nothing_of_another_store_is_kept() {
        let cache = cache();
        cache.tell(LEADER, 9, Some(record("y", 9)), true);
        cache.replace(Snapshot {
            revision: 2,
            generation: 1,
            ..Snapshot::default()
        });
        assert_eq!(cache.get(LEADER), None);
        cache.tell(LEADER, 3, Some(record("z", 3)), true);
        assert_eq!(cache.get(LEADER).unwrap().value, "z");
    }

    #[test]
    fn a_record_of_another_store_contradicts_the_copy() {
        let cache = cache();
        cache.apply("/service/a/config", 9, Some(record("{}", 9)));
        let contradicts = |record: &Record| cache.contradicts(0, 12, LEADER, record);
        assert!(!contradicts(&record("x", 5)), "as it is known");
        assert!(contradicts(&record("y", 5)) && contradicts(&record("x", 4)) && contradicts(&record("x", 8)));
        assert!(
            !contradicts(&record("y", 9)) && !contradicts(&record("y", 10)),
            "the watch may not have told of it yet"
        );
        assert!(
            !cache.contradicts(1, 12, LEADER, &record("y", 5)),
            "the copy is of another store"
        );
        assert!(
            !cache.contradicts(0, 8, LEADER, &record("y", 5)),
            "the watch has told of a later change before the answer came"
        );
    }

    #[test]
    fn a_rebuilt_copy_does_not_lose_what_was_told_meanwhile() {
        let cache = cache();
        cache.invalidate("test".to_owned());
        assert_eq!(cache.get(LEADER), None);
        cache.tell(LEADER, 9, Some(record("y", 9)), true);
        cache.replace(Snapshot {
            revision: 8,
            ..Snapshot::default()
        });
        assert_eq!(cache.get(LEADER).unwrap().value, "y");
        cache.replace(Snapshot {
            revision: 10,
            ..Snapshot::default()
        });
        assert_eq!(cache.get(LEADER), None);
    }
}
