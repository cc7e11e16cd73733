//! A store in one process with etcd's semantics, for tests and for the simulator.

mod dcs;
mod session;
mod store;

pub use self::dcs::{MemoryDcs, SharedStore};
pub use crate::verbs::Held;
pub use session::Session;
pub use store::{Event, Refused, Store};
