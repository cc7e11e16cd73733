//! The verbs of a store.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use ha::cluster::{Cluster, Expired, Version};
use reqwest::Method;
use serde_json::Value;

use super::api::Request;
use super::cache::Facts;
use super::member::Pod;
use super::objects::Which;
use super::record::{Claim, Decision, Patch};
use super::update::Updated;
use super::{Kubernetes, RENEW, TOUCH, keys, labels, lock, record, watch};
use crate::{Changes, Dcs, Error, Expect, Failure, Key, Renewed, Timing, WhenGone};

/// How many former sessions are known.
const FORMER_SESSIONS: usize = 16;

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
