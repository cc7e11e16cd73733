//! [`Dcs`] on a shared [`Store`], with a real or a given clock and a switch that makes the store unreachable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ha::cluster::{Cluster, Expired, Version};
use tokio::sync::{Notify, watch};

use super::{Refused, Session, Store};
use crate::{
    Changes, Dcs, Error, Expect, Failure, Identity, Key, Layout, Renewed, Snapshot, Timing, WhenGone,
};

/// A store that several members of one process share, and its clock.
#[derive(Clone)]
pub struct SharedStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    /// The time of the next expiry may have changed.
    rescheduled: Notify,
}

#[derive(Default)]
struct State {
    store: Store,
    watchers: Vec<Watcher>,
}

struct Watcher {
    layout: Layout,
    is_reachable: Arc<AtomicBool>,
    seen: Snapshot,
    changes: watch::Sender<Changes>,
}

impl SharedStore {
    /// An empty store on the real clock. Leases run out by themselves, in a task of the present tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        let start = Instant::now();
        let shared = Self::with_clock(move || start.elapsed());
        tokio::spawn(expire(Arc::downgrade(&shared.0)));
        shared
    }

    /// An empty store whose time is what `clock` says. Leases run out when a verb or [`SharedStore::tick`] looks.
    #[must_use]
    pub fn with_clock(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let (state, clock) = (Mutex::default(), Box::new(clock));
        Self(Arc::new(Shared {
            state,
            clock,
            rescheduled: Notify::new(),
        }))
    }

    /// Lets leases run out whose time has come, and tells those who watch.
    pub fn tick(&self) {
        self.0.with(|_| ());
    }

    /// Works on the store directly, as a foreign writer would.
    pub fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        self.0.with(work)
    }
}

impl Default for SharedStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.lock();
        state.store.advance((self.clock)());
        let result = work(&mut state.store);
        state.tell();
        self.rescheduled.notify_one();
        result
    }
}

impl State {
    fn tell(&mut self) {
        let store = &self.store;
        self.watchers
            .retain(|watcher| watcher.changes.receiver_count() > 0);
        for watcher in &mut self.watchers {
            let is_same =
                (watcher.seen.generation, watcher.seen.revision) == (store.generation(), store.revision());
            if is_same || !watcher.is_reachable.load(Ordering::Relaxed) {
                continue;
            }
            let now = store.range(watcher.layout.read_prefix());
            watcher.changes.send_if_modified(|changes| {
                let before = *changes;
                changes.note_all(&watcher.layout, &watcher.seen, &now);
                *changes != before
            });
            watcher.seen = now;
        }
    }
}

async fn expire(shared: Weak<Shared>) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        shared.with_expired();
        let next = shared.lock().store.next_expiry();
        let pause = next.map(|at| at.saturating_sub((shared.clock)()));
        let woken = shared.rescheduled.notified();
        // The store may be dropped while this waits: look again at least every second.
        let pause = pause
            .unwrap_or(Duration::from_secs(1))
            .min(Duration::from_secs(1));
        let _ = tokio::time::timeout(pause, woken).await;
    }
}

impl Shared {
    /// Like [`Shared::with`], without waking the task that calls it.
    fn with_expired(&self) {
        let mut state = self.lock();
        state.store.advance((self.clock)());
        state.tell();
    }
}

const LOAD: &str = "read the cluster";

/// One member's view of a [`SharedStore`].
pub struct MemoryDcs {
    shared: SharedStore,
    session: Mutex<Session>,
    is_reachable: Arc<AtomicBool>,
    /// The store that was read last.
    seen: AtomicU64,
    changes: watch::Receiver<Changes>,
}

impl MemoryDcs {
    /// The view of the member `identity` of the cluster at `layout`.
    #[must_use]
    pub fn new(shared: &SharedStore, layout: &Layout, identity: &Identity, timing: Timing) -> Self {
        let (sender, changes) = watch::channel(Changes::default());
        let is_reachable = Arc::new(AtomicBool::new(true));
        let mut state = shared.0.lock();
        let watcher = Watcher {
            layout: layout.clone(),
            is_reachable: is_reachable.clone(),
            seen: state.store.range(layout.read_prefix()),
            changes: sender,
        };
        state.watchers.push(watcher);
        let generation = state.store.generation();
        drop(state);
        let session = Mutex::new(Session::new(layout.clone(), identity, timing.ttl));
        Self {
            shared: shared.clone(),
            session,
            is_reachable,
            seen: AtomicU64::new(generation),
            changes,
        }
    }

    /// Makes the store unreachable for this member, or reachable again.
    pub fn set_reachable(&self, is_reachable: bool) {
        self.is_reachable.store(is_reachable, Ordering::Relaxed);
        self.shared.tick();
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Session, &mut Store) -> Result<T, Refused>,
    ) -> Result<T, Error> {
        let failure = |source| Failure {
            operation,
            endpoint: "memory".to_owned(),
            source,
        };
        if !self.is_reachable.load(Ordering::Relaxed) {
            return Err(Error::Unavailable(failure("made unreachable".into())));
        }
        let mut session = self.session();
        let seen = &self.seen;
        let done = self.shared.with(|store| {
            let is_known = operation == LOAD || seen.load(Ordering::Relaxed) == store.generation();
            seen.fetch_max(
                if operation == LOAD { store.generation() } else { 0 },
                Ordering::Relaxed,
            );
            is_known.then(|| work(&mut session, store))
        });
        let Some(done) = done else {
            return Err(Error::Unavailable(failure(
                "another store answers than before".into(),
            )));
        };
        done.map_err(|refused| match refused {
            Refused::Full | Refused::ReadOnly => Error::Rejected(failure(refused.into())),
            Refused::NameTaken => Error::NameTaken(failure(refused.into())),
        })
    }
}

#[async_trait]
impl Dcs for MemoryDcs {
    async fn load(&self) -> Result<Cluster, Error> {
        self.run(LOAD, |session, store| Ok(session.load(store)))
    }

    async fn touch_member(&self, data: &str) -> Result<bool, Error> {
        self.run("write the member key", |session, store| {
            session.touch_member(store, data)
        })
    }

    async fn acquire_leader(&self) -> Result<bool, Error> {
        self.run("acquire the leader key", Session::acquire_leader)
    }

    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error> {
        self.run("supersede the leader", |session, store| {
            session.supersede_leader(store, expired)
        })
    }

    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        self.run("renew the leader key", |session, store| {
            session.renew_leader(store, when_gone)
        })
    }

    async fn take_leader(&self) -> Result<bool, Error> {
        self.run("take the leader key", Session::take_leader)
    }

    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error> {
        self.run("release the leader key", |session, store| {
            let held = session.held(store);
            session.release_leader(store, held, status)
        })
    }

    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error> {
        self.run("write a key", |session, store| {
            session.write(store, key, value, expect)
        })
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error> {
        self.run("delete a key", |session, store| {
            session.delete(store, key, expect)
        })
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        self.run("delete the cluster", |session, store| {
            session.delete_cluster(store);
            Ok(())
        })
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        self.changes.clone()
    }

    fn set_timing(&self, timing: Timing) {
        self.session().set_ttl(timing.ttl);
    }

    fn adopt_lease(&self, lease: &str) {
        if let Ok(lease) = lease.parse() {
            self.session().adopt_lease(lease);
        }
    }

    fn lease(&self) -> Option<String> {
        self.session().lease().map(|lease| lease.to_string())
    }
}
