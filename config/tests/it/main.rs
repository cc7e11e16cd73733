//! What a user of the configuration sees.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "tests")]

mod dynamic;
mod yaml;
