//! Starting, stopping, promoting and reloading the server.

use crate::command::{Invocation, postmaster_environment};
use crate::connection::rows;
use crate::error::Whose;
use crate::files::{remove, signal, write_if_changed};
use crate::parameters::reason_in;
use crate::process::launch::{Launched, PostmasterCommand, StartupLog};
use crate::process::postmaster::LastSeen;
use crate::process::watch::Watch;
use crate::process::{PidFile, Postmaster, PostmasterStatus, postmaster};
use crate::server::locked;
use crate::{DataDirectory, Error, Instant, Recovery, RecoverySignal, Result, Server};
use ha::pg::{ControlData, DatabaseState};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

/// How long children of a postmaster that is gone may take to notice it.
const LEFTOVERS_TIME: Duration = Duration::from_secs(10);

/// How soon it is looked again when that was not possible.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long immediate mode may take before SIGKILL: the postmaster itself kills its children after 5 s.
const IMMEDIATE_TIME: Duration = Duration::from_secs(10);

/// How long `before_stop` may hold up a stop in immediate mode, which is asked for when nothing may be written any more.
const BEFORE_IMMEDIATE_STOP_TIME: Duration = Duration::from_secs(1);

/// How often a promotion is looked at where no file event tells of it.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(50);

/// How long a promotion may take before the startup process is woken again; doubled each time.
const FIRST_NUDGE: Duration = Duration::from_millis(50);

/// The longest time between two of these.
const LONGEST_NUDGE: Duration = Duration::from_secs(2);

/// How a server is started.
#[derive(Debug, Clone, PartialEq)]
pub struct StartOptions {
    /// What it shall do once it is up: be a primary, follow, or recover to a target.
    pub recovery: Recovery,
    /// `hot_standby=off` on the command line, as a custom bootstrap needs it.
    pub without_hot_standby: bool,
}

/// How far a start came.
#[derive(Debug, Clone)]
pub enum Started {
    /// It accepts connections.
    Accepting(Postmaster),
    /// The deadline passed; the postmaster is alive and still starting.
    Starting(Postmaster),
}

/// How the server is told to stop (PostgreSQL manual, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// SIGTERM: waits for all clients to leave.
    Smart,
    /// SIGINT: ends the sessions and writes a shutdown checkpoint.
    Fast,
    /// SIGQUIT: no checkpoint; the next start recovers from the WAL.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// How the server is stopped.
#[derive(Debug, Clone, Copy)]
pub struct StopOptions {
    /// How it is told to.
    pub mode: StopMode,
    /// A CHECKPOINT first, which makes the shutdown checkpoint short.
    pub checkpoint_first: bool,
    /// When the mode has not worked until then, immediate mode is tried, and SIGKILL at last. `None`: wait on.
    pub escalate_at: Option<Instant>,
}

/// What a stop has reached; the newest is the furthest.
#[derive(Debug, Clone, PartialEq)]
pub enum StopProgress {
    /// Nothing has been sent yet: a checkpoint or `before_stop` runs.
    Preparing,
    /// The signal has been sent.
    Signalled,
    /// All client sessions have ended (or the postmaster has): nothing is written any more.
    SessionsEnded,
    /// The shutdown checkpoint is on disk; WAL senders hand it to the standbys.
    ShutDown(ControlData),
    /// The postmaster is gone.
    Exited,
}

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// There was none to stop.
    WasNotRunning,
    /// It ended as asked.
    AsAsked,
    /// It had to be stopped in immediate mode.
    Immediately,
    /// It had to be killed.
    Killed,
}

