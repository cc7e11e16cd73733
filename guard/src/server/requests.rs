//! What the agent may ask for.

use super::connection::Descriptors;
use super::held::Held;
use super::run::{Next, Server};
use crate::clock::BootTime;
use crate::protocol::{self, Builder, Line, MAX_NOTES_BYTES, ServerSignal, Status};
use std::io;

/// Why a request was not granted: a word for the program and a text for people.
struct Refusal {
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "gone",
            io::ErrorKind::WouldBlock => "locked",
            _ => "failed",
        };
        Self::new(reason, error.to_string())
    }
}

impl Server {
    /// Answers one line: writes the whole answer to `reply`.
    pub(super) fn answer(
        &mut self,
        connection: u64,
        line: &[u8],
        descriptors: &mut Descriptors,
        reply: &mut String,
    ) -> Next {
        let text = std::str::from_utf8(line).unwrap_or("malformed");
        let line = Line::new(text);
        let id: u64 = line.number("id").unwrap_or(0);
        let mut next = Next::GoOn;
        let mut answer = Builder::new(reply, "ok");
        answer.number("id", id);
        let result = match line.verb {
            "quit" => self
                .permit(connection)
                .and_then(|()| self.quit())
                .map(|()| next = Next::End),
            _ => self.handle(connection, &line, descriptors, &mut answer),
        };
        answer.finish();
        if let Err(refusal) = result {
            reply.clear();
            let mut answer = Builder::new(reply, "error");
            answer
                .number("id", id)
                .word("reason", refusal.reason)
                .text("message", refusal.message.as_bytes())
                .finish();
        }
        next
    }

    fn handle(
        &mut self,
        connection: u64,
        line: &Line<'_>,
        descriptors: &mut Descriptors,
        answer: &mut Builder<'_>,
    ) -> Result<(), Refusal> {
        match line.verb {
            "hello" => {
                if line.get("role") != Some("observer") {
                    self.become_agent(connection);
                }
                self.status().write(answer);
                return Ok(());
            }
            "status" => {
                self.status().write(answer);
                return Ok(());
            }
            // Changes nothing: an agent looks at it before it knows whether it may take over.
            "recall" => {
                let key = line.get("key").unwrap_or_default();
                if let Some(value) = self.notes.get(key) {
                    answer.text("value", value);
                }
                return Ok(());
            }
            _ => self.permit(connection)?,
        }
        match line.verb {
            "lease" => {
                let lease = protocol::read_lease(line)
                    .ok_or_else(|| Refusal::new("malformed", "a lease needs deadline_boottime_ns"))?;
                self.fence.renew(lease);
                answer.word("stage", self.fence.stage().name());
            }
            "disarm" => {
                self.fence.disarm();
                answer.word("stage", self.fence.stage().name());
            }
            "start" => self.start(line, descriptors, answer)?,
            "adopt" => self.adopt(line, answer)?,
            "signal" => self.signal(line)?,
            "remember" => self.remember(line)?,
            "forget" => {
                self.notes.remove(line.get("key").unwrap_or_default());
            }
            _ => return Err(Refusal::new("unknown", "this guard does not know the request")),
        }
        Ok(())
    }

    /// Whether this connection may give orders.
    fn permit(&self, connection: u64) -> Result<(), Refusal> {
        if self.agent == Some(connection) {
            return Ok(());
        }
        Err(Refusal::new(
            "not-agent",
            "only the agent that said hello last may give orders",
        ))
    }

    /// The newest agent wins: an older one that wakes up again must not move the deadline.
    fn become_agent(&mut self, connection: u64) {
        let former = self.agent.replace(connection);
        if former == Some(connection) {
            return;
        }
        for place in &mut self.connections {
            if place.as_ref().is_some_and(|other| Some(other.number) == former) {
                *place = None;
            }
        }
    }

