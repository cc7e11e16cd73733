//! Every store keeps the same contract; etcd also when its members stop, stall, restart, or ask for credentials.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod contract;
mod etcd;
mod kubernetes;
mod outage;
mod refusals;
mod replaced;
mod secured;
mod server;
mod zookeeper;
