//! `tamada run --supervise`: a small parent of the agent, for containers and wherever no init system starts it again.
//!
//! The agent is started again at once when it was killed, has panicked or hangs, and ever more slowly when it ends
//! again and again. Guard and PostgreSQL are left alone: the next agent finds them, and its lease. An end that was
//! meant (exit code 0, a signal to us, or an agent that could not even start the first time) is ours as well. As
//! process 1 we also take in whoever has lost its parent.
//!
//! One thread, no runtime; what is to be done when is decided in [`policy`].

mod agent;
mod caught;
mod policy;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, wait};

use crate::daemon::notify;
use agent::Agent;
use caught::Caught;
use policy::{Ended, Next, Policy};

/// How long the end is waited for by an agent that does not become ready, before it is told to end all the same.
const HOLD_TIME: Duration = Duration::from_secs(10);

/// Waking up so much later than we wanted means that we did not run either: who was silent then is not to blame.
const OVERSLEPT: Duration = Duration::from_millis(500);

/// Whether a supervisor is to be what this process is: where it was asked for, and as process 1.
#[must_use]
pub fn is_wanted(asked: bool) -> bool {
    asked || std::process::id() == 1
}

/// Supervises an agent until its end. `called_as` and `args`: our own command line, which is also the agent's, without
/// the option `--supervise`.
#[must_use]
pub fn run(called_as: OsString, args: Vec<OsString>) -> ExitCode {
    let begun = Caught::begin().and_then(|caught| {
        let agent = Agent::start(&called_as, &args, None)?;
        Ok((caught, agent))
    });
    match begun {
        Ok((caught, agent)) => Supervisor {
            called_as,
            args,
            caught,
            agent: Some(agent),
            start_at: Instant::now(),
            before: None,
            policy: Policy::default(),
            stop: None,
            must_reload: false,
            told_init_at: None,
        }
        .run(),
        Err(error) => {
            say("CRITICAL", &format!("could not start the agent: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Supervisor {
    called_as: OsString,
    args: Vec<OsString>,
    caught: Caught,
    /// The agent that runs.
    agent: Option<Agent>,
    /// When the next one is due, if none runs.
    start_at: Instant,
    /// How the last one ended.
    before: Option<String>,
    policy: Policy,
    /// We were told to end: by which signal, and by when it is passed on at the latest.
    stop: Option<(Signal, Instant)>,
    /// The configuration is to be read again as soon as there is somebody to do it.
    must_reload: bool,
    /// When the init system above us was last told that we live.
    told_init_at: Option<Instant>,
}

impl Supervisor {
    fn run(mut self) -> ExitCode {
        loop {
            let overslept = self.wait();
            self.hear();
            self.take_signals();
            let ended = self.reap();
            if let Some(code) = ended.and_then(|ended| self.agent_has_ended(ended)) {
                return ExitCode::from(code);
            }
            self.judge(overslept);
            self.pass_on();
            if let Some(code) = self.start_if_due() {
                return ExitCode::from(code);
            }
            self.tell_init();
        }
    }

    /// Waits for a signal, a word of the agent, or the next thing to do. Whether it has taken much longer.
    fn wait(&self) -> bool {
        let now = Instant::now();
        let until = self.next_moment(now);
        let time = until.map(|until| until.saturating_duration_since(now));
        let mut fds = vec![PollFd::from_borrowed_fd(self.caught.as_fd(), PollFlags::IN)];
        if let Some(agent) = &self.agent {
            fds.push(PollFd::from_borrowed_fd(agent.as_fd(), PollFlags::IN));
        }
        // Interrupted or refused: looked at all the same.
        let _ = poll(&mut fds, time.map(timespec).as_ref());
        until.is_some_and(|until| until.elapsed() > OVERSLEPT)
    }

    fn next_moment(&self, now: Instant) -> Option<Instant> {
        let agent = match &self.agent {
            Some(agent) => agent.must_speak_by(),
            None => Some(self.start_at),
        };
        let stop = self.stop.map(|(_, at)| at).filter(|at| *at > now);
        let init = notify::watchdog_time().map(|time| self.told_init_at.map_or(now, |at| at + time / 2));
        [agent, stop, init].into_iter().flatten().min()
    }

    fn hear(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        while let Some(message) = agent.hear() {
            if agent.is_ready() {
                self.policy.agent_is_ready(Instant::now());
            }
            // That the agent lives is no proof that we do, and for how long we may be silent is another question.
            let is_ours = |line: &&str| {
                !line.starts_with(notify::ALIVE) && !line.starts_with(notify::WATCHDOG_VARIABLE)
            };
            let others: Vec<&str> = message.lines().filter(is_ours).collect();
            if !others.is_empty() {
                notify::tell(&others.join("\n"));
            }
        }
    }

    fn take_signals(&mut self) {
        let asked = self.caught.take();
        self.must_reload |= asked.reload;
        if let Some(signal) = asked.stop {
            let now = Instant::now();
            // An agent that is not ready yet would leave PostgreSQL running, when there has been one before it.
            let is_up = self.agent.as_ref().is_some_and(Agent::is_ready);
            let by = if is_up || !self.policy.was_ready() {
                now
            } else {
                now + HOLD_TIME
            };
            self.start_at = now;
            self.stop = Some((signal, by));
            self.policy.stop_was_asked();
        }
    }

    /// Takes in everybody who has ended; how the agent did, if it is among them.
    fn reap(&self) -> Option<Ended> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.agent.as_ref().is_some_and(|agent| agent.pid() == pid) {
                ended = Some(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code(u8::try_from(code).unwrap_or(u8::MAX)),
                    (None, signal) => Ended::Signal(signal.unwrap_or_default()),
                });
            }
        }
        ended
    }

    /// The exit code that we end with, if we do.
    fn agent_has_ended(&mut self, ended: Ended) -> Option<u8> {
        // What it said last may tell that it was ready.
        self.hear();
        self.agent = None;
        match self.policy.after(ended, Instant::now()) {
            Next::End(code) => Some(code),
            Next::StartAfter(pause) => {
                let text = format!("the agent {ended}; another one is started in {pause:?}");
                say("ERROR", &text);
                notify::tell(&format!("STATUS={text}"));
                self.start_at = Instant::now() + pause;
                self.before = Some(ended.to_string());
                None
            }
        }
    }

    /// An agent that has been silent for too long is killed.
    fn judge(&mut self, overslept: bool) {
        let Some(agent) = &mut self.agent else { return };
        if overslept {
            agent.forgive();
        }
        let Some(by) = agent.must_speak_by() else { return };
        if by <= Instant::now() {
            let pid = agent.pid();
            let silence = agent.silence();
            say(
                "ERROR",
                &format!("the agent (process {pid}) has given no sign of life for {silence:?}: it is killed"),
            );
            agent.kill();
        }
    }

    /// Passes on to the agent what was asked of us.
    fn pass_on(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        if let Some((signal, by)) = self.stop
            && (agent.is_ready() || by <= Instant::now())
        {
            agent.end(signal);
            self.stop = None;
        }
        if self.must_reload && agent.is_ready() {
            agent.signal(Signal::HUP);
            self.must_reload = false;
        }
    }

    fn start_if_due(&mut self) -> Option<u8> {
        if self.agent.is_some() || self.start_at > Instant::now() {
            return None;
        }
        if self.stop.is_some() && !self.policy.was_ready() {
            // Nothing was ever begun that would have to be ended.
            return Some(0);
        }
        match Agent::start(&self.called_as, &self.args, self.before.as_deref()) {
            Ok(agent) => {
                // It reads the configuration as it is now.
                self.must_reload = false;
                self.agent = Some(agent);
                None
            }
            Err(error) => {
                say("ERROR", &format!("could not start the agent: {error}"));
                self.agent_has_ended(Ended::Code(1))
            }
        }
    }

    /// The init system above us waits for our own signs of life.
    fn tell_init(&mut self) {
        let Some(time) = notify::watchdog_time() else {
            return;
        };
        if self.told_init_at.is_none_or(|at| at.elapsed() >= time / 2) {
            notify::tell(notify::ALIVE);
            self.told_init_at = Some(Instant::now());
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// A line in the agent's log, in the form that it has by default. Nothing is said to a reader that does not read: we
/// must not wait for it.
fn say(level: &str, text: &str) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut fds, Some(&timespec(Duration::ZERO))) == Ok(0) {
        return;
    }
    let now = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S,%3f");
    let _ = writeln!(&stderr, "{now} {level}: supervisor: {text}");
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "has ended with exit code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// The process id of nobody who could be signalled by mistake.
fn pid_of(child: &std::process::Child) -> Pid {
    Pid::from_child(child)
}
