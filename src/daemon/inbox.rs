//! How the REST API hands a person's wish to the HA loop. The API changes nothing itself: a wish waits here for the
//! next cycle, and wakes it.

use std::sync::{Arc, Mutex};

use ha::facts::RestartConditions;
use ha::failsafe::Promise;
use ha::step::Reply;
use tokio::sync::{mpsc, oneshot};

/// How many wishes may wait: more are turned away.
const WAITING_MAX: usize = 64;

/// A wish.
#[derive(Debug)]
pub enum Message {
    /// Restart PostgreSQL; answered when it is done, or cannot be.
    Restart {
        /// Conditions and limits.
        conditions: RestartConditions,
        /// Where the answer goes. Dropped without one when the daemon ends.
        reply: oneshot::Sender<Reply>,
    },
    /// Remove the data directory and clone it anew; answered when that has begun, or cannot.
    Reinitialize {
        /// End a running job first.
        force: bool,
        /// Clone from the leader, and with `pg_basebackup`, only.
        from_leader: bool,
        /// Where the answer goes. Dropped without one when the daemon ends.
        reply: oneshot::Sender<Reply>,
    },
    /// Read the configuration again, as for SIGHUP.
    Reload,
    /// Something was written to the DCS: look at once.
    WakeUp,
}

/// The daemon did not take the wish, or ended before it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// Too many wishes wait.
    #[error("too many requests are waiting; try again later")]
    Full,
    /// The daemon is ending.
    #[error("the daemon is ending")]
    Ended,
}

/// The API's end. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Inbox {
    sender: mpsc::Sender<Message>,
    /// What a leader without the DCS was promised. Shared with the HA loop, which may be waiting for the DCS itself.
    promise: Arc<Mutex<Promise>>,
}

impl Inbox {
    /// Both ends.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Message>) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let promise = Arc::default();
        (Self { sender, promise }, receiver)
    }

    /// What a leader without the DCS was promised.
    #[must_use]
    pub fn promise(&self) -> Arc<Mutex<Promise>> {
        Arc::clone(&self.promise)
    }

    /// Has PostgreSQL restarted, and waits until that is done.
    ///
    /// # Errors
    /// The wish was not heard.
    pub async fn restart(&self, conditions: RestartConditions) -> Result<Reply, Unheard> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Restart { conditions, reply })?;
        answer.await.map_err(|_| Unheard::Ended)
    }

    /// Has this member cloned anew, and waits until that has begun.
    ///
    /// # Errors
    /// The wish was not heard.
    pub async fn reinitialize(&self, force: bool, from_leader: bool) -> Result<Reply, Unheard> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Reinitialize {
            force,
            from_leader,
            reply,
        })?;
        answer.await.map_err(|_| Unheard::Ended)
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// The wish was not heard.
    pub fn reload(&self) -> Result<(), Unheard> {
        self.send(Message::Reload)
    }

    /// Starts the next cycle at once. When too many wishes wait the loop is about to wake anyhow.
    pub fn wake(&self) {
        let _ = self.sender.try_send(Message::WakeUp);
    }

    fn send(&self, message: Message) -> Result<(), Unheard> {
        self.sender.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unheard::Full,
            mpsc::error::TrySendError::Closed(_) => Unheard::Ended,
        })
    }
}
