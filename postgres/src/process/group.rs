//! Ending programs with all that they have started: SIGTERM first, so that they can tidy up, SIGKILL for what stays.

use super::Postmaster;
use crate::Instant;
use rustix::process::{Pid, Signal};
use std::fs;
use std::time::Duration;

/// How long a program may take to end after SIGTERM.
pub(crate) const TERM_TIME: Duration = Duration::from_secs(5);

/// How long the kernel may take to remove what was killed. A process that waits for a disk takes longer.
const KILL_TIME: Duration = Duration::from_secs(10);

/// The living processes of a process group.
pub(crate) fn members(group: Pid) -> Vec<Postmaster> {
    let group = group.as_raw_nonzero().to_string();
    let is_member = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        fields.split_whitespace().nth(2) == Some(group.as_str())
    };
    alive(is_member)
}

/// The living processes that were started with `name=value` in their environment, and what those have started.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<Postmaster> {
    let wanted = format!("{name}={value}");
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let has_it = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        *pid != own
            && environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == wanted.as_bytes())
    };
    alive(has_it)
}

fn alive(wanted: impl Fn(&i32) -> bool) -> Vec<Postmaster> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(wanted)
        .filter_map(|pid| Postmaster::open(pid, 0))
        .filter(Postmaster::is_alive)
        .collect()
}

/// Ends all that `find` finds, and what they start meanwhile.
///
/// # Errors
/// The processes that are still there.
pub(crate) async fn end(find: impl Fn() -> Vec<Postmaster>, patience: Duration) -> Result<(), Vec<i32>> {
    for (signal, time) in [(Signal::TERM, patience), (Signal::KILL, KILL_TIME)] {
        let until = Instant::now() + time;
        loop {
            let found = find();
            if found.is_empty() {
                return Ok(());
            }
            for process in &found {
                // One that may not be signalled is waited for, and named if it stays.
                let _ = process.signal(signal);
            }
            let all = async {
                for process in &found {
                    process.exited().await;
                }
            };
            if tokio::time::timeout_at(until, all).await.is_err() {
                break;
            }
        }
    }
    let left: Vec<i32> = find().iter().map(Postmaster::pid).collect();
    if left.is_empty() { Ok(()) } else { Err(left) }
}
