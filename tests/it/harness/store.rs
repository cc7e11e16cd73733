//! A DCS that a cluster of the tests runs on: what its members' configuration says of it, and what happens to it.

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
mod zookeeper;

pub use consul::Consul;
pub use etcd2::Etcd2;
pub use exhibitor::Exhibitor;
pub use kubernetes::Kubernetes;
pub use zookeeper::Zookeeper;

use super::directory::Directory;
use super::etcd::Etcd;
use std::any::Any;

pub trait Store: Any {
    /// Starts it, with what it had when it was stopped; returns when it answers.
    fn start(&mut self, directory: &Directory);

    /// It ends without a word: connections are refused.
    fn stop(&mut self);

    /// Connections stay open and nothing answers.
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
