//! The contract on real ZooKeeper servers, and what is ZooKeeper's own.

mod exclusive;
mod exhibitor;
mod hand;
mod keys;
mod proxy;
mod secured;
mod server;
mod trouble;

use std::sync::Arc;

use async_trait::async_trait;
use config::DcsConfig;
use tamada_dcs::{Dcs, Identity, Layout, Timing};

use self::hand::Hand;
use self::server::Ensemble;
use crate::contract::play;
use crate::server::{Server, Traits, open};

#[async_trait]
impl Server for Ensemble {
    fn traits(&self) -> Traits {
        Traits {
            has_takeover_lease: false,
            absence_is_the_end: false,
            ..Traits::default()
        }
    }

    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        open(&DcsConfig::Zookeeper(self.config()), layout, identity, timing).await
    }

    fn put(&self, key: &str, value: &str) {
        Hand::new(self.members[0].port).put(key, value);
    }

    fn session(&self, lease: &str) -> String {
        lease.split(':').next().unwrap().to_owned()
    }

    fn expire(&self, _: &Layout, _: &str, lease: Option<String>) {
        let (id, password) = hand::session(&lease.unwrap());
        Hand::with_session(self.members[0].port, id, &password).close_session();
    }

    fn wipe(&self, prefix: &str) {
        Hand::new(self.members[0].port).delete_all(prefix.trim_end_matches('/'));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_keeps_the_contract() {
    play(&Ensemble::start(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zookeeper_ensemble_keeps_the_contract() {
    play(&Ensemble::start(3)).await;
}
