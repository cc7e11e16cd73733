//! The verbs of one member on a [`Store`], without any waiting: what the simulator calls.

use std::time::Duration;

use ha::cluster::{Cluster, Expired, Heartbeat, Sent, Takeover, Version};
use ha::pg::MemberName;

use super::{Refused, Store};
use crate::verbs::{self, Claim, Guarded, Held, Lock};
use crate::{Expect, Identity, Key, Layout, Renewed, Txn, TxnResult, WhenGone};

/// The length of the lease that permits a leader to be superseded, in `ttl`s.
const TAKEOVER_TTLS: u32 = 20;

/// One member's hold on the store.
#[derive(Debug, Clone)]
pub struct Session {
    layout: Layout,
    name: MemberName,
    lease: Option<i64>,
    /// Leases that this agent had before.
    former: Vec<i64>,
    ttl: Duration,
    /// The lease without which this leader cannot be superseded.
    takeover: Option<i64>,
    /// When the next verb is sent, for the heartbeat.
    sent: Option<Sent>,
}

/// How many former leases are known: keys are bound to the last ones.
const FORMER_LEASES: usize = 16;

impl Session {
    /// A session of the member `identity` in the cluster at `layout`.
    #[must_use]
    pub fn new(layout: Layout, identity: &Identity, ttl: Duration) -> Self {
        let lease = identity.lease.as_deref().and_then(|text| text.parse().ok());
        Self {
            layout,
            name: identity.name.clone(),
            lease,
            former: Vec::new(),
            ttl,
            takeover: None,
            sent: None,
        }
    }

    /// See [`crate::Dcs::adopt_lease`].
    pub fn adopt_lease(&mut self, lease: i64) {
        self.former.push(lease);
        let surplus = self.former.len().saturating_sub(FORMER_LEASES);
        self.former.drain(..surplus);
    }

    fn knows(&self, lease: i64) -> bool {
        self.lease == Some(lease) || self.former.contains(&lease)
    }