impl Server {
    /// Writes the configuration files and launches the postmaster; returns when it accepts connections or the deadline
    /// passes. Dropping the call leaves the postmaster starting.
    ///
    /// # Errors
    /// [`Error::StartFailed`] with the last lines of the server's log when the postmaster ends instead.
    ///
    /// When it does not start with the settings in force, it is started with those that it ran with last, if they are
    /// others; [`Server::failed_settings`] tells why.
    pub async fn start(&self, options: &StartOptions, deadline: Instant) -> Result<Started> {
        let log = match self.start_once(options, deadline).await {
            Err(Error::StartFailed { log }) => log,
            other => {
                if other.is_ok() {
                    locked(&self.shared.parameters).failed = None;
                }
                return other;
            }
        };
        let Some(former) = self.former_settings(deadline).await else {
            return Err(Error::StartFailed { log });
        };
        let why = reason_in(&log);
        tracing::error!(
            "PostgreSQL does not start with the new settings, it is started with those that it ran with last: {why}"
        );
        locked(&self.shared.parameters).former = Some(former);
        let started = self.start_once(options, deadline).await;
        locked(&self.shared.parameters).former = None;
        match started {
            Ok(started) => {
                self.note_failed_settings(&why);
                Ok(started)
            }
            Err(error) => {
                tracing::error!("and not with those either: {error}");
                Err(Error::StartFailed { log })
            }
        }
    }

    async fn start_once(&self, options: &StartOptions, deadline: Instant) -> Result<Started> {
        if let Some(running) = self.postmaster()? {
            return Err(Error::Unsuitable(format!(
                "PostgreSQL runs already (process {})",
                running.pid()
            )));
        }
        if let DataDirectory::Inaccessible(why) = self.data_directory() {
            return Err(Error::Unsuitable(format!(
                "the data directory cannot be started on: {why}"
            )));
        }
        self.refuse_half_rewound()?;
        self.refuse_unfinished()?;
        self.forget_version();
        self.wait_for_leftovers(deadline).await?;
        if matches!(options.recovery, Recovery::Follow(_)) {
            self.forget_synchronous_standby_names();
        }
        self.write_configuration(&options.recovery, deadline).await?;
        let mut replaced = BTreeMap::new();
        if options.recovery != Recovery::Primary && !options.without_hot_standby {
            replaced = self.raised_for_standby(deadline).await?;
        } else {
            locked(&self.shared.parameters).raised.clear();
        }
        if let Some(former) = locked(&self.shared.parameters).former.clone() {
            for (name, value) in former.restart_only {
                replaced.entry(name).or_insert(value);
            }
        }
        if options.without_hot_standby {
            replaced.insert("hot_standby".to_owned(), "off".to_owned());
        }
        locked(&self.shared.follow).current = match &options.recovery {
            Recovery::Keep => None,
            other => Some(other.clone()),
        };
        let (postmaster, mut log) = self.launch(&replaced, deadline).await?;
        self.wait_for_start(&postmaster, &mut log, deadline).await
    }

