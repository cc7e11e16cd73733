//! The guard's few words about itself, on standard error. A log may hang (a full pipe, a dead disk), so nothing is
//! written while a deadline is held: the agent has been told by then, and the rest is written when it is over.

use rustix::event::{PollFd, PollFlags, poll};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::fd::AsFd;

const ROOM: usize = 4096;

/// Lines that wait to be written.
pub(super) struct Log {
    lines: String,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            lines: String::with_capacity(ROOM),
        }
    }

    /// Notes a line; one for which there is no room any more is dropped.
    pub(super) fn note(&mut self, text: std::fmt::Arguments<'_>) {
        let before = self.lines.len();
        let mut room = Room(&mut self.lines);
        if writeln!(room, "tamada guard[{}]: {text}", std::process::id()).is_err() {
            self.lines.truncate(before);
        }
    }

    /// Writes what waits, unless the reader is slow.
    pub(super) fn write(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let mut out = io::stderr();
        let mut fds = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::OUT)];
        let soon = crate::clock::timespec(std::time::Duration::ZERO);
        let is_ready = matches!(poll(&mut fds, Some(&soon)), Ok(ready) if ready > 0)
            && fds[0].revents().contains(PollFlags::OUT);
        if is_ready {
            let _ = out.write_all(self.lines.as_bytes());
            self.lines.clear();
        }
    }
}

/// A String that does not grow.
struct Room<'a>(&'a mut String);

impl std::fmt::Write for Room<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > ROOM {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_grow() {
        let mut log = Log::new();
        log.note(format_args!("begins"));
        for number in 0..1000 {
            log.note(format_args!("line {number}"));
        }
        assert!(log.lines.len() <= ROOM && log.lines.capacity() == ROOM);
        assert!(log.lines.starts_with("tamada guard[") && log.lines.ends_with('\n'));
    }
}
