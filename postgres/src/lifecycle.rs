//! Starting, stopping, promoting and reloading the server.

use crate::process::Postmaster;
use crate::{Error, Instant, Recovery, Result, Server};
use ha::pg::ControlData;
use tokio::sync::watch;

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
    pub async fn start(&self, options: &StartOptions, deadline: Instant) -> Result<Started> {
        todo!()
    }

    /// Waits until a postmaster that is starting accepts connections.
    ///
    /// # Errors
    /// [`Error::StartFailed`] when it ends instead.
    pub async fn wait_until_accepting(&self, postmaster: &Postmaster, deadline: Instant) -> Result<Started> {
        todo!()
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
        todo!()
    }

    /// Sends SIGHUP: the server reads its configuration files again.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub fn reload(&self) -> Result<()> {
        todo!()
    }

    /// Promotes the standby as `pg_ctl promote` does and waits until it takes writes.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it has not happened at the deadline; it may still happen.
    pub async fn promote(&self, deadline: Instant) -> Result<()> {
        todo!()
    }

    /// Asks for promotion and does not wait.
    ///
    /// # Errors
    /// When it is not running, or the signal file cannot be written.
    pub fn request_promotion(&self) -> Result<()> {
        todo!()
    }

    /// Executes CHECKPOINT.
    ///
    /// # Errors
    /// When it fails or is not done at the deadline.
    pub async fn checkpoint(&self, deadline: Instant) -> Result<()> {
        todo!()
    }
}
