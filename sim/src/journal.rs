//! What happened, in lines that a person can read. Kept only in a run that is repeated to be looked at.

use std::collections::VecDeque;
use std::time::Duration;

/// The newest lines.
#[derive(Debug)]
pub(crate) struct Journal {
    lines: VecDeque<String>,
    limit: usize,
}

impl Journal {
    /// Keeps so many lines; none with 0.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            limit,
        }
    }

    /// Whether lines are kept: what is expensive to say is said only then.
    #[must_use]
    pub(crate) fn is_kept(&self) -> bool {
        self.limit > 0
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, now: Duration, who: &str, text: impl FnOnce() -> String) {
        if !self.is_kept() {
            return;
        }
        if self.lines.len() == self.limit {
            self.lines.pop_front();
        }
        self.lines
            .push_back(format!("{:>10.3} {who:<4} {}", now.as_secs_f64(), text()));
    }

    /// The lines, oldest first.
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
