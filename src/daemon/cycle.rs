//! The loop: asks the decision for its next step, takes it, and again, until the cycle is over; then tells what came of
//! it and waits for a reason to begin the next one.

use std::sync::Arc;
use std::time::Duration;

use config::Minimums;
use dcs::Changes;
use futures_util::FutureExt;
use ha::Facts;
use ha::cluster::Cluster;
use ha::event::{Chronicle, Record};
use ha::facts::{Answer, Given, LockAnswer, TaskStatus};
use ha::memory::Memory;
use ha::pg::{Role, ServerState};
use ha::step::{Action, Exit, Key, Outcome, Question, Step, Task, TaskOutcome};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::apply::Applier;
use super::configuration::ConfigurationSource;
use super::events::Events;
use super::guard::{Guard, RunsAs};
use super::inbox::Message;
use super::log::Log;
use super::pulse::Pulse;
use super::report::{self, Report, Wanted};
use super::requests::Requests;
use super::schedule::Schedule;
use super::settings::{self, Change};
use super::signals::Signals;
use super::store::Reload;
use super::view::View;
use super::watchdog::Wish;
use super::world::World;
use super::{api, cache, clock, meanwhile};

/// The daemon's loop with all that it keeps from cycle to cycle.
pub(crate) struct Daemon {
    pub(crate) world: World,
    pub(crate) memory: Memory,
    pub(crate) schedule: Schedule,
    pub(crate) report: Report,
    pub(crate) events: Events,
    pub(crate) chronicle: Chronicle,
    pub(crate) requests: Requests,
    pub(crate) applier: Applier,
    pub(crate) signals: Signals,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) log: Log,
    pub(crate) pulse: Pulse,
    pub(crate) configuration: ConfigurationSource,
    pub(crate) store: Arc<dyn Reload>,
    /// Tells of changes in the store.
    pub(crate) changes: watch::Receiver<Changes>,
    /// The changes that were looked at, without those that do not matter.
    pub(crate) changes_seen: Changes,
    /// The REST API, until the daemon is told to end.
    pub(crate) rest: Option<api::Handle>,
    /// What the configuration in force was read from: the `/config` key, or what stands in for it, and the shortest
    /// timers that all members permit.
    pub(crate) agreed: (serde_json::Value, Minimums),
    /// `patroni.dynamic.json` is not what it should be.
    pub(crate) cache_is_stale: bool,
    /// It is being written: whether it was. A disk that stalls holds no cycle up.
    pub(crate) cache_write: Option<JoinHandle<bool>>,
    /// The daemon was told to end.
    pub(crate) is_stopping: bool,
}

/// A step in the log. The values of the key `config` may hold secrets.
struct Shown<'a>(&'a Step);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Step::Act(Action::Write { key: Key::Config, .. }) => f.write_str("Act(Write { key: Config })"),
            step => write!(f, "{step:?}"),
        }
    }
}

impl Daemon {
    /// Runs cycles until the decision is to end.
    pub(crate) async fn run(mut self) -> Exit {
        loop {
            let outcome = self.cycle().await;
            if let Some(exit) = self.conclude(&outcome) {
                return exit;
            }
            self.wait(outcome.again_at).await;
        }
    }

    async fn cycle(&mut self) -> Outcome {
        let mut facts = Facts::new(self.given());
        let before = self.memory.clone();
        loop {
            let step = ha::decide(&facts, &mut self.memory);
            let answer = match &step {
                Step::Finish(outcome) => {
                    let outcome = (**outcome).clone();
                    self.keep_events(facts, before, &outcome);
                    return outcome;
                }
                Step::Act(Action::Begin(task)) => self.begin(task).await,
                Step::Observe(_) | Step::Act(_) => self.take(&step, &mut facts).await,
            };
            if let Answer::Lock(lock) = &answer {
                self.lock_was_answered(lock);
            }
            tracing::debug!("{} -> {answer:?}", Shown(&step));
            // What the cluster has agreed on holds from the very cycle on that reads it.
            if let (Step::Observe(Question::Cluster), Answer::Cluster(Ok(cluster))) = (&step, &answer)
                && facts.journal.iter().all(|entry| entry.is_meanwhile)
                && self.adopt(cluster)
            {
                facts.given.config = Arc::clone(&self.world.settings.config);
                facts.given.node = Arc::clone(&self.world.settings.node);
            }
            facts.learn(step, answer, clock::now());
            self.pulse.beat();
        }
    }

