//! The contract on Kubernetes, with ConfigMaps and with Endpoints, on an API server of our own and (`real`) on the real one.

mod answers;
mod apiserver;
pub(crate) mod fake;
mod gateway;
mod packaging;
mod real;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use config::{KubernetesConfig, KubernetesPort};
use serde_json::{Value, json};
use tamada_dcs::kubernetes::{Environment, Kubernetes};
use tamada_dcs::{Dcs, Identity, Layout, Timing};
use tempfile::TempDir;

use self::fake::Fake;
use crate::contract::play;
use crate::server::{Server, Traits};

/// An API server, and a foreign hand on it.
pub(crate) trait Hand: Send + Sync {
    /// Creates an object or merges into it.
    fn apply(&self, namespace: &str, kind: &str, name: &str, patch: &Value);

    /// A pod as the kubelet runs it, in a namespace that is there then.
    fn pod(&self, namespace: &str, name: &str, ip: &str, labels: &Value);

    fn get(&self, namespace: &str, kind: &str, name: &str) -> Option<Value>;

    fn delete_all(&self, namespace: &str, kind: &str);

    /// That of an agent of this namespace.
    fn kubeconfig(&self, namespace: &str) -> String;
}

/// A server with its kubeconfigs. Each scope has a namespace of its own, as pods of several clusters have the same names here.
pub(crate) struct Stage<S = Fake> {
    pub(crate) server: S,
    dir: TempDir,
    use_endpoints: bool,
}

pub(crate) fn config(namespace: &str, use_endpoints: bool) -> KubernetesConfig {
    KubernetesConfig {
        namespace: namespace.to_owned(),
        labels: [("application".to_owned(), "patroni".to_owned())].into(),
        scope_label: "cluster-name".into(),
        role_label: "role".into(),
        leader_label_value: "primary".into(),
        follower_label_value: "replica".into(),
        standby_leader_label_value: "primary".into(),
        tmp_role_label: None,
        bootstrap_labels: std::collections::BTreeMap::default(),
        use_endpoints,
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

pub(crate) fn labels(scope: &str) -> Value {
    json!({"application": "patroni", "cluster-name": scope})
}

impl Stage {
    pub(crate) fn start(use_endpoints: bool) -> Self {
        Self::start_as(use_endpoints, "token: s3cret")
    }

    pub(crate) fn start_as(use_endpoints: bool, user: &str) -> Self {
        Self::on(Fake::start().with_user(user), use_endpoints)
    }
}

impl<S: Hand> Stage<S> {
    pub(crate) fn on(server: S, use_endpoints: bool) -> Self {
        Self {
            server,
            dir: tempfile::tempdir().unwrap(),
            use_endpoints,
        }
    }

    fn kind(&self) -> &'static str {
        if self.use_endpoints {
            "endpoints"
        } else {
            "configmaps"
        }
    }

    fn leader_object(&self, scope: &str) -> String {
        if self.use_endpoints {
            scope.to_owned()
        } else {
            format!("{scope}-leader")
        }
    }

    /// Where an agent of this namespace finds the server.
    pub(crate) fn environment(&self, namespace: &str) -> Environment {
        let file = self.dir.path().join(format!("kubeconfig-{namespace}"));
        if !file.exists() {
            std::fs::write(&file, self.server.kubeconfig(namespace)).unwrap();
        }
        Environment {
            kubeconfig: Some(file),
            ..Environment::default()
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens the store as a member whose pod runs.
    pub(crate) async fn member(&self, scope: &str, identity: Identity, timing: Timing) -> Kubernetes {
        let name = identity.name.0.clone();
        if self.server.get(scope, "pods", &name).is_none() {
            self.server.pod(scope, &name, "10.0.0.1", &labels(scope));
        }
        let layout = Layout::new("/service/", scope, None);
        let config = config(scope, self.use_endpoints);
        Kubernetes::connect_in(self.environment(scope), &config, layout, Some(identity), timing)
            .await
            .unwrap()
    }

    fn annotate(&self, scope: &str, object: &str, annotations: &Value) {
        self.server.apply(
            scope,
            self.kind(),
            object,
            &json!({"metadata": {"labels": labels(scope), "annotations": annotations}}),
        );
    }
}

#[async_trait]
impl<S: Hand> Server for Stage<S> {
    fn traits(&self) -> Traits {
        Traits {
            has_takeover_lease: false,
            leases_expire: false,
            ..Traits::default()
        }
    }

    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        Arc::new(self.member(layout.scope(), identity, timing).await)
    }

    fn put(&self, key: &str, value: &str) {
        let mut parts = key.trim_start_matches("/service/").splitn(2, '/');
        let (scope, key) = (parts.next().unwrap(), parts.next().unwrap());
        let leader = self.leader_object(scope);
        match key {
            "leader" => self.annotate(scope, &leader, &json!({"leader": value})),
            "status" | "optime/leader" => self.annotate(scope, &leader, &json!({"optime": value})),
            "failsafe" => self.annotate(scope, &leader, &json!({"failsafe": value})),
            "sync" | "failover" => self.annotate(
                scope,
                &format!("{scope}-{key}"),
                &json!({"quorum": value, "scheduled_at": value}),
            ),
            "members/a/deeper" => {}
            key if key.starts_with("members/") => {
                let annotations = json!({"status": value, "tamada-session": null});
                let pod = json!({"metadata": {"labels": labels(scope), "annotations": annotations}});
                self.server
                    .apply(scope, "pods", key.trim_start_matches("members/"), &pod);
            }
            key => self.annotate(scope, &format!("{scope}-config"), &json!({key: value})),
        }
    }

    /// Nothing expires in Kubernetes: what a foreign hand takes away is the holder's name and the member's status.
    fn expire(&self, layout: &Layout, name: &str, _: Option<String>) {
        let scope = layout.scope();
        self.annotate(scope, &self.leader_object(scope), &json!({"leader": null}));
        let status = json!({"metadata": {"annotations": {"status": null}}});
        self.server.apply(scope, "pods", name, &status);
    }

    fn wipe(&self, prefix: &str) {
        let scope = prefix.trim_start_matches("/service/").trim_end_matches('/');
        self.server.delete_all(scope, self.kind());
    }
}

impl Hand for Fake {
    fn apply(&self, namespace: &str, kind: &str, name: &str, patch: &Value) {
        Self::apply(self, namespace, kind, name, patch);
    }

    fn pod(&self, namespace: &str, name: &str, ip: &str, labels: &Value) {
        Self::pod(self, namespace, name, ip, labels);
    }

    fn get(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        Self::get(self, namespace, kind, name)
    }

    fn delete_all(&self, namespace: &str, kind: &str) {
        Self::delete_all(self, namespace, kind);
    }

    fn kubeconfig(&self, _: &str) -> String {
        Self::kubeconfig(self)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configmaps_keep_the_contract() {
    play(&Stage::start(false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_keep_the_contract() {
    play(&Stage::start(true)).await;
}
