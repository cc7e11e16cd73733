//! etcd by its version 2 API, with the keys that Patroni keeps there: keys that live for `ttl` seconds, and conditions on one key.
//!
//! There are no leases and no transactions. The lock is the leader key; each renewal writes it, so its index is the heartbeat, and
//! it is renewed, superseded and released by the index that it was last written at. So a request that arrives late changes nothing.

mod api;
mod store;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use config::EtcdConfig;
use ha::cluster::{Cluster, Expired, Version};
use ha::pg::MemberName;
use tokio::sync::watch as channel;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::api::{Node, Outcome, When};
use self::store::{Store, keep_copy, keep_endpoints};
use crate::endpoints::Endpoints;
use crate::etcd3::configured;
use crate::http::{Budget, Http, Request, lock};
use crate::verbs::{self, Guarded};
use crate::{
    Changes, Dcs, Error, Expect, Failure, Identity, Key, Layout, OpResult, Record, Renewed, Timing,
    TxnResult, WhenGone,
};

const RENEW: &str = "renew the leader key";
const RELEASE: &str = "release the leader key";
const TOUCH: &str = "write the member key";

/// How often a decision is made again on what a refused write found.
const ROUNDS: usize = 4;

/// A connection to an etcd cluster.
pub struct Etcd2 {
    store: Arc<Store>,
    member: Option<Holder>,
    /// What a reader without a watch listens to.
    silence: channel::Sender<Changes>,
}

/// What only a member has: a name, and the tasks that keep the copy.
struct Holder {
    name: MemberName,
    leader: Mutex<Written>,
    /// The member key's index and when it was written.
    member: Mutex<Option<(i64, Instant)>>,
    tasks: [JoinHandle<()>; 2],
}

/// What this agent knows of its own writes to the leader key.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    /// The index of the last one.
    index: Option<i64>,
    /// A later one went unanswered, and may have been carried out.
    is_uncertain: bool,
}

impl Drop for Holder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Holder {
    /// Whether the leader key that was found is this agent's. One without `ttl` is nobody's who lives, and an agent that has
    /// written none yet takes up what its earlier life wrote, as Patroni does. Otherwise the index tells it from another agent of this
    /// name.
    fn owns(&self, node: &Node) -> bool {
        let written = *lock(&self.leader);
        let is_ours = written.index.is_none() || written.index == Some(node.index) || written.is_uncertain;
        node.value == self.name.0 && (is_ours || node.ttl.is_none())
    }

    /// As [`Holder::owns`], for a release: what an agent has not renewed itself is not its to delete.
    fn may_release(&self, node: &Node) -> bool {
        let written = *lock(&self.leader);
        self.owns(node) && (written.index.is_some() || written.is_uncertain || node.ttl.is_none())
    }
}

impl Etcd2 {
    /// Connects and lists etcd's members. With an identity it can hold the lock and watches the cluster's keys, in tasks of the
    /// present runtime. Every read goes to a quorum.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while no endpoint answers: try again. [`Error::Fatal`] if certificates cannot be used.
    pub async fn connect(
        config: &EtcdConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        let store = Arc::new(open(config, layout, timing).await?);
        let budget = store.http.persistent();
        store.refresh_endpoints(budget).await?;
        // Shows whether the version 2 of the API is there.
        store.read(budget).await?;
        let member = identity.map(|identity| Holder {
            name: identity.name,
            leader: Mutex::default(),
            member: Mutex::new(None),
            tasks: [
                tokio::spawn(keep_copy(Arc::clone(&store))),
                tokio::spawn(keep_endpoints(Arc::clone(&store))),
            ],
        });
        let silence = channel::channel(Changes::default()).0;
        Ok(Self {
            store,
            member,
            silence,
        })
    }

