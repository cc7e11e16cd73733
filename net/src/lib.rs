//! What the DCS clients, the daemon and ctl share on the network: TLS and the HTTP client.
