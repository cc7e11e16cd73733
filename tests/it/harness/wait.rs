//! Waiting for a condition, with a limit.

use std::fmt::Display;
use std::time::{Duration, Instant};

pub const SECOND: Duration = Duration::from_secs(1);

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// How often a condition is looked at: it belongs to another process, which announces nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// A limit that a machine keeps which has nothing else to do, as this machine keeps it now: processes that wait for a
/// processor are no slower program.
pub fn patience(limit: Duration) -> Duration {
    limit.mul_f64(busyness())
}

/// How many times longer things take than on an idle machine: from 1 to 10.
fn busyness() -> f64 {
    let first_number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.as_deref().and_then(first_number).unwrap_or(0.0);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    #[allow(clippy::cast_precision_loss, reason = "a machine has few processors")]
    let per_processor = load / processors as f64;
    // The share of the last ten seconds in which something waited for a processor or for a disk.
    let stalled = |resource: &str| {
        let text = std::fs::read_to_string(format!("/proc/pressure/{resource}")).ok()?;
        first_number(text.split_once("avg10=")?.1)
    };
    let stalled: f64 = ["cpu", "io"].into_iter().filter_map(stalled).fold(0.0, f64::max);
    let running = (1.0 - stalled / 100.0).max(0.1);
    per_processor.max(1.0 / running).clamp(1.0, 10.0)
}

/// Waits until `check` is `Ok` and says how long that took; fails with the last error after `limit`, or later where the
/// machine is busy.
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
            Err(error) if begin.elapsed() >= limit && begin.elapsed() >= patience(limit) => {
                panic!("{what}: not within {:?}: {error}", begin.elapsed())
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// `Ok` if it holds, else the reason why not: for [`eventually`].
pub fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
