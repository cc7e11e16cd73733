//! The postmaster as a process: recognising it, launching it, waiting for what happens to it.

pub(crate) mod group;
pub mod launch;
pub mod pidfile;
pub mod postmaster;
pub mod readiness;
pub mod senders;
pub(crate) mod watch;

pub use launch::{
    DetachedLauncher, Launched, Launcher, LogRelay, PostmasterCommand, StartupLog, detach_main,
    own_executable, relay_main,
};
pub use pidfile::{PidFile, PostmasterStatus};
pub use postmaster::Postmaster;
pub use readiness::{Readiness, is_lack_of_resources};
pub use senders::WalSenders;
