//! A DCS that a cluster of the tests runs on: what its members' configuration says of it, and what happens to it.

#[path = "../../../dcs/tests/it/kubernetes/apiserver.rs"]
#[allow(
    clippy::redundant_pub_crate,
    reason = "the tests of the DCS include it as well"
)]
mod apiserver;
mod consul;
mod etcd2;
mod exhibitor;
#[path = "../../../dcs/tests/it/kubernetes/fake.rs"]
#[allow(
    clippy::redundant_pub_crate,
    reason = "the tests of the DCS include it as well"
)]
mod fake;
mod kubernetes;
mod real_kubernetes;
mod zookeeper;

pub use consul::Consul;
pub use etcd2::Etcd2;
pub use exhibitor::Exhibitor;
pub use kubernetes::Kubernetes;
pub use real_kubernetes::RealKubernetes;
pub use zookeeper::Zookeeper;

use super::directory::Directory;
use super::etcd::Etcd;
use std::any::Any;

/// Several servers, of which a quorum decides.
pub trait Ensemble: Store {
    /// The server that leads the others.
    fn leader(&self) -> usize;

    fn kill_one(&mut self, number: usize);

    /// Returns when it has its place in the quorum.
    fn start_one(&mut self, number: usize, directory: &Directory);
}

pub trait Store: Any {
    /// Starts it, with what it had when it was stopped; returns when it answers.
    fn start(&mut self, directory: &Directory);

    /// It ends without a word: connections are refused.
    fn stop(&mut self);

    /// Connections stay open and nothing answers; of several servers a quorum does not answer.
    fn freeze(&self);

    fn thaw(&self);

    /// The section of a member's configuration, with the line of its name.
    fn section(&self) -> String;

    /// Before a member of this name starts for the first time.
    fn prepare_member(&self, _name: &str) {}
}

impl Store for Etcd {
    fn start(&mut self, directory: &Directory) {
        Self::start(self, directory);
    }

    fn stop(&mut self) {
        self.kill();
    }

    fn freeze(&self) {
        Self::freeze(self);
    }

    fn thaw(&self) {
        Self::thaw(self);
    }

    fn section(&self) -> String {
        self.section_named("etcd3")
    }
}
