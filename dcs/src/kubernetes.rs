//! Kubernetes as the store: annotations of ConfigMaps or Endpoints and of the pods themselves, as Patroni keeps them.
//!
//! Nothing here expires by itself. The lock is the leader record, which its holder renews by writing it: a quorum has taken the write, so
//! it is the proof, and the record is its own heartbeat. Others take it when they have seen it unchanged for all of its time, by a write
//! that names the version of the object that they have seen (`record`).

mod api;
mod cache;
mod credentials;
mod keys;
mod labels;
mod objects;
mod record;
mod servers;
mod update;
mod watch;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use config::KubernetesConfig;
use ha::cluster::{Cluster, Expired, Version};
use ha::pg::MemberName;
use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinHandle;

pub use self::credentials::Environment;

use self::api::{Api, Budget, Outcome, Request};
use self::cache::{Cache, Facts};
use self::objects::{Object, Place, Which};
use self::record::{Claim, Decision, Patch};
use self::update::Updated;
use crate::clock::SendingClock;
use crate::{
    Changes, Dcs, Error, Expect, Failure, Identity, Key, Layout, Record, Renewed, Snapshot, Timing, WhenGone,
};

const RENEW: &str = "renew the leader key";
const TOUCH: &str = "write the member key";

/// A connection to the API server.
pub struct Kubernetes {
    api: Arc<Api>,
    cache: Arc<Cache>,
    place: Place,
    config: Mutex<Arc<KubernetesConfig>>,
    member: Option<Holder>,
    /// What a reader without a watch listens to.
    silence: tokio::sync::watch::Sender<Changes>,
}

/// What only a member has: a name, a session, and the tasks that keep the copies.
struct Holder {
    name: MemberName,
    /// Tells this agent from another one of its name. Nothing in Kubernetes expires with it.
    session: i64,
    /// The session and those of agents before us.
    sessions: Mutex<Vec<i64>>,
    clock: SendingClock,
    last_renewal: Mutex<jiff::Timestamp>,
    /// The store that was read last.
    seen: AtomicU64,
    /// The Service without which the control plane deletes the Endpoints object with the configuration.
    needs_service: AtomicBool,
    tasks: Vec<JoinHandle<()>>,
}

/// How many former sessions are known.
const FORMER_SESSIONS: usize = 16;

impl Drop for Holder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What was found instead of a pod to write to.
enum Pod {
    Unchanged,
    Missing,
    Taken,
}

impl Kubernetes {
    /// Connects with the credentials of this pod, or with those of a kubeconfig. With an identity it can hold the lock and watches, in
    /// tasks of the present runtime; without one it only reads and writes, and every read goes to a quorum.
    ///
    /// # Errors
    /// [`Error::Unavailable`] while no server answers: try again. [`Error::Fatal`] if credentials or certificates cannot be used.
    pub async fn connect(
        config: &KubernetesConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        Self::connect_in(Environment::of_process(), config, layout, identity, timing).await
    }

    /// As [`Kubernetes::connect`], in other surroundings than this process's.
    ///
    /// # Errors
    /// Those of [`Kubernetes::connect`].
    pub async fn connect_in(
        environment: Environment,
        config: &KubernetesConfig,
        layout: Layout,
        identity: Option<Identity>,
        timing: Timing,
    ) -> Result<Self, Error> {
        let api = Arc::new(Api::new(config, environment, timing, identity.is_some())?);
        let place = Place::new(config, layout);
        let cache = Arc::new(Cache::new(place.clone(), timing.ttl));
        if config.bypass_api_service && identity.is_some() {
            api.refresh_servers().await;
        }
        // What is wrong with address, credentials or permissions shows here.
        watch::list(&api, &cache, &place, Which::Objects, api.persistent()).await?;
        cache.invalidate(Which::Objects, "the first read is under way".to_owned());
        let member = identity.map(|identity| {
            let keep = |which| tokio::spawn(watch::keep(api.clone(), cache.clone(), place.clone(), which));
            let mut tasks = vec![keep(Which::Pods), keep(Which::Objects)];
            tasks.push(tokio::spawn(Arc::clone(&api).keep_servers()));
            let former = identity
                .lease
                .as_deref()
                .and_then(|text| text.parse::<i64>().ok());
            let session = former.filter(|session| *session > 0).unwrap_or_else(new_session);
            Holder {
                name: identity.name,
                session,
                sessions: Mutex::new(vec![session]),
                clock: SendingClock::new(),
                last_renewal: Mutex::new(jiff::Timestamp::UNIX_EPOCH),
                seen: AtomicU64::new(cache.generation()),
                needs_service: AtomicBool::new(config.use_endpoints),
                tasks,
            }
        });
        let silence = tokio::sync::watch::channel(Changes::default()).0;
        let config = Mutex::new(Arc::new(config.clone()));
        Ok(Self {
            api,
            cache,
            place,
            config,
            member,
            silence,
        })
    }

