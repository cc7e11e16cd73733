//! Reads and transactions on one cluster's keys, with the copy kept in step with what they tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use super::api::{Api, Op, Outcome, Read};
use super::copy::{Copy, Taken};
use super::session::number;
use crate::http::{Budget, chain};
use crate::{Compare, Error, Layout, OpResult, Record, Txn, TxnResult};

/// No answer of the old store is expected any more; what was decided on it is not done in the new one.
const REPLACED: &str = "another store answers than before: Consul was wiped or restored, or is another one";

/// The keys of one cluster in Consul.
pub(super) struct Store {
    pub(super) api: Arc<Api>,
    pub(super) copy: Copy,
    pub(super) layout: Layout,
    /// The store that was read last.
    pub(super) seen: AtomicU64,
    /// Another store counts its indexes anew, so the watch begins anew as well.
    pub(super) again: Notify,
}

/// What came of a transaction.
pub(super) enum Written {
    /// It was carried out, and this is the index of what it wrote; 0: it only deleted.
    Done(i64, Vec<super::api::Entry>),
    /// A check did not hold; an earlier attempt may have been carried out.
    Refused { is_repeat: bool },
    /// The session is gone.
    NoSession,
}

impl Store {
    /// What was decided on the keys of one store is not done in another, until that was read.
    fn check(&self, operation: &'static str) -> Result<(), Error> {
        if self.seen.load(Ordering::Relaxed) == self.copy.generation() {
            return Ok(());
        }
        let why = "another store answers than before, and was not read yet";
        Err(self.api.http.unavailable(operation, why))
    }

    /// Reads all keys into the copy.
    ///
    /// # Errors
    /// Consul did not answer, or another store does than before.
    pub(super) async fn refresh(&self, budget: Budget, read: Read) -> Result<(), Error> {
        let asked_at = self.copy.newest();
        let tree = self.api.tree(budget, read).await?;
        let reads_the_past = read == Read::Usual && self.api.reads_the_past();
        match self.copy.take(&tree, asked_at, reads_the_past) {
            Taken::Yes | Taken::Older => Ok(()),
            Taken::Doubtful => self.settle(budget).await,
        }
    }

    /// Finds out whether another store answers than before.
    ///
    /// # Errors
    /// It does, or Consul did not answer.
    pub(super) async fn settle(&self, budget: Budget) -> Result<(), Error> {
        let (asked_at, generation) = (self.copy.newest(), self.copy.generation());
        let newest = self.api.newest_index(budget).await?;
        let tree = self.api.tree(budget, Read::Confirmed).await?;
        if self.copy.settle(&tree, newest, asked_at, generation) {
            self.again.notify_one();
            return Err(self.api.http.unavailable("read the cluster", REPLACED));
        }
        Ok(())
    }

