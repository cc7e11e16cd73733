//! Tables of what is answered, and a server over a real socket.

mod control;
mod fixture;
mod health;
mod metrics;
mod server;
mod status;
