//! The server's own word for status documents and health checks: one query at a time, whoever asks.
//!
//! Those who ask while a query runs wait for the next one together, so any number of clients costs PostgreSQL one
//! connection and one query after the other. How old an answer may be is up to who asks:
//!
//! - The race for the leader key compares positions, so `GET /patroni` takes only an answer of a query that began
//!   after the request had come in: a position that is a few milliseconds old could let a member win that lacks WAL.
//! - Health checks and metrics take one up to [`RECENT`] old. Load balancers ask every second or two, so they cannot
//!   tell the difference, and leadership is never taken from here but from the view.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use postgres::{CloneProgress, RestStatus};
use tokio::time::{Instant, timeout_at};

/// How old an answer may be for a health check.
pub(crate) const RECENT: Duration = Duration::from_millis(100);

/// How long a query may take. Other members wait 2 s for an answer to `GET /patroni`.
const QUERY_LIMIT: Duration = Duration::from_millis(1500);

/// The server, as the REST API asks it.
#[async_trait]
pub trait LocalServer: Send + Sync {
    /// What the server says of itself, by a connection of the REST API's own.
    ///
    /// # Errors
    /// It does not answer until `deadline`.
    async fn rest_status(&self, deadline: Instant) -> Result<RestStatus, postgres::Error>;

    /// How far a copy of another member is that is being made here.
    fn clone_progress(&self) -> Option<CloneProgress> {
        None
    }
}

#[async_trait]
impl LocalServer for postgres::Server {
    async fn rest_status(&self, deadline: Instant) -> Result<RestStatus, postgres::Error> {
        Self::rest_status(self, deadline).await
    }

    fn clone_progress(&self) -> Option<CloneProgress> {
        Self::clone_progress(self)
    }
}

/// One look at the server.
struct Look {
    began: Instant,
    /// `None`: it did not answer.
    status: Option<Arc<RestStatus>>,
}

/// The looks at the server, taken by all together.
pub(crate) struct ServerStatus {
    server: Arc<dyn LocalServer>,
    newest: Mutex<Option<Look>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl ServerStatus {
    pub(crate) fn new(server: Arc<dyn LocalServer>) -> Arc<Self> {
        Arc::new(Self {
            server,
            newest: Mutex::default(),
            turn: Arc::default(),
        })
    }

    /// How far a copy of another member is that is being made here.
    pub(crate) fn clone_progress(&self) -> Option<CloneProgress> {
        self.server.clone_progress()
    }

    /// The answer to a query that began at `not_before` or later; `None` when there is none until `deadline`.
    pub(crate) async fn look(
        self: &Arc<Self>,
        not_before: Instant,
        deadline: Instant,
    ) -> Option<Arc<RestStatus>> {
        if let Some(known) = self.known(not_before) {
            return known;
        }
        timeout_at(deadline, async {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            if let Some(known) = self.known(not_before) {
                return known;
            }
            // A task of its own: when this client goes away or has no more patience, the others still get the answer.
            let this = Arc::clone(self);
            let query = tokio::spawn(async move {
                let status = this.ask().await;
                drop(turn);
                status
            });
            query.await.ok().flatten()
        })
        .await
        .ok()
        .flatten()
    }

    /// The newest answer if it is new enough. The inner `Option` as in [`Look`].
    fn known(&self, not_before: Instant) -> Option<Option<Arc<RestStatus>>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest
            .as_ref()
            .filter(|look| look.began >= not_before)
            .map(|look| look.status.clone())
    }

    async fn ask(&self) -> Option<Arc<RestStatus>> {
        let began = Instant::now();
        let deadline = began + QUERY_LIMIT;
        let answer = timeout_at(deadline, self.server.rest_status(deadline)).await;
        let status = match answer {
            Ok(Ok(status)) => Some(Arc::new(status)),
            Ok(Err(error)) => {
                tracing::debug!("PostgreSQL did not tell its state to the REST API: {error}");
                None
            }
            Err(_) => {
                let limit = QUERY_LIMIT.as_millis();
                tracing::debug!("PostgreSQL did not tell its state to the REST API within {limit} ms");
                None
            }
        };
        let look = Look {
            began,
            status: status.clone(),
        };
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
        status
    }
}
