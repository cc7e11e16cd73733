//! The daemon: observes with `dcs`, `postgres` and `net`, asks `ha` what to do, and does it.

pub mod api;
pub mod clock;
pub mod inbox;
pub mod log;
pub mod view;
