//! What this node does next: the pure decision of the HA cycle.

pub mod cluster;
pub mod pg;
