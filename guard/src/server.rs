//! The guard's process: one thread that waits for the agent, the postmaster and the deadline, and does what [`fence`]
//! says is due.
//!
//! While it waits it allocates nothing, reads no file but `/proc`, writes nowhere but to the agent's socket (without
//! waiting), and so cannot be held up by what holds up the agent: a full disk, a slow log, memory that is short.

mod connection;
mod held;
mod log;
mod requests;
mod run;
mod setup;

pub(crate) use setup::READY;
pub use setup::{launch_main, main};

#[cfg(doc)]
use crate::fence;
