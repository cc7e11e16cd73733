//! etcd by its version 3 API over gRPC, with the keys and guards that Patroni's `etcd3` uses.

mod calls;
mod convert;
mod faults;
mod lease;
pub(crate) mod link;
mod lock;
mod same_store;
pub(crate) mod srv;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use config::{EtcdConfig, EtcdEndpoints};
use etcd_client::DeleteOptions;
use ha::cluster::{Cluster, Expired, Version};
use ha::pg::MemberName;
use tokio::task::JoinHandle;

use self::calls::{Answer, Budget, Calls, Heard};
use self::lease::{Lease, Takeover};
use crate::cache::Cache;
use crate::clock::SendingClock;
use crate::verbs::{self, Claim, Guarded, Held};
use crate::{
    Changes, Dcs, Error, Expect, Failure, Identity, Key, Layout, OpResult, Record, Renewed, Timing, Txn,
    TxnResult, WhenGone,
};

const RENEW: &str = "renew the leader key";
const RELEASE: &str = "release the leader key";

/// A connection to an etcd cluster.
pub struct Etcd3 {
    calls: Arc<Calls>,
    layout: Layout,
    member: Option<Holder>,
    /// What a reader without a watch listens to.
    silence: tokio::sync::watch::Sender<Changes>,
}