    /// The scopes of the clusters whose objects have the configured labels. Reads all of them: for a person who types, not for a loop.
    ///
    /// # Errors
    /// Those of [`Kubernetes::connect`].
    pub async fn scopes(config: &KubernetesConfig, timing: Timing) -> Result<BTreeSet<String>, Error> {
        let api = Api::new(config, Environment::of_process(), timing, false)?;
        let labels: Vec<String> = config
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let place = Place::new(config, Layout::new("", "", None));
        let request = Request {
            operation: "list the clusters",
            method: Method::GET,
            path: format!(
                "{}?labelSelector={}",
                place.collection(Which::Objects),
                objects::encode(&labels.join(","))
            ),
            body: None,
            tries_again_when_forbidden: false,
        };
        let Outcome::Done(list) = api.send(&request, api.persistent()).await?.outcome else {
            return Ok(BTreeSet::new());
        };
        let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
        let scope = |object: Object| object.labels.get(&config.scope_label).cloned();
        Ok(items.filter_map(Object::parse).filter_map(scope).collect())
    }

    /// Takes over other credentials, certificates, addresses and values of labels. Where the objects are cannot change.
    ///
    /// # Errors
    /// As [`Kubernetes::connect`]; the former configuration stays in use.
    pub fn reload(&self, config: &KubernetesConfig) -> Result<(), Error> {
        let present = self.config();
        let place = |config: &KubernetesConfig| {
            (
                config.namespace.clone(),
                config.labels.clone(),
                config.scope_label.clone(),
                config.use_endpoints,
            )
        };
        if place(&present) != place(config) {
            let source = "namespace, labels, scope_label and use_endpoints say where the cluster's objects are: restart the agent";
            return Err(Error::Fatal(Failure {
                operation: "reload the configuration of Kubernetes",
                endpoint: self.api.current(),
                source: source.into(),
            }));
        }
        self.api.reconfigure(config)?;
        *lock(&self.config) = Arc::new(config.clone());
        Ok(())
    }

    fn config(&self) -> Arc<KubernetesConfig> {
        lock(&self.config).clone()
    }

    fn holder(&self, operation: &'static str) -> Result<&Holder, Error> {
        self.member.as_ref().ok_or_else(|| {
            let source = "opened without a member's identity".into();
            Error::Fatal(Failure {
                operation,
                endpoint: self.api.current(),
                source,
            })
        })
    }

    fn leader_object(&self) -> (Which, &str) {
        (Which::Objects, &self.place.names.leader)
    }

    /// Decides on the leader record as the member that wants to hold it.
    async fn lock_verb<T>(
        &self,
        operation: &'static str,
        budget: Budget,
        decide: impl Fn(&Claim<'_>, &Facts<'_>, bool) -> Decision<T>,
    ) -> Result<Updated<T>, Error> {
        let holder = self.holder(operation)?;
        let (config, sessions) = (self.config(), lock(&holder.sessions).clone());
        let claim = Claim {
            place: &self.place,
            config: &config,
            name: &holder.name,
            session: holder.session,
            sessions: &sessions,
            ttl: self.api.timing().ttl,
            renew_time: holder.next_renewal(),
            sent: holder.clock.now(),
        };
        self.update(operation, budget, self.leader_object(), |facts, is_repeat| {
            decide(&claim, facts, is_repeat)
        })
        .await
    }

    fn version_of(&self, key: Key, written: &Object) -> Version {
        let known = self
            .cache
            .key(&self.place.layout.key(key))
            .map(|known| known.record.mod_revision);
        // Where the copy has gone on meanwhile, the version that was written is nobody's any more.
        Version(
            known
                .filter(|version| *version <= written.revision.number)
                .unwrap_or(written.revision.number),
        )
    }

