//! The guard as a process, with servers that are made up and with real ones.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by them"
)]

mod adoption;
mod agents;
mod fencing;
mod protocol;
mod real_server;
mod scene;
mod starting;
