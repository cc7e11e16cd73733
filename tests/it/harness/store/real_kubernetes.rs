//! Kubernetes: the real API server on an etcd of its own, and a pod for each member. All programs of a test find the kubeconfig in
//! their home directory, and have what `packaging/kubernetes/rbac.yaml` permits.

use super::Store;
use super::apiserver::{ApiServer, Settings};
use crate::harness::directory::{Directory, give_away};
use crate::harness::link::Link;
use serde_json::json;
use std::path::Path;

const NAMESPACE: &str = "default";

pub struct RealKubernetes {
    use_endpoints: bool,
    server: ApiServer,
    link: Link,
    is_new: bool,
}

impl RealKubernetes {
    pub fn with_config_maps() -> Self {
        Self::new(false)
    }

    pub fn with_endpoints() -> Self {
        Self::new(true)
    }

    fn new(use_endpoints: bool) -> Self {
        let server = ApiServer::prepare(Path::new(env!("CARGO_MANIFEST_DIR")), Settings::default());
        let link = Link::to(&format!("127.0.0.1:{}", server.port));
        Self {
            use_endpoints,
            server,
            link,
            is_new: true,
        }
    }
}

impl Store for RealKubernetes {
    fn start(&mut self, directory: &Directory) {
        if !std::mem::take(&mut self.is_new) {
            return self.server.run();
        }
        self.server.run_etcd();
        self.server.run();
        self.server.namespace(NAMESPACE);
        directory.make(".kube");
        let ca = std::fs::read_to_string(self.server.ca()).unwrap();
        let ca = directory.write(".kube/ca.crt", &ca);
        let user = format!("token: {}", self.server.token(NAMESPACE));
        let config = self
            .server
            .kubeconfig_at(&format!("https://{}", self.link.address), &user);
        let config = config.replace(&self.server.ca().display().to_string(), &ca.display().to_string());
        give_away(&directory.write(".kube/config", &config));
    }

    /// Its etcd runs on.
    fn stop(&mut self) {
        self.server.stop();
    }

    fn freeze(&self) {
        self.link.cut();
    }

    fn thaw(&self) {
        self.link.mend();
    }

    fn section(&self) -> String {
        format!(
            "kubernetes:\n  namespace: {NAMESPACE}\n  use_endpoints: {}\n  labels:\n    application: patroni\n",
            self.use_endpoints
        )
    }

    fn prepare_member(&self, name: &str) {
        let labels = json!({"application": "patroni", "cluster-name": "demo"});
        // Addresses of the loopback interface are refused in Endpoints; nobody connects to this one.
        self.server.pod(NAMESPACE, name, "10.0.0.1", &labels);
    }
}
