//! The copies of pods and objects, and what they say as keys with versions.
//!
//! One object holds several keys. A key's version is the object's version in which this process first saw the key's present value, so
//! that a write to one key is no change of the others. A newer object replaces an older one, wherever it comes from.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::keys;
use super::lock;
use super::objects::{Object, Place, Revision, Which};
use crate::{Changes, Record, Snapshot};

/// A key as it is known.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) record: Record,
    identity: String,
    /// Since when, on our own clock.
    pub(super) since: Instant,
}

#[derive(Debug, Default)]
struct Collection {
    objects: BTreeMap<String, Object>,
    /// The newest version that was heard of.
    newest: i64,
    /// Why the copy is not being kept, if it is not.
    trouble: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    pods: Collection,
    objects: Collection,
    known: BTreeMap<String, Known>,
    generation: u64,
}

/// What a verb decides on: one object, and the keys.
pub(super) struct Facts<'a> {
    pub(super) object: Option<&'a Object>,
    pods: &'a BTreeMap<String, Object>,
    known: &'a BTreeMap<String, Known>,
}

impl<'a> Facts<'a> {
    pub(super) fn key(&self, path: &str) -> Option<&'a Known> {
        self.known.get(path)
    }

    pub(super) fn pod(&self, name: &str) -> Option<&'a Object> {
        self.pods.get(name)
    }

    #[cfg(test)]
    pub(super) fn of(
        object: &'a Object,
        pods: &'a BTreeMap<String, Object>,
        known: &'a BTreeMap<String, Known>,
    ) -> Self {
        Self {
            object: Some(object),
            pods,
            known,
        }
    }
}

/// The copies.
pub(super) struct Cache {
    place: Place,
    state: Mutex<State>,
    ttl: Mutex<Duration>,
    is_ready: watch::Sender<bool>,
    changes: watch::Sender<Changes>,
    /// The copies are to be listed again: pods, objects.
    again: [Notify; 2],
}

impl State {
    fn collection(&mut self, which: Which) -> &mut Collection {
        match which {
            Which::Pods => &mut self.pods,
            Which::Objects => &mut self.objects,
        }
    }

    fn is_ready(&self) -> bool {
        self.pods.trouble.is_none() && self.objects.trouble.is_none()
    }

    fn snapshot(&self) -> Snapshot {
        let records = self
            .known
            .iter()
            .map(|(path, known)| (path.clone(), known.record.clone()));
        Snapshot {
            revision: self.pods.newest.max(self.objects.newest),
            generation: self.generation,
            records: records.collect(),
        }
    }

    fn read_keys(&mut self, place: &Place, ttl: Duration) {
        let now = Instant::now();
        let mut former = std::mem::take(&mut self.known);
        for item in keys::read(place, ttl, &self.objects.objects, &self.pods.objects) {
            let kept = former
                .remove(&item.path)
                .filter(|known| known.identity == item.identity);
            let known = kept.unwrap_or(Known {
                record: Record {
                    value: item.value,
                    mod_revision: item.revision,
                    lease: item.session,
                },
                identity: item.identity,
                since: now,
            });
            self.known.insert(item.path, known);
        }
    }
}

impl Cache {
    pub(super) fn new(place: Place, ttl: Duration) -> Self {
        let mut state = State::default();
        for which in [Which::Pods, Which::Objects] {
            state.collection(which).trouble = Some("the first read is under way".to_owned());
        }
        Self {
            place,
            state: Mutex::new(state),
            ttl: Mutex::new(ttl),
            is_ready: watch::channel(false).0,
            changes: watch::channel(Changes::default()).0,
            again: [Notify::new(), Notify::new()],
        }
    }

    pub(super) fn set_ttl(&self, ttl: Duration) {
        *lock(&self.ttl) = ttl;
    }

