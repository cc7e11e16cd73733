//! One request and its retries: which server is asked, for how long, and on which session.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::ZookeeperConfig;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::connection::{Connection, History, Session, Wanted, lock};
use super::fault::Fault;
use super::wire::code;
use crate::endpoints::{Endpoints, chance};
use crate::{Error, Failure, Timing};

/// The first pause before everything is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A time limit has passed.
const SILENCE: &str = "no answer in time";
/// How many former sessions are known.
const FORMER_SESSIONS: usize = 16;

/// How long a call may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) deadline: Instant,
    /// How long one server is given to answer.
    pub(super) slice: Duration,
    /// Whether all servers are asked again and again until the deadline, or once.
    is_persistent: bool,
}

/// What all connections to the store share.
pub(super) struct Calls {
    config: Mutex<Arc<ZookeeperConfig>>,
    timing: Mutex<Timing>,
    pub(super) endpoints: Mutex<Endpoints>,
    pub(super) history: Mutex<Arc<History>>,
    /// Goes up when connections ought to be made anew.
    pub(super) moves: watch::Sender<u64>,
    /// The shortest session that was complained of.
    warned: AtomicU64,
}

impl Calls {
    pub(super) fn new(config: &ZookeeperConfig, servers: Vec<String>, timing: Timing) -> Self {
        Self {
            config: Mutex::new(Arc::new(config.clone())),
            timing: Mutex::new(timing),
            endpoints: Mutex::new(Endpoints::new(servers)),
            history: Mutex::default(),
            moves: watch::channel(0).0,
            warned: AtomicU64::new(0),
        }
    }

    pub(super) fn config(&self) -> Arc<ZookeeperConfig> {
        lock(&self.config).clone()
    }

    pub(super) fn timing(&self) -> Timing {
        *lock(&self.timing)
    }

    pub(super) fn set_timing(&self, timing: Timing) {
        *lock(&self.timing) = timing;
    }

    /// Another configuration: every connection is made anew, with the same sessions.
    pub(super) fn reconfigure(&self, config: &ZookeeperConfig) {
        *lock(&self.config) = Arc::new(config.clone());
        self.moves.send_modify(|count| *count += 1);
    }

