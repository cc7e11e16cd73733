//! The thread that talks to the guard: requests come through a channel and are done in their order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use guard::{BootTime, Client, Error, Event, Lease, Options, ServerCommand, Stage};
use ha::event::What;
use ha::facts::Moment;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::sync::{oneshot, watch};

use super::{LEASE_NOTE, State};
use crate::daemon::events::Events;

/// How long the end of a postmaster may take to reach the guard, when we know of it before.
const END_TIME: Duration = Duration::from_secs(2);

/// How long the guard may take to start a server.
const START_TIME: Duration = Duration::from_secs(5);

/// How long a guard that could not be had, or ended at once, is let be.
const PAUSE: Duration = Duration::from_secs(1);

/// What the guard is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Posture {
    /// The lease of a primary, by a renewal that was sent at this moment.
    Armed {
        /// When it was sent.
        sent_at: Moment,
        /// For how long the key is ours from then on.
        ttl: Duration,
    },
    /// Nothing.
    Disarmed,
    /// Whatever it holds.
    AsItIs,
}

/// Why a postmaster was not started through the guard.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no guard.
    Missing(String),
    /// There is, and it could not or would not.
    Failed(String),
}

pub(super) enum Request {
    Keep {
        posture: Posture,
        postmaster: Option<i32>,
    },
    Confirm {
        posture: Posture,
        reply: oneshot::Sender<bool>,
    },
    Start {
        command: ServerCommand,
        output: OwnedFd,
        reply: oneshot::Sender<Result<i32, Refusal>>,
    },
    Remember(String),
    Quit(oneshot::Sender<()>),
}

/// Where requests are left.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    requests: mpsc::Sender<Request>,
    bell: Arc<UnixStream>,
}

