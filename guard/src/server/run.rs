//! The guard's loop: wait, hear the agent, do what is due.

use super::connection::Connection;
use super::held::{Held, reap};
use super::log::Log;
use super::setup::{Settings, Surroundings};
use crate::clock::BootTime;
use crate::fence::{Fence, Stage};
use crate::place::GuardLock;
use crate::protocol::{Event, Exit, PastServer, ServerSignal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{Itimerspec, TimerfdTimerFlags, timerfd_settime};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

/// An agent, its successor, and somebody who only looks.
const CONNECTIONS: usize = 4;

/// Timer, listener, postmaster, connections.
const WAITED_FOR: usize = 3 + CONNECTIONS;

/// What to do after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    /// The guard is not needed any more.
    End,
}

pub(super) struct Server {
    pub(super) settings: Settings,
    pub(super) surroundings: Surroundings,
    pub(super) listener: UnixListener,
    pub(super) timer: OwnedFd,
    pub(super) connections: [Option<Connection>; CONNECTIONS],
    pub(super) connections_made: u64,
    /// The number of the connection that may give orders: the newest that said hello.
    pub(super) agent: Option<u64>,
    pub(super) fence: Fence,
    pub(super) held: Option<Held>,
    pub(super) last: Option<PastServer>,
    pub(super) notes: BTreeMap<String, Vec<u8>>,
    pub(super) idle_since: Option<BootTime>,
    pub(super) log: Log,
    /// Where answers are written, again and again.
    pub(super) reply: String,
    pub(super) _lock: GuardLock,
}

impl Server {
    pub(super) fn run(mut self) -> ExitCode {
        loop {
            self.look_after_server();
            let now = BootTime::now();
            if self.held.is_none() || !self.fence.is_armed() {
                self.log.write();
            }
            let idle_until = self.idle_until(now);
            if idle_until.is_some_and(|until| now >= until) {
                break;
            }
            let fence_at = self.held.as_ref().and_then(|_| self.fence.next());
            self.set_timer(fence_at.into_iter().chain(idle_until).min());
            if self.wait() == Next::End {
                break;
            }
        }
        let _ = std::fs::remove_file(&self.settings.socket);
        self.log.write();
        ExitCode::SUCCESS
    }

    /// Does what is due, and notices the end of the postmaster.
    fn look_after_server(&mut self) {
        loop {
            let Some(held) = &self.held else {
                reap(|_, _| {});
                return;
            };
            if let Some(exit) = held.ended() {
                self.server_ended(exit);
                return;
            }
            let Some(stage) = self.fence.due(BootTime::now()) else {
                return;
            };
            let signal = match stage {
                Stage::Running => return,
                Stage::FastStop => ServerSignal::Fast,
                Stage::ImmediateStop => ServerSignal::Immediate,
                Stage::Killing => ServerSignal::Kill,
            };
            let done = held.signal(signal);
            let pid = held.pid();
            self.log.note(format_args!(
                "the lease has not been renewed: {} of PostgreSQL (process {pid}){}",
                stage.name(),
                if done.is_ok() { "" } else { " failed" }
            ));
            self.tell(Event::Fencing(stage));
        }
    }

    fn server_ended(&mut self, exit: Exit) {
        let Some(held) = self.held.take() else { return };
        if let Some(patience) = self.fence.patience(exit, BootTime::now()) {
            held.sweep(patience);
        }
        let pid = held.pid();
        self.last = Some(PastServer {
            pid,
            exit,
            stage: self.fence.stage(),
        });
        self.log
            .note(format_args!("PostgreSQL (process {pid}) has ended: {exit}"));
        self.tell(Event::Exited { pid, exit });
    }

    fn tell(&mut self, event: Event) {
        self.reply.clear();
        event.encode(&mut self.reply);
        let Some(number) = self.agent else { return };
        for place in &mut self.connections {
            let failed = place
                .as_ref()
                .is_some_and(|agent| agent.number == number && agent.send(&self.reply).is_err());
            if failed {
                *place = None;
                self.agent = None;
            }
        }
    }

    fn idle_until(&mut self, now: BootTime) -> Option<BootTime> {
        let is_idle = self.held.is_none() && self.connections.iter().all(Option::is_none);
        self.idle_since = is_idle.then(|| self.idle_since.unwrap_or(now));
        self.idle_since.map(|since| since + self.settings.idle)
    }

    fn set_timer(&self, at: Option<BootTime>) {
        let never = Itimerspec {
            it_interval: BootTime::from_nanos(0).timespec(),
            it_value: BootTime::from_nanos(0).timespec(),
        };
        let value = Itimerspec {
            // Zero would mean never.
            it_value: at.map_or(never.it_value, |at| at.max(BootTime::from_nanos(1)).timespec()),
            ..never
        };
        // Fails only for a descriptor that is no timer or a time that is none.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value);
    }

    /// Waits for whatever comes first, and hears what the agent says.
    fn wait(&mut self) -> Next {
        let nothing = || PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::empty());
        let mut fds: [PollFd<'_>; WAITED_FOR] = std::array::from_fn(|_| nothing());
        fds[0] = PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN);
        fds[1] = PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN);
        if let Some(held) = &self.held {
            fds[2] = PollFd::from_borrowed_fd(held.as_fd(), PollFlags::IN);
        }
        for (fd, connection) in fds[3..].iter_mut().zip(&self.connections) {
            if let Some(connection) = connection {
                *fd = PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::IN);
            }
        }
        if poll(&mut fds, None).is_err() {
            return Next::GoOn;
        }
        let ready: [bool; WAITED_FOR] = std::array::from_fn(|index| !fds[index].revents().is_empty());
        // The agent first: a renewal that is there already counts, however late we have woken up.
        for (index, _) in ready[3..].iter().enumerate().filter(|(_, ready)| **ready) {
            if self.hear(index) == Next::End {
                return Next::End;
            }
        }
        if ready[1] {
            self.accept();
        }
        Next::GoOn
    }

    fn hear(&mut self, index: usize) -> Next {
        let Some(mut connection) = self.connections[index].take() else {
            return Next::GoOn;
        };
        let mut is_open = connection.receive().is_ok();
        let number = connection.number;
        while let Some((line, descriptors)) = connection.next_line() {
            let mut reply = std::mem::take(&mut self.reply);
            reply.clear();
            let next = self.answer(number, line, descriptors, &mut reply);
            is_open &= connection.send(&reply).is_ok();
            self.reply = reply;
            if next == Next::End {
                return Next::End;
            }
        }
        connection.forget_taken();
        if is_open {
            self.connections[index] = Some(connection);
        } else if self.agent == Some(number) {
            // The deadline stays as it is: the agent may come back.
            self.agent = None;
        }
        Next::GoOn
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        let Ok(connection) = Connection::new(stream, self.connections_made + 1) else {
            return;
        };
        self.connections_made = connection.number;
        // Where all places are taken, the oldest that is not the agent's.
        let agent = self.agent;
        let place = self.connections.iter_mut().min_by_key(|place| match place {
            None => (0, 0),
            Some(other) => (if agent == Some(other.number) { 2 } else { 1 }, other.number),
        });
        if let Some(place) = place {
            *place = Some(connection);
        }
    }
}