    /// The next verb is sent at this moment of the member's clock.
    pub fn send_at(&mut self, sent: Sent) {
        self.sent = Some(sent);
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
            self.lease
                .take()
                .into_iter()
                .for_each(|lease| self.adopt_lease(lease));
        }
    }

    /// See [`crate::Dcs::load`].
    #[must_use]
    pub fn load(&self, store: &Store) -> Cluster {
        store.range(self.layout.read_prefix()).cluster(&self.layout)
    }

    /// See [`crate::Dcs::touch_member`].
    ///
    /// # Errors
    /// The store refuses, or the key is another agent's.
    pub fn touch_member(&mut self, store: &mut Store, data: &str) -> Result<bool, Refused> {
        let lease = self.refresh(store)?;
        let key = self.layout.member(&self.name);
        let seen = store.get(&key);
        if seen.is_some_and(|record| record.value == data && record.lease == lease) {
            return Ok(true);
        }
        if seen.is_some_and(|record| record.lease != 0 && !self.knows(record.lease)) {
            return Err(Refused::NameTaken);
        }
        let seen = seen.map_or(0, |record| record.mod_revision);
        let result = store.write(&verbs::touch_member(&key, data, lease, seen))?;
        Ok(result.is_some_and(|result| result.succeeded))
    }

    /// See [`crate::Dcs::acquire_leader`].
    ///
    /// # Errors
    /// The store refuses.
    pub fn acquire_leader(&mut self, store: &mut Store) -> Result<bool, Refused> {
        let lease = self.refresh(store)?;
        let result = store.write(&verbs::acquire_leader(self.claim(lease)))?;
        self.is_held(store, lease, result)
    }

    /// See [`crate::Dcs::supersede_leader`].
    ///
    /// # Errors
    /// The store refuses.
    pub fn supersede_leader(&mut self, store: &mut Store, expired: Expired) -> Result<bool, Refused> {
        let lease = self.refresh(store)?;
        let result = store.write(&verbs::supersede_leader(self.claim(lease), expired))?;
        self.is_held(store, lease, result)
    }

    /// A key that was found, and not written, is from an earlier call, and so is its heartbeat: others count from that.
    fn is_held(&self, store: &mut Store, lease: i64, result: Option<TxnResult>) -> Result<bool, Refused> {
        match result {
            Some(result) if result.succeeded => Ok(true),
            Some(result) if verbs::is_acquired(&result, &self.name, lease) => {
                let renewed = store.write(&verbs::renew_leader(self.claim(lease)))?;
                Ok(renewed.is_some_and(|result| result.succeeded))
            }
            Some(_) | None => Ok(false),
        }
    }

    /// See [`crate::Dcs::renew_leader`].
    ///
    /// # Errors
    /// The store refuses, and the lock cannot be held by the lease alone.
    pub fn renew_leader(&mut self, store: &mut Store, when_gone: WhenGone) -> Result<Renewed, Refused> {
        let lease = self.refresh(store)?;
        self.takeover = self.takeover.filter(|takeover| store.has_lease(*takeover));
        if self.takeover.is_none() {
            self.takeover = store.grant(self.ttl * TAKEOVER_TTLS).ok();
        }
        let result = match store.write(&verbs::renew_leader(self.claim(lease))) {
            Ok(result) => result,
            Err(refused) => return self.hold_by_lease(store, lease, refused),
        };
        let Some(result) = result else {
            return Ok(Renewed::No);
        };
        if result.succeeded {
            return Ok(Renewed::Yes);
        }
        let txn = match verbs::lock(&result, &self.name, lease, |lease| self.knows(lease)) {
            Lock::Ours => return Ok(Renewed::Yes),
            Lock::Unbound(revision) => verbs::rebind_leader(self.claim(lease), revision),
            Lock::Gone(heartbeat) if when_gone == WhenGone::Recreate => {
                verbs::recreate_leader(self.claim(lease), heartbeat)
            }
            Lock::Gone(_) | Lock::Lost => return Ok(Renewed::No),
        };
        let result = store.write(&txn)?;
        let is_held = result.is_some_and(|result| result.succeeded);
        Ok(if is_held { Renewed::Yes } else { Renewed::No })
    }

    /// The store refuses to write a heartbeat. Without the lease that permits it nobody can supersede us, and then the lease
    /// of the leader key is the lock.
    fn hold_by_lease(&mut self, store: &mut Store, lease: i64, refused: Refused) -> Result<Renewed, Refused> {
        let look = self.unbound(store, &verbs::look_at_lock(&self.layout));
        match verbs::lock(&look, &self.name, lease, |lease| self.knows(lease)) {
            Lock::Ours => {}
            Lock::Lost => return Ok(Renewed::No),
            Lock::Unbound(_) | Lock::Gone(_) => return Err(refused),
        }
        let heartbeat = verbs::heartbeat(&look)
            .and_then(|record| Heartbeat::parse(Version(record.mod_revision), &record.value));
        match heartbeat.map(|heartbeat| heartbeat.takeover) {
            Some(Takeover::Always) => return Err(refused),
            Some(Takeover::WhileLease(takeover)) => {
                store.revoke(takeover);
                self.takeover = None;
            }
            Some(Takeover::Never) | None => {}
        }
        Ok(Renewed::ByLeaseAlone(refused.to_string()))
    }

    /// See [`crate::Dcs::take_leader`].
    ///
    /// # Errors
    /// The store refuses.
    pub fn take_leader(&mut self, store: &mut Store) -> Result<bool, Refused> {
        let lease = self.refresh(store)?;
        let result = store.write(&verbs::take_leader(self.claim(lease)))?;
        Ok(result.is_some_and(|result| result.succeeded))
    }

    /// The leader key as this agent holds it now, for [`Session::release_leader`].
    #[must_use]
    pub fn held(&self, store: &Store) -> Held {
        let (leader, heartbeat) = (
            store.get(&self.layout.leader()),
            store.get(&self.layout.heartbeat()),
        );
        let knows = |lease| self.knows(lease);
        Held::new(leader, heartbeat, &self.name, knows).unwrap_or(Held::NOTHING)
    }

    /// See [`crate::Dcs::release_leader`]; `held` is what [`Session::held`] returned when the request was sent.
    ///
    /// # Errors
    /// The store refuses.
    pub fn release_leader(
        &self,
        store: &mut Store,
        held: Held,
        status: Option<&str>,
    ) -> Result<bool, Refused> {
        let release = |status| verbs::release_leader(&self.layout, held, status);
        let result = match store.write(&release(status)) {
            // What is not written is the position; the deletion alone needs no space.
            Err(Refused::Full) => store.write(&release(None))?,
            result => result?,
        };
        Ok(result.is_some_and(|result| result.succeeded))
    }

    /// See [`crate::Dcs::write`].
    ///
    /// # Errors
    /// The store refuses.
    pub fn write(
        &self,
        store: &mut Store,
        key: Key,
        value: &str,
        expect: Expect,
    ) -> Result<Option<Version>, Refused> {
        let result = store.write(&verbs::write(&self.layout, key, value, expect))?;
        let result = result.map(|result| verbs::written(&result, value, expect, false));
        Ok(match result {
            Some(Guarded::Done(version)) => Some(version),
            Some(Guarded::Refused | Guarded::Unknown) | None => None,
        })
    }

    /// See [`crate::Dcs::delete`].
    ///
    /// # Errors
    /// The store refuses.
    pub fn delete(&self, store: &mut Store, key: Key, expect: Expect) -> Result<bool, Refused> {
        let result = store.write(&verbs::delete(&self.layout, key, expect))?;
        Ok(result.is_some_and(|result| result.succeeded))
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
            takeover: self.takeover,
            sent: self.sent,
        }
    }

    /// The lease, prolonged; a new one if there is none or it has run out.
    fn refresh(&mut self, store: &mut Store) -> Result<i64, Refused> {
        if let Some(lease) = self.lease.filter(|lease| store.keep_alive(*lease)) {
            return Ok(lease);
        }
        let lease = store.grant(self.ttl)?;
        let former = self.lease.replace(lease);
        former.into_iter().for_each(|lease| self.adopt_lease(lease));
        Ok(lease)
    }

    /// Carries out a transaction that writes nothing, so that the store never refuses it.
    #[expect(clippy::unused_self, reason = "a verb of the session like the others")]
    fn unbound(&self, store: &mut Store, txn: &Txn) -> TxnResult {
        store.txn(txn).unwrap_or(TxnResult {
            succeeded: false,
            revision: 0,
            results: Vec::new(),
        })
    }
}
