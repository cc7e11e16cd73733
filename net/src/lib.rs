//! What the DCS clients, the daemon and ctl share on the network: TLS set-up and the HTTP client.

pub mod http;
pub mod tls;
