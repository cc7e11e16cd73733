//! What the tests stand on: a cluster of processes on the loopback address, clients that remember what they were
//! promised, and witnesses of two primaries.
//!
//! Everything that a test starts ends with it, also when the test is killed. When a test fails, the ends of all logs
//! are printed, and the logs stay in `target/tmp/logs/`.

#![allow(dead_code, reason = "it offers what tests may want, wanted today or not")]

pub mod checker;
pub mod cluster;
pub mod directory;
pub mod etcd;
pub mod hosts;
pub mod http;
pub mod link;
pub mod member;
pub mod ports;
pub mod process;
pub mod scripts;
pub mod sql;
pub mod store;
pub mod terminal;
pub mod versions;
pub mod wait;
pub mod writer;

pub use checker::Witnesses;
pub use cluster::Cluster;
pub use member::Member;
pub use versions::{newest, oldest};
pub use wait::{eventually, patience, seconds};
pub use writer::Writer;