impl Mailbox {
    pub(super) fn send(&self, request: Request) {
        // Without the thread nobody answers, which whoever waits notices.
        let _ = self.requests.send(request);
        // A bell that rings already need not be rung.
        let _ = send(&*self.bell, b"!", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

/// Starts the thread; it ends with the last mailbox.
pub(super) fn start(options: Options, events: Events) -> io::Result<(Mailbox, watch::Receiver<State>)> {
    let (requests, receiver) = mpsc::channel();
    let (bell, heard) = UnixStream::pair()?;
    let (state, state_receiver) = watch::channel(State::default());
    let worker = Worker {
        options,
        events,
        requests: receiver,
        waiting: VecDeque::new(),
        bell: heard,
        state,
        client: None,
        tried_at: None,
        guard_pid: 0,
        posture: Posture::AsItIs,
        told: None,
        held: None,
        refused: None,
        lease: None,
        is_silent: false,
        trouble: None,
    };
    std::thread::Builder::new()
        .name("guard".to_owned())
        .spawn(move || worker.run())?;
    let mailbox = Mailbox {
        requests,
        bell: Arc::new(bell),
    };
    Ok((mailbox, state_receiver))
}

struct Worker {
    options: Options,
    events: Events,
    requests: mpsc::Receiver<Request>,
    /// Those that were received and not answered yet.
    waiting: VecDeque<Request>,
    bell: UnixStream,
    state: watch::Sender<State>,
    client: Option<Client>,
    /// When it was last looked for.
    tried_at: Option<Instant>,
    /// The guard that we are, or were, connected to.
    guard_pid: i32,
    /// What the guard is to hold.
    posture: Posture,
    /// What this guard was told last.
    told: Option<Posture>,
    /// The postmaster that it holds.
    held: Option<i32>,
    /// The postmaster that it refused to hold.
    refused: Option<i32>,
    lease: Option<String>,
    /// It is there, and has not answered in time.
    is_silent: bool,
    /// What was said about it last, so that it is said once.
    trouble: Option<String>,
}

impl Worker {
    fn run(mut self) {
        while self.wait() {
            self.hear_events();
            loop {
                match self.requests.try_recv() {
                    Ok(request) => self.waiting.push_back(request),
                    Err(mpsc::TryRecvError::Empty) if self.waiting.is_empty() => break,
                    Err(mpsc::TryRecvError::Empty) => self.answer_next(),
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// A guard that does not answer costs time with each request. What a later one says again is only remembered, and so is
    /// what somebody waits behind.
    fn answer_next(&mut self) {
        let Some(request) = self.waiting.pop_front() else {
            return;
        };
        match request {
            Request::Keep { posture, .. }
                if self
                    .waiting
                    .iter()
                    .any(|later| !matches!(later, Request::Remember(_))) =>
            {
                self.posture = posture_after(self.posture, posture);
            }
            request => self.answer(request),
        }
    }

    /// Waits for a request or an event. `false`: nobody is left to send one.
    fn wait(&mut self) -> bool {
        let mut fds = vec![PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
        if let Some(client) = &self.client {
            fds.push(PollFd::from_borrowed_fd(client.as_fd(), PollFlags::IN));
        }
        if poll(&mut fds, None).is_err() {
            return true;
        }
        let has_rung = !fds[0].revents().is_empty();
        drop(fds);
        let mut rings = [0; 256];
        !has_rung || !matches!(recv(&self.bell, &mut rings, RecvFlags::DONTWAIT), Ok((0, _)))
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Keep { posture, postmaster } => {
                self.posture = posture_after(self.posture, posture);
                if self.client.is_some() || postmaster.is_some() {
                    if self.tried_at.is_none_or(|at| at.elapsed() >= PAUSE) {
                        self.connect(false);
                    }
                    self.tell();
                    self.hold(postmaster);
                }
            }
            Request::Confirm { posture, reply } => {
                self.posture = posture_after(self.posture, posture);
                self.connect(false);
                let _ = reply.send(self.tell());
            }
            Request::Start {
                command,
                output,
                reply,
            } => {
                let _ = reply.send(self.start(&command, &output));
            }
            Request::Remember(lease) => {
                self.lease = Some(lease);
                self.remember();
            }
            Request::Quit(reply) => {
                if let Some(client) = self.client.take() {
                    // It refuses while PostgreSQL runs, as it should.
                    if let Err(error) = client.quit() {
                        tracing::debug!("{error}");
                    }
                }
                let _ = reply.send(());
            }
        }
    }

    /// Has a connection, if one can be had. One that another agent has taken from us is only taken back to start a
    /// server: whoever came after us moves the deadline now.
    fn connect(&mut self, is_start: bool) {
        if self.client.is_some() {
            return;
        }
        if !is_start && self.is_superseded() {
            self.troubled("another agent has taken this PostgreSQL server over".to_owned());
            return;
        }
        self.tried_at = Some(Instant::now());
        let connected = Client::connect_or_spawn(&self.options).and_then(|mut client| {
            let status = client.status()?;
            Ok((client, status))
        });
        match connected {
            Ok((client, status)) => {
                self.guard_pid = status.guard_pid;
                self.held = status.server.map(|server| server.pid);
                self.tell_fenced(&status);
                self.told = None;
                self.refused = None;
                tracing::info!(
                    "{} the guard, process {}",
                    if client.was_launched() { "started" } else { "found" },
                    status.guard_pid
                );
                self.client = Some(client);
                self.well();
                self.remember();
            }
            Err(error) => {
                self.is_silent = matches!(error, Error::Timeout(_));
                self.troubled(error.to_string());
            }
        }
    }

    /// What has happened while no agent was there to hear of it, as long as nothing else has come after it.
    fn tell_fenced(&self, status: &guard::Status) {
        let Some(past) = status.last_server.filter(|_| status.server.is_none()) else {
            return;
        };
        if past.stage != guard::Stage::Running {
            self.events.tell(What::Fenced {
                pid: past.pid,
                stage: past.stage.name().to_owned(),
                exit: past.exit.to_string(),
            });
        }
    }

    /// The guard that we had runs on, and has let us go.
    fn is_superseded(&self) -> bool {
        if self.guard_pid == 0 {
            return false;
        }
        let observed = Client::observe(&self.options).ok().flatten();
        let status = observed.and_then(|mut observer| observer.status().ok());
        status.is_some_and(|status| status.guard_pid == self.guard_pid)
    }

    /// Tells what the guard is to hold, if it does not know yet. Whether it knows.
    fn tell(&mut self) -> bool {
        let Some(client) = &mut self.client else {
            return false;
        };
        if self.told == Some(self.posture) {
            return true;
        }
        let stage = match self.posture {
            Posture::AsItIs => return true,
            Posture::Disarmed => client.disarm(),
            Posture::Armed { sent_at, ttl } => client.lease(&Lease::of_primary(boot_time(sent_at), ttl)),
        };
        match stage {
            Ok(stage) => {
                if stage > Stage::Running && matches!(self.posture, Posture::Armed { .. }) {
                    tracing::warn!("the guard had begun to stop PostgreSQL when the lease was renewed");
                }
                self.told = Some(self.posture);
                self.well();
                true
            }
            Err(error) => {
                self.failed(error);
                false
            }
        }
    }

    /// Has it watch the postmaster that runs.
    fn hold(&mut self, postmaster: Option<i32>) {
        let Some(pid) = postmaster.filter(|pid| self.held != Some(*pid) && self.refused != Some(*pid)) else {
            return;
        };
        let Some(client) = &mut self.client else {
            return;
        };
        match client.adopt(pid) {
            Ok(_) => {
                tracing::info!("the guard watches over PostgreSQL (process {pid}), which was running");
                self.held = Some(pid);
                self.refused = None;
                self.well();
            }
            // It ended a moment ago, or the former one did: seen again in the next cycle.
            Err(Error::Refused { reason, .. }) if matches!(reason.as_str(), "gone" | "running") => {}
            Err(error @ Error::Refused { .. }) => {
                self.refused = Some(pid);
                self.troubled(format!("PostgreSQL (process {pid}) is not guarded: {error}"));
            }
            Err(error) => self.failed(error),
        }
    }

    /// Nobody needs a guard that does not answer: it has no server to watch, and gives way to another one.
    fn start(&mut self, command: &ServerCommand, output: &OwnedFd) -> Result<i32, Refusal> {
        if self.is_answered() || (self.is_silent && self.replace()) {
            match self.start_through(command, output) {
                Err(Refusal::Missing(_)) if self.is_silent && self.replace() => {}
                started => return started,
            }
            return self.start_through(command, output);
        }
        Err(Refusal::Missing(self.trouble.clone().unwrap_or_default()))
    }

    /// There is a guard, it answers, and it knows what it is to hold.
    fn is_answered(&mut self) -> bool {
        self.connect(true);
        match self.client.as_mut().map(Client::status) {
            Some(Ok(_)) => self.tell(),
            Some(Err(error)) => {
                self.failed(error);
                false
            }
            None => false,
        }
    }

    /// Whether another guard has taken the place of one that does not answer.
    fn replace(&mut self) -> bool {
        self.client = None;
        self.held = None;
        match Client::kill_silent(&self.options) {
            Ok(_) => tracing::warn!("the guard did not answer and was killed; PostgreSQL gets another one"),
            Err(error) => {
                self.troubled(format!(
                    "the guard does not answer and cannot be replaced: {error}"
                ));
                return false;
            }
        }
        self.guard_pid = 0;
        self.is_answered()
    }

    fn start_through(&mut self, command: &ServerCommand, output: &OwnedFd) -> Result<i32, Refusal> {
        let Some(client) = &mut self.client else {
            let why = self.trouble.clone().unwrap_or_default();
            return Err(Refusal::Missing(why));
        };
        // It has answered a moment ago: the time is for the execution of the program.
        client.set_timeout(START_TIME);
        let started = self.start_at_once(command, output);
        if let Some(client) = &mut self.client {
            client.set_timeout(self.options.timeout);
        }
        started
    }

    fn start_at_once(&mut self, command: &ServerCommand, output: &OwnedFd) -> Result<i32, Refusal> {
        let Some(client) = &mut self.client else {
            return Err(Refusal::Missing(String::new()));
        };
        let fds = || Some([output.as_fd(), output.as_fd()]);
        let mut started = client.start(command, fds());
        if let Err(Error::Refused { reason, .. }) = &started
            && reason == "running"
        {
            // The former postmaster's end is known to us and not yet to the guard.
            let _ = client
                .wait_event(END_TIME)
                .map(|event| event.map(|event| hear(&event)));
            started = client.start(command, fds());
        }
        match started {
            Ok(server) => {
                self.held = Some(server.pid);
                self.refused = None;
                self.well();
                Ok(server.pid)
            }
            Err(error @ Error::Refused { .. }) => Err(Refusal::Failed(error.to_string())),
            Err(error) => {
                let why = error.to_string();
                self.failed(error);
                Err(Refusal::Missing(why))
            }
        }
    }

    fn remember(&mut self) {
        if let (Some(client), Some(lease)) = (&mut self.client, &self.lease)
            && let Err(error) = client.remember(LEASE_NOTE, lease.as_bytes())
        {
            self.failed(error);
        }
    }

    fn hear_events(&mut self) {
        let Some(client) = &mut self.client else { return };
        match client.events() {
            Ok(events) => {
                for event in events {
                    hear(&event);
                    if let Event::Fencing(stage) = &event {
                        let stage = stage.name().to_owned();
                        self.events.tell(What::Fencing { stage });
                    }
                    if matches!(event, Event::Exited { .. }) {
                        self.held = None;
                    }
                    self.state.send_modify(|state| state.news += 1);
                }
            }
            Err(error) => {
                self.failed(error);
                // Whatever it means for PostgreSQL: the loop shall look.
                self.state.send_modify(|state| state.news += 1);
            }
        }
    }

    /// A call failed. A guard that is only slow reads later what it was sent.
    fn failed(&mut self, error: Error) {
        if matches!(error, Error::Gone(_)) {
            self.client = None;
            self.held = None;
        }
        self.is_silent = matches!(error, Error::Timeout(_));
        self.told = None;
        self.troubled(error.to_string());
    }

    fn troubled(&mut self, trouble: String) {
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
            self.trouble = Some(trouble.clone());
        }
        self.set_missing(true, trouble);
    }

    fn well(&mut self) {
        self.is_silent = false;
        if self.refused.is_none() {
            self.trouble = None;
            self.set_missing(false, String::new());
        }
    }

    fn set_missing(&self, is_missing: bool, why: String) {
        let is_news = self.state.send_if_modified(|state| {
            let is_news = state.is_missing != is_missing;
            state.is_missing = is_missing;
            is_news
        });
        if is_news {
            self.events.tell(What::Guard { is_missing, why });
        }
    }
}

/// What is told now holds for a guard that comes later, too.
fn posture_after(before: Posture, now: Posture) -> Posture {
    if now == Posture::AsItIs { before } else { now }
}

fn boot_time(moment: Moment) -> BootTime {
    // 584 years fit.
    BootTime::from_nanos(u64::try_from(moment.0.as_nanos()).unwrap_or(u64::MAX))
}

fn hear(event: &Event) {
    match event {
        Event::Exited { pid, exit } => tracing::info!("PostgreSQL (process {pid}) has ended: {exit}"),
        Event::Fencing(stage) => tracing::error!(
            "the lease of the leader key has not been renewed in time: the guard stops PostgreSQL ({})",
            stage.name()
        ),
    }
}
