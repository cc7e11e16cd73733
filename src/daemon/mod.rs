//! The daemon: observes with `dcs`, `postgres` and `net`, asks `ha` what to do, and does it.

mod actions;
pub mod api;
mod apply;
mod cache;
mod citus;
pub mod clock;
mod configuration;
mod cycle;
mod disk;
mod entry;
pub mod events;
mod guard;
mod http;
pub mod inbox;
pub mod log;
mod meanwhile;
mod memory;
pub(crate) mod notify;
mod pulse;
mod questions;
mod reload;
mod report;
mod requests;
mod schedule;
mod settings;
mod signals;
mod slots;
mod start;
pub mod store;
mod task;
pub mod view;
mod wait;
mod watchdog;
mod world;

pub(crate) use configuration::ConfigurationSource;
pub use entry::{hidden, run, version_text};
