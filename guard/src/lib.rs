//! The guard: a small process between the agent and PostgreSQL that keeps one promise when nobody else can: a primary
//! takes no writes after its lease has run out.
//!
//! It is the parent of the postmaster and holds the deadline that the agent moves forward after every renewal. When
//! the deadline comes and the agent was killed, frozen or starved, the guard stops PostgreSQL by itself. When the guard
//! dies, the kernel stops PostgreSQL (parent-death signal). The agent may come and go: it finds guard and postmaster
//! again by a socket.
//!
//! - [`fence`] decides which signal is due when: pure.
//! - [`protocol`] is the language between agent and guard: lines of `verb key=value ...`.
//! - [`place`] says where the socket of a data directory is.
//! - [`client`] is the agent's side.
//! - [`server`] is the process; [`exec`] is the short-lived one that becomes the postmaster.
//!
//! A SIGTERM ends the guard as any process, and PostgreSQL with it (an immediate shutdown, by the parent-death signal):
//! a service manager must be told to signal the agent alone (systemd: `KillMode=process` or `mixed`).

mod clock;
mod command_line;
mod proc_fs;

pub mod client;
pub mod exec;
pub mod fence;
pub mod place;
pub mod protocol;
pub mod server;

pub use client::{Client, Error, Options};
pub use clock::BootTime;
pub use command_line::main;
pub use fence::{Lease, Stage};
pub use protocol::{Event, Exit, ServerCommand, ServerSignal, Status};
