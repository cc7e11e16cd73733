//! A line that comes again and again within a short time is written once; how often it came is written later.
//!
//! A job that fails and is tried again ten times a second would fill the disk with one sentence. Lines that come once in each
//! `loop_wait`, which people watch for, are further apart than the pauses here, and are always written.

use std::time::{Duration, Instant};

use super::format;

/// The first repetition is written after this, however quickly it comes.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// While a line keeps coming its pauses grow up to this: less than the default `loop_wait`.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The same for status lines and other information, by which people see that the agent is alive.
const PAUSE_MAX_INFORMATION: Duration = Duration::from_secs(1);

/// How many different lines are told apart at once.
const LINES: usize = 32;

/// Lines that were written a moment ago.
#[derive(Default)]
pub(super) struct Fold {
    lines: Vec<Seen>,
}

struct Seen {
    level: u8,
    message: String,
    target: &'static str,
    file: &'static str,
    line: u32,
    written_at: Instant,
    pause: Duration,
    held: u32,
}

/// Where a line comes from.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) target: &'static str,
    pub(super) file: &'static str,
    pub(super) line: u32,
}

/// A line to be written: how often it came again is in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) level: u8,
    pub(super) message: String,
    pub(super) target: &'static str,
    pub(super) file: &'static str,
    pub(super) line: u32,
}

impl Fold {
    /// Whether a line is to be written now.
    pub(super) fn is_new(&mut self, now: Instant, level: u8, message: &str, place: Place) -> bool {
        if level < format::INFO {
            return true;
        }
        if let Some(seen) = self
            .lines
            .iter_mut()
            .find(|seen| seen.level == level && seen.message == message)
        {
            if seen.held == 0 && now.duration_since(seen.written_at) >= seen.pause {
                seen.written_at = now;
                seen.pause = PAUSE_MIN;
                return true;
            }
            seen.held = seen.held.saturating_add(1);
            return false;
        }
        self.lines.push(Seen {
            level,
            message: message.to_owned(),
            target: place.target,
            file: place.file,
            line: place.line,
            written_at: now,
            pause: PAUSE_MIN,
            held: 0,
        });
        true
    }

    /// The lines that have come again and whose pause is over; all of them if `now` is `None`.
    pub(super) fn due(&mut self, now: Option<Instant>) -> Vec<Written> {
        let excess = self.lines.len().saturating_sub(LINES);
        let mut due = Vec::new();
        for (index, seen) in self.lines.iter_mut().enumerate() {
            let is_over = now.is_none_or(|now| now.duration_since(seen.written_at) >= seen.pause);
            if seen.held == 0 || !(is_over || index < excess) {
                continue;
            }
            let times = if seen.held == 1 { "once" } else { "times" };
            let count = if seen.held == 1 {
                times.to_owned()
            } else {
                format!("{} {times}", seen.held)
            };
            let elapsed = now.map_or(seen.pause, |now| now.duration_since(seen.written_at));
            due.push(Written {
                level: seen.level,
                message: format!(
                    "{} (repeated {count} in {:.1} s)",
                    seen.message,
                    elapsed.as_secs_f64()
                ),
                target: seen.target,
                file: seen.file,
                line: seen.line,
            });
            let max = if seen.level <= format::INFO {
                PAUSE_MAX_INFORMATION
            } else {
                PAUSE_MAX
            };
            seen.pause = (seen.pause * 2).min(max);
            seen.held = 0;
            seen.written_at = now.unwrap_or(seen.written_at);
        }
        self.lines.drain(..excess);
        if let Some(now) = now {
            // What has not come for two pauses is forgotten; it is new when it comes again.
            self.lines
                .retain(|seen| seen.held > 0 || now.duration_since(seen.written_at) < seen.pause * 2);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place {
        target: "tamada",
        file: "",
        line: 0,
    };

    /// What is written of a line that comes so often, so many milliseconds apart, with another line every ten seconds.
    fn written(level: u8, times: u32, milliseconds: u64) -> (u32, Vec<String>) {
        let mut fold = Fold::default();
        let begin = Instant::now();
        let (mut whole, mut repeats) = (0, Vec::new());
        for n in 0..times {
            let now = begin + Duration::from_millis(milliseconds) * n;
            whole += u32::from(fold.is_new(now, level, "a", PLACE));
            repeats.extend(fold.due(Some(now)).into_iter().map(|line| line.message));
        }
        repeats.extend(fold.due(None).into_iter().map(|line| line.message));
        (whole, repeats)
    }

    fn count(repeats: &[String]) -> u32 {
        let number = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            if words[2] == "once" {
                1
            } else {
                words[2].parse::<u32>().unwrap()
            }
        };
        repeats.iter().map(number).sum()
    }

    #[test]
    fn a_burst_is_one_line_and_a_number() {
        let (whole, repeats) = written(format::ERROR, 14, 20);
        assert_eq!(whole, 1);
        assert_eq!(repeats, ["a (repeated 13 times in 0.5 s)"]);
    }

    #[test]
    fn no_repetition_is_lost() {
        for level in [format::INFO, format::WARNING, format::CRITICAL] {
            for (times, milliseconds) in [(2, 1), (100, 1), (3000, 100), (1000, 333), (50, 700)] {
                let (whole, repeats) = written(level, times, milliseconds);
                assert_eq!(whole + count(&repeats), times, "{level} {times} {milliseconds}");
            }
        }
    }

    #[test]
    fn a_line_of_each_cycle_is_always_written() {
        for level in [format::INFO, format::WARNING, format::ERROR] {
            for milliseconds in [500, 1000, 2000, 5000, 10_000] {
                assert_eq!(
                    written(level, 100, milliseconds),
                    (100, Vec::new()),
                    "{milliseconds}"
                );
            }
        }
    }

    #[test]
    fn a_failure_ten_times_a_second_costs_little() {
        // An hour.
        let (whole, repeats) = written(format::WARNING, 36_000, 100);
        assert!(
            whole + u32::try_from(repeats.len()).unwrap() < 400,
            "{whole} {}",
            repeats.len()
        );
        // What is for developers is theirs.
        assert_eq!(written(format::DEBUG, 10, 1), (10, Vec::new()));
    }

    #[test]
    fn many_different_lines_cost_no_memory() {
        let mut fold = Fold::default();
        let now = Instant::now();
        let mut repeats = 0;
        for n in 0..1000 {
            let line = n.to_string();
            assert!(fold.is_new(now, format::ERROR, &line, PLACE));
            assert!(!fold.is_new(now, format::ERROR, &line, PLACE));
            repeats += fold.due(Some(now)).len();
        }
        repeats += fold.due(None).len();
        assert_eq!(repeats, 1000);
        assert!(fold.lines.len() <= LINES);
    }
}
