//! From a request to its answer. What a health check or a document says is decided by pure functions of the daemon's
//! view and the server's newest word; nothing here waits for the HA loop, except for the end of a restart.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use dcs::Dcs;
use ha::facts::SqlFacts;
use ha::failsafe::{Ping, Promise};
use net::http::Client;
use postgres::RestStatus;
use serde_json::Value;
use tokio::time::Instant;

use super::access::{Access, Caller, host_of};
use super::answer::Answer;
use super::control::{Action, Body};
use super::health::{self, Check, Evidence};
use super::query::Query;
use super::route::{Route, Wish};
use super::schedule::Schedule;
use super::server_status::{RECENT, ServerStatus};
use super::status::{self, Shown};
use super::{cluster_document, events, metrics, openapi};
use crate::daemon::citus::Keeper;
use crate::daemon::clock;
use crate::daemon::disk::Disk;
use crate::daemon::events::Events;
use crate::daemon::inbox::Inbox;
use crate::daemon::view::{View, ViewReceiver};

/// Other members wait 2 s for the answer to `GET /patroni`; Kubernetes and Prometheus wait longer.
const PATIENCE: Duration = Duration::from_millis(1800);
/// When the code of a health check is known without the server, its document does not wait long for the server.
const SHORT_PATIENCE: Duration = Duration::from_millis(250);
/// A query that fails is tried once more, this long after the first.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a member's name may take to be resolved.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

/// What the API answers from and acts on.
pub(crate) struct Api {
    pub(crate) view: ViewReceiver,
    pub(crate) inbox: Inbox,
    pub(crate) failsafe: Arc<Mutex<Promise>>,
    pub(crate) dcs: Arc<dyn Dcs>,
    pub(crate) server: Arc<ServerStatus>,
    pub(crate) members: Arc<Client>,
    pub(crate) schedule: Arc<Schedule>,
    pub(crate) events: Events,
    pub(crate) citus: Option<Keeper>,
    pub(crate) disk: Disk,
    pub(crate) access: RwLock<Arc<Access>>,
}

/// A request's line and head.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) caller: Caller<'a>,
}

impl Api {
    /// The newest view, with what is scheduled here.
    pub(crate) fn view(&self) -> Arc<View> {
        let mut view = Arc::clone(&self.view.borrow());
        let scheduled = self.schedule.shown();
        if scheduled.is_some() && view.scheduled_restart != scheduled {
            Arc::make_mut(&mut view).scheduled_restart = scheduled;
        }
        let accepted = self
            .promise()
            .accepted(clock::now())
            .map(|accepted| accepted.until);
        if accepted > view.failsafe_until {
            Arc::make_mut(&mut view).failsafe_until = accepted;
        }
        view
    }

    /// The answer to a request without a body.
    pub(crate) async fn show(&self, route: Route, head: &Head<'_>) -> Result<Answer, Answer> {
        let arrived = Instant::now();
        let query = Query::parse(head.query);
        Ok(match route {
            Route::Health => self.health(head.path, &query, true, arrived).await,
            Route::HealthBare => self.health(head.path, &query, false, arrived).await,
            Route::Liveness => {
                let is_live = self.view().is_live(clock::now());
                Answer::bare(if is_live { 200 } else { 503 })
            }
            Route::Readiness => self.readiness(&query, arrived).await,
            Route::Patroni => {
                let sql = self.look_twice(arrived).await;
                let (view, now) = (self.view(), clock::now());
                let mut document = status::document(&view, now, Shown::new(&view, now, sql.as_deref()));
                if let Some(progress) = self.server.clone_progress() {
                    status::put_clone(&mut document, progress);
                }
                Answer::json(200, &document)
            }
            Route::Metrics => {
                let sql = self.look(arrived - RECENT, arrived + PATIENCE).await;
                let (view, now) = (self.view(), clock::now());
                let shown = Shown::new(&view, now, sql.as_deref());
                Answer::metrics(metrics::text(&view, now, shown, &self.disk.rooms(now)))
            }
            Route::Cluster => {
                let (cluster, config) = self.load().await?;
                Answer::json(
                    200,
                    &cluster_document::document(&cluster, &config, &self.view().node.scope),
                )
            }
            Route::History => self.history().await?,
            Route::Config => self.config().await?,
            Route::Failsafe => self.failsafe()?,
            Route::Events => events::answer(&self.events, &query).await?,
            Route::OpenApi => Answer::json_text(200, openapi::document()),
            Route::DeleteRestart => self.delete_restart(),
            Route::DeleteSwitchover => self.delete_switchover().await?,
            Route::Reload => self.reload(),
            // Patroni acts on it only in its own tests on Windows.
            Route::Sigterm => Answer::text(202, "shutdown scheduled"),
            Route::Wish(_) | Route::Unsupported => {
                Answer::page(501, &format!("Unsupported method ('{}')", head.method))
            }
        })
    }

