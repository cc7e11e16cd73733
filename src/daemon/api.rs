//! The REST API: Patroni's, to the letter (Patroni documentation, "Patroni REST API").
//!
//! It runs on threads of its own, with connections of its own to PostgreSQL and the DCS: it answers while a cycle is
//! stuck, and a slow client never delays a renewal of the lease. It reads the daemon's [`View`](crate::daemon::view)
//! and changes nothing itself: wishes go into the [`Inbox`] or into the DCS.
//!
//! `route` says who answers, `health`, `status`, `cluster_document` and `metrics` what, `control` checks wishes,
//! `access` who may have any, `browser` which of them no page of another site has sent. All these are pure. `respond` and `act` gather what they need, `serve` speaks HTTP.

mod access;
mod act;
mod answer;
mod anything;
mod body;
mod browser;
mod budget;
mod cluster_document;
mod config_document;
mod control;
mod dcs_reading;
mod events;
mod health;
mod json;
mod large_answers;
mod listen;
mod metrics;
mod openapi;
mod patience;
mod peers;
mod query;
mod respond;
mod route;
mod schedule;
mod serve;
mod server_status;
mod start;
mod status;
mod time;

pub use anything::read_request;
pub(crate) use json::to_text as json_text;
pub use listen::ListenError;
pub use peers::ask as ask_members;
pub use server_status::LocalServer;
pub use start::{Handle, StartError, Surroundings, start};

#[cfg(test)]
mod tests;