    fn keep_events(&mut self, facts: Facts, before: Memory, outcome: &Outcome) {
        let events = self.chronicle.tell(&facts, &before, &self.memory, outcome);
        if !events.is_empty() {
            let record = Record::new(facts, before, outcome.clone());
            self.events.take_in(events, record);
        }
    }

    async fn begin(&mut self, task: &Task) -> Answer {
        if let Err(why) = self.guard_before(task).await {
            return Answer::Done(Err(why));
        }
        self.job_begins(task);
        Answer::Done(self.world.begin(task))
    }

    fn lock_was_answered(&mut self, lock: &LockAnswer) {
        match lock {
            LockAnswer::Held { sent_at } | LockAnswer::HeldByLeaseAlone { sent_at, .. } => {
                self.lease_was_renewed(*sent_at);
                let until = sent_at.after(self.world.settings.config.ttl);
                meanwhile::show_lease(&self.view, until);
                self.world.promise().settle(true);
            }
            LockAnswer::NotHeld => {
                self.world.lease = None;
                self.world.promise().settle(false);
            }
            // The lease that we had runs on.
            LockAnswer::Unknown(_) => {}
        }
    }

    fn given(&mut self) -> Given {
        let task = self.world.jobs.take_status();
        if let TaskStatus::Done { task, outcome } = &task {
            self.world.seen.runs_as = RunsAs::Unknown;
            if matches!((task, outcome), (Task::Stop { .. }, TaskOutcome::Success)) {
                self.world.watchdog.disable();
            }
            if matches!(
                outcome,
                TaskOutcome::SettingsRefused(_) | TaskOutcome::FormerSettings(_)
            ) {
                // What waits for a restart is asked for again, now with the reason.
                self.applier.request_reload();
            }
            self.job_has_ended(task);
        }
        let wanted = self.probe_timeout(&task);
        self.world.probe.follow(wanted, &self.world.server);
        Given {
            now: clock::now(),
            wall_clock: jiff::Timestamp::now(),
            node: Arc::clone(&self.world.settings.node),
            config: Arc::clone(&self.world.settings.config),
            task,
            checkpoint: self.world.checkpoint.status(),
            requests: self.requests.unanswered(self.memory.restart_request),
            scheduled_restart: self.rest.as_ref().and_then(api::Handle::planned_restart),
            failsafe: self.world.promise().accepted(clock::now()).cloned(),
            is_stopping: self.is_stopping,
            guard_is_missing: self.guard_is_wanting(),
            watchdog_is_missing: self.world.watchdog.is_wanting(),
            unresponsive: self.world.probe.trouble(),
        }
    }

    /// How long the server may not work, while it is a primary that nothing is being done with.
    fn probe_timeout(&self, task: &TaskStatus) -> Option<Duration> {
        let config = &self.world.settings.config;
        let runs = self.memory.role == Role::Primary && self.memory.state == ServerState::Running;
        let is_idle = !matches!(task, TaskStatus::Running { .. });
        config
            .primary_probe_timeout
            .filter(|_| runs && is_idle && !config.pause)
    }

    fn guard_is_wanting(&self) -> bool {
        self.world.guard.as_ref().is_some_and(Guard::is_wanting)
    }

