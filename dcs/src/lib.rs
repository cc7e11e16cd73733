//! Where the cluster's state is kept: the [`Dcs`] trait, the stores, and one in memory with etcd's semantics.

mod cache;
mod clock;
mod endpoints;
mod error;
mod http;
mod layout;
mod open;
mod snapshot;
mod store;
mod txn;

mod verbs;

pub mod consul;
pub mod etcd2;
pub mod etcd3;
pub mod kubernetes;
pub mod memory;
pub mod zookeeper;

pub use error::{Error, Failure};
pub use layout::Layout;
pub use open::{Opened, Reload, open, scopes};
pub use snapshot::{Record, Snapshot};
pub use store::{Changes, Dcs, Expect, Identity, Key, Renewed, Timing, WhenGone};
pub use txn::{Compare, Op, OpResult, Txn, TxnResult};