/// What only a member has: a name, a lease, and a watched copy with the tasks that keep it.
struct Holder {
    name: MemberName,
    lease: Lease,
    takeover: Takeover,
    clock: SendingClock,
    cache: Arc<Cache>,
    /// The store that was read last.
    seen: AtomicU64,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Holder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Etcd3 {
    /// The names of the clusters that have keys below `namespace`. Reads all of them: for a person who types, not for a loop.
    ///
    /// # Errors
    /// Those of [`Etcd3::connect`].
    pub async fn scopes(
        config: &EtcdConfig,
        namespace: &str,
        timing: Timing,
    ) -> Result<BTreeSet<String>, Error> {
        let layout = Layout::new(namespace, "", None);
        let probe = layout.read_prefix().to_owned();
        let calls = Calls::new(config, configured(config, timing).await?, timing, probe);
        let snapshot = watch::read(&calls, &layout, calls.persistent()).await?;
        let scope = |key: &String| {
            Some(
                key.strip_prefix(layout.read_prefix())?
                    .split_once('/')?
                    .0
                    .to_owned(),
            )
        };
        Ok(snapshot.records.keys().filter_map(scope).collect())
    }

    /// Connects, authenticates, and lists etcd's members. With an identity it will hold a lease and watches the
    /// cluster's keys, in tasks of the present runtime; without one it only reads and writes, and every read goes
    /// to a quorum.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while no endpoint answers: try again. [`Error::Fatal`] if credentials or certificates
    /// are wrong.
    pub async fn connect(
        config: &EtcdConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        let configured = configured(config, timing).await?;
        let calls = Arc::new(Calls::new(config, configured, timing, layout.leader()));
        let budget = calls.persistent();
        if config.use_proxies {
            watch::read(&calls, &layout, budget).await?;
        } else {
            calls.refresh_endpoints(budget).await?;
        }
        let member = identity.map(|identity| {
            let cache = Arc::new(Cache::new(layout.clone()));
            let keep = watch::keep(calls.clone(), cache.clone(), layout.clone());
            let tasks = [
                tokio::spawn(keep),
                tokio::spawn(watch::refresh_members(calls.clone())),
            ];
            let lease = Lease::new(identity.lease.as_deref().and_then(|id| id.parse().ok()));
            Holder {
                name: identity.name,
                lease,
                takeover: Takeover::default(),
                clock: SendingClock::new(),
                cache,
                seen: AtomicU64::new(calls.generation()),
                tasks,
            }
        });
        let silence = tokio::sync::watch::channel(Changes::default()).0;
        Ok(Self {
            calls,
            layout,
            member,
            silence,
        })
    }

    /// Takes over another configuration: other endpoints, credentials or certificates, without losing the lease.
    ///
    /// # Errors
    /// As [`Etcd3::connect`]; the former configuration stays in use.
    pub async fn reload(&self, config: &EtcdConfig) -> Result<(), Error> {
        let timing = self.calls.timing();
        let configured = configured(config, timing).await?;
        // A wrong address would stop the primary in the end. Users and passwords may be changed here first and in etcd later.
        let trial = Calls::new(config, configured.clone(), timing, self.layout.leader());
        if let Err(error @ Error::Unavailable(_)) = trial.confirm_store(trial.brief()).await {
            return Err(error);
        }
        self.calls.reconfigure(config, configured);
        Ok(())
    }

    fn holder(&self, operation: &'static str) -> Result<&Holder, Error> {
        self.member.as_ref().ok_or_else(|| {
            let source = "opened without a member's identity".into();
            Error::Fatal(Failure {
                operation,
                endpoint: self.calls.current(),
                source,
            })
        })
    }

    async fn txn(
        &self,
        operation: &'static str,
        budget: Budget,
        txn: &Txn,
    ) -> Result<Option<Answer<TxnResult>>, Error> {
        let request = convert::txn(txn);
        self.check_store(operation)?;
        let generation = self.calls.generation();
        let answer = self.calls.run(operation, budget, move |client| {
            let txn = request.clone();
            Box::pin(async move {
                let mut kv = client
                    .kv_client()
                    .max_decoding_message_size(watch::LARGEST_ANSWER);
                match kv.txn(txn).await {
                    Ok(response) => Ok(Heard::confirmed(
                        Some(convert::result(&response)),
                        response.header(),
                    )),
                    Err(error) if faults::is_lease_gone(&error) => Ok(Heard::new(None, None)),
                    Err(error) => Err(error),
                }
            })
        });
        let Answer {
            value,
            term,
            is_repeat,
        } = answer.await?;
        if let Some(result) = &value {
            self.check_found(operation, generation, txn, result)?;
        }
        Ok(value.map(|value| Answer {
            value,
            term,
            is_repeat,
        }))
    }

    /// A transaction that binds no key to a lease.
    async fn unbound(
        &self,
        operation: &'static str,
        budget: Budget,
        txn: &Txn,
    ) -> Result<Answer<TxnResult>, Error> {
        self.txn(operation, budget, txn).await?.ok_or_else(|| {
            let source = "a lease was missed that was not asked for".into();
            Error::Rejected(Failure {
                operation,
                endpoint: self.calls.current(),
                source,
            })
        })
    }

    async fn release(
        &self,
        budget: Budget,
        held: Held,
        status: Option<&str>,
    ) -> Result<Answer<TxnResult>, Error> {
        let release = |status| verbs::release_leader(&self.layout, held, status);
        match self.unbound(RELEASE, budget, &release(status)).await {
            // A full etcd takes no position, but it deletes.
            Err(Error::Rejected(_)) if status.is_some() => {
                self.unbound(RELEASE, budget, &release(None)).await
            }
            answer => answer,
        }
    }

    fn claim<'a>(&'a self, holder: &'a Holder, lease: i64) -> Claim<'a> {
        Claim {
            layout: &self.layout,
            name: &holder.name,
            lease,
            ttl: self.calls.timing().ttl,
            takeover: holder.takeover.id(),
            sent: Some(holder.clock.now()),
        }
    }

    fn check(&self, operation: &'static str, budget: Budget) -> Result<(), Error> {
        if budget.is_spent() {
            let source = "etcd's leader or the lease changed again and again".into();
            return Err(Error::Unavailable(Failure {
                operation,
                endpoint: self.calls.current(),
                source,
            }));
        }
        Ok(())
    }

    /// What this member has just written shows in the copy before the watch tells it.
    fn learn(&self, key: &str, revision: i64, record: Option<Record>) {
        if let Some(holder) = &self.member {
            holder.cache.tell(key, revision, record, true);
        }
    }

    /// What a refused write found in its place.
    fn learn_found(&self, key: &str, result: &TxnResult) {
        if let (Some(holder), Some(OpResult::Get(found))) = (&self.member, result.results.first()) {
            let revision = found
                .as_ref()
                .map_or(result.revision, |record| record.mod_revision);
            holder.cache.tell(key, revision, found.clone(), false);
        }
    }

    /// Status is written in every cycle anyway; everything else is worth waiting for.
    fn budget(&self, key: Key) -> Budget {
        match key {
            Key::Status | Key::Failsafe => self.calls.brief(),
            Key::Initialize | Key::Config | Key::Failover | Key::Sync | Key::History | Key::Origin => {
                self.calls.persistent()
            }
        }
    }
}

#[async_trait]
impl Dcs for Etcd3 {
    async fn load(&self) -> Result<Cluster, Error> {
        let budget = self.calls.persistent();
        let snapshot = match &self.member {
            None => watch::read(&self.calls, &self.layout, budget).await?,
            Some(holder) => holder
                .cache
                .snapshot(budget.deadline())
                .await
                .map_err(|trouble| {
                    let (operation, endpoint) = ("read the cluster", self.calls.current());
                    Error::Unavailable(Failure {
                        operation,
                        endpoint,
                        source: trouble.into(),
                    })
                })?,
        };
        if let Some(holder) = &self.member {
            let seen = holder.seen.swap(snapshot.generation, Ordering::Relaxed);
            if seen != snapshot.generation {
                holder.takeover.clear();
            }
        }
        Ok(snapshot.cluster(&self.layout))
    }

