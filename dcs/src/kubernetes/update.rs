//! Changes of one object: decided on the object as it is known, sent for the version that was decided on, and decided again on a fresh
//! read where it has changed since.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::api::{Budget, Outcome, Request};
use super::cache::Facts;
use super::objects::{Object, Which};
use super::record::{Decision, Patch};
use super::{Kubernetes, RENEW};
use crate::Error;

const CHANGED: &str = "it changed again and again";
const CONFLICT_PAUSE: Duration = Duration::from_millis(50);

/// What came of [`Kubernetes::update`].
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub(super) enum Updated<T> {
    Written(Object),
    Answer(T),
}

impl Kubernetes {
    /// What was decided on the data of one store is not done in another, until that was read.
    pub(super) fn check_store(&self, operation: &'static str) -> Result<(), Error> {
        let seen = self
            .member
            .as_ref()
            .map(|holder| holder.seen.load(Ordering::Relaxed));
        if seen.is_none_or(|seen| seen == self.cache.generation()) {
            return Ok(());
        }
        Err(self.api.unavailable(
            operation,
            "another store answers than before, and was not read yet",
        ))
    }

    /// Changes one object: decides on it as it is known, sends what was decided for the version that it was decided on, and decides again
    /// on a fresh read where the object has changed since. The decision is told whether an attempt went unanswered.
    pub(super) async fn update<T>(
        &self,
        operation: &'static str,
        budget: Budget,
        (which, name): (Which, &str),
        decide: impl Fn(&Facts<'_>, bool) -> Decision<T>,
    ) -> Result<Updated<T>, Error> {
        self.check_store(operation)?;
        let mut is_repeat = false;
        let (mut is_fresh, mut conflicts) = (false, 0);
        if !self.cache.is_kept(which) {
            self.fetch(operation, budget, which, name).await?;
            is_fresh = true;
        }
        loop {
            let decided = self.cache.decide(which, name, |facts| {
                let seen = facts.object.map(|object| object.revision.text.clone());
                (decide(facts, is_repeat), seen)
            });
            let patch = match decided {
                (Decision::Settled(answer), _) => return Ok(Updated::Answer(answer)),
                (Decision::Answer(answer), _) if is_fresh => return Ok(Updated::Answer(answer)),
                (Decision::Answer(_), _) => None,
                (Decision::Send(patch), seen) => Some((patch, seen)),
            };
            if let Some((patch, seen)) = patch {
                let body = self.body(which, name, &patch, seen.as_deref());
                let request = self.change(operation, which, name, &body, seen.is_some());
                let reply = self.api.send(&request, budget).await?;
                is_repeat |= reply.is_repeat;
                if let Outcome::Done(value) = reply.outcome {
                    let object = Object::parse(&value)
                        .ok_or_else(|| self.api.unavailable(operation, "the answer is no object"))?;
                    self.cache.tell(which, object.clone(), true);
                    return Ok(Updated::Written(object));
                }
                conflicts += 1;
                // Several in a row: a server that is behind, or many writers.
                let pause = CONFLICT_PAUSE * conflicts.min(8) - CONFLICT_PAUSE;
                if budget.left() <= pause {
                    return Err(self.api.unavailable(operation, CHANGED));
                }
                tokio::time::sleep(pause).await;
            }
            self.fetch(operation, budget, which, name).await?;
            is_fresh = true;
        }
    }

    fn change<'a>(
        &self,
        operation: &'static str,
        which: Which,
        name: &str,
        body: &'a Value,
        exists: bool,
    ) -> Request<'a> {
        let (method, path) = if exists {
            (Method::PATCH, self.place.object(which, name))
        } else {
            (Method::POST, self.place.collection(which))
        };
        // RBAC rules that are being replaced must not cost the lock.
        let tries_again_when_forbidden = operation == RENEW;
        Request {
            operation,
            method,
            path,
            body: Some(body),
            tries_again_when_forbidden,
        }
    }

    fn body(&self, which: Which, name: &str, patch: &Patch, seen: Option<&str>) -> Value {
        let mut annotations = Map::new();
        for (name, value) in &patch.annotations {
            // A new object has no annotation to remove.
            if value.is_some() || seen.is_some() {
                annotations.insert((*name).to_owned(), json!(value));
            }
        }
        let mut metadata =
            json!({"name": name, "namespace": self.config().namespace, "annotations": annotations});
        metadata["labels"] = match which {
            Which::Objects => json!(self.place.labels),
            Which::Pods => patch
                .labels
                .iter()
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect::<Map<_, _>>()
                .into(),
        };
        let mut body = json!({"metadata": metadata});
        if let Some(seen) = seen.filter(|_| patch.is_guarded) {
            body["metadata"]["resourceVersion"] = json!(seen);
        }
        if seen.is_none() {
            body["apiVersion"] = json!("v1");
            body["kind"] = json!(if self.place.use_endpoints {
                "Endpoints"
            } else {
                "ConfigMap"
            });
        }
        if let Some(subsets) = &patch.subsets {
            body["subsets"] = subsets.clone();
        }
        body
    }

    /// Reads one object, from a quorum.
    async fn fetch(
        &self,
        operation: &'static str,
        budget: Budget,
        which: Which,
        name: &str,
    ) -> Result<(), Error> {
        let before = self.cache.decide(which, name, |facts| {
            facts.object.map(|object| object.revision.clone())
        });
        let request = Request {
            operation,
            method: Method::GET,
            path: self.place.object(which, name),
            body: None,
            tries_again_when_forbidden: operation == RENEW,
        };
        match self.api.send(&request, budget).await?.outcome {
            Outcome::Done(value) => {
                let object = Object::parse(&value)
                    .ok_or_else(|| self.api.unavailable(operation, "the answer is no object"))?;
                if before
                    .as_ref()
                    .is_some_and(|before| object.revision.is_before(before))
                {
                    self.cache.list_again();
                    return Err(self
                        .api
                        .unavailable(operation, "the API server's data are older than they were"));
                }
                self.cache.tell(which, object, false);
            }
            Outcome::NotFound | Outcome::Conflict => {
                // What was created since is not what was not found.
                if before.is_some() {
                    self.cache.tell_deleted(which, name, before.as_ref(), false);
                }
            }
        }
        Ok(())
    }

    /// Creates the headless Service that keeps the control plane from deleting an Endpoints object without one.
    pub(super) async fn create_service(&self) {
        let Some(holder) = self
            .member
            .as_ref()
            .filter(|holder| holder.needs_service.load(Ordering::Relaxed))
        else {
            return;
        };
        let body = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": self.place.names.config, "namespace": self.config().namespace, "labels": self.place.labels},
            "spec": {"clusterIP": "None"}});
        let request = Request {
            operation: "create the Service of the configuration",
            method: Method::POST,
            path: format!("{}/services", self.place.namespace),
            body: Some(&body),
            tries_again_when_forbidden: false,
        };
        match self.api.send(&request, self.api.brief()).await {
            // 403: whoever may not create it has an operator who does.
            Ok(_) | Err(Error::Rejected(_)) => holder.needs_service.store(false, Ordering::Relaxed),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
}