    async fn launch(
        &self,
        replaced: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<(Postmaster, StartupLog)> {
        let data_dir = self.data_dir();
        let mut env = postmaster_environment();
        // A pid file that was left behind may name a process of today's that is not ours; the server must not heed it.
        if let Ok(Some(stale)) = PidFile::read(&data_dir)
            && !stale.is_single_user
        {
            env.insert("PG_GRANDPARENT_PID".into(), stale.pid.to_string().into());
        }
        let program = self.program("postgres");
        let name = program.display().to_string();
        let command = PostmasterCommand {
            program,
            args: self.postmaster_arguments(replaced),
            env,
        };
        let launched = tokio::time::timeout_at(deadline, self.shared.launcher.launch(command)).await;
        let Launched { pid, mut log } = launched
            .map_err(|_| Error::timeout("launching PostgreSQL"))?
            .map_err(|source| Error::Spawn {
                program: name,
                whose: Whose::PostgreSql,
                source,
            })?;
        tracing::info!("postmaster pid={pid}");
        match Postmaster::open(pid, 0) {
            Some(postmaster) => {
                *locked(&self.shared.postmaster) = LastSeen::Alive(postmaster.clone());
                Ok((postmaster, log))
            }
            None => Err(start_failed(&mut log).await),
        }
    }

    /// Waits until a postmaster that is starting accepts connections.
    ///
    /// # Errors
    /// [`Error::StartFailed`] when it ends instead.
    pub async fn wait_until_accepting(&self, postmaster: &Postmaster, deadline: Instant) -> Result<Started> {
        self.wait_for_start(postmaster, &mut StartupLog::new(None), deadline)
            .await
    }

    async fn wait_for_start(
        &self,
        postmaster: &Postmaster,
        log: &mut StartupLog,
        deadline: Instant,
    ) -> Result<Started> {
        let data_dir = self.data_dir();
        let watch = Watch::new(&[&data_dir]);
        loop {
            let file = PidFile::read(&data_dir)
                .ok()
                .flatten()
                .filter(|file| file.pid == postmaster.pid());
            if let Some(file) = file
                && file.status == Some(PostmasterStatus::Ready)
                && postmaster.is_alive()
            {
                if locked(&self.shared.parameters).former.is_none() {
                    self.back_up_configuration();
                }
                let known = Postmaster::open(file.pid, file.start_time_seconds);
                return Ok(Started::Accepting(known.unwrap_or_else(|| postmaster.clone())));
            }
            tokio::select! {
                () = watch.changed(|name| name == PidFile::NAME) => {}
                () = postmaster.exited() => return Err(start_failed(log).await),
                never = log.collect() => match never {},
                () = tokio::time::sleep_until(deadline) => return Ok(Started::Starting(postmaster.clone())),
            }
        }
    }

    /// Waits for processes of an earlier postmaster that have outlived it: the next one could not start beside them.
    ///
    /// # Errors
    /// They cannot be looked for.
    pub(crate) async fn wait_for_leftovers(&self, deadline: Instant) -> Result<()> {
        let until = deadline.min(Instant::now() + LEFTOVERS_TIME);
        for process in self.find_processes(postmaster::working_in, until).await? {
            if tokio::time::timeout_at(until, process.exited()).await.is_err() {
                tracing::warn!(
                    "process {} of an earlier PostgreSQL is still there",
                    process.pid()
                );
            }
        }
        Ok(())
    }

    /// What keeps us from looking, such as a lack of descriptors, may be over in a moment.
    pub(crate) async fn find_processes(
        &self,
        find: fn(&Path) -> io::Result<Vec<Postmaster>>,
        until: Instant,
    ) -> Result<Vec<Postmaster>> {
        let data_dir = self.data_dir();
        let look = || find(&data_dir).map_err(Error::file("find the processes that work in", &data_dir));
        try_until(until, look).await
    }

    /// Runs `before_stop`, stops the server and waits until the postmaster and its children are gone.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs at the deadline.
    pub async fn stop(
        &self,
        options: StopOptions,
        progress: Option<&watch::Sender<StopProgress>>,
        deadline: Instant,
    ) -> Result<Stopped> {
        let report = |reached: StopProgress| {
            if let Some(sender) = progress {
                sender.send_replace(reached);
            }
        };
        let Some(postmaster) = try_until(deadline.min(Instant::now() + LEFTOVERS_TIME), || {
            self.postmaster()
        })
        .await?
        else {
            self.wait_for_leftovers(deadline).await?;
            report(StopProgress::Exited);
            return Ok(Stopped::WasNotRunning);
        };
        report(StopProgress::Preparing);
        self.prepare_stop(options, deadline).await;
        let (stopped, was_shut_down) = self
            .signal_and_wait(&postmaster, options, &report, deadline)
            .await?;
        self.wait_for_leftovers(deadline).await?;
        if !was_shut_down
            && let Some(reached @ StopProgress::ShutDown(_)) = self.stop_progress(deadline).await
        {
            report(reached);
        }
        report(StopProgress::Exited);
        locked(&self.shared.parameters).raised.clear();
        Ok(stopped)
    }

    /// Until the postmaster is gone; tells too whether its shutdown checkpoint has been reported.
    async fn signal_and_wait(
        &self,
        postmaster: &Postmaster,
        options: StopOptions,
        report: &impl Fn(StopProgress),
        deadline: Instant,
    ) -> Result<(Stopped, bool)> {
        // Watched from before the signal on, so that nothing is missed.
        let watch = Watch::new(&[&self.data_dir().join("global")]);
        let failed = Error::file("signal the postmaster of", self.data_dir());
        postmaster.signal(options.mode.signal()).map_err(failed)?;
        report(StopProgress::Signalled);
        let mut stopped = Stopped::AsAsked;
        let mut escalate_at = options.escalate_at;
        let mut seen = None;
        loop {
            let escalation = async {
                match escalate_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = postmaster.exited() => break,
                () = watch.changed(|name| name == "pg_control") => {
                    if let Some(reached) = self.stop_progress(deadline).await
                        && seen.as_ref() != Some(&reached)
                    {
                        report(reached.clone());
                        seen = Some(reached);
                    }
                }
                () = escalation => {
                    (stopped, escalate_at) = self.escalate(postmaster, options.mode, stopped);
                }
                () = tokio::time::sleep_until(deadline) => return Err(Error::timeout("stopping PostgreSQL")),
            }
        }
        Ok((stopped, matches!(seen, Some(StopProgress::ShutDown(_)))))
    }

    async fn prepare_stop(&self, options: StopOptions, deadline: Instant) {
        if options.checkpoint_first
            && let Err(error) = self.checkpoint(deadline).await
        {
            tracing::warn!("no checkpoint before the stop: {error}");
        }
        if let Some(command) = self.settings().before_stop.clone() {
            let deadline = match options.mode {
                StopMode::Immediate => deadline.min(Instant::now() + BEFORE_IMMEDIATE_STOP_TIME),
                StopMode::Smart | StopMode::Fast => deadline,
            };
            let ended = match Invocation::of_command_line(&command) {
                Ok(invocation) => invocation
                    .run(deadline)
                    .await
                    .and_then(crate::command::Output::into_success),
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                tracing::warn!("before_stop: {error}");
            }
        }
        self.close_connections();
    }

    async fn stop_progress(&self, deadline: Instant) -> Option<StopProgress> {
        let control = self.control_data(deadline).await.ok()?;
        match control.state {
            DatabaseState::ShutDown | DatabaseState::ShutDownInRecovery => {
                Some(StopProgress::ShutDown(control))
            }
            // The checkpointer begins its last checkpoint after the last session has ended.
            DatabaseState::ShuttingDown => Some(StopProgress::SessionsEnded),
            DatabaseState::StartingUp
            | DatabaseState::InCrashRecovery
            | DatabaseState::InArchiveRecovery
            | DatabaseState::InProduction => None,
        }
    }

    /// The next harder means; returns what has been done and when to go on.
    fn escalate(&self, postmaster: &Postmaster, mode: StopMode, done: Stopped) -> (Stopped, Option<Instant>) {
        let next = Some(Instant::now() + IMMEDIATE_TIME);
        if mode != StopMode::Immediate && done == Stopped::AsAsked {
            tracing::warn!("Timeout during postmaster stop, aborting Postgres.");
            let _ = postmaster.signal(Signal::QUIT);
            return (Stopped::Immediately, next);
        }
        tracing::warn!("Sending SIGKILL to Postmaster and its children");
        let children = postmaster.children();
        // First the parent, so that it starts none anew.
        for process in std::iter::once(postmaster).chain(&children) {
            let _ = process.signal(Signal::KILL);
        }
        (Stopped::Killed, next)
    }

    /// Sends SIGHUP: the server reads its configuration files again.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn reload(&self) -> Result<()> {
        let postmaster = self.postmaster()?.ok_or(Error::NotRunning)?;
        postmaster
            .signal(Signal::HUP)
            .map_err(Error::file("signal the postmaster of", self.data_dir()))
    }

