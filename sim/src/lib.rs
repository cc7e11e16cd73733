//! A whole cluster in one deterministic process, for tests.
//!
//! [`run::run`] turns a seed into a verdict: a few members, each with its clock, agent and simulated PostgreSQL, a
//! network, a store with leases, clients that write, a consumer of logical decoding, and everything that goes wrong. Some are standby clusters, with what
//! they replicate from beside them. What the agents do is what the program does: [`ha::decide`], step by step. The same
//! seed gives the same run, event by event.

mod actions;
mod agent;
mod check;
mod consumer;
mod dcs;
mod faults;
mod journal;
mod marks;
mod meanwhile;
mod plan;
mod questions;
mod random;
mod remote;
mod replication;
pub mod run;
mod server;
mod slot_work;
mod slots;
mod store_faults;
mod task;
mod wal;
mod workload;
mod world;

pub use check::Violation;
pub use marks::Marks;
pub use plan::{Fault, Plan};
