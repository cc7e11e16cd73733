//! The line on a terminal that tells what a command waits for, and since when. It is painted over itself, it is gone
//! before anything else is written, and where no person looks it does not exist.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, interval};
use unicode_width::UnicodeWidthChar;

use super::console;

/// How often the facts are looked at, and the line is painted.
const PERIOD: Duration = Duration::from_secs(1);
/// Columns that stay free, so that what the terminal shows for Ctrl-C does not begin another line.
const MARGIN: usize = 3;

/// What is waited for, from a moment on.
pub(crate) struct Progress {
    is_shown: bool,
    begin: Instant,
    text: RefCell<String>,
}

/// Removes the line, however the waiting ends.
struct Removal;

impl Drop for Removal {
    fn drop(&mut self) {
        console::remove_line();
    }
}

impl Progress {
    /// Begins now, with that text until more is known.
    pub(crate) fn begin(text: String) -> Self {
        Self {
            is_shown: console::shows_progress(),
            begin: Instant::now(),
            text: RefCell::new(text),
        }
    }

    /// Does the work and shows the line meanwhile. `look` is asked for a newer text once a second, unless it takes
    /// longer; `None` when it has learned nothing. The work never waits for it.
    pub(crate) async fn during<T>(
        &self,
        look: impl AsyncFn() -> Option<String>,
        work: impl Future<Output = T>,
    ) -> T {
        if !self.is_shown {
            return work.await;
        }
        let _removal = Removal;
        tokio::select! {
            biased;
            result = work => result,
            never = self.count() => match never {},
            never = self.follow(look) => match never {},
        }
    }

    async fn count(&self) -> Infallible {
        let mut ticks = interval(PERIOD);
        loop {
            ticks.tick().await;
            self.paint();
        }
    }

    async fn follow(&self, look: impl AsyncFn() -> Option<String>) -> Infallible {
        let mut ticks = interval(PERIOD);
        loop {
            ticks.tick().await;
            if let Some(text) = look().await {
                self.text.replace(text);
                self.paint();
            }
        }
    }

    fn paint(&self) {
        let elapsed = duration(self.begin.elapsed().as_secs());
        let columns = console::columns().saturating_sub(MARGIN);
        console::paint_line(&line(&self.text.borrow(), &elapsed, columns));
    }
}

/// The text and how long it takes already, in at most so many columns.
fn line(text: &str, elapsed: &str, columns: usize) -> String {
    let end = format!(" ({elapsed})");
    let mut left = columns.saturating_sub(end.len());
    let text = config::escape::line(text);
    let mut line: String = text
        .chars()
        .take_while(|it| {
            let width = it.width().unwrap_or(0);
            let fits = width <= left;
            left = left.saturating_sub(width);
            fits
        })
        .collect();
    if end.len() <= columns {
        line.push_str(&end);
    }
    line
}

/// A time as a person reads it.
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (hours, minutes) => format!("{hours} h {} min", minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::{duration, line};

    #[test]
    fn times_are_as_long_as_they_need_to_be() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (90_061, "25 h 1 min"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn a_line_never_becomes_two() {
        for (text, columns, expected) in [
            ("restart pg1: restarting", 77, "restart pg1: restarting (7 s)"),
            ("restart pg1: restarting", 29, "restart pg1: restarting (7 s)"),
            ("restart pg1: restarting", 20, "restart pg1: r (7 s)"),
            ("restart pg1: restarting", 6, " (7 s)"),
            ("restart pg1: restarting", 0, ""),
            ("restart 日本: restarting", 18, "restart 日本 (7 s)"),
            ("restart 日本: restarting", 17, "restart 日 (7 s)"),
            ("restart a\n\u{1b}[2J: x", 77, r"restart a\n\u{1b}[2J: x (7 s)"),
        ] {
            assert_eq!(line(text, "7 s", columns), expected, "{columns}");
        }
    }
}
