//! The one long job, beside the loop: begun by the decision, it reports how far it is, and its end wakes the loop. To
//! cancel a job is to drop it, which kills what it has started.

mod bootstrap;
mod lifecycle;
mod promote;
mod rewind;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use config::{DynamicConfig, LocalConfig};
use ha::event::What;
use ha::facts::{CheckpointStatus, Moment, Progress, TaskStatus};
use ha::step::{StartReason, Task, TaskOutcome};
use postgres::{Instant, Server};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::citus::notice;
use super::clock;
use super::events::Events;
use super::guard::RunsAs;
use super::world::World;

/// For jobs that take as long as they take: a copy of a large cluster, or its recovery. They end by being cancelled.
pub(crate) fn no_deadline() -> Instant {
    deadline_in(Duration::MAX)
}

/// A deadline after so long, or after a year: a time that people have given may be any.
pub(crate) fn deadline_in(timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    Instant::now() + timeout.min(YEAR)
}

/// What a job works with.
struct Context {
    server: Server,
    local: Arc<LocalConfig>,
    config: Arc<DynamicConfig>,
    http: Arc<net::http::Client>,
    progress: watch::Sender<Progress>,
    events: Option<Events>,
    /// Until when the leader key is ours, as the loop prolongs it.
    lock_valid_until: watch::Receiver<Option<Moment>>,
}

impl Context {
    /// Tells a Citus coordinator, if this is one of its workers.
    async fn tell_coordinator(&self, moment: ha::citus::Moment) {
        notice::tell(&self.local, &self.config, &self.http, moment).await;
    }

    /// Something happens now that no cycle sees.
    fn tell(&self, what: What) {
        if let Some(events) = &self.events {
            events.tell(what);
        }
    }

    fn report(&self, progress: Progress) {
        self.progress.send_replace(progress);
    }
}

/// The long job, if there is one.
#[derive(Default)]
pub(crate) struct Jobs {
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Running(Running),
    Ended(Task, TaskOutcome),
}

struct Running {
    task: Task,
    since: Moment,
    progress: watch::Receiver<Progress>,
    handle: JoinHandle<TaskOutcome>,
}

impl Jobs {
    /// Whether a job runs.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// What there is to tell of the job. Its end is told once.
    pub(crate) fn take_status(&mut self) -> TaskStatus {
        match std::mem::take(&mut self.state) {
            State::Idle => TaskStatus::Idle,
            State::Running(mut running) => {
                let status = running.status();
                self.state = State::Running(running);
                status
            }
            State::Ended(task, outcome) => TaskStatus::Done { task, outcome },
        }
    }

    /// What is shown of the job; an end that was not told yet shows as idle.
    pub(crate) fn shown(&mut self) -> TaskStatus {
        match &mut self.state {
            State::Running(running) => running.status(),
            State::Idle | State::Ended(..) => TaskStatus::Idle,
        }
    }

    pub(crate) fn cancel(&mut self) {
        if let State::Running(running) = &self.state {
            running.handle.abort();
        }
    }

    /// Ends when the job has news: it is further, or at its end. Never without a job. May be dropped and called again.
    pub(crate) async fn news(&mut self) {
        let State::Running(running) = &mut self.state else {
            return std::future::pending().await;
        };
        let ended = tokio::select! {
            ended = &mut running.handle => ended,
            Ok(()) = running.progress.changed() => return,
        };
        let outcome = ended.unwrap_or_else(|error| {
            if error.is_cancelled() {
                TaskOutcome::Cancelled
            } else {
                TaskOutcome::Failed("the job ended by a defect of this program".to_owned())
            }
        });
        tracing::debug!("{} has ended: {outcome:?}", running.task.label());
        self.state = State::Ended(running.task.clone(), outcome);
    }
}

impl Running {
    fn status(&mut self) -> TaskStatus {
        TaskStatus::Running {
            task: self.task.clone(),
            since: self.since,
            progress: *self.progress.borrow_and_update(),
        }
    }
}