    fn budget(&self, key: Key) -> Budget {
        match key {
            Key::Status | Key::Failsafe => self.api.brief(),
            Key::Initialize | Key::Config | Key::Failover | Key::Sync | Key::History | Key::Origin => {
                self.api.persistent()
            }
        }
    }

    fn decide_on_pod(
        &self,
        holder: &Holder,
        sessions: &[i64],
        facts: &Facts<'_>,
        data: &str,
        labels: impl Fn(bool) -> Vec<(String, Option<String>)>,
    ) -> Decision<Pod> {
        let Some(pod) = facts.object else {
            return Decision::Answer(Pod::Missing);
        };
        let layout = &self.place.layout;
        let session = keys::member_session(pod);
        let known = facts.key(&layout.member(&holder.name));
        let is_fresh = known.is_some_and(|known| known.since.elapsed() < self.api.timing().ttl);
        if session != 0 && !sessions.contains(&session) && is_fresh {
            return Decision::Answer(Pod::Taken);
        }
        let is_ours = |record: &Record| record.value == holder.name.0 && sessions.contains(&record.lease);
        let holds_lock = facts
            .key(&layout.leader())
            .is_some_and(|known| is_ours(&known.record));
        let labels = labels(holds_lock);
        let annotations = vec![
            (keys::STATUS, Some(data.to_owned())),
            (keys::SESSION, Some(holder.session.to_string())),
        ];
        let has_labels = labels
            .iter()
            .all(|(name, value)| pod.labels.get(name) == value.as_ref());
        if has_labels && keys::are_written(pod, &annotations) {
            return Decision::Settled(Pod::Unchanged);
        }
        Decision::Send(Patch {
            annotations,
            labels,
            is_guarded: true,
            ..Patch::default()
        })
    }

    /// What a member sees: a record of its own name that another agent has left is nobody's when its time is over.
    fn without_former_self(&self, holder: &Holder, mut snapshot: Snapshot) -> Snapshot {
        let layout = &self.place.layout;
        let is_foreign =
            |record: &Record| record.lease != 0 && !lock(&holder.sessions).contains(&record.lease);
        let ttl = self.api.timing().ttl;
        let leader = snapshot.records.get(&layout.leader());
        if leader.is_some_and(|record| record.value == holder.name.0 && is_foreign(record)) {
            let (config, sessions) = (self.config(), lock(&holder.sessions).clone());
            let claim = Claim {
                place: &self.place,
                config: &config,
                name: &holder.name,
                session: holder.session,
                sessions: &sessions,
                ttl,
                renew_time: String::new(),
                sent: holder.clock.now(),
            };
            let (which, name) = self.leader_object();
            if self
                .cache
                .decide(which, name, |facts| record::is_over(&claim, facts, ttl))
            {
                snapshot.records.remove(&layout.leader());
                snapshot.records.remove(&layout.heartbeat());
            }
        }
        let path = layout.member(&holder.name);
        let known = self.cache.key(&path).filter(|known| known.since.elapsed() >= ttl);
        if let Some(record) = snapshot.records.get_mut(&path)
            && is_foreign(record)
            && known.is_some()
        {
            record.lease = 0;
        }
        snapshot
    }
}

impl Holder {
    /// The time of a renewal; never the same one twice.
    fn next_renewal(&self) -> String {
        let mut last = lock(&self.last_renewal);
        let step = Duration::from_micros(1);
        let now = jiff::Timestamp::now();
        *last = if now > *last {
            now
        } else {
            last.checked_add(step).unwrap_or(now)
        };
        last.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
    }
}

#[async_trait]
impl Dcs for Kubernetes {
    async fn load(&self) -> Result<Cluster, Error> {
        let budget = self.api.persistent();
        let Some(holder) = &self.member else {
            for which in [Which::Objects, Which::Pods] {
                watch::list(&self.api, &self.cache, &self.place, which, budget).await?;
            }
            return Ok(self.cache.known().cluster(&self.place.layout));
        };
        let snapshot = self.cache.snapshot(budget.deadline).await;
        let snapshot = snapshot.map_err(|trouble| self.api.unavailable("read the cluster", trouble))?;
        holder.seen.store(snapshot.generation, Ordering::Relaxed);
        Ok(self
            .without_former_self(holder, snapshot)
            .cluster(&self.place.layout))
    }

