//! The agent's side of the guard: what it is told, and the postmasters that are started through it.
//!
//! The guard is a process of its own (crate `guard`): the parent of the postmaster, which stops PostgreSQL when the
//! lease that it was told of runs out. [`posture`] decides what it is told; [`worker`] talks to it, on a thread of its
//! own, so that a guard that is slow to answer holds nothing up; [`keep`] does so at the moments of the HA loop.

mod keep;
mod launcher;
mod posture;
mod worker;

use std::path::Path;
use std::time::Duration;

use config::{GuardMode, LocalConfig};
use guard::{Client, Options};
use tokio::sync::{oneshot, watch};

pub(crate) use keep::{MovesDeadline, runs_as};
pub(crate) use launcher::GuardLauncher;
pub(crate) use posture::RunsAs;
pub(crate) use worker::Posture;
use worker::{Mailbox, Refusal, Request};

use super::events::Events;

/// How long the loop waits for the guard's word at most: before a promotion, and at start and end.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// How long one answer of the guard may take, which needs microseconds.
const CALL_TIME: Duration = Duration::from_millis(500);

/// The note with the guard that holds the lease in the DCS.
const LEASE_NOTE: &str = "dcs-lease";

/// What is known of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// It is needed, and is not there, does not answer, or does not watch the server that runs.
    pub(crate) is_missing: bool,
    /// Counts what it has told unasked.
    pub(crate) news: u64,
}

/// The guard of the data directory, for all that talk to it. Clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    mailbox: Mailbox,
    state: watch::Receiver<State>,
    is_required: bool,
}

impl Guard {
    /// Begins to keep a guard; `None` when none is wanted. It is looked for when it is needed.
    ///
    /// # Errors
    /// The thread that talks to it cannot be started.
    pub(crate) fn new(local: &LocalConfig, events: Events) -> std::io::Result<Option<Self>> {
        let is_required = match local.guard.mode {
            GuardMode::Off => return Ok(None),
            GuardMode::On => false,
            GuardMode::Required => true,
        };
        let (mailbox, state) = worker::start(options(&local.postgresql.data_dir), events)?;
        Ok(Some(Self {
            mailbox,
            state,
            is_required,
        }))
    }

    /// The configuration wants one, and it is missing.
    pub(crate) fn is_wanting(&self) -> bool {
        self.is_required && self.state.borrow().is_missing
    }

    /// It is needed, and is not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.state.borrow().is_missing
    }

    /// Ends when the guard has told something, or has gone or come. May be dropped and called again.
    pub(crate) async fn news(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Has it there, so that it can be seen whether it can be had.
    pub(crate) async fn begin(&self) {
        self.confirm(Posture::AsItIs).await;
    }

    /// Tells it, without waiting. `postmaster`: the one that runs, which it shall watch.
    pub(crate) fn keep(&self, posture: Posture, postmaster: Option<i32>) {
        self.mailbox.send(Request::Keep { posture, postmaster });
    }

    /// Tells it, and waits for its answer. Whether it came.
    pub(crate) async fn confirm(&self, posture: Posture) -> bool {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Request::Confirm { posture, reply });
        matches!(tokio::time::timeout(ANSWER_TIME, answer).await, Ok(Ok(true)))
    }

    /// Keeps the lease in the DCS with it, for the agent that comes after us.
    pub(crate) fn remember_lease(&self, lease: String) {
        self.mailbox.send(Request::Remember(lease));
    }

    /// Ends it, unless PostgreSQL runs.
    pub(crate) async fn quit(&self) {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Request::Quit(reply));
        let _ = tokio::time::timeout(ANSWER_TIME, answer).await;
    }

    async fn start(
        &self,
        command: guard::ServerCommand,
        output: std::os::fd::OwnedFd,
    ) -> Result<i32, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Request::Start {
            command,
            output,
            reply,
        });
        answer
            .await
            .unwrap_or_else(|_| Err(Refusal::Missing("its thread has ended".to_owned())))
    }
}

fn options(data_dir: &Path) -> Options {
    Options {
        timeout: CALL_TIME,
        ..Options::new(data_dir)
    }
}

/// The lease in the DCS that an agent before us has left with the guard, if there is one. Takes nothing over.
pub(crate) async fn remembered_lease(local: &LocalConfig) -> Option<String> {
    if local.guard.mode == GuardMode::Off {
        return None;
    }
    let options = options(&local.postgresql.data_dir);
    let look = move || -> Result<Option<String>, guard::Error> {
        let Some(mut guard) = Client::observe(&options)? else {
            return Ok(None);
        };
        let note = guard.recall(LEASE_NOTE)?;
        Ok(note.and_then(|bytes| String::from_utf8(bytes).ok()))
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(Ok(lease)) => lease,
        // Without a data directory's parent there is no guard either.
        Ok(Err(guard::Error::Launch(_))) | Err(_) => None,
        Ok(Err(error)) => {
            tracing::warn!("{error}");
            None
        }
    }
}
