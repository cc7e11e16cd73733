//! The contract on etcd's version 2 API.

mod trouble;

use std::sync::Arc;

use async_trait::async_trait;
use config::DcsConfig;
use tamada_dcs::etcd2::Etcd2;
use tamada_dcs::{Dcs, Identity, Layout, Timing};

use crate::contract::{identity, play};
use crate::etcd::Etcd;
use crate::server::{Server, Traits, ask, open};

/// etcd servers that speak the version 2 as well.
pub(crate) struct Etcd2Server(pub(crate) Etcd);

impl Etcd2Server {
    pub(crate) fn start(count: usize) -> Self {
        Self(Etcd::start_with(
            "http",
            count,
            vec!["--enable-v2".to_owned()],
            Vec::new(),
        ))
    }

    /// A request by the foreign hand at the first member that runs.
    pub(crate) fn request(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> (u16, String) {
        let encode = |text: &str| {
            text.bytes()
                .map(|byte| format!("%{byte:02X}"))
                .collect::<String>()
        };
        let parameters = parameters.iter();
        let body: Vec<_> = parameters
            .map(|(name, value)| format!("{name}={}", encode(value)))
            .collect();
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        let members = self.0.members.iter();
        let mut answers = members.map(|member| ask(member.port, method, path, headers, &body.join("&")));
        answers.find_map(Result::ok).unwrap()
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let (_, body) = self.request("GET", &format!("/v2/keys{key}?quorum=true"), &[]);
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        value["node"]["value"].as_str().map(str::to_owned)
    }
}

pub(crate) async fn member(etcd: &Etcd2Server, name: &str, timing: Timing) -> Etcd2 {
    let layout = Layout::new("service", "batman", None);
    Etcd2::connect(&etcd.0.config(), layout, Some(identity(name)), timing)
        .await
        .unwrap()
}

#[async_trait]
impl Server for Etcd2Server {
    fn traits(&self) -> Traits {
        Traits {
            has_leases: false,
            has_takeover_lease: false,
            has_heartbeat: false,
            ..Traits::default()
        }
    }

    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        open(&DcsConfig::Etcd(self.0.config()), layout, identity, timing).await
    }

    fn put(&self, key: &str, value: &str) {
        self.request("PUT", &format!("/v2/keys{key}"), &[("value", value)]);
    }

    fn expire(&self, layout: &Layout, name: &str, _: Option<String>) {
        for key in [layout.leader(), layout.member(&name.into())] {
            self.request("DELETE", &format!("/v2/keys{key}"), &[]);
        }
    }

    fn wipe(&self, prefix: &str) {
        self.request("DELETE", &format!("/v2/keys{prefix}?recursive=true"), &[]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_by_its_version_2_keeps_the_contract() {
    play(&Etcd2Server::start(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_etcd_by_its_version_2_keeps_the_contract() {
    play(&Etcd2Server::start(3)).await;
}
