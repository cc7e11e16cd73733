//! The contract on Kubernetes, with ConfigMaps and with Endpoints, on an API server of our own and (`real`) on the real one.

pub(crate) mod fake;
mod packaging;
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

/// A server with a kubeconfig. Each scope has a namespace of its own, as pods of several clusters have the same names here.
pub(crate) struct Stage {
    pub(crate) fake: Fake,
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
        let (fake, dir) = (Fake::start(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("kubeconfig"), fake.kubeconfig(user)).unwrap();
        Self {
            fake,
            dir,
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

    pub(crate) fn environment(&self) -> Environment {
        Environment {
            kubeconfig: Some(self.kubeconfig()),
            ..Environment::default()
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Opens the store as a member whose pod runs.
    pub(crate) async fn member(&self, scope: &str, identity: Identity, timing: Timing) -> Kubernetes {
        let name = identity.name.0.clone();
        if self.fake.get(scope, "pods", &name).is_none() {
            self.fake.pod(scope, &name, "10.0.0.1", &labels(scope));
        }
        let layout = Layout::new("/service/", scope, None);
        let config = config(scope, self.use_endpoints);
        Kubernetes::connect_in(self.environment(), &config, layout, Some(identity), timing)
            .await
            .unwrap()
    }

    fn annotate(&self, scope: &str, object: &str, annotations: &Value) {
        self.fake.apply(
            scope,
            self.kind(),
            object,
            &json!({"metadata": {"labels": labels(scope), "annotations": annotations}}),
        );
    }
}

#[async_trait]
impl Server for Stage {
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
                self.fake
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
        self.fake.apply(scope, "pods", name, &status);
    }

    fn wipe(&self, prefix: &str) {
        let scope = prefix.trim_start_matches("/service/").trim_end_matches('/');
        self.fake.delete_all(scope, self.kind());
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
