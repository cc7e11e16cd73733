//! Everything outside the decision: the store, the server, the other members, and what was last seen of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs::Dcs;
use ha::cluster::{Origin, PendingRestartReason};
use ha::facts::{self, DcsFailure, Moment};
use ha::failsafe::Promise;
use ha::pg::Lsn;
use postgres::process::{Postmaster, WalSenders};
use postgres::{Instant, Server};
use tokio::sync::watch;

use super::citus::Keeper;
use super::events::Events;
use super::guard::{Guard, Posture, RunsAs};
use super::probe::Probe;
use super::settings::Settings;
use super::slots::Work;
use super::task::{Checkpoint, Jobs};
use super::watchdog::{Watchdog, Wish};

/// What the loop observes and acts upon.
pub(crate) struct World {
    pub(crate) dcs: Arc<dyn Dcs>,
    pub(crate) server: Server,
    pub(crate) http: Arc<net::http::Client>,
    pub(crate) settings: Settings,
    pub(crate) jobs: Jobs,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) slot_work: Work,
    /// Whether a primary still works.
    pub(crate) probe: Probe,
    pub(crate) seen: Seen,
    /// Until when the leader key is ours, for a job that must not go on without it.
    pub(crate) lock_valid_until: watch::Sender<Option<Moment>>,
    /// Stops PostgreSQL when we cannot; `None` when none is wanted.
    pub(crate) guard: Option<Guard>,
    /// Resets the machine when it hangs altogether.
    pub(crate) watchdog: Watchdog,
    /// What jobs report there; `None` in tests.
    pub(crate) events: Option<Events>,
    /// A Citus coordinator: keeps `pg_dist_node`.
    pub(crate) citus: Option<Keeper>,
    /// The lease by the newest proof that the leader key is ours, as the guard takes it; `None` when it is not.
    pub(crate) lease: Option<Posture>,
    /// The lease that the guard keeps for the agent after us.
    pub(crate) lease_remembered: Option<String>,
    /// What a leader without the DCS was promised.
    pub(crate) promise: Arc<Mutex<Promise>>,
    /// How long the step that is being taken may be waited for.
    pub(crate) patience: Duration,
}

/// What the last observations told beyond their answers: for the view, and for waking up.
#[derive(Default)]
pub(crate) struct Seen {
    /// The server, when it was last asked.
    pub(crate) server: Option<facts::Server>,
    /// Its version, as in `server_version_num`.
    pub(crate) server_version: Option<u32>,
    /// Its postmaster: when it ends the loop wakes.
    pub(crate) postmaster: Option<Postmaster>,
    /// A primary: the processes of the standbys that commits wait for. When one of them ends the loop wakes.
    pub(crate) synchronous_senders: WalSenders,
    /// What it was, when it was last asked and no job has touched it since.
    pub(crate) runs_as: RunsAs,
    /// Which postmaster the pending settings below belong to.
    pub(crate) pending_restart_of: Option<i64>,
    /// Settings that wait for a restart.
    pub(crate) pending_restart: BTreeMap<String, PendingRestartReason>,
    /// Which promotion the timeline comes from, as it was found with that postmaster.
    pub(crate) origin: Option<(Option<i64>, Origin)>,
    /// A standby: what its WAL receiver last heard of its upstream's position.
    pub(crate) latest_end_lsn: Option<Lsn>,
    /// When the DCS was last read, in seconds since 1970.
    pub(crate) dcs_last_seen: i64,
}

impl World {
    /// A world of which nothing was seen yet.
    pub(crate) fn new(
        dcs: Arc<dyn Dcs>,
        server: Server,
        http: Arc<net::http::Client>,
        settings: Settings,
        guard: Option<Guard>,
        promise: Arc<Mutex<Promise>>,
    ) -> Self {
        let patience = settings.config.retry_timeout;
        let watchdog = Watchdog::new(Wish::new(&settings.local.watchdog, &settings.config));
        Self {
            dcs,
            server,
            http,
            settings,
            jobs: Jobs::default(),
            checkpoint: Checkpoint::default(),
            slot_work: Work::default(),
            probe: Probe::default(),
            seen: Seen::default(),
            lock_valid_until: watch::Sender::new(None),
            guard,
            watchdog,
            events: None,
            citus: None,
            lease: None,
            lease_remembered: None,
            promise,
            patience,
        }
    }

    pub(crate) fn promise(&self) -> MutexGuard<'_, Promise> {
        self.promise.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `retry_timeout` from now, or less when our lease does not last.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Half of `retry_timeout` from now, or less when our lease does not last: as long as a cycle waits for the local
    /// server.
    pub(crate) fn sql_deadline(&self) -> Instant {
        Instant::now() + self.patience.min(self.settings.config.retry_timeout / 2)
    }

    /// A request to the DCS, which has a time limit of `retry_timeout` of its own: where the lease leaves less, that is the
    /// limit. A request that is given up may have been carried out all the same.
    pub(crate) async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, dcs::Error>>,
    ) -> Result<T, DcsFailure> {
        let failed = |error: dcs::Error| DcsFailure(format!("{error:#}"));
        if self.patience >= self.settings.config.retry_timeout {
            return request.await.map_err(failed);
        }
        match tokio::time::timeout(self.patience, request).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(DcsFailure(format!(
                "no answer within {:.1} s, and the leader's lease leaves no more time",
                self.patience.as_secs_f64()
            ))),
        }
    }
}