    /// The names of the clusters that have keys below `namespace`.
    ///
    /// # Errors
    /// Those of [`Etcd2::connect`].
    pub async fn scopes(
        config: &EtcdConfig,
        namespace: &str,
        timing: Timing,
    ) -> Result<BTreeSet<String>, Error> {
        let layout = Layout::new(namespace, "", None);
        let store = open(config, layout, timing).await?;
        let folder = store.layout.read_prefix().to_owned();
        let request = api::get("list the clusters", &folder, false);
        let (outcome, ..) = store.send(&request, store.http.persistent()).await?;
        let Outcome::Done { node, .. } = outcome else {
            return Ok(BTreeSet::new());
        };
        let folders = node.nodes.iter().filter(|node| node.is_folder);
        let name = |node: &Node| node.key.strip_prefix(&folder).map(str::to_owned);
        Ok(folders.filter_map(name).collect())
    }

    /// Takes over another configuration: other endpoints, credentials or certificates.
    ///
    /// # Errors
    /// As [`Etcd2::connect`]; the former configuration stays in use.
    pub async fn reload(&self, config: &EtcdConfig) -> Result<(), Error> {
        let urls = configured(config, self.store.http.timing()).await?;
        let done = api::link(config)
            .and_then(|link| self.store.http.reconfigure(link, Endpoints::new(urls.clone())));
        done.map_err(|source| Error::Fatal(self.store.http.failure("connect to etcd", source)))?;
        *lock(&self.store.configured) = urls;
        *lock(&self.store.config) = Arc::new(config.clone());
        self.store.http.is_list_old.notify_one();
        Ok(())
    }

    fn holder(&self, operation: &'static str) -> Result<&Holder, Error> {
        self.member.as_ref().ok_or_else(|| {
            let why = "opened without a member's identity";
            Error::Fatal(self.store.http.failure(operation, why))
        })
    }

    fn budget(&self, key: Key) -> Budget {
        match key {
            Key::Status | Key::Failsafe => self.store.http.brief(),
            Key::Initialize | Key::Config | Key::Failover | Key::Sync | Key::History | Key::Origin => {
                self.store.http.persistent()
            }
        }
    }

    /// Whole seconds, as etcd counts them.
    fn ttl(&self) -> u64 {
        let ttl = self.store.http.timing().ttl;
        (ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).max(1)
    }

    /// A write to any key; the second value: an earlier attempt may have been carried out.
    async fn change(&self, request: &Request, budget: Budget) -> Result<(Outcome, bool), Error> {
        self.store.check(request.operation)?;
        let (outcome, _, is_repeat) = self.store.send(request, budget).await?;
        if let Outcome::Done { node, action } = &outcome {
            if action.to_lowercase().ends_with("delete") {
                self.store.tell_absent(&node.key, node.index, true);
            } else {
                self.store.tell(node, true);
            }
        }
        Ok((outcome, is_repeat))
    }

    /// Writes our name to the leader key. `Ok(None)`: it is ours.
    async fn put_leader(
        &self,
        operation: &'static str,
        budget: Budget,
        when: When,
    ) -> Result<Option<(Outcome, bool)>, Error> {
        let holder = self.holder(operation)?;
        let key = self.store.layout.leader();
        let request = api::put(operation, &key, &holder.name.0, Some(self.ttl()), when);
        // Who asked may stop waiting at any moment, and the write be carried out all the same.
        let was_uncertain = std::mem::replace(&mut lock(&holder.leader).is_uncertain, true);
        match self.change(&request, budget).await {
            Ok((Outcome::Done { node, .. }, _)) => {
                *lock(&holder.leader) = Written {
                    index: Some(node.index),
                    is_uncertain: false,
                };
                Ok(None)
            }
            Ok((outcome, is_repeat)) => {
                lock(&holder.leader).is_uncertain = was_uncertain || is_repeat;
                Ok(Some((outcome, is_repeat)))
            }
            Err(error) => {
                lock(&holder.leader).is_uncertain = was_uncertain || error.is_maybe_applied();
                Err(error)
            }
        }
    }

    /// After a refused write: the key may be ours from an attempt that went unanswered, and is then renewed.
    async fn is_ours_after_all(
        &self,
        operation: &'static str,
        budget: Budget,
        is_repeat: bool,
    ) -> Result<bool, Error> {
        let holder = self.holder(operation)?;
        let key = self.store.layout.leader();
        let found = self.store.look(operation, budget, &key).await?;
        let Some(node) = found.filter(|node| is_repeat && node.value == holder.name.0) else {
            return Ok(false);
        };
        Ok(self
            .put_leader(operation, budget, When::Index(node.index))
            .await?
            .is_none())
    }

