//! etcd by its version 2 API.

use super::Store;
use crate::harness::directory::Directory;
use crate::harness::etcd::Etcd;

pub struct Etcd2(Etcd);

impl Etcd2 {
    pub fn new(size: usize) -> Self {
        let mut etcd = Etcd::new(size);
        etcd.options = vec!["--enable-v2".to_owned()];
        Self(etcd)
    }
}

impl Store for Etcd2 {
    fn start(&mut self, directory: &Directory) {
        self.0.start(directory);
    }

    fn stop(&mut self) {
        self.0.kill();
    }

    fn freeze(&self) {
        self.0.freeze();
    }

    fn thaw(&self) {
        self.0.thaw();
    }

    fn section(&self) -> String {
        self.0.section_named("etcd")
    }
}
