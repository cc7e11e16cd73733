//! `host:port` texts, as `listen` and `connect_address` hold them.

/// One host with its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where a server listens: one port on several addresses (`10.0.0.1,[::1]:5432`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Addresses without brackets; `*`, `0.0.0.0` and `::` mean all; never empty.
    pub hosts: Vec<String>,
    /// TCP port.
    pub port: u16,
}
