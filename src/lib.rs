//! The program: the daemon that keeps one PostgreSQL server, and the tool that shows and steers the cluster.

pub mod daemon;
