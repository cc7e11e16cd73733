//! Whether etcd still is what it was: one that was wiped or restored answers at the same addresses.

use std::sync::atomic::Ordering;

use super::calls::{self, Budget};
use super::{Etcd3, Holder, watch};
use crate::{Error, Failure, Op, OpResult, Txn, TxnResult};

impl Etcd3 {
    /// What was decided on the keys of one store is not done in another, until that was read.
    pub(super) fn check_store(&self, operation: &'static str) -> Result<(), Error> {
        let seen = self
            .member
            .as_ref()
            .map(|holder| holder.seen.load(Ordering::Relaxed));
        if seen.is_none_or(|seen| seen == self.calls.generation()) {
            return Ok(());
        }
        Err(Error::Unavailable(Failure {
            operation,
            endpoint: self.calls.current(),
            source: "another store answers than before, and was not read yet".into(),
        }))
    }

    /// Fails if the transaction has found what was never in the store that was read last.
    pub(super) fn check_found(
        &self,
        operation: &'static str,
        generation: u64,
        txn: &Txn,
        result: &TxnResult,
    ) -> Result<(), Error> {
        let Some(holder) = &self.member else {
            return Ok(());
        };
        let ops = if result.succeeded {
            &txn.then
        } else {
            &txn.otherwise
        };
        for pair in ops.iter().zip(&result.results) {
            if let (Op::Get(key), OpResult::Get(Some(record))) = pair
                && holder.cache.contradicts(generation, result.revision, key, record)
            {
                return Err(self.replaced(operation, generation, key));
            }
        }
        Ok(())
    }

    fn replaced(&self, operation: &'static str, generation: u64, key: &str) -> Error {
        self.calls.accept_proved(generation, key);
        Error::Unavailable(Failure {
            operation,
            endpoint: self.calls.current(),
            source: calls::REPLACED.into(),
        })
    }

    /// The lock is lost: fails if it is because another store answers, as its other keys tell.
    pub(super) async fn check_all(
        &self,
        holder: &Holder,
        operation: &'static str,
        budget: Budget,
    ) -> Result<(), Error> {
        let generation = self.calls.generation();
        let Ok(snapshot) = watch::read(&self.calls, &self.layout, budget).await else {
            return Ok(());
        };
        match holder.cache.contradiction(&snapshot) {
            Some(key) => Err(self.replaced(operation, generation, key)),
            None => Ok(()),
        }
    }
}
