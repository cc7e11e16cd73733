//! Requests on one cluster's keys, with the copy kept in step with what they tell, and the tasks that keep it.
//!
//! The leader key is its own heartbeat: each renewal writes it, and its index is new. In the copy it stands a second time as the
//! key `heartbeat`, as which other stores have it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::EtcdConfig;
use futures_util::future::join_all;
use ha::cluster::Heartbeat;
use ha::pg::MemberName;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::api::{self, Node, Outcome, Standing};
use crate::cache::Cache;
use crate::etcd3::srv;
use crate::http::{Budget, Http, Request, chain, lock};
use crate::{Error, Layout, Record, Snapshot};

const READ: &str = "read the cluster";
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// No answer of the old store is expected any more; what was decided on it is not done in the new one.
const REPLACED: &str =
    "another store answers than before: it was wiped or restored, or is another etcd cluster";

/// The keys of one cluster in etcd.
pub(super) struct Store {
    pub(super) http: Http,
    pub(super) config: Mutex<Arc<EtcdConfig>>,
    pub(super) configured: Mutex<Vec<String>>,
    pub(super) layout: Layout,
    pub(super) cache: Cache,
    newest: Mutex<Newest>,
    /// The store that was read last.
    pub(super) seen: AtomicU64,
    /// The copy is to be read anew.
    again: Notify,
}

#[derive(Debug, Default)]
struct Newest {
    standing: Standing,
    generation: u64,
}

impl Newest {
    /// Whether a store that stands there can be the one that is known.
    fn fits(&self, standing: &Standing, asked_at: i64) -> bool {
        self.standing.cluster_id.is_empty()
            || (standing.cluster_id == self.standing.cluster_id && standing.index >= asked_at)
    }
}

