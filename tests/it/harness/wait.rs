//! Waiting for a condition, with a limit.

use std::fmt::Display;
use std::time::{Duration, Instant};

pub const SECOND: Duration = Duration::from_secs(1);

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// How often a condition is looked at: it belongs to another process, which announces nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until `check` is `Ok` and says how long that took; fails with the last error after `limit`.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match check() {
            Ok(value) => {
                let duration = begin.elapsed();
                if duration > SECOND / 5 {
                    println!("{what}: after {:.2} s", duration.as_secs_f64());
                }
                return value;
            }
            Err(error) if begin.elapsed() >= limit => panic!("{what}: not within {limit:?}: {error}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// `Ok` if it holds, else the reason why not: for [`eventually`].
pub fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