    async fn hold(&self, operation: &'static str, when: When) -> Result<bool, Error> {
        let budget = self.store.http.persistent();
        match self.put_leader(operation, budget, when).await? {
            None => Ok(true),
            Some((_, is_repeat)) => self.is_ours_after_all(operation, budget, is_repeat).await,
        }
    }

    /// Whether a release was carried out.
    async fn release(
        &self,
        holder: &Holder,
        budget: Budget,
        status: Option<&str>,
        found: &Node,
    ) -> Result<Option<bool>, Error> {
        // First the position: who finds the key gone finds it, too.
        if let Some(status) = status {
            let path = self.store.layout.key(Key::Status);
            let request = api::put(RELEASE, &path, status, None, When::Always);
            self.change(&request, budget).await?;
        }
        let request = api::delete(RELEASE, &found.key, When::Index(found.index));
        let (outcome, is_repeat) = self.change(&request, budget).await?;
        Ok(match outcome {
            Outcome::Done { .. } => {
                *lock(&holder.leader) = Written::default();
                Some(true)
            }
            Outcome::NotFound => Some(is_repeat),
            Outcome::Refused | Outcome::Forgotten => None,
        })
    }
}

async fn open(config: &EtcdConfig, layout: Layout, timing: Timing) -> Result<Store, Error> {
    let urls = configured(config, timing).await?;
    let endpoints = Endpoints::new(urls.clone());
    let http = api::link(config).and_then(|link| Http::new("etcd", link, endpoints, timing));
    let http = http.map_err(|source| {
        Error::Fatal(Failure {
            operation: "connect to etcd",
            endpoint: urls.join(", "),
            source,
        })
    })?;
    Ok(Store::new(http, config, urls, layout))
}

fn when(expect: Expect) -> When {
    match expect {
        Expect::Anything => When::Always,
        Expect::Absent => When::Absent,
        // etcd takes `prevIndex=0` for no condition.
        Expect::Version(Version(index)) if index <= 0 => When::Absent,
        Expect::Version(Version(index)) => When::Index(index),
    }
}

#[async_trait]
impl Dcs for Etcd2 {
    async fn load(&self) -> Result<Cluster, Error> {
        let budget = self.store.http.persistent();
        let snapshot = if self.member.is_some() {
            let snapshot = self.store.cache.snapshot(budget.deadline).await;
            snapshot.map_err(|why| self.store.http.unavailable("read the cluster", why))?
        } else {
            self.store.read(budget).await?
        };
        self.store.seen.store(snapshot.generation, Ordering::Relaxed);
        Ok(snapshot.cluster(&self.store.layout))
    }

    async fn touch_member(&self, data: &str) -> Result<bool, Error> {
        let holder = self.holder(TOUCH)?;
        let key = self.store.layout.member(&holder.name);
        let written = *lock(&holder.member);
        let is_fresh = |(index, at): (i64, Instant)| {
            let known = self.store.cache.get(&key);
            at.elapsed() < self.store.http.timing().loop_wait / 2
                && known.is_some_and(|known| known.mod_revision == index && known.value == data)
        };
        if written.is_some_and(is_fresh) {
            return Ok(true);
        }
        // Without a lease the key itself is what is kept alive.
        let at = Instant::now();
        let request = api::put(TOUCH, &key, data, Some(self.ttl()), When::Always);
        let (outcome, _) = self.change(&request, self.store.http.brief()).await?;
        let Outcome::Done { node, .. } = outcome else {
            return Ok(false);
        };
        *lock(&holder.member) = Some((node.index, at));
        Ok(true)
    }

