//! What this node does next: the pure decision of the HA cycle.
//!
//! [`decide`] is asked again and again during a cycle, each time with everything known so far, and answers with the
//! next single step. The crate does no I/O, reads no clock and draws no random numbers.

pub mod cascade;
pub mod citus;
pub mod cluster;
mod cycle;
mod decide;
pub mod event;
pub mod facts;
pub mod failsafe;
pub mod invariants;
mod lease;
pub mod memory;
pub mod pg;
pub mod quorum;
pub mod reason;
pub mod senders;
pub mod standby_names;
pub mod step;

pub use cycle::{Entry, Facts, STEPS_MAX};
pub use decide::{
    decide, forces_hot_standby_feedback, patience, renewal_meanwhile, synchronized_standby_slots,
};
pub use lease::Renewal;