impl Store {
    pub(super) fn new(http: Http, config: &EtcdConfig, configured: Vec<String>, layout: Layout) -> Self {
        Self {
            http,
            config: Mutex::new(Arc::new(config.clone())),
            configured: Mutex::new(configured),
            cache: Cache::new(layout.clone()),
            layout,
            newest: Mutex::default(),
            seen: AtomicU64::new(0),
            again: Notify::new(),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        lock(&self.newest).generation
    }

    /// What was decided on the keys of one store is not done in another, until that was read.
    pub(super) fn check(&self, operation: &'static str) -> Result<(), Error> {
        if self.seen.load(Ordering::Relaxed) == self.generation() {
            return Ok(());
        }
        let why = "another store answers than before, and was not read yet";
        Err(self.http.unavailable(operation, why))
    }

    /// Sends a write, or a read that a quorum confirms; the second value: an earlier attempt may have been carried out.
    ///
    /// # Errors
    /// etcd did not answer or refused, or another store answers than before.
    pub(super) async fn send(
        &self,
        request: &Request,
        budget: Budget,
    ) -> Result<(Outcome, Standing, bool), Error> {
        let asked_at = lock(&self.newest).standing.index;
        let reply = self.http.send(request, budget, api::judge).await?;
        let standing = api::standing(&reply.answer).ok_or_else(|| {
            self.http
                .unavailable(request.operation, "its answer has no index")
        })?;
        let is_known = {
            let mut newest = lock(&self.newest);
            let fits = newest.fits(&standing, asked_at);
            if fits {
                newest.standing.cluster_id.clone_from(&standing.cluster_id);
                newest.standing.index = newest.standing.index.max(standing.index);
            }
            fits
        };
        if !is_known {
            let accepted = self.accepts_another_store(budget).await;
            let why = if accepted {
                REPLACED
            } else {
                "it belongs to another etcd cluster, or is behind"
            };
            return Err(self.http.unavailable(request.operation, why));
        }
        let outcome = api::outcome(&reply.answer);
        let outcome = outcome.map_err(|why| self.http.unavailable(request.operation, why))?;
        Ok((outcome, standing, reply.is_repeat))
    }

    /// An answer was not believed. Another store is accepted when all endpoints that answer agree, each by a read that a quorum has
    /// confirmed.
    async fn accepts_another_store(&self, budget: Budget) -> bool {
        let (asked_at, generation) = {
            let newest = lock(&self.newest);
            (newest.standing.index, newest.generation)
        };
        let request = api::get(READ, &self.layout.leader(), false);
        let until = Instant::now() + (budget.left() / 2).max(Duration::from_millis(250));
        let order = self.http.order();
        let asked = order.iter().map(|server| self.http.ask(server, &request, until));
        let heard = join_all(asked).await.into_iter().flatten();
        let heard: Vec<_> = heard.filter_map(|answer| api::standing(&answer)).collect();
        let mut newest = lock(&self.newest);
        if newest.generation != generation {
            // Another call has found that out.
            return true;
        }
        let Some(first) = heard.first() else {
            return false;
        };
        let is_other =
            |standing: &Standing| !newest.fits(standing, asked_at) && standing.cluster_id == first.cluster_id;
        if !heard.iter().all(is_other) {
            return false;
        }
        let index = heard
            .iter()
            .map(|standing| standing.index)
            .max()
            .unwrap_or_default();
        tracing::warn!(
            "all {} endpoints of etcd that answer are at index {index} of cluster {}, after index {asked_at} of cluster {}: \
             etcd was wiped or restored, or is another one",
            heard.len(),
            first.cluster_id,
            newest.standing.cluster_id
        );
        newest.standing = Standing {
            index,
            cluster_id: first.cluster_id.clone(),
        };
        newest.generation += 1;
        drop(newest);
        self.again.notify_one();
        true
    }

    /// One key as it stands, confirmed by a quorum.
    ///
    /// # Errors
    /// As [`Store::send`].
    pub(super) async fn look(
        &self,
        operation: &'static str,
        budget: Budget,
        key: &str,
    ) -> Result<Option<Node>, Error> {
        let (outcome, standing, _) = self.send(&api::get(operation, key, false), budget).await?;
        Ok(match outcome {
            Outcome::Done { node, .. } if !node.is_folder => {
                self.tell(&node, false);
                Some(node)
            }
            _ => {
                self.tell_absent(key, standing.index, false);
                None
            }
        })
    }

    /// All keys, confirmed by a quorum.
    ///
    /// # Errors
    /// As [`Store::send`].
    pub(super) async fn read(&self, budget: Budget) -> Result<Snapshot, Error> {
        let generation = self.generation();
        let request = api::get(READ, self.layout.read_prefix(), true);
        let (outcome, standing, _) = self.send(&request, budget).await?;
        let mut records = std::collections::BTreeMap::new();
        if let Outcome::Done { node, .. } = outcome {
            for leaf in node.leaves() {
                records.extend(self.records(leaf));
            }
        }
        Ok(Snapshot {
            revision: standing.index,
            generation,
            records,
        })
    }

    /// As [`Store::read`], for the copy.
    ///
    /// # Errors
    /// As [`Store::read`], or there is a key that was never in the store that the copy is of: one that was restored with higher
    /// indexes, or wiped and written again.
    async fn read_for_copy(&self, budget: Budget) -> Result<Snapshot, Error> {
        let snapshot = self.read(budget).await?;
        let mut compared = snapshot.clone();
        // The heartbeat is made here, with the present `ttl`.
        compared.records.remove(&self.layout.heartbeat());
        let Some(key) = self.cache.contradiction(&compared) else {
            return Ok(snapshot);
        };
        let mut newest = lock(&self.newest);
        if newest.generation == snapshot.generation {
            tracing::warn!(
                "the key {key} in etcd was never in it before: etcd was wiped or restored, or is another one"
            );
            newest.generation += 1;
            newest.standing.index = snapshot.revision;
        }
        drop(newest);
        Err(self.http.unavailable(READ, REPLACED))
    }

    /// A key as a record, and for the leader key the heartbeat that it is as well.
    fn records(&self, node: &Node) -> Vec<(String, Record)> {
        let record = |value: &str| Record {
            value: value.to_owned(),
            mod_revision: node.index,
            lease: 0,
        };
        let mut records = vec![(node.key.clone(), record(&node.value))];
        if let Some(seconds) = node.ttl.filter(|_| node.key == self.layout.leader()) {
            // What is left at the moment of a read is less than what its holder counts on.
            let left = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            let ttl = self.http.timing().ttl.max(left);
            let value = Heartbeat::without_lease(&MemberName(node.value.clone()), ttl, None);
            records.push((self.layout.heartbeat(), record(&value)));
        }
        records
    }

    /// A key as an answer has it.
    pub(super) fn tell(&self, node: &Node, is_own: bool) {
        for (key, record) in self.records(node) {
            self.cache.tell(&key, node.index, Some(record), is_own);
        }
    }

    /// A key that is not there at `index`.
    pub(super) fn tell_absent(&self, key: &str, index: i64, is_own: bool) {
        self.cache.tell(key, index, None, is_own);
        if key == self.layout.leader() {
            self.cache.tell(&self.layout.heartbeat(), index, None, is_own);
        }
    }

    /// A change as the watch has it, of the store of `generation`: whatever a member tells, a quorum has agreed on. Who writes nothing
    /// would not notice otherwise that a store has gone back.
    fn apply(&self, generation: u64, action: &str, node: &Node) {
        {
            let mut newest = lock(&self.newest);
            if newest.generation == generation {
                newest.standing.index = newest.standing.index.max(node.index);
            }
        }
        if matches!(action, "delete" | "expire" | "compareAndDelete") {
            self.cache.apply(&node.key, node.index, None);
            if node.key == self.layout.leader() {
                self.cache.apply(&self.layout.heartbeat(), node.index, None);
            }
        } else {
            for (key, record) in self.records(node) {
                self.cache.apply(&key, node.index, Some(record));
            }
        }
    }

    /// Reads the list of members and takes their addresses over, beside the configured ones.
    ///
    /// # Errors
    /// etcd did not answer.
    pub(super) async fn refresh_endpoints(&self, budget: Budget) -> Result<(), Error> {
        let config = lock(&self.config).clone();
        if config.use_proxies {
            return Ok(());
        }
        if let Ok(Ok(configured)) = timeout(budget.left(), srv::configured(&config, budget.left())).await {
            *lock(&self.configured) = configured;
        }
        let reply = self
            .http
            .send(&api::machines(), budget, api::judge_machines)
            .await?;
        let mut urls = lock(&self.configured).clone();
        urls.extend(api::urls(&reply.answer));
        self.http.use_endpoints(urls);
        Ok(())
    }
}

/// Reads the list of etcd's members now and then, and soon after an endpoint has failed.
pub(super) async fn keep_endpoints(store: Arc<Store>) {
    loop {
        let period = store.http.timing().ttl * 10;
        let _ = timeout(period, store.http.is_list_old.notified()).await;
        if let Err(error) = store.refresh_endpoints(store.http.brief()).await {
            tracing::debug!("{error:#}");
        }
        // An endpoint that fails again and again is no reason to ask all the time.
        sleep(LONGEST_PAUSE).await;
    }
}

/// Follows the keys for ever: reads all, then waits for one change after another.
pub(super) async fn keep_copy(store: Arc<Store>) {
    let mut pause = Duration::ZERO;
    loop {
        let trouble = match store.read_for_copy(store.http.persistent()).await {
            Ok(snapshot) => {
                let begun = Instant::now();
                let trouble = follow(&store, snapshot).await;
                // A server that answers reads and ends every watch is not asked without a pause.
                if begun.elapsed() >= LONGEST_PAUSE {
                    pause = Duration::ZERO;
                } else {
                    pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                }
                tracing::info!("the watch of {} ended: {trouble}", store.layout.prefix());
                trouble
            }
            Err(error) => {
                pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                chain(error.failure())
            }
        };
        store.cache.invalidate(trouble);
        sleep(pause).await;
    }
}

/// Waits for changes until that fails; why it did.
async fn follow(store: &Store, snapshot: Snapshot) -> String {
    let (mut index, generation) = (snapshot.revision + 1, snapshot.generation);
    store.cache.replace(snapshot);
    let mut moves = store.http.moves();
    loop {
        let server = store.http.current();
        let quiet =
            (store.http.timing().loop_wait / 2).clamp(Duration::from_millis(500), Duration::from_secs(5));
        let request = api::wait(store.layout.read_prefix(), index);
        let until = Instant::now() + quiet;
        let answered = tokio::select! {
            answered = store.http.ask(&server, &request, until) => answered,
            _ = moves.changed() => continue,
            () = store.again.notified() => return "another store answers than before".to_owned(),
        };
        let answer = match answered {
            Ok(answer) => answer,
            // Nothing has happened, or the server is dead or has lost its cluster: a quorum says which.
            Err(silence) if silence.is_sent && Instant::now() >= until => {
                match store.read_for_copy(store.http.brief()).await {
                    Ok(snapshot) => {
                        index = index.max(snapshot.revision + 1);
                        store.cache.replace(snapshot);
                        continue;
                    }
                    Err(error) => {
                        store.http.leave(&server);
                        return chain(error.failure());
                    }
                }
            }
            Err(silence) => {
                store.http.leave(&server);
                return format!("etcd at {server}: {}", silence.why);
            }
        };
        match api::outcome(&answer) {
            // What happened to a folder happened to all keys in it.
            Ok(Outcome::Done { node, .. }) if node.is_folder => {
                match store.read_for_copy(store.http.persistent()).await {
                    Ok(snapshot) => {
                        index = index.max(node.index.max(snapshot.revision) + 1);
                        store.cache.replace(snapshot);
                    }
                    Err(error) => return chain(error.failure()),
                }
            }
            Ok(Outcome::Done { action, node }) => {
                index = node.index + 1;
                store.apply(generation, &action, &node);
            }
            Ok(Outcome::Forgotten | Outcome::NotFound | Outcome::Refused) => {
                return format!("etcd at {server}: {}", answer.words());
            }
            Err(why) => {
                store.http.leave(&server);
                return format!("etcd at {server}: {why}");
            }
        }
    }
}
