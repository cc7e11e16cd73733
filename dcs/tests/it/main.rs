//! Every store keeps the same contract; etcd also when its members stop, stall, restart, or ask for credentials.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod consul;
mod contract;
mod etcd;
mod etcd2;
mod kubernetes;
mod outage;
mod proxy;
mod refusals;
mod replaced;
mod secured;
mod server;
mod zookeeper;