    async fn acquire_leader(&self) -> Result<bool, Error> {
        self.hold("acquire the leader key", When::Absent).await
    }

    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error> {
        // The leader key is its own heartbeat, so its index says all; one that was written by hand has none.
        self.hold("supersede the leader", When::Index(expired.leader.0))
            .await
    }

    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        let holder = self.holder(RENEW)?;
        let budget = self.store.http.persistent();
        let key = self.store.layout.leader();
        let mut index = lock(&holder.leader).index;
        for _ in 0..ROUNDS {
            let refused = match index {
                Some(index) => self.put_leader(RENEW, budget, When::Index(index)).await?,
                None => Some((Outcome::Refused, false)),
            };
            if refused.is_none() {
                return Ok(Renewed::Yes);
            }
            match self.store.look(RENEW, budget, &key).await? {
                Some(node) if holder.owns(&node) => index = Some(node.index),
                Some(_) => {
                    *lock(&holder.leader) = Written::default();
                    return Ok(Renewed::No);
                }
                None if when_gone == WhenGone::Lost => {
                    *lock(&holder.leader) = Written::default();
                    return Ok(Renewed::No);
                }
                None => {
                    if self.put_leader(RENEW, budget, When::Absent).await?.is_none() {
                        return Ok(Renewed::Yes);
                    }
                    index = None;
                }
            }
        }
        Err(self
            .store
            .http
            .unavailable(RENEW, "the leader key changed again and again"))
    }

    async fn take_leader(&self) -> Result<bool, Error> {
        self.hold("take the leader key", When::Always).await
    }

    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error> {
        let holder = self.holder(RELEASE)?;
        let budget = self.store.http.brief();
        let key = self.store.layout.leader();
        for _ in 0..ROUNDS {
            self.store.check(RELEASE)?;
            let found = self.store.look(RELEASE, budget, &key).await?;
            let Some(node) = found.filter(|node| holder.may_release(node)) else {
                return Ok(false);
            };
            if let Some(is_released) = self.release(holder, budget, status, &node).await? {
                return Ok(is_released);
            }
        }
        Ok(false)
    }

    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error> {
        const OPERATION: &str = "write a key of the cluster";
        let (path, budget) = (self.store.layout.key(key), self.budget(key));
        let request = api::put(OPERATION, &path, value, None, when(expect));
        let (outcome, is_repeat) = self.change(&request, budget).await?;
        if let Outcome::Done { node, .. } = outcome {
            return Ok(Some(Version(node.index)));
        }
        let found = self.store.look(OPERATION, budget, &path).await?;
        let found = found.map(|node| Record {
            value: node.value,
            mod_revision: node.index,
            lease: 0,
        });
        let result = TxnResult {
            succeeded: false,
            revision: 0,
            results: vec![OpResult::Get(found)],
        };
        match verbs::written(&result, value, expect, is_repeat) {
            Guarded::Done(version) => Ok(Some(version)),
            Guarded::Refused => Ok(None),
            Guarded::Unknown => {
                let why = "an attempt without an answer may have written it";
                Err(self.store.http.unavailable(OPERATION, why))
            }
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error> {
        const OPERATION: &str = "delete a key of the cluster";
        let (path, budget) = (self.store.layout.key(key), self.budget(key));
        if when(expect) == When::Absent {
            return Ok(self.store.look(OPERATION, budget, &path).await?.is_none());
        }
        let (outcome, is_repeat) = self
            .change(&api::delete(OPERATION, &path, when(expect)), budget)
            .await?;
        match outcome {
            Outcome::Done { .. } => Ok(true),
            Outcome::NotFound => Ok(is_repeat || expect == Expect::Anything),
            Outcome::Refused | Outcome::Forgotten => {
                self.store.look(OPERATION, budget, &path).await?;
                Ok(false)
            }
        }
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        let request = api::delete_all("delete the cluster", self.store.layout.prefix());
        self.change(&request, self.store.http.persistent())
            .await
            .map(|_| ())
    }

    fn changes(&self) -> channel::Receiver<Changes> {
        match &self.member {
            Some(_) => self.store.cache.changes(),
            None => self.silence.subscribe(),
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.store.http.set_timing(timing);
    }

    /// Keys are bound to no lease here.
    fn adopt_lease(&self, _: &str) {}

    fn lease(&self) -> Option<String> {
        None
    }
}