    async fn history(&self) -> Result<Answer, Answer> {
        let view = self.view();
        let history = match view.cluster(clock::now()) {
            Some(cluster) => cluster.history.clone(),
            None => self.load().await?.0.history,
        };
        let lines = history.map(|history| history.to_json());
        let lines = lines.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        Ok(Answer::json(
            200,
            &lines.unwrap_or_else(|| Value::Array(Vec::new())),
        ))
    }

    async fn config(&self) -> Result<Answer, Answer> {
        let view = self.view();
        let key = match view.cluster(clock::now()) {
            Some(cluster) => cluster.config.clone(),
            None => self.load().await?.0.config,
        };
        let missing = || Answer::page(502, "the key config is missing in the DCS, or is not valid JSON");
        Ok(Answer::json(200, &key.ok_or_else(missing)?.value))
    }

    /// The last known members: this is asked when the DCS is away.
    fn failsafe(&self) -> Result<Answer, Answer> {
        let view = self.view();
        let members = view.failsafe_members.as_ref();
        let missing = || {
            Answer::page(
                502,
                "the key failsafe is missing in the DCS: failsafe_mode is off",
            )
        };
        Ok(Answer::json(200, members.ok_or_else(missing)?))
    }

    fn promise(&self) -> MutexGuard<'_, Promise> {
        self.failsafe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a leader that does not reach the DCS may ask at all.
    pub(crate) fn check_failsafe_mode(&self) -> Result<(), Answer> {
        if self.view.borrow().config.failsafe_mode {
            Ok(())
        } else {
            Err(Answer::page(502, "failsafe_mode is off"))
        }
    }

    /// A leader that does not reach the DCS asks whether it may go on (Patroni documentation, "DCS Failsafe Mode").
    fn accept_leader(&self, body: &Body) -> Result<Answer, Answer> {
        let view = self.view();
        let incomplete = || Answer::page(400, "name, conn_url and api_url have to be given");
        let ping = Ping::from_json(body).ok_or_else(incomplete)?;
        if !self.promise().accept(ping, clock::now(), view.config.ttl) {
            return Ok(Answer::text(500, "Running as a leader"));
        }
        let lsn = view.sql.as_ref().and_then(SqlFacts::position);
        let accepted = Answer::text(200, "Accepted");
        Ok(match lsn {
            Some(lsn) => accepted.with_header("lsn", lsn.0.to_string()),
            None => accepted,
        })
    }

    /// The answer to a request with a body.
    pub(crate) async fn act(&self, wish: Wish, body: &Body) -> Result<Answer, Answer> {
        match wish {
            Wish::PatchConfig => self.patch_config(body).await,
            Wish::PutConfig => self.put_config(body).await,
            Wish::Citus => Ok(self.citus(body).await),
            Wish::Restart => self.restart(body).await,
            Wish::Reinitialize => Ok(self.reinitialize(body).await),
            Wish::Failsafe => self.accept_leader(body),
            Wish::Switchover => self.switchover(Action::Switchover, body).await,
            Wish::Failover => self.switchover(Action::Failover, body).await,
        }
    }

    async fn look(&self, not_before: Instant, deadline: Instant) -> Option<Arc<RestStatus>> {
        if !status::may_answer(self.view.borrow().state) {
            return None;
        }
        self.server.look(not_before, deadline).await
    }

