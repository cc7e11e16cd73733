//! The newest events, in memory: what a follower asks for, and all there is when the disk is full.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::Since;

/// How many are kept.
const LINES: usize = 64;

/// How long all of them together may be.
const BYTES: usize = 64 * 1024;

/// Bounded by number and by size.
#[derive(Debug, Clone, Default)]
pub(super) struct Newest {
    lines: VecDeque<(u64, Timestamp, String)>,
    bytes: usize,
}

impl Newest {
    pub(super) fn push(&mut self, id: u64, at: Timestamp, line: String) {
        self.bytes += line.len();
        self.lines.push_back((id, at, line));
        while self.lines.len() > LINES || (self.bytes > BYTES && self.lines.len() > 1) {
            let Some((_, _, line)) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= line.len();
        }
    }

    /// All events after that one, if all of them are here.
    pub(super) fn all_after(&self, id: u64) -> Option<Vec<(u64, String)>> {
        let oldest = self.lines.front().map(|(id, _, _)| *id)?;
        (oldest <= id + 1).then(|| self.after(id, Since::Ever).collect())
    }

    /// Those after that one and since then that are here.
    pub(super) fn after(&self, id: u64, since: Since) -> impl Iterator<Item = (u64, String)> + '_ {
        self.lines
            .iter()
            .filter(move |(known, at, _)| *known > id && since.is_before(*known, *at))
            .map(|(known, _, line)| (*known, line.clone()))
    }
}

impl Since {
    /// Whether an event is wanted.
    pub(super) fn is_before(self, id: u64, at: Timestamp) -> bool {
        match self {
            Self::Ever => true,
            Self::Time(time) => at >= time,
            Self::Id(known) => id > known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_and_so_much_is_kept() {
        let mut newest = Newest::default();
        for id in 1..=100 {
            newest.push(id, Timestamp::UNIX_EPOCH, "x".repeat(10));
        }
        assert_eq!((newest.lines.len(), newest.bytes), (LINES, LINES * 10));
        assert_eq!(newest.all_after(98).map(|lines| lines.len()), Some(2));
        assert_eq!(newest.all_after(10), None);
        newest.push(101, Timestamp::UNIX_EPOCH, "x".repeat(BYTES + 1));
        assert_eq!(newest.lines.len(), 1);
    }
}