impl World {
    /// Starts a job, unless one runs.
    ///
    /// # Errors
    /// One runs.
    pub(crate) fn begin(&mut self, task: &Task) -> Result<()> {
        if let State::Running(running) = &self.jobs.state {
            return Err(format!(
                "Failed to run {}, {} is already in progress",
                task.label(),
                running.task.label()
            ));
        }
        let (sender, progress) = watch::channel(Progress::Working);
        let context = Context {
            server: self.server.clone(),
            local: Arc::clone(&self.settings.local),
            config: Arc::clone(&self.settings.config),
            http: Arc::clone(&self.http),
            progress: sender,
            events: self.events.clone(),
            lock_valid_until: self.lock_valid_until.subscribe(),
        };
        // Whatever the job does to the server, what was seen of it does not hold any more.
        self.seen.postmaster = None;
        self.seen.runs_as = RunsAs::Unknown;
        if matches!(
            task,
            Task::CopyLogicalSlots { .. } | Task::Clone { .. } | Task::Rewind { .. }
        ) {
            self.slot_work.forget();
        }
        self.jobs.state = State::Running(Running {
            task: task.clone(),
            since: clock::now(),
            progress,
            handle: tokio::spawn(run(task.clone(), context)),
        });
        Ok(())
    }
}

async fn run(task: Task, context: Context) -> TaskOutcome {
    let context = &context;
    let result = match task {
        Task::Bootstrap => bootstrap::create(context).await,
        Task::PostBootstrap => bootstrap::populate(context).await,
        Task::Clone {
            from,
            follow,
            with_basebackup,
        } => bootstrap::clone(context, &from, follow.as_ref(), with_basebackup).await,
        Task::Start {
            start_as,
            timeout,
            why: StartReason::AfterFailedSwitchover,
        } => lifecycle::start_again(context, &start_as, timeout).await,
        Task::Start {
            start_as, timeout, ..
        } => lifecycle::start(context, &start_as, timeout).await,
        Task::Stop {
            mode,
            checkpoint,
            purpose,
        } => lifecycle::stop(context, mode, checkpoint, purpose).await,
        Task::Restart {
            start_as,
            timeout,
            is_requested,
        } => match lifecycle::obstacle(context, &start_as, is_requested).await {
            Some(why) => Ok(TaskOutcome::SettingsRefused(why)),
            None => lifecycle::restart(context, &start_as, timeout).await,
        },
        Task::CopyLogicalSlots {
            leader,
            slots,
            follow,
        } => slots::copy(context, &leader, &slots, follow).await,
        Task::Promote {
            lock_valid_until,
            archive_may_have_more,
        } => promote::promote(context, lock_valid_until, archive_may_have_more).await,
        Task::CrashRecovery => rewind::recover(context).await,
        Task::Rewind { source } => rewind::rewind(context, &source).await,
    };
    result.unwrap_or_else(TaskOutcome::Failed)
}

/// What a job's steps end with: an outcome, or why it failed.
type Result<T> = std::result::Result<T, String>;

fn failed(error: postgres::Error) -> String {
    error.to_string()
}

/// The checkpoint after a promotion, which runs beside everything else.
#[derive(Default)]
pub(crate) struct Checkpoint {
    running: Option<JoinHandle<bool>>,
    last: Option<bool>,
}

impl Checkpoint {
    /// Begins one, unless one runs.
    pub(crate) fn begin(&mut self, server: Server) {
        if self.running.is_some() {
            return;
        }
        self.last = None;
        self.running = Some(tokio::spawn(async move {
            server
                .checkpoint(no_deadline())
                .await
                .inspect_err(|error| tracing::warn!("the checkpoint after the promotion failed: {error}"))
                .is_ok()
        }));
    }

    pub(crate) fn status(&self) -> CheckpointStatus {
        match (&self.running, self.last) {
            (Some(_), _) => CheckpointStatus::Running,
            (None, None) => CheckpointStatus::Idle,
            (None, Some(true)) => CheckpointStatus::Done,
            (None, Some(false)) => CheckpointStatus::Failed,
        }
    }

    /// Ends when the checkpoint does. Never without one. May be dropped and called again.
    pub(crate) async fn ended(&mut self) {
        match &mut self.running {
            Some(handle) => self.last = Some(handle.await.unwrap_or(false)),
            None => std::future::pending().await,
        }
        self.running = None;
    }
}
