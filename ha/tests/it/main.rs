//! The decision, by rules that people can read: scenarios as text, and properties.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests may fail loudly, and read their scenarios from files"
)]

mod anything;
mod events;
mod language;
mod props;
mod quorum;
mod quorum_model;
mod scenarios;
mod timers;
