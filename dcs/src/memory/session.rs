//! The verbs of one member on a [`Store`], without any waiting: what the simulator calls.

use std::time::Duration;

use ha::cluster::{Cluster, Expired, Version};
use ha::pg::MemberName;

use super::Store;
use crate::verbs::{self, Claim, Guarded};
use crate::{Expect, Identity, Key, Layout, Txn, TxnResult};

/// One member's hold on the store.
#[derive(Debug, Clone)]
pub struct Session {
    layout: Layout,
    name: MemberName,
    lease: Option<i64>,
    ttl: Duration,
}

impl Session {
    /// A session of the member `identity` in the cluster at `layout`.
    #[must_use]
    pub fn new(layout: Layout, identity: &Identity, ttl: Duration) -> Self {
        let lease = identity.lease.as_deref().and_then(|text| text.parse().ok());
        Self {
            layout,
            name: identity.name.clone(),
            lease,
            ttl,
        }
    }

    /// The present lease.
    #[must_use]
    pub fn lease(&self) -> Option<i64> {
        self.lease
    }

    /// Applies another `ttl`; a changed one means another lease.
    pub fn set_ttl(&mut self, ttl: Duration) {
        if self.ttl != ttl {
            self.ttl = ttl;
            self.lease = None;
        }
    }

    /// See [`crate::Dcs::load`].
    #[must_use]
    pub fn load(&self, store: &Store) -> Cluster {
        store.range(self.layout.read_prefix()).cluster(&self.layout)
    }

    /// See [`crate::Dcs::touch_member`].
    pub fn touch_member(&mut self, store: &mut Store, data: &str) -> bool {
        let lease = self.refresh(store);
        let key = self.layout.member(&self.name);
        if store
            .get(&key)
            .is_some_and(|record| record.value == data && record.lease == lease)
        {
            return true;
        }
        let put = crate::Op::Put {
            key,
            value: data.to_owned(),
            lease,
        };
        store
            .txn(&Txn {
                then: vec![put],
                ..Txn::default()
            })
            .is_some()
    }

    /// See [`crate::Dcs::acquire_leader`].
    pub fn acquire_leader(&mut self, store: &mut Store) -> bool {
        let lease = self.refresh(store);
        let result = store.txn(&verbs::acquire_leader(self.claim(lease)));
        result.is_some_and(|result| verbs::is_acquired(&result, &self.name, lease))
    }

    /// See [`crate::Dcs::supersede_leader`].
    pub fn supersede_leader(&mut self, store: &mut Store, expired: Expired) -> bool {
        let lease = self.refresh(store);
        let result = store.txn(&verbs::supersede_leader(self.claim(lease), expired));
        result.is_some_and(|result| verbs::is_acquired(&result, &self.name, lease))
    }

    /// See [`crate::Dcs::renew_leader`].
    pub fn renew_leader(&mut self, store: &mut Store) -> bool {
        let lease = self.refresh(store);
        let renewed = store.txn(&verbs::renew_leader(self.claim(lease)));
        if renewed.is_some_and(|result| verbs::is_renewed(&result, &self.name, lease)) {
            return true;
        }
        let result = store.txn(&verbs::rebind_leader(self.claim(lease)));
        result.is_some_and(|result| verbs::is_rebound(&result))
    }

    /// See [`crate::Dcs::take_leader`].
    pub fn take_leader(&mut self, store: &mut Store) -> bool {
        let lease = self.refresh(store);
        let result = store.txn(&verbs::take_leader(self.claim(lease)));
        result.is_some_and(|result| result.succeeded)
    }

    /// See [`crate::Dcs::release_leader`].
    pub fn release_leader(&self, store: &mut Store, status: Option<&str>) -> bool {
        self.unbound(store, &verbs::release_leader(&self.layout, &self.name, status))
            .succeeded
    }

    /// See [`crate::Dcs::write`].
    pub fn write(&self, store: &mut Store, key: Key, value: &str, expect: Expect) -> Option<Version> {
        let result = self.unbound(store, &verbs::write(&self.layout, key, value, expect));
        match verbs::written(&result, value, expect, false) {
            Guarded::Done(version) => Some(version),
            Guarded::Refused | Guarded::Unknown => None,
        }
    }

    /// See [`crate::Dcs::delete`].
    pub fn delete(&self, store: &mut Store, key: Key, expect: Expect) -> bool {
        self.unbound(store, &verbs::delete(&self.layout, key, expect))
            .succeeded
    }

    /// See [`crate::Dcs::delete_cluster`].
    pub fn delete_cluster(&self, store: &mut Store) {
        store.delete_range(self.layout.prefix());
    }

    fn claim(&self, lease: i64) -> Claim<'_> {
        Claim {
            layout: &self.layout,
            name: &self.name,
            lease,
            ttl: self.ttl,
        }
    }

    /// The lease, prolonged; a new one if there is none or it has run out.
    fn refresh(&mut self, store: &mut Store) -> i64 {
        match self.lease {
            Some(lease) if store.keep_alive(lease) => lease,
            Some(_) | None => {
                let lease = store.grant(self.ttl);
                self.lease = Some(lease);
                lease
            }
        }
    }

    /// Carries out a transaction that binds nothing to a lease, so that the store never refuses it.
    #[expect(clippy::unused_self, reason = "a verb of the session like the others")]
    fn unbound(&self, store: &mut Store, txn: &Txn) -> TxnResult {
        store.txn(txn).unwrap_or(TxnResult {
            succeeded: false,
            revision: 0,
            results: Vec::new(),
        })
    }
}