    fn job_begins(&mut self, task: &Task) {
        match task {
            // The server starts with the settings in force.
            Task::Bootstrap
            | Task::Clone { .. }
            | Task::Start { .. }
            | Task::Restart { .. }
            | Task::CopyLogicalSlots { .. } => {
                self.applier.forget();
            }
            Task::PostBootstrap
            | Task::Stop { .. }
            | Task::Promote { .. }
            | Task::CrashRecovery
            | Task::Rewind { .. } => {}
        }
    }

    fn job_has_ended(&mut self, task: &Task) {
        match task {
            Task::Bootstrap | Task::Clone { .. } | Task::Rewind { .. } => self.cache_is_stale = true,
            Task::PostBootstrap
            | Task::Start { .. }
            | Task::Stop { .. }
            | Task::Restart { .. }
            | Task::CopyLogicalSlots { .. }
            | Task::Promote { .. }
            | Task::CrashRecovery => {}
        }
    }

    /// Puts what the cluster has agreed on into force, if it is something else. Whether it is. Without the `/config`
    /// key what was in force stays.
    fn adopt(&mut self, cluster: &Cluster) -> bool {
        let is_other = self.adopt_config(cluster);
        let follows = self.world.settings.change_for(cluster);
        follows.is_some_and(|change| self.change_settings(change)) || is_other
    }

    fn adopt_config(&mut self, cluster: &Cluster) -> bool {
        let document = match &cluster.config {
            Some(key) => serde_json::Value::Object(key.value.clone()),
            None => self.agreed.0.clone(),
        };
        let agreed = (document, settings::minimums(cluster));
        if self.agreed == agreed {
            return false;
        }
        let config = settings::read_dynamic(&agreed.0, agreed.1);
        self.agreed = agreed;
        if config == *self.world.settings.config {
            return false;
        }
        self.cache_is_stale = true;
        self.change_settings(Change::Dynamic(Arc::new(config)))
    }

    /// Puts a part of the settings into force. After an error the former ones stay.
    pub(crate) fn change_settings(&mut self, change: Change) -> bool {
        match self.world.settings.replaced(change) {
            Ok((settings, postgresql)) => {
                let config = &settings.config;
                if postgresql != *self.world.server.settings() {
                    self.applier.request();
                }
                self.world.server.configure(postgresql, config.retry_timeout);
                self.world.dcs.set_timing(super::store::timing(config));
                let wish = Wish::new(&settings.local.watchdog, config);
                self.world.watchdog.configure(wish);
                self.world.settings = settings;
                true
            }
            Err(problems) => {
                settings::log_problems(&problems);
                tracing::error!("the former settings stay in force");
                false
            }
        }
    }

    /// Tells what came of a cycle, and does what is to be done after each.
    fn conclude(&mut self, outcome: &Outcome) -> Option<Exit> {
        let wanted = Wanted {
            debug: self.log.shows_debug(),
            deduplicated: self.world.settings.local.log.deduplicate_heartbeat_logs,
        };
        let is_paused = self.world.settings.config.pause;
        for line in self
            .report
            .lines(&outcome.notes, &outcome.reason, is_paused, wanted)
        {
            report::log(&line);
        }
        let lock_valid_until = self.memory.lock.map(|lock| lock.valid_until);
        self.world.lock_valid_until.send_replace(lock_valid_until);
        self.guard_after_cycle();
        let another_leads = self.memory.another_leads(&self.world.settings.node.name);
        self.world.promise().end_cycle(self.memory.leads(), another_leads);
        for (callback, role) in &outcome.callbacks {
            self.world.server.run_callback(*callback, *role);
        }
        if let (Some(rest), Some(id)) = (&self.rest, outcome.unscheduled) {
            rest.restart_is_unscheduled(id);
        }
        for reply in &outcome.replies {
            self.requests.answer(reply.clone());
        }
        if !self.world.settings.is_for(self.memory.role) {
            self.change_settings(Change::Role(self.memory.role));
        }
        if let Some(version) = self.world.seen.server_version
            && !self.world.settings.is_of_version(version)
        {
            self.change_settings(Change::ServerVersion(version));
        }
        // Of the end may be the reason that the data directory is another cluster's.
        if outcome.exit.is_none() {
            self.save_cache();
        }
        let server_runs = self
            .world
            .seen
            .server
            .as_ref()
            .is_some_and(|server| server.sql.is_some());
        if server_runs && !self.world.jobs.is_running() {
            self.applier
                .begin(&self.world.server, self.world.settings.config.retry_timeout);
        }
        self.pulse.follow(&self.world.settings.config);
        let loop_wait = self.world.settings.config.loop_wait;
        if self.schedule.advance(clock::now(), loop_wait) && outcome.exit.is_none() {
            tracing::warn!("Loop time exceeded, rescheduling immediately.");
        }
        self.publish(outcome.reason.status_line(is_paused));
        outcome.exit
    }

