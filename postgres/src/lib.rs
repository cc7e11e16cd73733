//! The one local PostgreSQL server: everything that is done to it and everything that is seen of it.
//!
//! This package acts and observes; it decides nothing about the cluster. [`Server`] is the handle; it is cheap to
//! clone. Every call that waits takes a deadline and may be dropped at any await.

mod archive;
pub mod bootstrap;
pub mod callbacks;
pub mod citus;
pub mod clone;
mod command;
mod connection;
pub mod conninfo;
pub mod control;
pub mod data_directory;
mod error;
pub mod files;
pub mod follow;
mod lifecycle;
pub mod parameters;
pub mod process;
mod promotion;
pub mod rewind;
mod server;
pub mod session;
pub mod slots;
pub mod status;
mod timeline_start;
mod tls;
mod version;
mod wal_end;

pub use citus::CitusSession;
pub use clone::{CloneMethods, CloneProgress, CloneSource};
pub use conninfo::Conninfo;
pub use control::Marks;
pub use data_directory::{DataDirectory, RecoverySignal};
pub use error::{Error, Result, Whose};
pub use follow::{Drift, Follow, Recovery, Source};
pub use lifecycle::{StartOptions, Started, StopMode, StopOptions, StopProgress, Stopped};
pub use parameters::{Applied, Complaint, parameter_complaints, parameter_names};
pub use process::{Launcher, Postmaster, Readiness};
pub use rewind::{Divergence, LeaderFacts, LocalPosition};
pub use server::{Server, ServerOptions};
pub use session::Session;
pub use slots::{Slot, SlotType};
pub use status::{RestStatus, SqlStatus, StatusWants, WalReceiver, WalSender};
pub use tokio::time::Instant;
pub use version::ServerVersion;
