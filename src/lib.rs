//! The program: the daemon that keeps one PostgreSQL server, and the tool that shows and steers the cluster.

pub mod command_line;
pub mod complete;
pub mod configure;
pub mod ctl;
pub mod daemon;
pub mod debian;
mod option_value;
pub mod scripts;
pub mod supervise;

/// The Patroni version whose behaviour, keys and texts this program has; published in the member key.
pub const PATRONI_VERSION: &str = "4.1.5";
