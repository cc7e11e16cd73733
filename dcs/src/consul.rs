//! Consul as the store, with the keys that Patroni keeps there: leader and member keys are locked by a session and go with it.
//!
//! Consul ends a session for reasons of its own, so neither the session nor the key is the proof of the lock: that is the heartbeat,
//! which the leader writes with every renewal (`lock`), and a key that is gone may be taken only when the heartbeat says that nobody
//! counts on the lock any more (`copy`).

mod api;
mod copy;
mod lock;
mod service;
mod session;
mod store;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use config::ConsulConfig;
use ha::cluster::{Cluster, Expired, Version};
use ha::pg::MemberName;
use tokio::sync::{Notify, watch as channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::api::{Api, Op, Read};
use self::copy::Copy;
use self::service::Published;
use self::session::{Session, number};
use self::store::Store;
use crate::clock::SendingClock;
use crate::http::Budget;
use crate::verbs::{self, Guarded};
use crate::{
    Changes, Dcs, Error, Expect, Identity, Key, Layout, Record, Renewed, Timing, TxnResult, WhenGone,
};

const TOUCH: &str = "write the member key";

/// How long a member that has stopped waits for its service to be deregistered.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection to Consul.
pub struct Consul {
    store: Arc<Store>,
    member: Option<Holder>,
    /// What a reader without a watch listens to.
    silence: channel::Sender<Changes>,
}

/// What only a member has: a name, a session, and the tasks that keep the copy and the service.
struct Holder {
    name: MemberName,
    session: Session,
    clock: SendingClock,
    /// Counts this agent's heartbeats.
    renewals: AtomicU64,
    /// The member's key as it was last written, for the service.
    published: channel::Sender<Published>,
    /// Which of these the service has followed.
    service: channel::Receiver<u64>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Holder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Consul {
    /// Connects and reads the cluster's keys. With an identity it will hold a session and watches the keys, in tasks of the present
    /// runtime; without one it only reads and writes, and every read goes to a quorum.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while no server answers: try again. [`Error::Fatal`] if token or certificates cannot be used.
    pub async fn connect(
        config: &ConsulConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        if identity.is_some() && !config.checks.is_empty() {
            tracing::warn!(
                "consul.checks is not empty: the session, and with it the leader key, goes as soon as one of these checks fails"
            );
        }
        let api = Arc::new(Api::new(config, layout.read_prefix(), timing)?);
        let store = Arc::new(Store {
            api: Arc::clone(&api),
            copy: Copy::new(layout.clone()),
            layout,
            seen: AtomicU64::new(0),
            again: Notify::new(),
        });
        store.refresh(api.http.persistent(), Read::Confirmed).await?;
        let member = identity.map(|identity| {
            let (published, news) = channel::channel(Published::default());
            let (done, service_done) = channel::channel(0);
            let scope = store.layout.scope().to_owned();
            let session = format!("{scope}-{}", identity.name);
            let watch = watch::keep(Arc::clone(&store));
            let service = service::keep(api, scope, identity.name.0.clone(), news, done);
            Holder {
                name: identity.name,
                session: Session::new(session, identity.lease.as_deref()),
                clock: SendingClock::new(),
                renewals: AtomicU64::new(0),
                published,
                service: service_done,
                tasks: [tokio::spawn(watch), tokio::spawn(service)],
            }
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
    /// Those of [`Consul::connect`].
    pub async fn scopes(
        config: &ConsulConfig,
        namespace: &str,
        timing: Timing,
    ) -> Result<BTreeSet<String>, Error> {
        let layout = Layout::new(namespace, "", None);
        let api = Api::new(config, layout.read_prefix(), timing)?;
        Ok(api.folders(layout.read_prefix()).await?.into_iter().collect())
    }

    /// Takes over other addresses, another token or certificates, without losing the session.
    ///
    /// # Errors
    /// As [`Consul::connect`]; the former configuration stays in use.
    pub fn reload(&self, config: &ConsulConfig) -> Result<(), Error> {
        self.store.api.reconfigure(config)
    }

    fn holder(&self, operation: &'static str) -> Result<&Holder, Error> {
        self.member.as_ref().ok_or_else(|| {
            let why = "opened without a member's identity";
            Error::Fatal(self.store.api.http.failure(operation, why))
        })
    }

    /// Status is written in every cycle anyway; everything else is worth waiting for.
    fn budget(&self, key: Key) -> Budget {
        match key {
            Key::Status | Key::Failsafe => self.store.api.http.brief(),
            Key::Initialize | Key::Config | Key::Failover | Key::Sync | Key::History | Key::Origin => {
                self.store.api.http.persistent()
            }
        }
    }

    /// A transaction that locks no key.
    async fn unbound(
        &self,
        operation: &'static str,
        budget: Budget,
        txn: &crate::Txn,
    ) -> Result<(TxnResult, bool), Error> {
        let (result, is_repeat) = self.store.execute(operation, budget, txn, None).await?;
        let result = result.ok_or_else(|| {
            let why = "a session was missed that was not asked for";
            Error::Rejected(self.store.api.http.failure(operation, why))
        })?;
        Ok((result, is_repeat))
    }

    /// The service in Consul's catalog follows the member key. A member that has stopped waits a moment for it to go.
    async fn publish(&self, holder: &Holder, data: &str) {
        let mut number = 0;
        holder.published.send_modify(|published| {
            published.number += 1;
            data.clone_into(&mut published.data);
            number = published.number;
        });
        let has_stopped = serde_json::from_str::<serde_json::Value>(data)
            .is_ok_and(|data| data.get("state").is_some_and(|state| state == "stopped"));
        if has_stopped && self.store.api.config().register_service {
            let mut done = holder.service.clone();
            let _ = timeout(FAREWELL, done.wait_for(|done| *done >= number)).await;
        }
    }

    async fn touch(&self, holder: &Holder, data: &str) -> Result<bool, Error> {
        let api = &self.store.api;
        let budget = api.http.brief();
        let key = self.store.layout.member(&holder.name);
        let confirm = self.store.confirm(budget);
        let session = holder.session.keep_if_due(api, budget, confirm).await?;
        let lease = number(&session);
        let mut seen = self.store.copy.record(&key);
        if self.store.copy.cache.get(&key).is_some()
            && seen
                .as_ref()
                .is_some_and(|record| record.value == data && record.lease == lease)
        {
            return Ok(true);
        }
        // The copy may be behind: then what there is was read.
        for _ in 0..3 {
            let is_anothers = |record: &Record| {
                record.lease != 0 && record.lease != lease && !holder.session.knows_number(record.lease)
            };
            let revision = match &seen {
                Some(record) if is_anothers(record) => -1,
                seen => seen.as_ref().map_or(0, |record| record.mod_revision),
            };
            let txn = verbs::touch_member(&key, data, lease, revision);
            let (result, _) = self.store.execute(TOUCH, budget, &txn, Some(&session)).await?;
            let Some(result) = result else {
                tracing::warn!("session {session} is gone: the member key is written in the next cycle");
                holder.session.forget(&session).await;
                return Ok(false);
            };
            if result.succeeded {
                return Ok(true);
            }
            let found = verbs::found(&result).cloned();
            if found.as_ref().is_some_and(is_anothers) {
                let why = format!("there is already a node named '{}' running", holder.name);
                return Err(Error::NameTaken(api.http.failure(TOUCH, why)));
            }
            seen = found;
        }
        Ok(false)
    }
}

#[async_trait]
impl Dcs for Consul {
    async fn load(&self) -> Result<Cluster, Error> {
        let budget = self.store.api.http.persistent();
        let Some(holder) = &self.member else {
            let read = self.store.refresh(budget, Read::Confirmed).await;
            let generation = self.store.copy.generation();
            self.store.seen.store(generation, Ordering::Relaxed);
            return read.map(|()| self.store.copy.known());
        };
        let snapshot = self.store.copy.cache.snapshot(budget.deadline).await;
        let unavailable = |why| self.store.api.http.unavailable("read the cluster", why);
        let snapshot = snapshot.map_err(|trouble: String| unavailable(trouble))?;
        self.store.seen.store(snapshot.generation, Ordering::Relaxed);
        Ok(self.store.copy.view(snapshot, &holder.session))
    }

    async fn touch_member(&self, data: &str) -> Result<bool, Error> {
        let holder = self.holder(TOUCH)?;
        let touched = self.touch(holder, data).await;
        self.publish(holder, data).await;
        touched
    }

    async fn acquire_leader(&self) -> Result<bool, Error> {
        self.acquire().await
    }

    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error> {
        self.supersede(expired).await
    }

    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        self.renew(when_gone).await
    }

    async fn take_leader(&self) -> Result<bool, Error> {
        self.take().await
    }

    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error> {
        self.release(status).await
    }

    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error> {
        const OPERATION: &str = "write a key of the cluster";
        let txn = verbs::write(&self.store.layout, key, value, expect);
        let (result, is_repeat) = self.unbound(OPERATION, self.budget(key), &txn).await?;
        match verbs::written(&result, value, expect, is_repeat) {
            Guarded::Done(version) => Ok(Some(version)),
            Guarded::Refused => Ok(None),
            Guarded::Unknown => {
                let why = "an attempt without an answer may have written it";
                Err(self.store.api.http.unavailable(OPERATION, why))
            }
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error> {
        let txn = verbs::delete(&self.store.layout, key, expect);
        let (result, is_repeat) = self
            .unbound("delete a key of the cluster", self.budget(key), &txn)
            .await?;
        Ok(verbs::is_deleted(&result, is_repeat))
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        let budget = self.store.api.http.persistent();
        let ops = [Op::DeleteTree(self.store.layout.prefix().to_owned())];
        self.store.run("delete the cluster", budget, &ops).await?;
        self.store.refresh(budget, Read::Confirmed).await
    }

    fn changes(&self) -> channel::Receiver<Changes> {
        match &self.member {
            Some(_) => self.store.copy.cache.changes(),
            None => self.silence.subscribe(),
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.store.api.http.set_timing(timing);
    }

    fn adopt_lease(&self, lease: &str) {
        if let Some(holder) = &self.member {
            holder.session.adopt(lease);
        }
    }

    fn lease(&self) -> Option<String> {
        self.member.as_ref()?.session.id()
    }
}
