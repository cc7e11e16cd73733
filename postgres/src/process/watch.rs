//! Waiting for files to change (inotify), so that nothing has to look again and again.

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// How often to look where the kernel has no inotify instance left for us.
const FALLBACK_INTERVAL: Duration = Duration::from_millis(50);

/// Registers a descriptor with the runtime, to wait until it is readable.
#[expect(
    unsafe_code,
    reason = "an OwnedFd is open until it is dropped, and its as_raw_fd never changes: both that tokio asks for"
)]
pub(super) fn wait_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: see the reason above; the AsyncFd owns the descriptor.
    unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }.map_err(Into::into)
}

/// Watches directories for changes of the files directly in them.
pub(crate) struct Watch {
    fd: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Begins to watch. What happens from now on is reported; look once after this call before waiting.
    pub(crate) fn new(directories: &[&Path]) -> Self {
        Self {
            fd: Self::open(directories).ok(),
        }
    }

    fn open(directories: &[&Path]) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wanted = WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_TO;
        for directory in directories {
            inotify::add_watch(&fd, *directory, wanted)?;
        }
        wait_readable(fd)
    }

    /// Waits until a file whose name `matters` has changed. May be dropped and called again.
    pub(crate) async fn changed(&self, matters: impl Fn(&str) -> bool) {
        let Some(fd) = &self.fd else {
            tokio::time::sleep(FALLBACK_INTERVAL).await;
            return;
        };
        loop {
            let Ok(mut guard) = fd.readable().await else {
                tokio::time::sleep(FALLBACK_INTERVAL).await;
                return;
            };
            let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
            let mut reader = Reader::new(fd.get_ref(), &mut buffer);
            let mut happened = false;
            loop {
                match reader.next() {
                    Ok(event) => {
                        let named = event.file_name().and_then(|name| name.to_str().ok());
                        happened |=
                            event.events().contains(ReadFlags::QUEUE_OVERFLOW) || named.is_some_and(&matters);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => break,
                }
            }
            guard.clear_ready();
            if happened {
                return;
            }
        }
    }
}
