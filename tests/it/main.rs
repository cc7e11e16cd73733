//! Tests of the program as its users meet it, against real servers: clusters on this machine, and what happens to them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    reason = "a test fails by panicking, and its functions are nobody's interface"
)]

mod harness;
mod host;

mod acceptance;
mod archive;
mod bad_input;
mod broken_settings;
mod callbacks;
mod cascade;
mod citus;
mod comparison;
mod configuration;
mod configure;
mod copies;
mod crash;
mod ctl;
mod dcs_outage;
mod debian;
mod demo;
mod documentation;
mod drop_in;
mod explain;
mod failover_slots;
mod guard;
mod hang;
mod lease;
mod life;
mod log;
mod manuals;
mod mixed;
mod origin;
mod patroni;
mod progress;
mod query;
mod reinitialize;
mod rest;
mod running;
mod scripts;
mod store;
mod stores;
mod supervise;
mod switchover;
mod synchronous;
mod timers;
mod units;
mod watchdog;
