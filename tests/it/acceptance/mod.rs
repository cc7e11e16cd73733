//! What Patroni's own feature scenarios show, one file per feature. `docs/acceptance.md` says which test shows which
//! scenario; those that other tests show already are not written again here.

mod cascading_replication;
mod custom_bootstrap;
mod failsafe;
mod ignored_slots;
mod pause;
mod permanent_slots;
mod priority_failover;
mod priority_sync;
mod recovery;
mod scheduled;
mod standby_cluster;