    /// A server that has just been started may refuse the first connection.
    async fn look_twice(&self, arrived: Instant) -> Option<Arc<RestStatus>> {
        let deadline = arrived + PATIENCE;
        let first = self.look(arrived, deadline).await;
        if first.is_some() || !status::may_answer(self.view.borrow().state) {
            return first;
        }
        let again = arrived + ASK_AGAIN_AFTER;
        tokio::time::sleep_until(again).await;
        self.look(again.max(Instant::now()), deadline).await
    }

    async fn health(&self, path: &str, query: &Query, with_document: bool, arrived: Instant) -> Answer {
        let check = Check::of(path);
        let view = self.view();
        let evidence = Evidence {
            view: &view,
            now: clock::now(),
            query,
            server: None,
        };
        let known = health::code(check, evidence);
        if let Some(code) = known.filter(|_| !with_document) {
            return Answer::bare(code);
        }
        let patience = if known.is_some() { SHORT_PATIENCE } else { PATIENCE };
        let sql = self.look(arrived - RECENT, arrived + patience).await;
        // Time has passed: what leads now counts, not what led when the request came in.
        let (view, now) = (self.view(), clock::now());
        let server = Shown::new(&view, now, sql.as_deref());
        let code = health::code(
            check,
            Evidence {
                view: &view,
                now,
                query,
                server: Some(server),
            },
        )
        .unwrap_or(503);
        if with_document {
            Answer::json(code, &status::document(&view, now, server))
        } else {
            Answer::bare(code)
        }
    }

    async fn readiness(&self, query: &Query, arrived: Instant) -> Answer {
        let view = self.view();
        let evidence = Evidence {
            view: &view,
            now: clock::now(),
            query,
            server: None,
        };
        let readiness = match health::unreadiness(evidence) {
            Some(known) => known,
            None => {
                let sql = self.look(arrived - RECENT, arrived + PATIENCE).await;
                let (view, now) = (self.view(), clock::now());
                let server = Some(Shown::new(&view, now, sql.as_deref()));
                health::unreadiness(Evidence {
                    view: &view,
                    now,
                    query,
                    server,
                })
                .unwrap_or(Ok(()))
            }
        };
        if let Err(why) = &readiness {
            tracing::debug!("not ready: {why}");
        }
        Answer::bare(if readiness.is_ok() { 200 } else { 503 })
    }

    /// Lets a caller change something, or says why not.
    pub(crate) async fn check_access(&self, caller: Caller<'_>) -> Result<(), Answer> {
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        let members = if access.includes_members {
            self.member_addresses().await
        } else {
            Vec::new()
        };
        access.check(caller, &members).inspect_err(|answer| {
            tracing::info!("REST API: {} refused: {}", caller.address, answer.body);
        })
    }

    /// The same for a leader that does not reach the DCS: it may have gone from there, so that addresses of members do
    /// not count.
    pub(crate) fn check_access_of_leader(&self, caller: Caller<'_>) -> Result<(), Answer> {
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        access.by_list_alone().check(caller, &[]).inspect_err(|answer| {
            tracing::info!("REST API: {} refused: {}", caller.address, answer.body);
        })
    }

    async fn member_addresses(&self) -> Vec<IpAddr> {
        let view = self.view();
        let members = view
            .cluster(clock::now())
            .map(|cluster| cluster.members.as_slice())
            .unwrap_or_default();
        let hosts = members
            .iter()
            .filter_map(|member| host_of(member.data.api_url.as_deref()?));
        futures_util::future::join_all(hosts.map(resolve)).await.concat()
    }
}

/// The addresses of a name; none, with a word in the log, when it cannot be resolved in time.
pub(crate) async fn resolve(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    match tokio::time::timeout(RESOLVE_LIMIT, tokio::net::lookup_host((host, 0))).await {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip()).collect(),
        Ok(Err(error)) => {
            tracing::error!("failed to resolve {host} for the allowlist: {error}");
            Vec::new()
        }
        Err(_) => {
            tracing::error!(
                "failed to resolve {host} for the allowlist within {} s",
                RESOLVE_LIMIT.as_secs()
            );
            Vec::new()
        }
    }
}
