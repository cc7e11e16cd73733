//! Transactions in etcd's terms: if all comparisons hold do this, otherwise do that.

use crate::Record;

/// A transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// What must hold.
    pub compare: Vec<Compare>,
    /// What is done when all of it holds.
    pub then: Vec<Op>,
    /// What is done when some of it does not.
    pub otherwise: Vec<Op>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key is not there.
    Absent(String),
    /// The key is there with this value.
    Value(String, String),
    /// The key was last written at this revision; 0: it is not there.
    ModRevision(String, i64),
    /// The key is there and bound to this lease.
    Lease(String, i64),
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key, bound to a lease or, with `0`, to none.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The lease.
        lease: i64,
    },
    /// Deletes a key.
    Delete(String),
    /// Reads a key.
    Get(String),
    /// A transaction within the transaction.
    Txn(Box<Txn>),
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether all comparisons held.
    pub succeeded: bool,
    /// The store's revision afterwards: that of every key the transaction wrote.
    pub revision: i64,
    /// One for each operation of the side that was done.
    pub results: Vec<OpResult>,
}

/// What came of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// Written.
    Put,
    /// How many keys were deleted.
    Delete(i64),
    /// The key as it stands, if it is there.
    Get(Option<Record>),
    /// The inner transaction's result.
    Txn(TxnResult),
}