    /// Promotes the standby as `pg_ctl promote` does and waits until it takes writes. `is_allowed` is asked right
    /// before the signal, after everything that has to be waited for. `archive_may_have_more`: the archive may have WAL
    /// that this server lacks.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] with the words of `is_allowed` when that refuses: nothing has happened then.
    /// [`Error::Timeout`] when the server has not been promoted at the deadline; it may still happen.
    pub async fn promote(
        &self,
        is_allowed: impl FnOnce() -> std::result::Result<(), String>,
        archive_may_have_more: bool,
        deadline: Instant,
    ) -> Result<()> {
        let postmaster = self.postmaster()?.ok_or(Error::NotRunning)?;
        let data_dir = self.data_dir();
        let watch = Watch::new(&[&data_dir, &data_dir.join("global")]);
        if let Err(error) = self.stop_restoring(archive_may_have_more, deadline).await {
            tracing::warn!("the promotion may have to wait for restore_command: {error}");
        }
        is_allowed().map_err(Error::Unsuitable)?;
        self.request_promotion()?;
        let promoted = async {
            let client = self.connect(None, deadline).await?;
            let (mut nudge_at, mut pause) = (Instant::now() + FIRST_NUDGE, FIRST_NUDGE);
            loop {
                let answer = rows(
                    &client,
                    "asking whether it is promoted",
                    "SELECT pg_is_in_recovery()",
                )
                .await?;
                if answer.first().and_then(|row| row.get(0)) == Some("f") {
                    return Ok(());
                }
                tokio::select! {
                    () = watch.changed(|name| name == "pg_control" || name == PidFile::NAME) => {}
                    () = tokio::time::sleep(PROMOTION_INTERVAL) => {}
                    () = postmaster.exited() => return Err(Error::NotRunning),
                }
                // A request that comes while the WAL receiver is being started anew is noticed, and yet the startup
                // process sleeps for the rest of wal_retrieve_retry_interval. SIGHUP wakes it.
                if Instant::now() >= nudge_at {
                    let _ = postmaster.signal(Signal::HUP);
                    pause = (pause * 2).min(LONGEST_NUDGE);
                    nudge_at = Instant::now() + pause;
                }
            }
        };
        let outcome = tokio::time::timeout_at(deadline, promoted).await;
        if !matches!(outcome, Ok(Ok(()))) {
            // A request that nobody has taken must not promote it at some later time.
            let _ = remove(&data_dir.join(signal::PROMOTE));
        }
        outcome.map_err(|_| Error::timeout("promoting PostgreSQL"))??;
        locked(&self.shared.follow).current = Some(Recovery::Primary);
        self.forget_standby_settings(deadline).await;
        Ok(())
    }

