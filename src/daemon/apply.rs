//! Brings changed settings to the running server, beside the loop: it takes a second to know what waits for a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use ha::cluster::PendingRestartReason;
use postgres::{Instant, Server};
use tokio::task::JoinHandle;

/// How long the server is given to read its files again before it is asked what waits for a restart.
const RELOAD_TIME: Duration = Duration::from_secs(1);

/// The settings that wait for a restart.
pub(crate) type PendingRestart = BTreeMap<String, PendingRestartReason>;

/// The work, if there is any.
#[derive(Default)]
pub(crate) struct Applier {
    is_due: bool,
    must_reload: bool,
    running: Option<JoinHandle<Option<Outcome>>>,
}

/// What came of it.
pub(crate) struct Outcome {
    /// What waits for a restart now; `None` when the server could not be asked.
    pub(crate) pending_restart: Option<PendingRestart>,
    /// The server was told to read its files again.
    pub(crate) reloaded: bool,
}

impl Applier {
    /// The settings may have changed.
    pub(crate) fn request(&mut self) {
        self.is_due = true;
    }

    /// Settings have changed since the work began.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }

    /// The server shall read its files again even if nothing in them has changed.
    pub(crate) fn request_reload(&mut self) {
        self.is_due = true;
        self.must_reload = true;
    }

    /// Nothing is due any more: the server is about to start with the settings in force.
    pub(crate) fn forget(&mut self) {
        self.is_due = false;
        self.must_reload = false;
    }

    /// Begins what is due, unless it runs already.
    pub(crate) fn begin(&mut self, server: &Server, retry_timeout: Duration) {
        if !self.is_due || self.running.is_some() {
            return;
        }
        self.is_due = false;
        let must_reload = std::mem::take(&mut self.must_reload);
        let server = server.clone();
        self.running = Some(tokio::spawn(apply(server, must_reload, retry_timeout)));
    }

    /// Ends with the work, with what came of it. Never without any. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Option<Outcome> {
        let result = match &mut self.running {
            Some(handle) => handle.await.ok().flatten(),
            None => std::future::pending().await,
        };
        self.running = None;
        result
    }
}

async fn apply(server: Server, must_reload: bool, retry_timeout: Duration) -> Option<Outcome> {
    let applied = match server.apply(must_reload, Instant::now() + retry_timeout).await {
        Ok(applied) => applied,
        Err(error) => {
            tracing::error!("could not bring the changed settings to PostgreSQL: {error}");
            return None;
        }
    };
    if applied.reloaded {
        tokio::time::sleep(RELOAD_TIME).await;
    }
    let pending_restart = server
        .pending_restart(Instant::now() + retry_timeout)
        .await
        .inspect_err(|error| tracing::warn!("could not ask which settings wait for a restart: {error}"))
        .ok();
    Some(Outcome {
        pending_restart,
        reloaded: applied.reloaded,
    })
}
