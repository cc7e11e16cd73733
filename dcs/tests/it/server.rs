//! What the contract suite needs of a store besides its verbs: a server to play on, and a foreign hand on it. Another store
//! adds its server here or in a file of its own, and a test that calls [`crate::contract::play`].

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use config::DcsConfig;
use tamada_dcs::memory::{MemoryDcs, SharedStore};
use tamada_dcs::{Dcs, Identity, Layout, Op, Timing, Txn};

use crate::etcd::Etcd;

/// What a store does not do as the others. `docs/stores.md` says what that means for a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    /// Keys are bound to a lease that an agent finds again after a restart, and that tells two agents of one name apart.
    pub(crate) has_leases: bool,
    /// Keys of an agent that is silent for `ttl` go by themselves, and another `ttl` means another lease.
    pub(crate) leases_expire: bool,
    /// A leader that cannot write its heartbeat may count on its lease alone, so its first heartbeat permits no takeover.
    pub(crate) has_takeover_lease: bool,
    /// When the leader key is gone, its holder's lock has expired.
    pub(crate) absence_is_the_end: bool,
    /// A renewal leaves the leader key as it is.
    pub(crate) has_heartbeat: bool,
}

impl Default for Traits {
    fn default() -> Self {
        Self {
            has_leases: true,
            leases_expire: true,
            has_takeover_lease: true,
            absence_is_the_end: true,
            has_heartbeat: true,
        }
    }
}

/// A store that runs, on which every scenario has a scope of its own.
#[async_trait]
pub(crate) trait Server: Send + Sync {
    fn traits(&self) -> Traits {
        Traits::default()
    }

    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs>;

    /// A foreign hand writes a key, bound to no lease whatever it was bound to before.
    fn put(&self, key: &str, value: &str);

    /// The session that keys have which are bound to a lease.
    fn session(&self, lease: &str) -> String {
        lease.to_owned()
    }

    /// Time passes for a lease, and its keys go. A store without leases deletes the leader and member keys of `name`.
    fn expire(&self, layout: &Layout, name: &str, lease: Option<String>);

    /// Deletes all keys that begin with `prefix`.
    fn wipe(&self, prefix: &str);
}

/// A server that can be stopped, started with what it had, and suspended.
#[allow(
    dead_code,
    reason = "for the scenarios of an outage, which etcd v3 has on its own"
)]
pub(crate) trait Process: Server {
    /// How it is configured.
    fn config(&self) -> DcsConfig;

    fn stop(&mut self);

    /// Returns when it answers.
    fn start(&mut self);

    /// `SIGSTOP` or `SIGCONT`: the sockets stay open and nobody answers.
    fn suspend(&self, is_suspended: bool);
}

/// A plain request by a foreign hand, with more headers: status and body.
pub(crate) fn ask(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no status"))?;
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}

/// Opens a store as the program does.
pub(crate) async fn open(
    config: &DcsConfig,
    layout: &Layout,
    identity: Identity,
    timing: Timing,
) -> Arc<dyn Dcs> {
    let opened = tamada_dcs::open(config, layout.clone(), Some(identity), timing).await;
    opened.unwrap().dcs
}

#[async_trait]
impl Server for SharedStore {
    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        Arc::new(MemoryDcs::new(self, layout, &identity, timing))
    }

    fn put(&self, key: &str, value: &str) {
        let put = Op::Put {
            key: key.to_owned(),
            value: value.to_owned(),
            lease: 0,
        };
        let put = Txn {
            then: vec![put],
            ..Txn::default()
        };
        self.with(|store| store.txn(&put));
    }

    fn expire(&self, _: &Layout, _: &str, lease: Option<String>) {
        let lease = lease.unwrap().parse().unwrap();
        self.with(|store| store.revoke(lease));
    }

    fn wipe(&self, prefix: &str) {
        self.with(|store| store.delete_range(prefix));
    }
}

#[async_trait]
impl Server for Etcd {
    async fn open(&self, layout: &Layout, identity: Identity, timing: Timing) -> Arc<dyn Dcs> {
        open(&DcsConfig::Etcd3(self.config()), layout, identity, timing).await
    }

    fn put(&self, key: &str, value: &str) {
        self.ctl(&["put", "--", key, value]).unwrap();
    }

    fn expire(&self, _: &Layout, _: &str, lease: Option<String>) {
        let lease: i64 = lease.unwrap().parse().unwrap();
        self.ctl(&["lease", "revoke", &format!("{lease:x}")]).unwrap();
    }

    fn wipe(&self, prefix: &str) {
        self.ctl(&["del", "--prefix", prefix]).unwrap();
    }
}

impl Process for Etcd {
    fn config(&self) -> DcsConfig {
        DcsConfig::Etcd3(Self::config(self))
    }

    fn stop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
    }

    fn start(&mut self) {
        for index in 0..self.members.len() {
            self.run(index);
        }
        self.wait();
    }

    fn suspend(&self, is_suspended: bool) {
        for index in 0..self.members.len() {
            self.freeze(index, is_suspended);
        }
    }
}