    /// A primary's subscriptions shall not have what is for standbys; nobody waits for that.
    async fn forget_standby_settings(&self, deadline: Instant) {
        match self
            .write_postgresql_conf(Some(&Recovery::Primary), deadline)
            .await
        {
            Ok(changed) if changed.is_empty() => {}
            Ok(_) => drop(self.reload()),
            Err(error) => tracing::warn!("the settings of a standby stay until the next reload: {error}"),
        }
    }

    /// Asks for promotion and does not wait.
    ///
    /// # Errors
    /// When it is not running, or the signal file cannot be written.
    pub fn request_promotion(&self) -> Result<()> {
        let postmaster = self.postmaster()?.ok_or(Error::NotRunning)?;
        if self.recovery_signal() == RecoverySignal::None {
            return Err(Error::Unsuitable(
                "PostgreSQL is not a standby: there is nothing to promote".to_owned(),
            ));
        }
        let path = self.data_dir().join(signal::PROMOTE);
        write_if_changed(&path, "", 0o600)?;
        postmaster
            .signal(Signal::USR1)
            .map_err(Error::file("signal the postmaster of", self.data_dir()))
    }

    /// Executes CHECKPOINT.
    ///
    /// # Errors
    /// When it fails or is not done at the deadline.
    pub async fn checkpoint(&self, deadline: Instant) -> Result<()> {
        let client = self.connect(None, deadline).await?;
        let work = rows(&client, "CHECKPOINT", "CHECKPOINT");
        tokio::time::timeout_at(deadline, work)
            .await
            .map_err(|_| Error::timeout("CHECKPOINT"))?
            .map(drop)
    }
}

/// Looks until it succeeds, or the time is over.
async fn try_until<T>(until: Instant, look: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match look() {
            Err(_) if Instant::now() < until => tokio::time::sleep(LOOK_PAUSE).await,
            looked => return looked,
        }
    }
}

/// What a postmaster that has ended logged at last.
async fn start_failed(log: &mut StartupLog) -> Error {
    let _ = tokio::time::timeout(Duration::from_secs(1), log.read_to_end()).await;
    Error::StartFailed {
        log: log.last_lines(),
    }
}
