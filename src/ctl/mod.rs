//! `tamada ctl`, also called as patronictl: shows a cluster and steers it, through the DCS and the members' REST API.
//!
//! One file per command; [`cli`] lists them. What is computed stands apart from what asks and prints: [`member_table`],
//! [`table`], [`view`], [`schedule`], [`config_change`], [`awaited`].

mod awaited;
mod cli;
mod config_change;
mod console;
mod copy;
mod dcs_url;
mod dsn;
mod edit_config;
mod error;
mod event_log;
mod events;
mod failover;
mod flush;
mod history;
mod list;
mod local_agent;
mod log;
mod member_table;
mod members;
mod pause;
mod progress;
mod prompt;
mod query;
mod reinit;
mod reload;
mod remarks;
mod remove;
mod rest;
mod restart;
mod schedule;
mod session;
mod settings;
mod show_config;
mod standby_cluster;
mod store_copy;
mod switchover;
mod table;
mod version;
mod view;
mod why;

pub use cli::{command, main};
pub(crate) use prompt::hidden;
pub(crate) use session::Session;
pub(crate) use settings::Settings;
