//! Random input for everything that reads what others have written: configurations, bodies of requests, keys of the
//! store. A target gets bytes and must not panic; what it makes of them does not matter.

mod mutate;
mod targets;

pub use mutate::Mutator;
pub use targets::{TARGETS, Target};
