//! A restart that was asked for at a later time (Patroni documentation, "Patroni REST API", "Restart endpoint").
//!
//! It lives in memory: it is gone when the daemon ends, and void when PostgreSQL was started anew or the cluster is
//! paused when its time comes.

use std::time::Duration;

use ha::cluster::ScheduledRestart;
use ha::facts::RestartConditions;
use jiff::Timestamp;
use tokio::sync::watch;

/// How far apart two looks at the wall clock are at most, since it may be set.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A scheduled restart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scheduled {
    pub(crate) at: Timestamp,
    pub(crate) conditions: RestartConditions,
    /// When the postmaster that is meant was started.
    pub(crate) postmaster_start_time: String,
    pub(crate) shown: ScheduledRestart,
}

/// The one restart that may be scheduled.
#[derive(Debug)]
pub(crate) struct Schedule {
    next: watch::Sender<Option<Scheduled>>,
}

impl Schedule {
    pub(crate) fn new() -> Self {
        Self {
            next: watch::channel(None).0,
        }
    }

    /// As it is published in the member key and shown in the status document.
    pub(crate) fn shown(&self) -> Option<ScheduledRestart> {
        self.next.borrow().as_ref().map(|next| next.shown.clone())
    }

    /// Schedules it; `false` when one is scheduled already.
    pub(crate) fn put(&self, restart: Scheduled) -> bool {
        self.next.send_if_modified(|next| {
            let is_free = next.is_none();
            if is_free {
                *next = Some(restart);
            }
            is_free
        })
    }

    /// Takes it back; `false` when none was scheduled.
    pub(crate) fn cancel(&self) -> bool {
        self.next.send_if_modified(|next| next.take().is_some())
    }

    /// Waits until one is due and takes it out.
    pub(crate) async fn due(&self) -> Scheduled {
        let mut changes = self.next.subscribe();
        loop {
            let at = changes.borrow_and_update().as_ref().map(|next| next.at);
            let until =
                at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
            if until == Some(Duration::ZERO) {
                let mut taken = None;
                self.next.send_if_modified(|next| {
                    taken = next.take_if(|next| Some(next.at) == at);
                    taken.is_some()
                });
                if let Some(restart) = taken {
                    return restart;
                }
                continue;
            }
            // The sender lives in self, so the wait for a change cannot fail.
            let _ =
                tokio::time::timeout(until.unwrap_or(LOOK_EVERY).min(LOOK_EVERY), changes.changed()).await;
        }
    }
}