    async fn touch_member(&self, data: &str) -> Result<bool, Error> {
        const OPERATION: &str = "write the member key";
        let holder = self.holder(OPERATION)?;
        let budget = self.calls.brief();
        let key = self.layout.member(&holder.name);
        let lease = holder.lease.keep_if_due(&self.calls, budget).await?;
        let mut seen = holder.cache.get(&key);
        if seen
            .as_ref()
            .is_some_and(|record| record.value == data && record.lease == lease)
        {
            return Ok(true);
        }
        // The copy may be behind, or not there: then the answer tells what there is.
        for _ in 0..3 {
            let revision = seen.as_ref().map_or(0, |record| record.mod_revision);
            let is_anothers = |record: &Record| {
                record.lease != 0 && record.lease != lease && !holder.lease.knows(record.lease)
            };
            let is_taken = seen.as_ref().is_some_and(is_anothers);
            let txn = verbs::touch_member(&key, data, lease, if is_taken { -1 } else { revision });
            let Some(answer) = self.txn(OPERATION, budget, &txn).await? else {
                tracing::warn!("lease {lease} is gone: the member key is written in the next cycle");
                holder.lease.forget(lease).await;
                return Ok(false);
            };
            if answer.value.succeeded {
                let revision = answer.value.revision;
                self.learn(&key, revision, Some(record(data, revision, lease)));
                return Ok(true);
            }
            self.learn_found(&key, &answer.value);
            let found = verbs::found(&answer.value).cloned();
            if found.as_ref().is_some_and(is_anothers) {
                return Err(Error::NameTaken(Failure {
                    operation: OPERATION,
                    endpoint: self.calls.current(),
                    source: format!("there is already a node named '{}' running", holder.name).into(),
                }));
            }
            seen = found;
        }
        Ok(false)
    }

    async fn acquire_leader(&self) -> Result<bool, Error> {
        self.hold(
            "acquire the leader key",
            self.calls.persistent(),
            |holder, lease| verbs::acquire_leader(self.claim(holder, lease)),
            |result, holder, lease| verbs::is_acquired(result, &holder.name, lease),
        )
        .await
    }

    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error> {
        self.hold(
            "supersede the leader",
            self.calls.persistent(),
            |holder, lease| verbs::supersede_leader(self.claim(holder, lease), expired),
            |result, holder, lease| verbs::is_acquired(result, &holder.name, lease),
        )
        .await
    }

    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        let holder = self.holder(RENEW)?;
        let budget = self.calls.persistent();
        let renewed = self.renew_or_bind(holder, budget, when_gone).await?;
        if renewed == Renewed::No {
            self.check_all(holder, RENEW, budget).await?;
        }
        Ok(renewed)
    }

