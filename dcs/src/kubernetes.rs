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
mod member;
mod objects;
mod record;
mod servers;
mod store;
mod update;
mod watch;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use config::KubernetesConfig;
use ha::cluster::Version;
use reqwest::Method;
use serde_json::Value;

pub use self::credentials::Environment;

use self::api::{Api, Budget, Outcome, Request};
use self::cache::{Cache, Facts};
use self::member::Holder;
use self::objects::{Object, Place, Which};
use self::record::{Claim, Decision};
use self::update::Updated;
use crate::clock::SendingClock;
use crate::http::lock;
use crate::{Changes, Error, Failure, Identity, Key, Layout, Timing};

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
