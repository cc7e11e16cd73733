//! Carries out what people ask: the checks are in `control`, here they meet the DCS, the other members and the HA loop.

use std::time::Duration;

use config::DynamicConfig;
use dcs::{Expect, Key};
use ha::citus::{Address, Moment, Notice};
use ha::cluster::{Cluster, Failover, Version};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::answer::Answer;
use super::control::{self, Action, Body, PEER_LIMIT, Plan, RestartPlan};
use super::respond::Api;
use super::{config_document, peers};
use crate::daemon::inbox::Unheard;
use crate::daemon::view::View;
use crate::daemon::{citus, clock};

/// A switchover's end is looked for this often when nothing tells of it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// And at most this often when something does.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Api {
    /// A fresh reading of the DCS and the dynamic configuration in it.
    pub(crate) async fn load(&self) -> Result<(Cluster, DynamicConfig), Answer> {
        let cluster = self.dcs.load().await.map_err(|error| {
            tracing::warn!("REST API: {error:#}");
            Answer::page(503, &error.to_string())
        })?;
        let config = self.config_in(&cluster);
        Ok((cluster, config))
    }

    /// Writes what `what` names. The error is the answer to whoever asked for it.
    async fn write(&self, key: Key, value: &str, expect: Expect, what: &str) -> Result<(), Answer> {
        match self.dcs.write(key, value, expect).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Answer::page(409, &format!("{what} was changed by somebody else"))),
            Err(error) => {
                tracing::warn!("REST API: {error:#}");
                Err(Answer::page(409, &format!("{what} cannot be written: {error}")))
            }
        }
    }

    pub(crate) async fn patch_config(&self, body: &Body) -> Result<Answer, Answer> {
        let (cluster, _) = self.load().await?;
        let Some(key) = cluster.config else {
            return Err(Answer::page(
                503,
                "the key config is missing in the DCS, or is not valid JSON",
            ));
        };
        let (document, changed) = config_document::patched(&key.value, body);
        if changed {
            config_document::check(&document)?;
            let value = Value::Object(document.clone()).to_string();
            self.write(
                Key::Config,
                &value,
                Expect::Version(key.version),
                "the key config",
            )
            .await?;
        }
        self.inbox.wake();
        Ok(Answer::json(200, &document))
    }

    pub(crate) async fn put_config(&self, body: &Body) -> Result<Answer, Answer> {
        config_document::check(body)?;
        let (cluster, _) = self.load().await?;
        let is_same = cluster
            .config
            .is_some_and(|key| config_document::is_same(&key.value, body));
        let value = Value::Object(body.clone()).to_string();
        if !is_same && let Err(error) = self.dcs.write(Key::Config, &value, Expect::Anything).await {
            tracing::warn!("REST API: {error:#}");
            let message = format!("the key config cannot be written: {error}");
            return Err(Answer::page(502, &message));
        }
        Ok(Answer::json(200, body))
    }

    pub(crate) fn reload(&self) -> Answer {
        match self.inbox.reload() {
            Ok(()) => Answer::text(202, "reload scheduled"),
            Err(error) => Answer::text(503, error.to_string()),
        }
    }

    pub(crate) async fn switchover(&self, asked: Action, body: &Body) -> Result<Answer, Answer> {
        let (cluster, config) = self.load().await?;
        let wish = Value::Object(body.clone()).to_string();
        let shown = config::escape::beginning(&wish);
        tracing::info!("received {} request: {shown}", asked.as_str());
        let plan = control::check_switchover(asked, body, &cluster, &config, Timestamp::now())?;
        if asked == Action::Failover && plan.action == Action::Switchover {
            tracing::warn!("received failover request with leader specified - performing switchover instead");
        }
        if let Some(candidates) = &plan.candidates {
            plan.check_answers(&peers::ask(&self.members, candidates).await)?;
        }
        let written = self.dcs.write(Key::Failover, &plan.key(), Expect::Anything).await;
        let written = written.inspect_err(|error| tracing::warn!("REST API: {error:#}"));
        let Ok(Some(request)) = written else {
            return Err(Answer::text(503, "failed to write failover key into DCS"));
        };
        self.inbox.wake();
        match plan.scheduled() {
            Some(answer) => Ok(answer),
            None => Ok(self.await_switchover(&plan, request, config.loop_wait).await),
        }
    }

    /// Only readings of the DCS made after the key was written decide. What the HA loop sees just says when a look is
    /// worth it, so that the answer comes with the change and not up to a second later.
    async fn await_switchover(&self, plan: &Plan, request: Version, loop_wait: Duration) -> Answer {
        let limit = loop_wait.max(Duration::from_secs(10)) * 2;
        let end = Instant::now() + limit;
        let mut view = self.view.clone();
        loop {
            let look_at = (Instant::now() + LOOK_EVERY).min(end);
            sleep_until((Instant::now() + LOOK_AGAIN).min(end)).await;
            let is_done = view.wait_for(|view| view.cluster.as_ref().is_some_and(|(it, _)| plan.is_done(it)));
            // Without a sender, when the daemon ends, the DCS still tells.
            if !matches!(timeout_at(look_at, is_done).await, Ok(Ok(_))) {
                sleep_until(look_at).await;
            }
            match self.dcs.load().await {
                Ok(cluster) => {
                    if let Some(answer) = plan.result(&cluster) {
                        return match answer.status {
                            503 => answer.with_detail(self.why_it_failed(plan, request).await),
                            _ => answer,
                        };
                    }
                }
                Err(error) => tracing::debug!("cannot see yet how the switchover ends: {error:#}"),
            }
            if Instant::now() >= end {
                return plan.unknown(limit);
            }
        }
    }

    /// The HA loop of the leader knows why, at the end of the cycle in which it has dropped the request; that of another member
    /// does not.
    async fn why_it_failed(&self, plan: &Plan, request: Version) -> Option<String> {
        let reason = |view: &View| {
            let failed = view
                .failed_handover
                .as_ref()
                .filter(|(which, _)| *which == request);
            failed.map(|(_, why)| why.clone())
        };
        if !plan.is_asked_of(&self.view().node.name) {
            return None;
        }
        let mut view = self.view.clone();
        let end = Instant::now() + LOOK_EVERY;
        let told = timeout_at(end, view.wait_for(|view| reason(view).is_some())).await;
        told.ok()?.ok().and_then(|view| reason(&view))
    }

    pub(crate) async fn delete_switchover(&self) -> Result<Answer, Answer> {
        let (cluster, _) = self.load().await?;
        let version = control::check_delete_switchover(&cluster)?.version;
        let what = "the scheduled switchover";
        self.write(Key::Failover, Failover::CLEARED, Expect::Version(version), what)
            .await?;
        Ok(Answer::text(200, "scheduled switchover deleted"))
    }

    pub(crate) async fn restart(&self, body: &Body) -> Result<Answer, Answer> {
        let is_paused = match self.load().await {
            Ok((_, config)) => config.pause,
            // A restart of this server needs no DCS.
            Err(_) => self.view().is_paused(),
        };
        match control::check_restart(body, is_paused, Timestamp::now())? {
            RestartPlan::Now(conditions) => match self.inbox.restart(conditions).await {
                Ok(reply) => Ok(Answer::text(if reply.is_success { 200 } else { 503 }, reply.text)),
                Err(unheard) => Err(not_heard(unheard)),
            },
            RestartPlan::Later {
                at,
                conditions,
                mut shown,
            } => {
                let postmaster_start_time = self.postmaster_start_time().await;
                shown
                    .0
                    .insert("postmaster_start_time".to_owned(), postmaster_start_time.into());
                if !self.schedule.put(at, conditions, shown) {
                    return Err(Answer::text(409, "Another restart is already scheduled"));
                }
                self.inbox.wake();
                Ok(Answer::text(202, "Restart scheduled"))
            }
        }
    }

    /// Empty when it is not known.
    async fn postmaster_start_time(&self) -> String {
        let now = Instant::now();
        let status = self.server.look(now, now + PEER_LIMIT).await;
        status
            .map(|status| status.postmaster_start_time.clone())
            .unwrap_or_default()
    }

    pub(crate) fn delete_restart(&self) -> Answer {
        if self.schedule.cancel() {
            self.inbox.wake();
            Answer::text(200, "scheduled restart deleted")
        } else {
            Answer::text(404, "no restarts are scheduled")
        }
    }

    /// A worker's leader tells the coordinator what it is about to do. Patroni answers `OK` whatever comes of it.
    pub(crate) async fn citus(&self, body: &Body) -> Answer {
        if let Err(why) = self.hear_worker(body).await {
            tracing::info!("what a Citus worker has told is left out: {why}");
        }
        Answer::text(200, "OK")
    }

    async fn hear_worker(&self, body: &Body) -> Result<(), String> {
        let keeper = self.citus.as_ref().ok_or("this is no coordinator")?;
        let notice: Notice =
            serde_json::from_value(Value::Object(body.clone())).map_err(|error| error.to_string())?;
        if !self.view().is_leader(clock::now()) {
            return Err("this is not the coordinator's leader".to_owned());
        }
        let cluster = self.dcs.load().await.map_err(|error| error.to_string())?;
        let worker = cluster.workers.get(&notice.group);
        let leader = worker.and_then(|worker| worker.member(&notice.leader));
        let address = leader
            .and_then(|leader| Address::of_conn_url(leader.data.conn_url.as_deref()?))
            .ok_or_else(|| {
                format!(
                    "group {} has no member {} with an address",
                    notice.group, notice.leader
                )
            })?;
        let patience = match notice.moment {
            Moment::BeforeDemote => citus::seconds(notice.timeout),
            // A promotion waits for nobody.
            Moment::BeforePromote | Moment::AfterPromote => Duration::ZERO,
        };
        let _ = tokio::time::timeout(patience, keeper.tell(notice, address)).await;
        Ok(())
    }

    pub(crate) async fn reinitialize(&self, body: &Body) -> Answer {
        let (force, from_leader) = control::read_reinitialize(body);
        match self.inbox.reinitialize(force, from_leader).await {
            Ok(reply) => Answer::text(if reply.is_success { 200 } else { 503 }, reply.text),
            Err(unheard) => not_heard(unheard),
        }
    }
}

fn not_heard(unheard: Unheard) -> Answer {
    Answer::text(503, unheard.to_string())
}
