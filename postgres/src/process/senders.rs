//! The WAL senders that commits wait for: when one of them ends, its standby is gone, and nobody else tells.

use super::watch::wait_readable;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::task::Poll;
use tokio::io::unix::AsyncFd;

/// Some of the server's WAL senders.
#[derive(Default)]
pub struct WalSenders(Vec<AsyncFd<OwnedFd>>);

impl WalSenders {
    /// The processes with these ids, as far as they are alive.
    #[must_use]
    pub fn watch(pids: impl IntoIterator<Item = i32>) -> Self {
        let watched = pids.into_iter().filter_map(|pid| {
            let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
            wait_readable(fd).ok()
        });
        Self(watched.collect())
    }

    /// Waits until one of them has ended; for ever when there are none. May be dropped and called again.
    pub async fn one_ended(&self) {
        std::future::poll_fn(|context| {
            let ended = self.0.iter().any(|fd| fd.poll_read_ready(context).is_ready());
            if ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
