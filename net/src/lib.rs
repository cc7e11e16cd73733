//! What the DCS clients, the daemon and ctl share on the network: TLS set-up, the HTTP client, and the files that both are set up from.

pub mod file;
pub mod http;
pub mod tls;