    fn save_cache(&mut self) {
        if let Some(write) = self.cache_write.take_if(|write| write.is_finished()) {
            self.cache_is_stale |= matches!(write.now_or_never(), Some(Ok(false)));
        }
        let has_data = self.memory.role != Role::Uninitialized;
        let is_writing = self.cache_write.is_some();
        if is_writing || !self.cache_is_stale || !has_data || self.world.jobs.is_running() {
            return;
        }
        let document = self.world.settings.config.adjusted_document();
        let data_dir = self.world.server.data_dir();
        // After an error not again in every cycle: a change or the end of a job tries anew.
        self.cache_is_stale = false;
        self.cache_write = Some(tokio::task::spawn_blocking(move || {
            cache::write(&data_dir, &document).unwrap_or_else(|error| {
                tracing::warn!("{error:#}");
                true
            })
        }));
    }

    /// Shows the REST API what is.
    pub(crate) fn publish(&mut self, status_line: String) {
        self.pulse.show(format!(
            "{}, {}: {status_line}",
            self.memory.role, self.memory.state
        ));
        let seen = &self.world.seen;
        let sql = seen.server.as_ref().and_then(|server| server.sql.clone());
        let settings = &self.world.settings;
        let task = self.world.jobs.shown();
        let state = match &task {
            TaskStatus::Running { task, progress, .. } => {
                task.server_state(Some(*progress), settings.node.has_custom_bootstrap)
            }
            TaskStatus::Idle | TaskStatus::Done { .. } => None,
        };
        self.view.send_replace(Arc::new(View {
            node: Arc::clone(&settings.node),
            local: Arc::clone(&settings.local),
            config: Arc::clone(&settings.config),
            cluster: self.memory.cluster.clone(),
            lock_valid_until: self.memory.leads_until(),
            role: self.memory.role,
            state: state.unwrap_or(self.memory.state),
            timeline: sql
                .as_ref()
                .and_then(|sql| sql.timeline)
                .or(self.memory.last_timeline),
            origin: self.memory.origin,
            stands_back: self.memory.stands_back,
            latest_end_lsn: seen.latest_end_lsn,
            system_identifier: self.memory.system_identifier.clone(),
            pending_restart: seen.pending_restart.clone(),
            sql,
            scheduled_restart: self.rest.as_ref().and_then(api::Handle::scheduled_restart),
            task,
            next_run: self.schedule.next_run(),
            dcs_last_seen: seen.dcs_last_seen,
            dcs_refuses_writes: self.memory.writes_refused.clone(),
            trouble: (self.memory.trouble.clone()).filter(|_| self.memory.role == Role::Replica),
            watchdog_failed: self.guard_is_wanting() || self.world.watchdog.is_wanting(),
            guard_is_missing: self.world.guard.as_ref().map(super::guard::Guard::is_missing),
            strangers: self.memory.synchronous.strangers_told.len(),
            failsafe_until: self.memory.failsafe.until,
            failsafe_members: self.memory.failsafe.members.clone(),
            failed_handover: self.memory.handover.failed.clone(),
            status_line,
        }));
    }
}