    /// # Errors
    /// Another store answers than before, or Consul did not answer.
    pub(super) async fn confirm(&self, budget: Budget) -> Result<(), Error> {
        let asked_at = self.copy.newest();
        let newest = self.api.newest_index(budget).await?;
        if newest < asked_at {
            return self.settle(budget).await;
        }
        Ok(())
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// Consul did not answer or refused.
    pub(super) async fn run(
        &self,
        operation: &'static str,
        budget: Budget,
        ops: &[Op],
    ) -> Result<Written, Error> {
        self.check(operation)?;
        let asked_at = self.copy.newest();
        let (outcome, is_repeat) = self.api.txn(operation, budget, ops).await?;
        Ok(match outcome {
            Outcome::NoSession => Written::NoSession,
            Outcome::Refused => Written::Refused { is_repeat },
            Outcome::Done(entries) => {
                let is_write = |op: &Op| matches!(op, Op::Set(..) | Op::Lock(..));
                let index = entries.iter().map(|entry| entry.modify_index).max();
                let index = index.filter(|_| ops.iter().any(is_write));
                // A value that is written again as it is keeps its index, so a lower one proves nothing by itself.
                if index.is_some_and(|index| !self.copy.hear(index, asked_at)) {
                    self.settle(budget).await.map_err(|error| {
                        let why = chain(error.failure());
                        self.api.http.unavailable(operation, why)
                    })?;
                }
                Written::Done(index.unwrap_or_default(), entries)
            }
        })
    }

    /// Carries out one of the common transactions. What it reads where a check does not hold is read after it.
    ///
    /// # Errors
    /// Consul did not answer or refused.
    pub(super) async fn execute(
        &self,
        operation: &'static str,
        budget: Budget,
        txn: &Txn,
        session: Option<&str>,
    ) -> Result<(Option<TxnResult>, bool), Error> {
        match self.run(operation, budget, &ops(txn, session)).await? {
            Written::NoSession => Ok((None, false)),
            Written::Done(revision, _) => {
                let results = txn.then.iter().map(|op| match op {
                    crate::Op::Put { .. } => OpResult::Put,
                    crate::Op::Delete(_) => OpResult::Delete(1),
                    crate::Op::Get(_) | crate::Op::Txn(_) => OpResult::Get(None),
                });
                if revision == 0 {
                    // The answer to a deletion has no index.
                    self.refresh(budget, Read::Confirmed).await?;
                } else {
                    self.learn(txn, revision, session);
                }
                let results = results.collect();
                let result = TxnResult {
                    succeeded: true,
                    revision,
                    results,
                };
                Ok((Some(result), false))
            }
            Written::Refused { is_repeat } => {
                self.refresh(budget, Read::Confirmed).await?;
                let found = txn.otherwise.iter().map(|op| match op {
                    crate::Op::Get(key) => OpResult::Get(self.copy.record(key)),
                    crate::Op::Put { .. } | crate::Op::Delete(_) | crate::Op::Txn(_) => OpResult::Get(None),
                });
                let result = TxnResult {
                    succeeded: false,
                    revision: self.copy.newest(),
                    results: found.collect(),
                };
                Ok((Some(result), is_repeat))
            }
        }
    }

    fn learn(&self, txn: &Txn, revision: i64, session: Option<&str>) {
        for op in &txn.then {
            match op {
                crate::Op::Put { key, value, lease } => {
                    let lease = session.filter(|_| *lease != 0).map_or(0, number);
                    let record = Record {
                        value: value.clone(),
                        mod_revision: revision,
                        lease,
                    };
                    self.copy.tell(key, revision, Some(record));
                }
                crate::Op::Delete(key) => self.copy.tell(key, revision, None),
                crate::Op::Get(_) | crate::Op::Txn(_) => {}
            }
        }
    }
}

/// A common transaction's comparisons and operations in Consul's terms. What is bound to a lease is locked by `session`; a key
/// that another session has locked is deleted before.
fn ops(txn: &Txn, session: Option<&str>) -> Vec<Op> {
    let checks = txn.compare.iter().filter_map(|compare| match compare {
        Compare::Absent(key) => Some(Op::CheckAbsent(key.clone())),
        // A revision that no key has never holds.
        Compare::ModRevision(key, -1) => Some(Op::CheckIndex(key.clone(), i64::MAX)),
        Compare::ModRevision(key, revision) => Some(Op::check(key.clone(), *revision)),
        Compare::Lease(key, _) => Some(Op::CheckSession(key.clone(), session?.to_owned())),
        // Consul cannot compare values: none of the transactions that are carried out here needs it.
        Compare::Value(..) => None,
    });
    let writes = txn.then.iter().flat_map(|op| match op {
        crate::Op::Put { key, value, lease: 0 } => vec![Op::Set(key.clone(), value.clone())],
        crate::Op::Put { key, value, .. } => {
            let session = session.unwrap_or_default().to_owned();
            vec![
                Op::Delete(key.clone()),
                Op::Lock(key.clone(), value.clone(), session),
            ]
        }
        crate::Op::Delete(key) => vec![Op::Delete(key.clone())],
        crate::Op::Get(key) => vec![Op::Get(key.clone())],
        crate::Op::Txn(_) => Vec::new(),
    });
    checks.chain(writes).collect()
}