    /// Other servers of the same store; a connection to one that is still there stays.
    pub(super) fn set_servers(&self, servers: Vec<String>) {
        if lock(&self.endpoints).replace(servers) {
            self.moves.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// The server in use, for messages.
    pub(super) fn current(&self) -> String {
        lock(&self.endpoints).current().unwrap_or_default().to_owned()
    }

    pub(super) fn history(&self) -> Arc<History> {
        lock(&self.history).clone()
    }

    /// For a verb that must come through if that is at all possible.
    pub(super) fn persistent(&self) -> Budget {
        let total = self.timing().retry_timeout;
        Budget {
            deadline: Instant::now() + total,
            slice: slice(total, lock(&self.endpoints).len()),
            is_persistent: true,
        }
    }

    /// For a verb that the next cycle repeats anyway: every server once, and no longer than one slice.
    pub(super) fn brief(&self) -> Budget {
        let count = lock(&self.endpoints).len();
        let slice = slice(self.timing().retry_timeout, count);
        Budget {
            deadline: Instant::now() + slice,
            slice: if count > 1 { slice / 2 } else { slice },
            is_persistent: false,
        }
    }

    pub(super) fn failure(
        &self,
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Failure {
        Failure {
            operation,
            endpoint: self.current(),
            source: source.into(),
        }
    }

    /// The server in use failed: the next one takes over.
    fn leave(&self, server: &str) {
        let mut endpoints = lock(&self.endpoints);
        let next = endpoints.order().get(1).cloned();
        if let Some(next) = next.filter(|_| endpoints.current() == Some(server)) {
            endpoints.select(&next);
        }
    }

    fn complain_of(&self, given: Duration) {
        let ttl = self.timing().ttl;
        let milliseconds = u64::try_from(given.as_millis()).unwrap_or(u64::MAX);
        if given >= ttl || self.warned.swap(milliseconds, Ordering::Relaxed) == milliseconds {
            return;
        }
        tracing::warn!(
            "ZooKeeper lets sessions live for {given:?} and ttl is {ttl:?}: member keys go sooner than ttl says; raise \
             maxSessionTimeout in zoo.cfg or lower ttl"
        );
    }
}

/// The session of an agent's keys, and those before it.
#[derive(Debug, Default)]
struct Known {
    session: Option<Session>,
    former: Vec<i64>,
}

impl Known {
    fn change(&mut self, session: Option<Session>) {
        let is_other = |former: &Session| session.as_ref().is_none_or(|session| session.id != former.id);
        if let Some(former) = std::mem::replace(&mut self.session, session.clone())
            && is_other(&former)
        {
            self.add(former.id);
        }
    }

    fn add(&mut self, former: i64) {
        self.former.push(former);
        let surplus = self.former.len().saturating_sub(FORMER_SESSIONS);
        self.former.drain(..surplus);
    }
}

#[derive(Default)]
struct Slot {
    session: Option<Held>,
    connection: Option<Arc<Connection>>,
    moves: u64,
}

struct Held {
    session: Session,
    /// The timeout that was asked for; `None` for the session of an earlier life.
    asked: Option<Duration>,
}

/// One session and its connection, made when something is asked for.
pub(super) struct Channel {
    pub(super) calls: Arc<Calls>,
    /// Locked while a connection is made, so that there is only one.
    slot: tokio::sync::Mutex<Slot>,
    known: Mutex<Known>,
    /// The store that was read last, where nothing is to be done in another one.
    pub(super) seen: Option<AtomicU64>,
}

impl Channel {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        Self {
            calls,
            slot: tokio::sync::Mutex::default(),
            known: Mutex::default(),
            seen: None,
        }
    }

    /// For keys that are bound to the session; takes an earlier one up.
    pub(super) fn of_keys(calls: Arc<Calls>, session: Option<Session>) -> Self {
        let generation = calls.history().generation;
        let held = session.clone().map(|session| Held { session, asked: None });
        let slot = Slot {
            session: held,
            ..Slot::default()
        };
        Self {
            slot: tokio::sync::Mutex::new(slot),
            known: Mutex::new(Known {
                session,
                former: Vec::new(),
            }),
            seen: Some(AtomicU64::new(generation)),
            ..Self::new(calls)
        }
    }

    pub(super) fn session(&self) -> Option<Session> {
        lock(&self.known).session.clone()
    }

    /// Whether a session is, or was, this agent's.
    pub(super) fn knows(&self, id: i64) -> bool {
        let known = lock(&self.known);
        known.session.as_ref().is_some_and(|session| session.id == id) || known.former.contains(&id)
    }

    /// A session of a process of ours that has ended.
    pub(super) fn adopt(&self, id: i64) {
        lock(&self.known).add(id);
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> Result<Arc<Connection>, Fault> {
        let mut slot = self.slot.lock().await;
        let (history, wanted) = (self.calls.history(), self.calls.timing().ttl);
        let moves = *self.calls.moves.borrow();
        let is_of_now = slot
            .session
            .as_ref()
            .is_none_or(|held| held.asked.is_none_or(|asked| asked == wanted));
        if let Some(connection) = slot.connection.take()
            && connection.is_open()
            && Arc::ptr_eq(&connection.history, &history)
            && slot.moves == moves
            && is_of_now
        {
            slot.connection = Some(connection.clone());
            return Ok(connection);
        }
        if !is_of_now {
            // The keys move to another session; the former one ends by itself.
            slot.session = None;
        }
        let config = self.calls.config();
        let server = self.calls.current();
        let held = slot.session.as_ref().map(|held| held.session.clone());
        let mut asked_for = Wanted {
            config: &config,
            server: &server,
            session: held.as_ref(),
            timeout: wanted,
            history,
        };
        let connection = match Connection::open(&asked_for).await {
            Err(Fault::Expired) if held.is_some() => {
                slot.session = None;
                if self.seen.is_some() {
                    tracing::info!(
                        "session {:#x} has expired",
                        held.as_ref().map_or(0, |held| held.id)
                    );
                }
                asked_for.session = None;
                Connection::open(&asked_for).await?
            }
            opened => opened?,
        };
        if self.seen.is_some() {
            self.calls.complain_of(connection.timeout);
        }
        lock(&self.known).change(Some(connection.session.clone()));
        slot.session = Some(Held {
            session: connection.session.clone(),
            asked: Some(wanted),
        });
        slot.moves = moves;
        let connection = Arc::new(connection);
        slot.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The session has ended.
    async fn forget(&self, connection: &Connection) {
        connection.close("the session has expired");
        let mut slot = self.slot.lock().await;
        if slot
            .session
            .as_ref()
            .is_some_and(|held| held.session == connection.session)
        {
            slot.session = None;
        }
    }

    /// Asks the server in use, and others when it does not answer, until the budget is spent. `ask` may be called several times; its
    /// second argument says that an earlier attempt of this call went unanswered and may have been carried out.
    pub(super) async fn run<'a, T>(
        &'a self,
        operation: &'static str,
        budget: Budget,
        ask: impl Fn(Arc<Connection>, bool) -> BoxFuture<'a, Result<T, Fault>> + Send + Sync,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::new(operation);
        let mut pause = FIRST_PAUSE;
        loop {
            let history = self.calls.history();
            attempts.is_turned_away = false;
            // The only server is asked once more: it may just have closed this connection.
            let count = lock(&self.calls.endpoints).len().max(2);
            for _ in 0..count {
                if Instant::now() >= budget.deadline {
                    return Err(attempts.give_up());
                }
                self.check_store(self.calls.history().generation, &mut attempts)?;
                if let Some(value) = self.attempt(budget, &ask, &mut attempts).await? {
                    return Ok(value);
                }
            }
            let has_seen = history.zxid.load(Ordering::Relaxed) > 0;
            if attempts.is_turned_away && has_seen && self.calls.accepts_another_store(budget, &history).await
            {
                self.check_store(self.calls.history().generation, &mut attempts)?;
                continue;
            }
            let left = budget.deadline.saturating_duration_since(Instant::now());
            if !budget.is_persistent || left <= pause {
                return Err(attempts.give_up());
            }
            let jitter = Duration::from_millis(chance() % 100);
            sleep((pause + jitter).min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// What was decided on the keys of one store is not done in another, until that was read.
    fn check_store(&self, generation: u64, attempts: &mut Attempts) -> Result<(), Error> {
        let seen = self.seen.as_ref().map(|seen| seen.load(Ordering::Relaxed));
        if seen.is_none_or(|seen| seen == generation) {
            return Ok(());
        }
        let server = self.calls.current();
        attempts.failed(&server, Fault::Replaced);
        Err(std::mem::replace(attempts, Attempts::new(attempts.operation)).give_up())
    }

    /// One server's turn. `None`: take the next one.
    async fn attempt<'a, T>(
        &'a self,
        budget: Budget,
        ask: &(impl Fn(Arc<Connection>, bool) -> BoxFuture<'a, Result<T, Fault>> + Send + Sync),
        attempts: &mut Attempts,
    ) -> Result<Option<T>, Error> {
        let until = budget.deadline.min(Instant::now() + budget.slice);
        // A session that has ended, or moved, is not the server's fault.
        for _ in 0..3 {
            let server = self.calls.current();
            let connected = match timeout_at(until, self.connection()).await {
                Ok(connected) => connected,
                Err(_) => Err(Fault::NotSent(SILENCE.to_owned())),
            };
            let connection = match connected {
                Ok(connection) => connection,
                Err(fault) => {
                    self.calls.leave(&server);
                    return self.judge(&server, fault, attempts);
                }
            };
            self.check_store(connection.history.generation, attempts)?;
            let fault = match timeout_at(until, ask(connection.clone(), attempts.is_repeat)).await {
                Ok(Ok(value)) => return Ok(Some(value)),
                Ok(Err(fault)) => fault,
                Err(_) => Fault::Lost(SILENCE.to_owned()),
            };
            match fault {
                Fault::Expired => self.forget(&connection).await,
                Fault::Moved => connection.close("the session has moved"),
                Fault::NotSent(_) if Instant::now() < until => {
                    // The connection had ended since it was used last.
                    connection.close("the connection was lost");
                    attempts.failed(&connection.server, fault);
                }
                fault => {
                    let is_servers = matches!(
                        fault,
                        Fault::NotSent(_)
                            | Fault::Lost(_)
                            | Fault::Later(code::CONNECTION_LOSS | code::OPERATION_TIMEOUT)
                    );
                    if is_servers {
                        connection.close(&fault.to_string());
                        self.calls.leave(&connection.server);
                    }
                    return self.judge(&connection.server, fault, attempts);
                }
            }
        }
        self.calls.leave(&self.calls.current());
        Ok(None)
    }

    fn judge<T>(&self, server: &str, fault: Fault, attempts: &mut Attempts) -> Result<Option<T>, Error> {
        let failure = |fault: Fault| Failure {
            operation: attempts.operation,
            endpoint: server.to_owned(),
            source: fault.to_string().into(),
        };
        match fault {
            // An earlier attempt may have been carried out all the same.
            Fault::Refused(_) if attempts.is_repeat => Err(Error::Unavailable(failure(fault))),
            Fault::Refused(_) => Err(Error::Rejected(failure(fault))),
            Fault::Fatal(_) => Err(Error::Fatal(failure(fault))),
            Fault::Unknown | Fault::Replaced => Err(Error::Unavailable(failure(fault))),
            Fault::NotSent(_)
            | Fault::TurnedAway
            | Fault::Expired
            | Fault::Moved
            | Fault::Lost(_)
            | Fault::Later(_) => {
                attempts.failed(server, fault);
                Ok(None)
            }
        }
    }
}

/// What has been tried in one call.
struct Attempts {
    operation: &'static str,
    is_repeat: bool,
    is_turned_away: bool,
    tried: Vec<String>,
    last: Option<Fault>,
}

impl Attempts {
    fn new(operation: &'static str) -> Self {
        Self {
            operation,
            is_repeat: false,
            is_turned_away: false,
            tried: Vec::new(),
            last: None,
        }
    }

    fn failed(&mut self, server: &str, fault: Fault) {
        tracing::debug!("ZooKeeper at {server}: could not {}: {fault}", self.operation);
        self.is_repeat |= fault.is_maybe_applied();
        self.is_turned_away |= fault == Fault::TurnedAway;
        if !self.tried.iter().any(|tried| tried == server) {
            self.tried.push(server.to_owned());
        }
        // Where the time ran out at last, what was wrong before says more.
        let is_silence = matches!(&fault, Fault::NotSent(why) | Fault::Lost(why) if why == SILENCE);
        if !is_silence || self.last.is_none() {
            self.last = Some(fault);
        }
    }

    fn give_up(self) -> Error {
        let source = self
            .last
            .map_or_else(|| "no time left to ask".into(), |fault| fault.to_string().into());
        Error::Unavailable(Failure {
            operation: self.operation,
            endpoint: self.tried.join(", "),
            source,
        })
    }
}

/// How long one of `count` servers is given: one server has three tries, two have two each, more have one.
fn slice(total: Duration, count: usize) -> Duration {
    let shares = if count == 2 { 4 } else { 3 };
    (total / shares).max(Duration::from_millis(250)).min(total)
}
