//! Holding the leader key: by the heartbeat that a quorum writes, or by the lease alone where etcd refuses to write.

use ha::cluster::{Heartbeat, Takeover as Permit, Version};
use ha::pg::MemberName;

use super::calls::{self, Budget};
use super::{Etcd3, Holder, RENEW, lease, record};
use crate::verbs::{self, Lock};
use crate::{Error, Failure, OpResult, Renewed, Txn, TxnResult, WhenGone};

/// Makes a transaction for a holder and its lease.
type MakeTxn<'a> = dyn Fn(&Holder, i64) -> Txn + Send + Sync + 'a;

impl Etcd3 {
    /// A transaction that binds the leader key to the lease, which is prolonged first and proved to live afterwards.
    /// `None` is the answer of a guard that did not hold.
    pub(super) async fn hold(
        &self,
        operation: &'static str,
        budget: Budget,
        txn: impl Fn(&Holder, i64) -> Txn,
        is_held: impl Fn(&TxnResult, &Holder, i64) -> bool,
    ) -> Result<bool, Error> {
        let holder = self.holder(operation)?;
        loop {
            let kept = holder.lease.keep(&self.calls, budget).await?;
            let Some(answer) = self.txn(operation, budget, &txn(holder, kept.id)).await? else {
                if holder.lease.keep(&self.calls, budget).await?.id == kept.id {
                    // The lease that is missing is the one without which its holder may not be superseded.
                    return Ok(false);
                }
                self.check(operation, budget)?;
                continue;
            };
            if !is_held(&answer.value, holder, kept.id) {
                self.learn_found(&self.layout.leader(), &answer.value);
                return Ok(false);
            }
            if !answer.is_repeat && !has_found(&answer.value) {
                let record = record(&holder.name.0, answer.value.revision, kept.id);
                self.learn(&self.layout.leader(), answer.value.revision, Some(record));
            }
            // A key that was found, and not written, is from an earlier call, and so is its heartbeat: others count from that.
            if kept.is_confirmed_by(answer.term) && !has_found(&answer.value) {
                return Ok(true);
            }
            if self.renew(holder, budget).await? == Lock::Ours {
                return Ok(true);
            }
            self.check(operation, budget)?;
        }
    }

    /// Renews the lease and has a quorum write the heartbeat: [`Lock::Ours`] says that the key is ours, bound to our lease,
    /// and the renewal is good.
    async fn renew(&self, holder: &Holder, budget: Budget) -> Result<Lock, Error> {
        loop {
            let kept = holder.lease.keep(&self.calls, budget).await?;
            let txn = verbs::renew_leader(self.claim(holder, kept.id));
            let answer = self.unbound(RENEW, budget, &txn).await?;
            if !answer.value.succeeded {
                let lock = self.judge(holder, kept.id, &answer.value);
                if lock != Lock::Ours {
                    self.learn_found(&self.layout.leader(), &answer.value);
                    return Ok(lock);
                }
            } else if kept.is_confirmed_by(answer.term) {
                return Ok(Lock::Ours);
            }
            // etcd has elected a leader between the two: once more, within its term.
            self.check(RENEW, budget)?;
        }
    }

    /// [`Etcd3::renew`]; a key that is not bound to the lease as it should be is written again, if that is permitted.
    pub(super) async fn renew_or_bind(
        &self,
        holder: &Holder,
        budget: Budget,
        when_gone: WhenGone,
    ) -> Result<Renewed, Error> {
        holder.takeover.keep(&self.calls).await;
        let txn: Box<MakeTxn<'_>> = match self.renew(holder, budget).await {
            Ok(Lock::Ours) => return Ok(Renewed::Yes),
            Ok(Lock::Unbound(revision)) => {
                Box::new(move |holder, lease| verbs::rebind_leader(self.claim(holder, lease), revision))
            }
            Ok(Lock::Gone(heartbeat)) if when_gone == WhenGone::Recreate => {
                Box::new(move |holder, lease| verbs::recreate_leader(self.claim(holder, lease), heartbeat))
            }
            Ok(Lock::Gone(_) | Lock::Lost) => return Ok(Renewed::No),
            Err(Error::Rejected(refused)) => return self.hold_by_lease(holder, budget, refused).await,
            Err(error) => return Err(error),
        };
        let is_held = self
            .hold(RENEW, budget, txn, |result, holder, lease| {
                verbs::is_acquired(result, &holder.name, lease)
            })
            .await?;
        Ok(if is_held { Renewed::Yes } else { Renewed::No })
    }

    fn judge(&self, holder: &Holder, lease: i64, result: &TxnResult) -> Lock {
        verbs::lock(result, &holder.name, lease, |lease| holder.lease.knows(lease))
    }

    /// etcd has refused to write the heartbeat, which says nothing of the lock. Where nobody can supersede us, for lack of
    /// the lease that permits it, the lease of the leader key is the lock.
    async fn hold_by_lease(
        &self,
        holder: &Holder,
        budget: Budget,
        refused: Failure,
    ) -> Result<Renewed, Error> {
        loop {
            let Ok(kept) = holder.lease.keep(&self.calls, budget).await else {
                return Err(Error::Rejected(refused));
            };
            let look = verbs::look_at_lock(&self.layout);
            let answer = self.unbound(RENEW, budget, &look).await?;
            match self.judge(holder, kept.id, &answer.value) {
                Lock::Ours => {}
                Lock::Lost => {
                    self.learn_found(&self.layout.leader(), &answer.value);
                    return Ok(Renewed::No);
                }
                Lock::Unbound(_) | Lock::Gone(_) => return Err(Error::Rejected(refused)),
            }
            if self.may_be_superseded(holder, &answer.value) {
                self.forbid_takeover(holder, budget, &answer.value).await?;
            } else if kept.is_confirmed_by(answer.term) {
                return Ok(Renewed::ByLeaseAlone(calls::chain(&refused)));
            }
            // The key is looked at again after that, and the lease renewed before.
            self.check(RENEW, budget)?;
        }
    }

    /// Whether the heartbeat that was read may serve to supersede this leader, as far as is known.
    fn may_be_superseded(&self, holder: &Holder, result: &TxnResult) -> bool {
        let takeover = permit(result).filter(|(name, _)| *name == holder.name);
        match takeover.map(|(_, takeover)| takeover) {
            None | Some(Permit::Never) => false,
            Some(Permit::Always) => true,
            Some(Permit::WhileLease(lease)) => !holder.takeover.is_revoked(lease),
        }
    }

    async fn forbid_takeover(
        &self,
        holder: &Holder,
        budget: Budget,
        result: &TxnResult,
    ) -> Result<(), Error> {
        match permit(result).map(|(_, takeover)| takeover) {
            Some(Permit::WhileLease(lease)) => {
                lease::revoke(&self.calls, budget, lease).await?;
                holder.takeover.revoked(lease);
            }
            // Written by an agent before us that knew of no such lease.
            Some(Permit::Always) => {
                let delete = verbs::delete_heartbeat(&self.layout, &holder.name);
                self.unbound(RENEW, budget, &delete).await?;
            }
            Some(Permit::Never) | None => {}
        }
        Ok(())
    }
}

/// Whose heartbeat was read, and whether it may serve to supersede that leader.
fn permit(result: &TxnResult) -> Option<(MemberName, Permit)> {
    let record = verbs::heartbeat(result)?;
    let heartbeat = Heartbeat::parse(Version(record.mod_revision), &record.value)?;
    Some((heartbeat.leader, heartbeat.takeover))
}

fn has_found(result: &TxnResult) -> bool {
    matches!(result.results.first(), Some(OpResult::Get(_)))
}