    async fn touch_member(&self, data: &str) -> Result<bool, Error> {
        let holder = self.holder(TOUCH)?;
        let config = self.config();
        let published: Value = serde_json::from_str(data).unwrap_or_default();
        let sessions = lock(&holder.sessions).clone();
        let pod = (Which::Pods, holder.name.as_str());
        let updated = self.update(TOUCH, self.api.brief(), pod, |facts, _| {
            self.decide_on_pod(holder, &sessions, facts, data, |holds_lock| {
                labels::labels(&config, holds_lock, &published)
            })
        });
        let (endpoint, name, namespace) = (self.api.current(), &holder.name, &config.namespace);
        match updated.await? {
            Updated::Written(_) | Updated::Answer(Pod::Unchanged) => {}
            Updated::Answer(Pod::Taken) => {
                let source = format!("there is already a node named '{name}' running").into();
                return Err(Error::NameTaken(Failure {
                    operation: TOUCH,
                    endpoint,
                    source,
                }));
            }
            Updated::Answer(Pod::Missing) => {
                let source = format!(
                    "there is no pod \"{name}\" in the namespace \"{namespace}\": the member's name must be the pod's name"
                );
                return Err(Error::Rejected(Failure {
                    operation: TOUCH,
                    endpoint,
                    source: source.into(),
                }));
            }
        }
        self.create_service().await;
        Ok(true)
    }

    async fn acquire_leader(&self) -> Result<bool, Error> {
        let budget = self.api.persistent();
        let updated = self
            .lock_verb("acquire the leader key", budget, |claim, facts, _| {
                record::acquire(claim, facts)
            })
            .await?;
        Ok(is_held(updated))
    }

    async fn supersede_leader(&self, expired: Expired) -> Result<bool, Error> {
        let budget = self.api.persistent();
        let decide = |claim: &Claim<'_>, facts: &Facts<'_>, _: bool| record::supersede(claim, facts, expired);
        Ok(is_held(
            self.lock_verb("supersede the leader", budget, decide).await?,
        ))
    }

    async fn renew_leader(&self, when_gone: WhenGone) -> Result<Renewed, Error> {
        let budget = self.api.persistent();
        match self
            .lock_verb(RENEW, budget, |claim, facts, _| {
                record::renew(claim, facts, when_gone)
            })
            .await?
        {
            Updated::Written(_) => Ok(Renewed::Yes),
            Updated::Answer(renewed) => Ok(renewed),
        }
    }

    async fn take_leader(&self) -> Result<bool, Error> {
        let budget = self.api.persistent();
        Ok(is_held(
            self.lock_verb("take the leader key", budget, |claim, facts, _| {
                record::take(claim, facts)
            })
            .await?,
        ))
    }

    async fn release_leader(&self, status: Option<&str>) -> Result<bool, Error> {
        let status = status
            .map(|status| keys::annotations(Key::Status, Some(status)))
            .unwrap_or_default();
        let decide = |claim: &Claim<'_>, facts: &Facts<'_>, is_repeat| {
            record::release(claim, facts, &status, is_repeat)
        };
        Ok(is_held(
            self.lock_verb("release the leader key", self.api.brief(), decide)
                .await?,
        ))
    }

