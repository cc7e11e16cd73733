//! Kubernetes: an API server of our own in this process, and a pod for each member. All programs of a test find the kubeconfig
//! in their home directory.

use super::Store;
use super::fake::Fake;
use crate::harness::directory::{Directory, give_away};
use crate::harness::link::Link;
use serde_json::json;

pub struct Kubernetes {
    use_endpoints: bool,
    server: Fake,
    link: Link,
}

impl Kubernetes {
    pub fn with_config_maps() -> Self {
        Self::new(false)
    }

    pub fn with_endpoints() -> Self {
        Self::new(true)
    }

    fn new(use_endpoints: bool) -> Self {
        let server = Fake::start();
        server.set_up(false);
        let link = Link::to(&format!("127.0.0.1:{}", server.port));
        Self {
            use_endpoints,
            server,
            link,
        }
    }
}

impl Store for Kubernetes {
    fn start(&mut self, directory: &Directory) {
        let direct = format!("127.0.0.1:{}", self.server.port);
        let config = self.server.kubeconfig().replace(&direct, &self.link.address);
        directory.make(".kube");
        give_away(&directory.write(".kube/config", &config));
        self.server.set_up(true);
    }

    fn stop(&mut self) {
        self.server.set_up(false);
    }

    fn freeze(&self) {
        self.link.cut();
    }

    fn thaw(&self) {
        self.link.mend();
    }

    fn section(&self) -> String {
        format!(
            "kubernetes:\n  namespace: default\n  use_endpoints: {}\n  labels:\n    application: patroni\n",
            self.use_endpoints
        )
    }

    fn prepare_member(&self, name: &str) {
        let labels = json!({"application": "patroni", "cluster-name": "demo"});
        // Addresses of the loopback interface are refused in Endpoints; nobody connects to this one.
        self.server.pod("default", name, "10.0.0.1", &labels);
    }
}
