//! The REST API beside Patroni's, and the programs that people put before it.

mod balancer;
mod comparison;
mod difference;
mod pair;
mod request;
mod tls;