    async fn write(&self, key: Key, value: &str, expect: Expect) -> Result<Option<Version>, Error> {
        const OPERATION: &str = "write a key of the cluster";
        let annotations = keys::annotations(key, Some(value));
        let (path, name) = (
            self.place.layout.key(key),
            keys::object_of(key, &self.place.names),
        );
        let is_new = self
            .cache
            .decide(Which::Objects, name, |facts| facts.object.is_none());
        if is_new && self.place.use_endpoints && name == self.place.names.config {
            if let Some(holder) = &self.member {
                holder.needs_service.store(true, Ordering::Relaxed);
            }
            self.create_service().await;
        }
        let updated = self.update(
            OPERATION,
            self.budget(key),
            (Which::Objects, name),
            |facts, is_repeat| {
                let present = facts.key(&path).map(|known| known.record.mod_revision);
                let is_expected = match expect {
                    Expect::Anything => true,
                    Expect::Absent => present.is_none(),
                    Expect::Version(version) => present == Some(version.0),
                };
                let is_written = facts
                    .object
                    .is_some_and(|object| keys::are_written(object, &annotations));
                if is_expected && !(is_repeat && is_written && expect == Expect::Anything) {
                    let is_guarded = expect != Expect::Anything;
                    return Decision::Send(Patch {
                        annotations: annotations.clone(),
                        is_guarded,
                        ..Patch::default()
                    });
                }
                Decision::Answer((is_repeat && is_written).then_some(present))
            },
        );
        match updated.await? {
            Updated::Written(object) => Ok(Some(self.version_of(key, &object))),
            Updated::Answer(None) => Ok(None),
            // Who has created a key is what matters: two members may both have written `""` to `initialize`.
            Updated::Answer(Some(_)) if expect == Expect::Absent => Err(self
                .api
                .unavailable(OPERATION, "an attempt without an answer may have written it")),
            Updated::Answer(Some(version)) => Ok(version.map(Version)),
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<bool, Error> {
        let annotations = keys::annotations(key, None);
        let (path, name) = (
            self.place.layout.key(key),
            keys::object_of(key, &self.place.names),
        );
        let updated = self.update(
            "delete a key of the cluster",
            self.budget(key),
            (Which::Objects, name),
            |facts, is_repeat| {
                let present = facts.key(&path).map(|known| known.record.mod_revision);
                let is_expected = match expect {
                    Expect::Anything => true,
                    Expect::Absent => present.is_none(),
                    Expect::Version(version) => present == Some(version.0),
                };
                match present {
                    None => Decision::Answer(is_expected || is_repeat),
                    Some(_) if is_expected => Decision::Send(Patch {
                        annotations: annotations.clone(),
                        is_guarded: true,
                        ..Patch::default()
                    }),
                    Some(_) => Decision::Answer(false),
                }
            },
        );
        Ok(is_held(updated.await?))
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        let request = Request {
            operation: "delete the cluster",
            method: Method::DELETE,
            path: self.place.own(Which::Objects),
            body: None,
            tries_again_when_forbidden: false,
        };
        self.api.send(&request, self.api.persistent()).await?;
        self.cache.list_again();
        Ok(())
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<Changes> {
        if self.member.is_some() {
            self.cache.changes()
        } else {
            self.silence.subscribe()
        }
    }

    fn set_timing(&self, timing: Timing) {
        self.api.set_timing(timing);
        self.cache.set_ttl(timing.ttl);
    }

    fn adopt_lease(&self, lease: &str) {
        if let (Some(holder), Ok(session)) = (&self.member, lease.parse::<i64>())
            && session > 0
        {
            let mut sessions = lock(&holder.sessions);
            sessions.push(session);
            let surplus = sessions.len().saturating_sub(FORMER_SESSIONS);
            sessions.drain(1..=surplus);
        }
    }

    fn lease(&self) -> Option<String> {
        self.member.as_ref().map(|holder| holder.session.to_string())
    }
}

fn is_held(updated: Updated<bool>) -> bool {
    match updated {
        Updated::Written(_) => true,
        Updated::Answer(answer) => answer,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn new_session() -> i64 {
    fastrand::i64(1..)
}

#[cfg(test)]
mod tests {
    use config::KubernetesPort;

    use super::*;

    pub(super) fn config() -> KubernetesConfig {
        KubernetesConfig {
            namespace: "default".into(),
            labels: [("application".to_owned(), "patroni".to_owned())].into(),
            scope_label: "cluster-name".into(),
            role_label: "role".into(),
            leader_label_value: "primary".into(),
            follower_label_value: "replica".into(),
            standby_leader_label_value: "primary".into(),
            tmp_role_label: None,
            bootstrap_labels: std::collections::BTreeMap::default(),
            use_endpoints: false,
            pod_ip: None,
            ports: vec![KubernetesPort {
                name: None,
                port: 5432,
                protocol: None,
            }],
            cacert: None,
            context: "kind-kind".into(),
            bypass_api_service: false,
            retriable_http_codes: Vec::new(),
        }
    }
}
