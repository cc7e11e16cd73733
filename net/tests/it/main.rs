//! TLS and the HTTP client against real sockets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod http;
mod tls;