    async fn take_leader(&self) -> Result<bool, Error> {
        self.hold(
            "take the leader key",
            self.calls.persistent(),
            |holder, lease| verbs::take_leader(self.claim(holder, lease)),
            |result, _, _| result.succeeded,
        )
        .await
    }

    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error> {
        let holder = self.holder(RELEASE)?;
        let budget = self.calls.brief();
        let (leader, heartbeat) = (self.layout.leader(), self.layout.heartbeat());
        let knows = |lease| holder.lease.knows(lease);
        let cached = (holder.cache.get(&leader), holder.cache.get(&heartbeat));
        let mut held =
            Held::new(cached.0.as_ref(), cached.1.as_ref(), &holder.name, knows).unwrap_or(Held::NOTHING);
        let mut is_released = false;
        // The copy may be behind, or not there: then the answer tells what there is.
        for _ in 0..3 {
            let answer = self.release(budget, held, status).await?;
            is_released |= verbs::is_released(&answer.value, answer.is_repeat);
            if answer.value.succeeded {
                let revision = answer.value.revision;
                // First the position: who finds the key gone finds it, too.
                if let Some(value) = status {
                    let record = record(value, revision, 0);
                    self.learn(&self.layout.key(Key::Status), revision, Some(record));
                }
                self.learn(&leader, revision, None);
                break;
            }
            self.learn_found(&leader, &answer.value);
            let Some(found) = Held::found(&answer.value, &holder.name, knows) else {
                break;
            };
            held = found;
        }
        Ok(is_released)
    }

    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error> {
        const OPERATION: &str = "write a key of the cluster";
        let txn = verbs::write(&self.layout, key, value, expect);
        let answer = self.unbound(OPERATION, self.budget(key), &txn).await?;
        let path = self.layout.key(key);
        if answer.value.succeeded {
            let revision = answer.value.revision;
            self.learn(&path, revision, Some(record(value, revision, 0)));
        } else {
            self.learn_found(&path, &answer.value);
        }
        match verbs::written(&answer.value, value, expect, answer.is_repeat) {
            Guarded::Done(version) => Ok(Some(version)),
            Guarded::Refused => Ok(None),
            Guarded::Unknown => {
                let source = "an attempt without an answer may have written it".into();
                let endpoint = self.calls.current();
                Err(Error::Unavailable(Failure {
                    operation: OPERATION,
                    endpoint,
                    source,
                }))
            }
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error> {
        let txn = verbs::delete(&self.layout, key, expect);
        let answer = self
            .unbound("delete a key of the cluster", self.budget(key), &txn)
            .await?;
        let path = self.layout.key(key);
        if answer.value.succeeded {
            self.learn(&path, answer.value.revision, None);
        } else {
            self.learn_found(&path, &answer.value);
        }
        Ok(verbs::is_deleted(&answer.value, answer.is_repeat))
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        let prefix = self.layout.prefix().to_owned();
        let deleted = self.calls.run(
            "delete the cluster",
            self.calls.persistent(),
            move |mut client| {
                let prefix = prefix.clone();
                Box::pin(async move {
                    let response = client
                        .delete(prefix, Some(DeleteOptions::new().with_prefix()))
                        .await?;
                    Ok(Heard::new((), response.header()))
                })
            },
        );
        deleted.await.map(|_| ())
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<Changes> {
        match &self.member {
            Some(holder) => holder.cache.changes(),
            None => self.silence.subscribe(),
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.calls.set_timing(timing);
    }

    fn adopt_lease(&self, lease: &str) {
        if let (Some(holder), Ok(lease)) = (&self.member, lease.parse()) {
            holder.lease.adopt(lease);
        }
    }

    fn lease(&self) -> Option<String> {
        self.member.as_ref()?.lease.id().map(|id| id.to_string())
    }
}

/// The configured endpoints as people write them.
fn shown(endpoints: &EtcdEndpoints) -> String {
    match endpoints {
        EtcdEndpoints::Proxy(proxy) => proxy.to_string(),
        EtcdEndpoints::Srv { domain, .. } => domain.clone(),
        EtcdEndpoints::Hosts(hosts) => {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            hosts.join(",")
        }
    }
}

/// The configured endpoints; checks on the way that the certificates can be used.
pub(crate) async fn configured(config: &EtcdConfig, timing: Timing) -> Result<Vec<String>, Error> {
    const OPERATION: &str = "connect to etcd";
    let endpoint = shown(&config.endpoints);
    let tls = link::tls(config);
    if let Err(error) = tls.client_config() {
        return Err(Error::Fatal(Failure {
            operation: OPERATION,
            endpoint,
            source: error.into(),
        }));
    }
    srv::configured(config, timing.retry_timeout)
        .await
        .map_err(|error| {
            Error::Unavailable(Failure {
                operation: OPERATION,
                endpoint,
                source: error.into(),
            })
        })
}

fn record(value: &str, mod_revision: i64, lease: i64) -> Record {
    Record {
        value: value.to_owned(),
        mod_revision,
        lease,
    }
}