    fn status(&self) -> Status {
        Status {
            guard_version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: protocol::VERSION,
            // Pids fit into an i32 (pid_t).
            guard_pid: i32::try_from(std::process::id()).unwrap_or(0),
            server: self.held.as_ref().map(Held::summary),
            last_server: self.last,
            lease: self.fence.lease().copied(),
            stage: self.fence.stage(),
            memory_locked: self.surroundings.memory_locked,
            priority: self.surroundings.priority,
        }
    }

    /// Whether a server may be taken in now.
    fn permit_server(&self) -> Result<(), Refusal> {
        if let Some(held) = &self.held {
            return Err(Refusal::new(
                "running",
                format!("PostgreSQL runs already (process {})", held.pid()),
            ));
        }
        if !self.fence.permits_start(BootTime::now()) {
            return Err(Refusal::new(
                "expired",
                "the lease has run out: renew it for a primary, disarm the guard for a replica",
            ));
        }
        Ok(())
    }

    fn start(
        &mut self,
        line: &Line<'_>,
        descriptors: &mut Descriptors,
        answer: &mut Builder<'_>,
    ) -> Result<(), Refusal> {
        let stdio = descriptors.take();
        self.permit_server()?;
        let command = protocol::read_command(line)
            .ok_or_else(|| Refusal::new("malformed", "a start needs the server's program"))?;
        let nice = self.surroundings.server_nice;
        let held = Held::start(&command, stdio, &self.settings.data_dir, nice)?;
        self.take_in(held, answer);
        Ok(())
    }

    fn adopt(&mut self, line: &Line<'_>, answer: &mut Builder<'_>) -> Result<(), Refusal> {
        let pid = line
            .number("pid")
            .ok_or_else(|| Refusal::new("malformed", "an adoption needs a pid"))?;
        let ticks = line.number("start_ticks");
        if let Some(held) = &self.held {
            let own = held.summary();
            if own.pid == pid && ticks.is_none_or(|ticks| ticks == own.start_ticks) {
                describe(held, answer);
                return Ok(());
            }
        }
        self.permit_server()?;
        let held = Held::adopt(pid, ticks, &self.settings.data_dir)?;
        self.take_in(held, answer);
        Ok(())
    }

    fn take_in(&mut self, held: Held, answer: &mut Builder<'_>) {
        describe(&held, answer);
        self.fence.started();
        self.held = Some(held);
    }

    fn signal(&self, line: &Line<'_>) -> Result<(), Refusal> {
        let name = line.get("name").unwrap_or_default();
        let signal = ServerSignal::from_name(name)
            .ok_or_else(|| Refusal::new("malformed", format!("there is no signal {name}")))?;
        let held = self
            .held
            .as_ref()
            .ok_or_else(|| Refusal::new("gone", "PostgreSQL does not run"))?;
        held.signal(signal)?;
        Ok(())
    }

    fn remember(&mut self, line: &Line<'_>) -> Result<(), Refusal> {
        let (Some(key), Some(value)) = (line.get("key"), line.bytes("value")) else {
            return Err(Refusal::new("malformed", "a note needs key and value"));
        };
        let others: usize = self
            .notes
            .iter()
            .filter(|(name, _)| *name != key)
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if others + key.len() + value.len() > MAX_NOTES_BYTES {
            return Err(Refusal::new(
                "full",
                format!("the guard keeps at most {MAX_NOTES_BYTES} bytes"),
            ));
        }
        self.notes.insert(key.to_owned(), value);
        Ok(())
    }

    fn quit(&self) -> Result<(), Refusal> {
        match &self.held {
            None => Ok(()),
            Some(held) => Err(Refusal::new(
                "running",
                format!("PostgreSQL still runs (process {})", held.pid()),
            )),
        }
    }
}

fn describe(held: &Held, answer: &mut Builder<'_>) {
    let server = held.summary();
    answer
        .number("pid", server.pid)
        .number("start_ticks", server.start_ticks)
        .flag("child", server.is_child);
}