    pub(super) fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.subscribe()
    }

    /// When the copy is to be listed again.
    pub(super) async fn list_is_wanted(&self, which: Which) {
        self.again(which).notified().await;
    }

    pub(super) fn list_again(&self) {
        for again in &self.again {
            again.notify_one();
        }
    }

    fn again(&self, which: Which) -> &Notify {
        let [pods, objects] = &self.again;
        match which {
            Which::Pods => pods,
            Which::Objects => objects,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        lock(&self.state).generation
    }

    /// The newest version that was heard of.
    pub(super) fn newest(&self, which: Which) -> i64 {
        lock(&self.state).collection(which).newest
    }

    pub(super) fn is_kept(&self, which: Which) -> bool {
        lock(&self.state).collection(which).trouble.is_none()
    }

    /// Changes the copies and reads the keys again. `is_news`: whether those who wait for changes hear of it.
    fn change(&self, is_news: bool, change: impl FnOnce(&mut State) -> bool) {
        let mut state = lock(&self.state);
        let (old, was_ready) = (state.snapshot(), state.is_ready());
        if !change(&mut state) {
            return;
        }
        state.read_keys(&self.place, *lock(&self.ttl));
        let is_back = state.is_ready() && !was_ready;
        if is_news {
            let new = state.snapshot();
            self.changes.send_if_modified(|changes| {
                let before = *changes;
                changes.note_all(&self.place.layout, &old, &new);
                // Who found the store unreachable looks again now, though nothing has changed in it.
                changes.leader += u64::from(is_back);
                *changes != before
            });
        }
        self.is_ready.send_replace(state.is_ready());
    }

    /// A fresh list at version `revision`. `asked_at`: the newest version that was known when it was asked for. A list is read from
    /// a quorum, so one that is older than that comes from another store.
    pub(super) fn replace(&self, which: Which, list: Vec<Object>, revision: &Revision, asked_at: i64) {
        self.change(true, |state| {
            // Where the other collection has found that out already it is not counted again.
            let is_other = revision.number < asked_at && state.collection(which).newest >= asked_at;
            if is_other {
                tracing::warn!(
                    "the Kubernetes API is at version {} of its data, after version {asked_at}: its store was restored or is \
                     another one",
                    revision.text
                );
                state.generation += 1;
                state.known.clear();
                (state.pods.newest, state.objects.newest) = (0, 0);
                // What the other copy holds is the former store's, with versions that look newer than any of this one.
                let other = which.other();
                let copy = state.collection(other);
                copy.objects.clear();
                copy.trouble = Some("another store answers than before".to_owned());
                self.again(other).notify_one();
            }
            let collection = state.collection(which);
            let told = std::mem::take(&mut collection.objects);
            collection.objects = list.into_iter().map(|object| (object.name.clone(), object)).collect();
            for (name, object) in told.into_iter().filter(|_| !is_other) {
                // Written by us while the list was on its way.
                if object.revision.is_after(revision) && object.revision.number > revision.number {
                    collection.objects.insert(name, object);
                }
            }
            collection.newest = collection.newest.max(revision.number);
            collection.trouble = None;
            true
        });
    }

    /// The copy is no longer kept, until the next [`Cache::replace`].
    pub(super) fn invalidate(&self, which: Which, trouble: String) {
        lock(&self.state).collection(which).trouble = Some(trouble);
        self.is_ready.send_replace(false);
    }

    /// An object as the watch or an answer has it; an older one than is known changes nothing. `is_own`: we have written it, and it
    /// is no news.
    pub(super) fn tell(&self, which: Which, object: Object, is_own: bool) {
        self.change(!is_own, |state| {
            let collection = state.collection(which);
            let known = collection.objects.get(&object.name);
            if known.is_some_and(|known| !object.revision.is_after(&known.revision)) {
                return false;
            }
            collection.newest = collection.newest.max(object.revision.number);
            collection.objects.insert(object.name.clone(), object);
            true
        });
    }

    /// An object was deleted, in this version if it is known.
    pub(super) fn tell_deleted(&self, which: Which, name: &str, revision: Option<&Revision>, is_own: bool) {
        self.change(!is_own, |state| {
            let collection = state.collection(which);
            let known = collection.objects.get(name);
            let is_newer = known
                .is_some_and(|known| revision.is_some_and(|revision| revision.is_before(&known.revision)));
            if let Some(revision) = revision {
                collection.newest = collection.newest.max(revision.number);
            }
            !is_newer && collection.objects.remove(name).is_some()
        });
    }

    /// Decides on an object as it is known.
    pub(super) fn decide<T>(&self, which: Which, name: &str, decide: impl FnOnce(&Facts<'_>) -> T) -> T {
        let state = lock(&self.state);
        let collection = match which {
            Which::Pods => &state.pods,
            Which::Objects => &state.objects,
        };
        decide(&Facts {
            object: collection.objects.get(name),
            pods: &state.pods.objects,
            known: &state.known,
        })
    }

    /// One key as it is known.
    pub(super) fn key(&self, path: &str) -> Option<Known> {
        lock(&self.state).known.get(path).cloned()
    }

    /// The keys as they are known, however old that is.
    pub(super) fn known(&self) -> Snapshot {
        lock(&self.state).snapshot()
    }

    /// All keys; waits until they are known, and says why they are not when `deadline` passes.
    pub(super) async fn snapshot(&self, deadline: Instant) -> Result<Snapshot, String> {
        let mut is_ready = self.is_ready.subscribe();
        let _ = timeout_at(deadline, is_ready.wait_for(|ready| *ready)).await;
        let state = lock(&self.state);
        let trouble = state.objects.trouble.as_ref().or(state.pods.trouble.as_ref());
        match trouble {
            Some(trouble) => Err(trouble.clone()),
            None => Ok(state.snapshot()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Layout;

    fn object(name: &str, revision: &str, annotations: &serde_json::Value) -> Object {
        Object::parse(
            &json!({"metadata": {"name": name, "resourceVersion": revision, "annotations": annotations}}),
        )
        .unwrap()
    }

    fn cache() -> Cache {
        let place = Place::new(
            &super::super::tests::config(),
            Layout::new("service", "demo", None),
        );
        let cache = Cache::new(place, Duration::from_secs(30));
        cache.replace(Which::Pods, Vec::new(), &Revision::new("5"), 0);
        let config = object("demo-config", "5", &json!({"config": "{}", "initialize": "1"}));
        cache.replace(Which::Objects, vec![config], &Revision::new("5"), 0);
        cache
    }

    fn version(cache: &Cache, key: &str) -> Option<i64> {
        cache
            .key(&format!("/service/demo/{key}"))
            .map(|known| known.record.mod_revision)
    }

    #[test]
    fn a_key_has_the_version_in_which_its_value_was_first_seen() {
        let cache = cache();
        cache.tell(
            Which::Objects,
            object("demo-config", "8", &json!({"config": "{}", "initialize": "2"})),
            false,
        );
        assert_eq!(
            (version(&cache, "config"), version(&cache, "initialize")),
            (Some(5), Some(8))
        );
        cache.tell(
            Which::Objects,
            object("demo-config", "7", &json!({"initialize": "x"})),
            false,
        );
        assert_eq!(
            version(&cache, "initialize"),
            Some(8),
            "an older event changes nothing"
        );
        cache.tell_deleted(Which::Objects, "demo-config", Some(&Revision::new("6")), false);
        assert_eq!(version(&cache, "config"), Some(5), "an older deletion neither");
        cache.tell_deleted(Which::Objects, "demo-config", Some(&Revision::new("9")), false);
        assert_eq!(version(&cache, "config"), None);
    }

    #[test]
    fn own_writes_are_no_news_and_survive_an_older_list() {
        let cache = cache();
        let before = *cache.changes().borrow();
        let own = object("demo-config", "9", &json!({"config": "{\"ttl\":1}"}));
        cache.tell(Which::Objects, own.clone(), true);
        cache.tell(Which::Objects, own, false);
        assert_eq!(*cache.changes().borrow(), before);
        cache.replace(Which::Objects, Vec::new(), &Revision::new("8"), 5);
        assert_eq!((version(&cache, "config"), cache.generation()), (Some(9), 0));
        cache.replace(Which::Objects, Vec::new(), &Revision::new("10"), 9);
        assert_eq!(version(&cache, "config"), None);
    }

    #[test]
    fn a_list_from_the_past_is_another_stores() {
        let cache = cache();
        let config = object("demo-config", "3", &json!({"config": "{}"}));
        cache.replace(Which::Objects, vec![config], &Revision::new("3"), 5);
        assert_eq!((version(&cache, "config"), cache.generation()), (Some(3), 1));
        // This list was asked for before that was found out.
        cache.replace(Which::Pods, Vec::new(), &Revision::new("4"), 5);
        assert_eq!(cache.generation(), 1, "counted once");
    }

    #[tokio::test]
    async fn nothing_of_the_former_store_is_shown_beside_another_one() {
        let cache = cache();
        cache.replace(Which::Pods, Vec::new(), &Revision::new("3"), 5);
        assert_eq!(version(&cache, "config"), None);
        let trouble = cache.snapshot(Instant::now()).await.unwrap_err();
        assert_eq!(trouble, "another store answers than before");
        cache.list_is_wanted(Which::Objects).await;
        cache.replace(Which::Objects, Vec::new(), &Revision::new("4"), 5);
        assert!(cache.snapshot(Instant::now()).await.unwrap().records.is_empty());
        assert_eq!(cache.generation(), 1, "counted once");
    }

    #[tokio::test]
    async fn a_copy_that_is_not_kept_is_not_shown() {
        let cache = cache();
        let before = *cache.changes().borrow();
        assert!(cache.snapshot(Instant::now()).await.is_ok());
        cache.invalidate(Which::Pods, "test".into());
        assert_eq!(cache.snapshot(Instant::now()).await.unwrap_err(), "test");
        cache.replace(Which::Pods, Vec::new(), &Revision::new("5"), 5);
        assert_eq!(
            cache.changes().borrow().leader,
            before.leader + 1,
            "a store that is back is news"
        );
    }
}
