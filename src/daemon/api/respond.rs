//! From a request to its answer. What a health check or a document says is decided by pure functions of the daemon's
//! view and the server's newest word; nothing here waits for the HA loop, except for the end of a restart.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use axum::http::HeaderMap;
use config::{DynamicConfig, Minimums};
use dcs::Dcs;
use ha::cluster::Cluster;
use ha::facts::SqlFacts;
use ha::failsafe::{Ping, Promise, Refusal};
use net::http::Client;
use postgres::RestStatus;
use serde_json::Value;
use tokio::time::Instant;

use super::access::{Access, Caller, host_of};
use super::answer::Answer;
use super::browser;
use super::control::{Action, Body};
use super::dcs_reading::DcsReadings;
use super::health::{self, Check, Evidence};
use super::large_answers::LargeAnswers;
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
    pub(crate) readings: Arc<DcsReadings>,
    pub(crate) large: LargeAnswers,
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
                let turn = self.large.turn(head.caller.address).await?;
                let cluster = self.read_dcs(arrived).await?;
                let config = self.config_in(&cluster);
                let document = cluster_document::document(&cluster, &config, &self.view().node.scope);
                Answer::json(200, &document).with_turn(turn)
            }
            Route::History => {
                let turn = self.large.turn(head.caller.address).await?;
                self.history(arrived).await?.with_turn(turn)
            }
            Route::Config => {
                let turn = self.large.turn(head.caller.address).await?;
                self.config(arrived).await?.with_turn(turn)
            }
            Route::Failsafe => self.failsafe()?,
            Route::Events => {
                let wanted = events::wait(&self.events, &query).await?;
                let turn = self.large.turn(head.caller.address).await?;
                events::answer(&self.events, wanted).await?.with_turn(turn)
            }
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

    /// A reading of the DCS that began after the request had come in, shared with others.
    async fn read_dcs(&self, arrived: Instant) -> Result<Arc<Cluster>, Answer> {
        let dcs = Arc::clone(&self.dcs);
        let reading = self
            .readings
            .read(arrived, move || async move { dcs.load().await })
            .await;
        reading.map_err(|why| Answer::page(503, &why))
    }

    /// The dynamic configuration of a reading; the one in force where it has none.
    pub(crate) fn config_in(&self, cluster: &Cluster) -> DynamicConfig {
        let in_force = || DynamicConfig::clone(&self.view().config);
        cluster.config.as_ref().map_or_else(in_force, |key| {
            DynamicConfig::read(&Value::Object(key.value.clone()), Minimums::TAMADA).0
        })
    }

    async fn history(&self, arrived: Instant) -> Result<Answer, Answer> {
        let view = self.view();
        let history = match view.cluster(clock::now()) {
            Some(cluster) => cluster.history.clone(),
            None => self.read_dcs(arrived).await?.history.clone(),
        };
        let lines = history.map(|history| history.to_json());
        let lines = lines.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        Ok(Answer::json(
            200,
            &lines.unwrap_or_else(|| Value::Array(Vec::new())),
        ))
    }

    async fn config(&self, arrived: Instant) -> Result<Answer, Answer> {
        let view = self.view();
        let key = match view.cluster(clock::now()) {
            Some(cluster) => cluster.config.clone(),
            None => self.read_dcs(arrived).await?.config.clone(),
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
        let cluster = view.cluster.as_ref().map(|(cluster, _)| cluster.as_ref());
        let ttl = view.config.ttl;
        ping.check(&view.node.name, ttl, view.failsafe_members.as_ref(), cluster)
            .map_err(|why| {
                tracing::warn!(
                    "POST /failsafe in the name of {:?} refused: {why}",
                    ping.name.as_str()
                );
                let status = if matches!(why, Refusal::TooLong(..)) {
                    400
                } else {
                    403
                };
                Answer::text(status, why.to_string())
            })?;
        if !self.promise().accept(ping, clock::now(), ttl) {
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

    /// The same for a leader that does not reach the DCS: it may have gone from there, so that all members count that were
    /// known last. Where their names cannot be resolved either, the list alone counts.
    pub(crate) async fn check_access_of_leader(&self, caller: Caller<'_>) -> Result<(), Answer> {
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        let known = if access.includes_members {
            self.last_known_addresses().await
        } else {
            None
        };
        let checked = match known {
            Some(members) => access.check(caller, &members),
            None => access.by_list_alone().check(caller, &[]),
        };
        checked.inspect_err(|answer| {
            tracing::info!("REST API: {} refused: {}", caller.address, answer.body);
        })
    }

    /// Where the members were that the key failsafe and the last reading of the DCS name; `None` when a name cannot be
    /// resolved.
    async fn last_known_addresses(&self) -> Option<Vec<IpAddr>> {
        let view = self.view();
        let cluster = view
            .cluster
            .as_ref()
            .map(|(cluster, _)| cluster.members.as_slice());
        let members = cluster.unwrap_or_default().iter();
        let urls = members.filter_map(|member| member.data.api_url.as_deref());
        let listed = view.failsafe_members.iter().flatten();
        let urls = urls.chain(listed.map(|(_, url)| url.as_str()));
        let hosts: BTreeSet<&str> = urls.filter_map(host_of).collect();
        let found = futures_util::future::join_all(hosts.into_iter().map(resolve)).await;
        let all_found = found.iter().all(|addresses| !addresses.is_empty());
        all_found.then(|| found.concat())
    }

    /// Lets what changes something through, unless a page of another site has sent it.
    pub(crate) fn check_browser(&self, headers: &HeaderMap) -> Result<(), Answer> {
        if !browser::is_sender(headers) {
            return Ok(());
        }
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        let names = (!access.asks_for_password()).then(|| self.names());
        browser::check(headers, names.as_deref()).inspect_err(|answer| {
            tracing::warn!("REST API: {}", answer.body);
        })
    }

    /// The names by which people may know this member's REST API, and those of the others.
    fn names(&self) -> Vec<String> {
        let view = self.view();
        let restapi = &view.local.restapi;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let (host, short) = (host.trim(), host.trim().split('.').next().unwrap_or_default());
        let mut names = vec![
            restapi.connect_address.host.clone(),
            host.to_owned(),
            short.to_owned(),
        ];
        names.extend(restapi.listen.hosts.iter().cloned());
        let members = view
            .cluster(clock::now())
            .map(|cluster| cluster.members.as_slice());
        let members = members.unwrap_or_default().iter();
        names.extend(members.filter_map(|member| Some(host_of(member.data.api_url.as_deref()?)?.to_owned())));
        names
    }

    pub(crate) async fn member_addresses(&self) -> Vec<IpAddr> {
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
