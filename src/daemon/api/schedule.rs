//! A restart that was asked for at a later time (Patroni documentation, "Patroni REST API", "Restart endpoint").
//!
//! It lives in memory, as Patroni's does: it is gone when the daemon ends. When it is due, and whether it still makes
//! sense then, the decision says (`ha/src/decide/schedule.rs`).

use std::sync::{Mutex, MutexGuard, PoisonError};

use ha::cluster::ScheduledRestart;
use ha::facts::{PlannedRestart, RestartConditions};
use ha::step::RequestId;
use jiff::Timestamp;

/// The one restart that may be scheduled.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    next: Option<PlannedRestart>,
}

impl Schedule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is scheduled.
    pub(crate) fn planned(&self) -> Option<PlannedRestart> {
        self.inner().next.clone()
    }

    /// As it is published in the member key and shown in the status document.
    pub(crate) fn shown(&self) -> Option<ScheduledRestart> {
        self.inner().next.as_ref().map(|next| next.shown.clone())
    }

    /// Schedules it; `false` when one is scheduled already.
    pub(crate) fn put(&self, at: Timestamp, conditions: RestartConditions, shown: ScheduledRestart) -> bool {
        let mut inner = self.inner();
        if inner.next.is_some() {
            return false;
        }
        inner.last_id += 1;
        inner.next = Some(PlannedRestart {
            id: RequestId(inner.last_id),
            at,
            conditions,
            shown,
        });
        true
    }

    /// Takes it back; `false` when none was scheduled.
    pub(crate) fn cancel(&self) -> bool {
        self.inner().next.take().is_some()
    }

    /// The decision is done with it.
    pub(crate) fn done(&self, id: RequestId) {
        self.inner().next.take_if(|next| next.id == id);
    }
}
